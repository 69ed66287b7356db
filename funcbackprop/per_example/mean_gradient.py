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
    """`f(params, batch, weights=None) -> (losses [B], aux, grads)`.

    `grads` is the gradient of sum_i w_i loss_i / sum_i w_i, taken as one program: what training
    uses, where `gradient_statistics` takes the gradient of each example.
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
