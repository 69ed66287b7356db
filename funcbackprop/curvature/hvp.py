"""The Hessian of the mean loss times a vector, without the Hessian."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from ..contract import (
    Loss,
    batch_size,
    checked_params,
    checked_weights,
    differentiable,
    first_row,
    same_structure,
    scalar_loss,
    vary_like,
    wide,
    without_padding,
)
from ..per_example.loops import in_lanes, lanes
from .arguments import checked_count, on_mesh, specs


def hvp(
    loss: Loss,
    params: chex.ArrayTree,
    batch: chex.ArrayTree,
    vector: chex.ArrayTree,
    *,
    weights: Any = None,
    chunk_size: int | None = None,
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
      chunk_size: examples that are worked on at a time; None is all of them.

    Returns:
      A tree like `params`, in their dtypes, with None at leaves that are not differentiated. Units:
      loss/parameter^2 times those of `vector`. NaN if all weights are zero. Pure; works under `jit`
      and `vmap`, which gives several vectors.

    Raises:
      TypeError, ValueError: an argument or the loss's output has the wrong form.

    Cost: about twice the time of the gradient of the batch, and twice its memory; the loss is
    traced twice. With `chunk_size` the memory is that of a chunk and of one sum, with 4 bytes
    for every example: for an MLP 64-256-256-10 in chunks of 500, 3.47 MB at B = 1000 and 3.53 MB at
    B = 16000, where all at once took 6 and 99 MB. A sharded batch is worked through by all devices
    side by side, each on its own rows, and their sums are added up once, at the end.

    Source: Pearlmutter 1994, Fast exact multiplication by the Hessian.

    >>> import jax.numpy as jnp
    >>> loss = lambda w, x: 0.5 * jnp.dot(w, x) ** 2  # Hessian x x'
    >>> x = jnp.array([[1.0, 0.0], [1.0, 2.0]])
    >>> print(hvp(loss, jnp.zeros(2), x, jnp.array([1.0, 1.0])))
    [2. 3.]
    """
    kept, _ = differentiable(params, "hvp")
    vector = _like(vector, params, kept)

    def measured(params, batch, weights, vector):
        return hessian(loss, params, batch, weights, chunk_size, "hvp")[1](vector)

    return on_mesh(measured, specs(kept), params, batch, weights, vector)


def hessian(
    loss: Loss,
    params: chex.ArrayTree,
    batch: chex.ArrayTree,
    weights: Any,
    chunk_size: int | None,
    caller: str,
) -> tuple[chex.ArrayTree, Callable]:
    """`(params without what is not differentiated, v -> H v)`; errors name `caller`."""
    kept, join = differentiable(params, caller)
    checked = scalar_loss(loss, False, caller)
    checked_params(kept, caller)
    size, padded = batch_size(batch, caller), weights is not None
    weights = checked_weights(weights, size, caller)
    chunk = size if chunk_size is None else checked_count(chunk_size, "chunk_size", caller)
    row = first_row(batch, weights) if padded else None
    at = vary_like(kept, (batch, weights))
    shares = vary_like(weights / jnp.sum(weights), at)

    def loss_of(p, batch, shares):
        """The part of the mean loss that these examples make."""
        batch = without_padding(batch, shares, row) if padded else batch
        losses = jax.vmap(lambda example: checked(join(p), example)[0])(batch)
        return jnp.sum(jnp.where(shares > 0, shares * losses.astype(shares.dtype), 0))

    def product(vector):
        vector = vary_like(vector, at)

        def part(batch, shares):
            return _product(jax.grad(lambda p: loss_of(p, batch, shares)), at, vector)

        if chunk >= size:
            return part(batch, shares)
        return jax.tree.map(
            lambda x, p: x.astype(p.dtype), _in_chunks(part, batch, shares, chunk, at), at
        )

    return at, product


def _in_chunks(part, batch, shares, chunk, like):
    """The sum of `part(rows of batch, shares)`, `chunk` rows at a time, at least float32.

    On a sharded batch each device takes its share of every chunk from its own rows.
    """
    count = lanes(shares)
    length = len(shares) // count
    own = min(max(1, chunk // count), length)
    start = jax.tree.map(lambda p: jnp.zeros(p.shape, wide(p).dtype), like)

    def lane(data):
        batch, shares = data

        def step(total, j):
            # The last chunk begins earlier if too few rows are left for it. Those that were
            # counted already get no weight.
            begin = jnp.minimum(j * own, length - own)
            rows = lambda x: jax.lax.dynamic_slice_in_dim(x, begin, own)  # noqa: E731
            new = begin + jnp.arange(own) >= j * own
            found = part(jax.tree.map(rows, batch), jnp.where(new, rows(shares), 0))
            return jax.tree.map(lambda t, x: t + wide(x), total, found), None

        return jax.lax.scan(step, vary_like(start, like), jnp.arange(-(-length // own)))[0], ()

    join = lambda sums: jax.tree.map(lambda x: jnp.sum(x, axis=0), sums)  # noqa: E731
    return in_lanes(lane, join, (jax.tree.map(jnp.asarray, batch), shares), count)[0]


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
