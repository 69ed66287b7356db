"""The Hessian of the mean loss times a vector, without the Hessian."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from ..contract import Loss, differentiable, prepared, same_structure, scalar_loss


def hvp(
    loss: Loss,
    params: chex.ArrayTree,
    batch: chex.ArrayTree,
    vector: chex.ArrayTree,
    *,
    weights: Any = None,
) -> chex.ArrayTree:
    """H v, where H is the Hessian of sum_i w_i loss(params, x_i)/sum_i w_i.

    H v is the derivative of the gradient along v: forward mode over reverse mode (Pearlmutter
    1994). Where the loss forbids forward mode (a `jax.custom_vjp` inside another), it is the
    gradient of <gradient, v>, which is the same and costs more memory.

    Args:
      loss: `loss(params, example) -> scalar` of one example, differentiable twice.
      params: a tree; integers, booleans and random keys in it are not differentiated.
      batch: a tree with a leading axis [B] on every leaf.
      vector: a tree like `params`. What stands at leaves that are not differentiated is not
        looked at; it may be None.
      weights: [B], relative importances; a row of weight 0 is padding.

    Returns:
      A tree like `params`, in their dtypes, with None at leaves that are not differentiated. Units:
      loss/parameter^2 times those of `vector`. NaN if all weights are zero. Pure; works under `jit`
      and `vmap`, which gives several vectors.

    Raises:
      TypeError, ValueError: `params`, `batch`, `weights`, `vector` or the loss's output have the
        wrong form.

    Cost: two to three times the time of the gradient of the batch, and twice its memory; the loss
    is traced twice.

    Source: Pearlmutter 1994, Fast exact multiplication by the Hessian.

    >>> import jax.numpy as jnp
    >>> loss = lambda w, x: 0.5 * jnp.dot(w, x) ** 2  # Hessian x x'
    >>> x = jnp.array([[1.0, 0.0], [1.0, 2.0]])
    >>> print(hvp(loss, jnp.zeros(2), x, jnp.array([1.0, 1.0])))
    [2. 3.]
    """
    kept, product = hessian(loss, params, batch, weights, "hvp")
    return product(_like(vector, params, kept))


def hessian(
    loss: Loss, params: chex.ArrayTree, batch: chex.ArrayTree, weights: Any, caller: str
) -> tuple[chex.ArrayTree, Callable]:
    """`(params without what is not differentiated, v -> H v)`; errors name `caller`."""
    kept, join = differentiable(params, caller)
    checked = scalar_loss(loss, False, caller)
    at, batch, weights, _ = prepared(kept, batch, weights, caller)

    def mean_loss(p):
        losses = jax.vmap(lambda example: checked(join(p), example)[0])(batch)
        share = weights / jnp.sum(weights)
        return jnp.sum(jnp.where(weights > 0, share * losses.astype(share.dtype), 0))

    return kept, lambda vector: _product(jax.grad(mean_loss), at, vector)


def _product(gradient, params, vector):
    forward = lambda v: jax.jvp(gradient, (params,), (v,))[1]  # noqa: E731
    if _traces(forward, vector):
        return forward(vector)

    def along(p):
        pairs = zip(jax.tree.leaves(gradient(p)), jax.tree.leaves(vector), strict=True)
        # JAX's gradient is conjugated: along v the loss changes by Re(g v).
        return functools.reduce(operator.add, (jnp.sum(g * v).real for g, v in pairs))

    return jax.grad(along)(params)


def _traces(forward, vector):
    """Whether forward mode can pass.

    JAX refuses only when it runs or compiles the product, or batches it: so it is batched, without
    running anything.
    """
    try:
        jax.eval_shape(jax.vmap(forward), jax.tree.map(lambda v: v[None], vector))
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        return False
    return True


def _like(vector, params, kept):
    """`vector` at the leaves that are differentiated, in the dtypes of `params`."""
    vector = without_fixed(vector, params)
    try:
        same_structure(vector, kept, "vector", "hvp")
    except ValueError as error:
        raise ValueError(f"{error}\nFor several vectors use jax.vmap") from None
    return jax.tree.map(lambda v, p: jnp.asarray(v, jnp.result_type(p)), vector, kept)


def without_fixed(tree: Any, params: chex.ArrayTree) -> Any:
    """`tree`, if it has the structure of `params`, with None at what is not differentiated."""
    if jax.tree.structure(tree) != jax.tree.structure(params):
        return tree
    inexact = lambda p: jnp.issubdtype(jnp.result_type(p), jnp.inexact)  # noqa: E731
    return jax.tree.map(lambda p, x: x if inexact(p) else None, params, tree)
