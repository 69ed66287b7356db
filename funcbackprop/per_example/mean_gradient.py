"""The ordinary gradient, of the weighted mean loss: one backward pass for the whole batch."""

import jax
import jax.numpy as jnp

from ..contract import (
    Loss,
    prepared,
    scalar_loss,
    zero_padding,
)


def mean_gradient(loss: Loss, *, has_aux: bool = False, caller: str = "mean_gradient"):
    """The gradient of the weighted mean loss of a batch, taken as one program.

    This is what training uses, where `gradient_statistics` takes the gradient of each example.

    Args:
      loss: `loss(params, example) -> scalar` of one example; `(scalar, aux)` with `has_aux=True`.
      has_aux: whether the loss returns `(scalar, aux)`.
      caller: the name that errors give.

    Returns:
      `f(params, batch, weights=None) -> (losses [B], aux, grads)`: `grads` is the gradient of
      sum_i w_i loss_i / sum_i w_i, in the dtypes of `params`, 0 if all weights are 0; `aux` is ()
      without `has_aux`.

    Raises:
      TypeError, ValueError: when called, if `params` (floating-point throughout), `batch`,
        `weights` or the loss's output have the wrong form.

    >>> import jax.numpy as jnp
    >>> from funcbackprop.per_example import mean_gradient
    >>> f = mean_gradient(lambda w, x: 0.5 * (w - x) ** 2)
    >>> losses, _, grad = f(jnp.array(0.0), jnp.array([1.0, 3.0]))
    >>> print(losses, grad)
    [0.5 4.5] -2.0
    """
    loss = scalar_loss(loss, has_aux, caller)

    def f(params, batch, weights=None):
        params, batch, weights, padded = prepared(params, batch, weights, caller)
        weight = jnp.sum(weights)
        share = weights / jnp.where(weight > 0, weight, 1)

        def mean_loss(params):
            losses, aux = jax.vmap(loss, in_axes=(None, 0))(params, batch)
            losses = zero_padding(losses, weights)
            return jnp.sum(share * losses), (losses, aux)

        grads, (losses, aux) = jax.grad(mean_loss, has_aux=True)(params)
        if padded:
            aux = jax.tree.map(lambda x: zero_padding(x, weights), aux)
        return losses, aux, grads

    return f
