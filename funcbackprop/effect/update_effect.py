"""What an update does to the loss: first order, curvature, and the actual change, with errors."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from .. import tables
from ..contract import Loss, batch_size, checked_weights, differentiable, same_structure, wide
from ..curvature.hvp import without_fixed
from ..noise.design import Design, of_examples
from ..noise.estimate import Estimate, around
from ..noise.show import is_traced, to_dict
from ..per_example import Projection, Variance, gradient_statistics

_WIDTH = 110
_SHOWN = 5


class UpdateEffect(NamedTuple):
    """What `updates` do to the mean loss over a batch; units are those of the loss.

    Attributes:
      first_order: <G, u>.
      curvature: u'Hu/2.
      predicted: their sum.
      actual: loss(params + u) - loss(params).
      error: actual - predicted, of the same examples: what is beyond second order, and rounding.
      rounding: how far `actual` may be off by the rounding of single losses.
      share_helped: of the weight of the examples whose loss falls.
      elsewhere: `first_order` as it would be on an independent batch; None without `rate`.
      first_order_by_leaf, curvature_by_leaf: trees like `params` of estimates, which add up.
      of_examples: name -> [B]: `first_order`, `curvature` and `actual` of each example; 0 where the
        weight is 0.
      weights: [B].
    """

    first_order: Estimate
    curvature: Estimate
    predicted: Estimate
    actual: Estimate
    error: Estimate
    rounding: chex.Array
    share_helped: Estimate
    elsewhere: Estimate | None
    first_order_by_leaf: Any
    curvature_by_leaf: Any
    of_examples: dict[str, Any]
    weights: chex.Array

    def examples(self, count: int = _SHOWN) -> str:
        """A table of the examples that the update helps most, and of those that it hurts most."""
        actual, kept = (np.asarray(x) for x in (self.of_examples["actual"], self.weights > 0))
        order = [i for i in np.argsort(actual, kind="stable").tolist() if kept[i]]
        count = min(count, len(order) // 2)
        chosen = [*order[:count], *order[len(order) - count :]]
        columns = {k: np.asarray(x) for k, x in self.of_examples.items()}
        cells = [[i, *(float(x[i]) for x in columns.values())] for i in chosen]
        return tables.text(cells, ["example", *map(_words, columns)], None, _WIDTH)

    def to_dict(self) -> dict:
        """JSON-safe."""
        leaves = {
            "first_order_by_leaf": _by_path(self.first_order_by_leaf),
            "curvature_by_leaf": _by_path(self.curvature_by_leaf),
        }
        found = to_dict(self, *leaves)
        return {**found, **{k: {p: e.to_dict() for p, e in v.items()} for k, v in leaves.items()}}

    def __str__(self):
        if is_traced(self):
            return "UpdateEffect(traced)"
        names = ["first_order", "curvature", "predicted", "actual", "error"]
        names += ["elsewhere"] if self.elsewhere is not None else []
        lines = [f"{_words(name)}: {getattr(self, name)}" for name in names]
        if abs(float(self.actual.value)) < 4 * float(self.rounding):
            lines.append("the actual change is below the rounding of the losses")
        lines.append(f"share of the examples that it helps: {self.share_helped}")
        curved = _by_path(self.curvature_by_leaf)
        cells = [
            [path, str(first), str(curved[path])]
            for path, first in _by_path(self.first_order_by_leaf).items()
        ]
        table = tables.text(cells, ["leaf", "first order", "curvature"], None, _WIDTH)
        return "\n".join([*lines, "", table])


def _words(name: str) -> str:
    return name.replace("_", " ")


def _by_path(tree: Any) -> dict[str, Estimate]:
    found, _ = tree_flatten_with_path(tree, is_leaf=lambda x: isinstance(x, Estimate))
    return {f"params{keystr(path)}": estimate for path, estimate in found}


def update_effect(
    loss: Loss,
    params: chex.ArrayTree,
    updates: chex.ArrayTree,
    batch: chex.ArrayTree,
    weights: Any = None,
    *,
    rate: Any = None,
) -> UpdateEffect:
    """What adding `updates` to `params` does to the mean loss, before it is done.

    With gradients g_i and Hessians H_i of the examples, their means G and H, and u the updates,

        loss(params + u) - loss(params) = <G, u> + u'Hu/2 + ...

    Each term is a mean over examples, and has the standard error of one: by how much it would be
    another on another batch. `batch` should be independent of the one that made `updates`: on the
    same one the decrease looks larger than it is elsewhere, by eta S/B to first order for SGD.

    Args:
      loss: `loss(params, example) -> scalar` of one example, differentiable twice.
      params: a tree; integers, booleans and random keys in it are not differentiated.
      updates: a tree like `params`, of any optax optimizer: what `optax.apply_updates` adds.
      batch: a tree with a leading axis [B] on every leaf.
      weights: [B], relative importances; a row of weight 0 is padding.
      rate: where `batch` is the one that made `updates` = -rate G (SGD): the rate, a number, or a
        tree like `params` for one rate for each parameter. `elsewhere` then is <G, u> without the
        part that comes from having seen these examples, + sum_k rate_k V_k sum w^2/(sum w)^2.

    Returns:
      `UpdateEffect`. Pure; works under `jit`.

    Raises:
      TypeError, ValueError: an argument has the wrong form.

    Cost: about that of two to four gradients of the batch, and an evaluation of the loss. The
    curvature is the derivative of <g_i, u> along u, by forward mode through the program of the
    gradient, in which a `jax.custom_vjp` is no obstacle.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> loss = lambda w, x: 0.5 * (w - x) ** 2  # g = w - x, H = 1
    >>> found = fb.update_effect(loss, jnp.array(0.0), jnp.array(1.0), jnp.array([1.0, 3.0]))
    >>> print(found.first_order.value, found.curvature.value, found.actual.value)
    -2.0 0.5 -1.5
    """
    kept, join = differentiable(params, "update_effect")
    u = _updates_like(updates, params, kept)
    size = batch_size(batch, "update_effect")
    given = checked_weights(weights, size, "update_effect")
    design = of_examples(given)
    pad = None if weights is None else given
    measured = lambda stats, p: gradient_statistics(lambda q, e: loss(join(q), e), stats)(  # noqa: E731
        p, batch, pad
    )
    along = lambda p: measured(Projection(u, per_leaf=True), p)  # noqa: E731
    (losses, first), (_, second) = jax.jvp(along, (kept,), (u,))
    second: Any = jax.tree.map(lambda x: wide(x) / 2, second)
    after, _ = measured({}, jax.tree.map(lambda p, v: p + v, kept, u))
    before, after = jax.tree.map(wide, (losses, after))
    actual = jnp.where(given > 0, after - before, 0)
    total, bend = _total(first), _total(second)
    elsewhere = None
    if rate is not None:
        variance = measured(Variance(), kept)[1]
        elsewhere = _elsewhere(_mean(total, design), variance, rate, u, design)
    return UpdateEffect(
        first_order=_mean(total, design),
        curvature=_mean(bend, design),
        predicted=_mean(total + bend, design),
        actual=_mean(actual, design),
        error=_mean(actual - total - bend, design),
        rounding=_rounding(losses, design),
        share_helped=_mean((actual < 0).astype(total.dtype), design),
        elsewhere=elsewhere,
        first_order_by_leaf=jax.tree.map(lambda x: _mean(wide(x), design), first),
        curvature_by_leaf=jax.tree.map(lambda x: _mean(x, design), second),
        of_examples={"first_order": total, "curvature": bend, "actual": actual},
        weights=given,
    )


def _updates_like(updates, params, kept):
    """`updates` at the leaves that are differentiated, in the dtypes of `params`."""
    updates = without_fixed(updates, params)
    same_structure(updates, kept, "updates", "update_effect")
    return jax.tree.map(lambda v, p: jnp.asarray(v, jnp.result_type(p)), updates, kept)


def _total(tree):
    leaves = [wide(x) for x in jax.tree.leaves(tree)]
    return sum(leaves[1:], leaves[0])


def _mean(x: chex.Array, design: Design) -> Estimate:
    """The weighted mean over examples, [B] -> scalar, with Student's interval."""
    w = design.weights.astype(x.dtype)
    x = jnp.where(w > 0, x, 0)
    mean = jnp.sum(w * x) / jnp.sum(w)
    spread = jnp.sum(w * (x - mean) ** 2) / design.divisor
    error = jnp.where(design.several, jnp.sqrt(design.share * spread), jnp.nan)
    return around(mean, error, design.quantile, jnp.where(design.several, 0, design.alone))


def _rounding(losses, design):
    """Of a difference of two mean losses: a unit roundoff of each."""
    w = design.weights
    scale = jnp.sum(jnp.where(w > 0, w * jnp.abs(losses), 0)) / jnp.sum(w)
    return 2 * jnp.finfo(losses.dtype).eps * scale


def _elsewhere(first: Estimate, variance, rate, u, design) -> Estimate:
    rates = rate if jax.tree.structure(rate) == jax.tree.structure(u) else None
    if rates is None:
        if jnp.ndim(rate):
            raise ValueError(
                "`update_effect`: `rate` must be a number, or a tree like `params` of numbers or "
                f"arrays, got an array of shape {jnp.shape(rate)}"
            )
        rates = jax.tree.map(lambda v: rate, u)
    parts = jax.tree.map(lambda r, v: jnp.sum(jnp.asarray(r) * v), rates, variance)
    shift = design.share * _total(parts)
    moved = (x + shift for x in (first.value, first.lower, first.upper))
    value, lower, upper = moved
    return first._replace(value=value, lower=lower, upper=upper)
