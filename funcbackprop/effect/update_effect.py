"""What an update does to the loss: first order, curvature, and the actual change, with errors."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from .. import tables
from ..contract import Loss, layer_groups, leaf_names, wide
from ..noise.estimate import LEVEL, Estimate
from ..noise.status import to_dict
from ..results import is_traced
from .terms import Terms, mean, rounding, terms, total

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 110
_SHOWN = 5
_LONGEST_NAME = 34  # of a leaf, beside the axis of a figure


class UpdateEffect(NamedTuple):
    """What `updates` do to the mean loss over a batch; units are those of the loss.

    Attributes:
      first_order: <G, u>.
      curvature: u'Hu/2.
      predicted: their sum.
      actual: loss(params + u) - loss(params).
      error: actual - predicted, of the same examples: what is beyond second order, and rounding.
      rounding: how far `actual` may be off by the rounding of single losses.
      share_helped: the share of the examples, by weight, whose loss falls.
      elsewhere: `first_order` as it would be on an independent batch; None without `rate`.
      first_order_by_leaf, curvature_by_leaf: trees like `params` of estimates, which add up.
      first_order_by_layer, curvature_by_layer: layer -> estimate, which add up too.
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
    first_order_by_layer: dict[str, Estimate]
    curvature_by_layer: dict[str, Estimate]
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

    def plot(self, title: str | None = None) -> "Figure":
        """Predicted against actual change of each example, and the terms by leaf with intervals.

        Of many leaves those with the largest terms are shown, up to 20.

        Args:
          title: of the left panel.
        """
        from ..figures.effect import effect_of_update

        result = self.to_dict()
        names = list(result["first_order_by_leaf"])
        short = tables.labels(names, _LONGEST_NAME)
        for term in ("first_order_by_leaf", "curvature_by_leaf"):
            result[term] = {s: result[term][name] for s, name in zip(short, names, strict=True)}
        weights, actual = (np.asarray(x) for x in (self.weights, self.of_examples["actual"]))
        cases = {"falls": actual < 0, "rises": actual > 0, "stays": actual == 0}
        told = {
            case: tables.percent(float(np.sum(weights[holds]) / np.sum(weights)))
            for case, holds in cases.items()
        }
        return effect_of_update({**result, "level": LEVEL, "told": told}, title)

    def to_dict(self) -> dict:
        """JSON-safe."""
        leaves = {
            "first_order_by_leaf": _by_path(self.first_order_by_leaf),
            "curvature_by_leaf": _by_path(self.curvature_by_leaf),
            "first_order_by_layer": self.first_order_by_layer,
            "curvature_by_layer": self.curvature_by_layer,
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
    is_leaf = lambda x: isinstance(x, Estimate)  # noqa: E731
    estimates = jax.tree.leaves(tree, is_leaf=is_leaf)
    return dict(zip(leaf_names(tree, is_leaf=is_leaf), estimates, strict=True))


def update_effect(
    loss: Loss,
    params: chex.ArrayTree,
    updates: chex.ArrayTree,
    batch: chex.ArrayTree,
    weights: Any = None,
    *,
    rate: Any = None,
    groups: Callable[[str], str] | None = None,
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
      groups: path of a leaf, such as `['layers'][0]['w']`, -> name of its layer; by default its
        parent in the tree.

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
    t = terms(loss, params, updates, batch, weights, "update_effect")
    over = lambda x: mean(x, t.design)  # noqa: E731
    first_order, actual = over(t.first), t.change(1.0)
    elsewhere = None if rate is None else _elsewhere(first_order, rate, t)
    return UpdateEffect(
        first_order=first_order,
        curvature=over(t.bend),
        predicted=over(t.first + t.bend),
        actual=over(actual),
        error=over(actual - t.first - t.bend),
        rounding=rounding(t.losses, t.design),
        share_helped=over((actual < 0).astype(t.first.dtype)),
        elsewhere=elsewhere,
        first_order_by_leaf=jax.tree.map(lambda x: over(wide(x)), t.first_by_leaf),
        curvature_by_leaf=jax.tree.map(over, t.bend_by_leaf),
        first_order_by_layer=_by_layer(t.first_by_leaf, t.design, groups),
        curvature_by_layer=_by_layer(t.bend_by_leaf, t.design, groups),
        of_examples={"first_order": t.first, "curvature": t.bend, "actual": actual},
        weights=t.weights,
    )


def _by_layer(tree, design, groups):
    leaves = {keystr(path): x for path, x in tree_leaves_with_path(tree)}
    return {
        name: mean(total([leaves[path] for path in paths]), design)
        for name, paths in layer_groups(tree, groups).items()
    }


def _elsewhere(first: Estimate, rate, t: Terms) -> Estimate:
    u = t.updates
    rates = rate if jax.tree.structure(rate) == jax.tree.structure(u) else None
    if rates is None:
        if jnp.ndim(rate):
            raise ValueError(
                "`update_effect`: `rate` must be a number, or a tree like `params` of numbers or "
                f"arrays, got an array of shape {jnp.shape(rate)}"
            )
        rates = jax.tree.map(lambda v: rate, u)
    parts = jax.tree.map(lambda r, v: jnp.sum(jnp.asarray(r) * v), rates, t.variance())
    shift = t.design.share * total(parts)
    moved = (x + shift for x in (first.value, first.lower, first.upper))
    value, lower, upper = moved
    return first._replace(value=value, lower=lower, upper=upper)
