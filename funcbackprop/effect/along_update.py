"""The loss along an update: how far the second-order prediction holds, and where the minimum is."""

from typing import TYPE_CHECKING, Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from .. import tables
from ..contract import Loss
from ..noise.estimate import Estimate, unknown
from ..noise.scale.ratio import Covariance, ratio
from ..noise.status import code, to_dict
from ..results import is_traced
from .terms import Terms, average, covariance, mean, rounding, terms

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SCALES = tuple(float(s) for s in np.geomspace(0.1, 100, 13))


class AlongUpdate(NamedTuple):
    """The change of the mean loss for steps of several lengths; units are those of the loss.

    Attributes:
      scales: [n], lengths s of the step s u; 1 is the update itself.
      predicted: [n], s <G, u> + s^2 u'Hu/2.
      actual: [n], loss(params + s u) - loss(params).
      error: [n], actual - predicted, of the same examples.
      best_scale: -<G, u>/(u'Hu), where the prediction has its minimum, with Fieller's interval; NaN
        where the curvature is not above zero.
      rounding: how far `actual` may be off by the rounding of single losses.
    """

    scales: chex.Array
    predicted: Estimate
    actual: Estimate
    error: Estimate
    best_scale: Estimate
    rounding: chex.Array

    def to_dict(self) -> dict:
        """JSON-safe."""
        return to_dict(self)

    def plot(self) -> "Figure":
        """Predicted and actual change over the length of the step, with 95 % intervals."""
        from ..figures.effect import along_update

        return along_update(self.to_dict())

    def __str__(self):
        if is_traced(self):
            return "AlongUpdate(traced)"
        columns = (str(x).splitlines() for x in (self.predicted, self.actual, self.error))
        cells = [
            [float(s), *row]
            for s, *row in zip(np.asarray(self.scales).tolist(), *columns, strict=True)
        ]
        table = tables.text(cells, ["scale", "predicted", "actual", "error"], None, 110)
        return f"{table}\n\nbest scale: {self.best_scale}"


def along_update(
    loss: Loss,
    params: chex.ArrayTree,
    updates: chex.ArrayTree,
    batch: chex.ArrayTree,
    weights: Any = None,
    *,
    scales: Any = _SCALES,
) -> AlongUpdate:
    """What s times `updates` does to the mean loss, for several s: predicted and actual.

    For SGD, s is a multiple of the learning rate; for any optimizer, of the rate of this one step.

    Args:
      loss: `loss(params, example) -> scalar` of one example, differentiable twice.
      params: a tree; integers, booleans and random keys in it are not differentiated.
      updates: u, a tree like `params`, of any optax optimizer.
      batch: a tree with a leading axis [B] on every leaf, independent of the one that made
        `updates` (see `update_effect`).
      weights: [B], relative importances; a row of weight 0 is padding.
      scales: [n], numbers; by default 13 from 0.1 to 100.

    Returns:
      `AlongUpdate`. Pure; works under `jit`.

    Raises:
      TypeError, ValueError: an argument has the wrong form.

    Cost: that of `update_effect`, and one evaluation of the loss for each scale.

    >>> import jax.numpy as jnp
    >>> loss = lambda w, x: 0.5 * (w - x) ** 2  # g = w - x, H = 1
    >>> found = along_update(loss, jnp.array(0.0), jnp.array(1.0), jnp.array([1.0, 3.0]))
    >>> print(f"{found.best_scale.value:.3f}")
    2.000
    """
    scales = jnp.asarray(scales, jnp.result_type(float))
    if scales.ndim != 1:
        raise ValueError(
            "`along_update`: `scales` expected numbers of shape [n], got shape "
            f"{scales.shape}; for one step length use update_effect"
        )
    t = terms(loss, params, updates, batch, weights, "along_update")

    def at(s):
        predicted: Any = s * t.first + s**2 * t.bend
        actual = t.change(s)
        return tuple(mean(x, t.design) for x in (predicted, actual, actual - predicted))

    predicted, actual, error = jax.lax.map(at, scales)
    return AlongUpdate(
        *(scales, predicted, actual, error), _best_scale(t), rounding(t.losses, t.design)
    )


def _best_scale(t: Terms) -> Estimate:
    top, bottom = jnp.negative(t.first), 2 * t.bend
    of = lambda x, y: covariance(x, y, t.design)  # noqa: E731
    n, d = (average(x, t.design) for x in (top, bottom))
    both = Covariance(of(top, top), of(bottom, bottom), of(top, bottom), jnp.ones_like(n))
    status = jnp.where(t.design.several, 0, t.design.alone)
    found = ratio(n, d, both, t.design.quantile, status)
    without = unknown(n, code("unbounded"))
    return jax.tree.map(lambda x, y: jnp.where(d > 0, x, y), found, without)
