"""What a step along an update does to the loss of each example: the terms, and their means."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from ..contract import Loss, batch_size, checked_weights, differentiable, same_structure, wide
from ..curvature.hvp import without_fixed
from ..noise.design import Design, of_examples
from ..noise.estimate import Estimate, around
from ..per_example import Projection, Variance, gradient_statistics


class Terms(NamedTuple):
    """Of each example; units are those of the loss, and padding holds 0 in the totals.

    Attributes:
      updates: u at the leaves that are differentiated, in the dtypes of the parameters.
      losses: [B], as the loss gives them.
      first_by_leaf, bend_by_leaf: trees of [B]: <g_i, u>, and u'H_i u/2.
      first, bend: [B], their totals.
      change: s -> [B], loss_i(params + s u) - loss_i(params).
      variance: () -> a tree like `params`, of the gradients' elements.
      weights: [B].
      design: what turns [B] into a mean with its error.
    """

    updates: chex.ArrayTree
    losses: chex.Array
    first_by_leaf: Any
    bend_by_leaf: Any
    first: chex.Array
    bend: chex.Array
    change: Callable
    variance: Callable
    weights: chex.Array
    design: Design


def terms(
    loss: Loss,
    params: chex.ArrayTree,
    updates: chex.ArrayTree,
    batch: chex.ArrayTree,
    weights: Any,
    caller: str,
) -> Terms:
    """The terms of `updates`; errors name `caller`."""
    kept, join = differentiable(params, caller)
    u = _updates_like(updates, params, kept, caller)
    size = batch_size(batch, caller)
    given = checked_weights(weights, size, caller)
    pad = None if weights is None else given

    def measured(stats, p) -> Any:
        return gradient_statistics(lambda q, e: loss(join(q), e), stats)(p, batch, pad)

    along = lambda p: measured(Projection(u, per_leaf=True), p)  # noqa: E731
    (losses, first), (_, second) = jax.jvp(along, (kept,), (u,))
    bend: Any = jax.tree.map(lambda x: wide(x) / 2, second)

    def change(s):
        moved = jax.tree.map(lambda p, v: p + jnp.asarray(s, v.dtype) * v, kept, u)
        return jnp.where(given > 0, wide(measured({}, moved)[0]) - wide(losses), 0)

    return Terms(
        updates=u,
        losses=losses,
        first_by_leaf=first,
        bend_by_leaf=bend,
        first=total(first),
        bend=total(bend),
        change=change,
        variance=lambda: measured(Variance(), kept)[1],
        weights=given,
        design=of_examples(given),
    )


def _updates_like(updates, params, kept, caller):
    """`updates` at the leaves that are differentiated, in the dtypes of `params`."""
    updates = without_fixed(updates, params)
    same_structure(updates, kept, "updates", caller)
    return jax.tree.map(lambda v, p: jnp.asarray(v, jnp.result_type(p)), updates, kept)


def total(tree: Any) -> chex.Array:
    """The sum of the leaves, in float32 at least."""
    leaves = [wide(x) for x in jax.tree.leaves(tree)]
    return sum(leaves[1:], leaves[0])


def mean(x: chex.Array, design: Design) -> Estimate:
    """The weighted mean over examples, [B] -> scalar, with Student's interval."""
    value = average(x, design)
    error = jnp.sqrt(covariance(x, x, design))
    return around(value, error, design.quantile, jnp.where(design.several, 0, design.alone))


def average(x: chex.Array, design: Design) -> chex.Array:
    """sum w x/sum w; what stands in padding does not matter."""
    w = design.weights.astype(x.dtype)
    return jnp.sum(jnp.where(w > 0, w * x, 0)) / jnp.sum(w)


def covariance(x: chex.Array, y: chex.Array, design: Design) -> chex.Array:
    """Of the means of x and y over examples; NaN where one example has no other."""
    w = design.weights.astype(x.dtype)
    dx, dy = (jnp.where(w > 0, jnp.subtract(v, average(v, design)), 0) for v in (x, y))
    shared = design.share * jnp.sum(w * dx * dy) / design.divisor
    return jnp.where(design.several, shared, jnp.nan)


def rounding(losses: chex.Array, design: Design) -> chex.Array:
    """Of a difference of two mean losses: a unit roundoff of each."""
    return 2 * jnp.finfo(losses.dtype).eps * average(jnp.abs(wide(losses)), design)
