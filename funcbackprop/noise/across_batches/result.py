"""The result of `gradient_variance`: estimates by leaf, and predictions for other sizes."""

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import chex
import jax
import numpy as np

from ...files import json_safe
from ...tables import labels
from ..estimate import Estimate
from .parts import Parts, Setup, jitted
from .sampling import Sampling, checked_size
from .spread import Spread, predicted
from .words import sentences, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_predicted = jitted(lambda setup, parts, *factors: predicted(parts, setup, *factors))

_LONGEST_NAME = 34  # of a leaf, beside the axis of a figure


class Prediction(NamedTuple):
    """An `Estimate` in total, and a tree like `params` with one for each leaf."""

    total: Estimate
    per_leaf: Any

    def __str__(self):
        return str(self.total)

    def explain(self) -> str:
        """What the status of the total means, as a sentence."""
        return self.total.explain()

    def to_dict(self) -> dict:
        """JSON-safe."""
        leaves = jax.tree.leaves(self.per_leaf, is_leaf=lambda x: isinstance(x, Estimate))
        return {
            "total": self.total.to_dict(),
            "per_leaf": [leaf.to_dict() for leaf in leaves],
        }


@dataclasses.dataclass(frozen=True, eq=False)
class GradientVariance:
    """How much the gradient differs from one mini-batch to the next. `str` is a table by leaf.

    Attributes:
      estimates: `Spread` of arrays [L + 1]: the leaves in order, then their total. `total` and
        `per_leaf` give them one by one.
      variance: a tree like `params`: variance of each coordinate of one example's gradient, as `S`
        is (with unit="batch", of the mini-batch gradient).
      names: paths of the leaves, in order.
      sampling: how the mini-batches were taken to be drawn.
      batches, examples: how many were seen, of positive weight; `examples` is None with
        unit="batch".
      skipped: coordinates that are 0/0 and left out of the normalised variance [L + 1].
      not_finite: (mini-batch, index of the example in it or None) where NaN or inf was first met,
        from 0; None where there was none.
      random: whether the batches hold random keys.
      parts, setup: what predictions are made from.
    """

    estimates: Spread
    variance: chex.ArrayTree
    names: tuple[str, ...]
    sampling: Sampling
    batches: int
    examples: int | None
    skipped: np.ndarray
    not_finite: tuple[int, int | None] | None
    random: bool
    parts: Parts = dataclasses.field(repr=False)
    setup: Setup = dataclasses.field(repr=False)

    @property
    def batch_size(self) -> float:
        """Mean effective size (sum w)^2/sum w^2 of the mini-batches; 1 with unit="batch"."""
        return self.setup.size

    @property
    def total(self) -> Spread:
        """The estimates of all parameters together."""
        return jax.tree.map(lambda x: x[-1], self.estimates)

    @property
    def per_leaf(self) -> Any:
        """A tree like `params` with a `Spread` for each leaf."""
        return self._tree([jax.tree.map(lambda x, k=k: x[k], self.estimates) for k in self._leaves])

    @property
    def _leaves(self):
        return range(len(self.names))

    def _tree(self, values):
        return jax.tree.unflatten(jax.tree.structure(self.variance), values)

    def at_batch_size(self, B: float, draws: int = 1) -> Prediction:
        """The variance of the gradient of a mini-batch of B examples, by the law of sampling.

        (between) f(B) + (within)/(B K), f(B) = 1/B with replacement and 1/B - 1/N without. With one
        draw measured, `between` is all of S.

        Args:
          B: examples in a mini-batch, at most N.
          draws: K, draws of the randomness of each example whose gradients are averaged.

        Raises:
          ValueError: B is not in the law's range; draws above 1 were not measured; or the
            mini-batch is the unit, so that no law connects batch sizes.
        """
        if self.setup.coupled:
            raise ValueError(
                '`at_batch_size`: with unit="batch" the loss couples the examples of a mini-batch, '
                "so its variance at another size does not follow from this one; run "
                "`gradient_variance` on mini-batches of that size"
            )
        size = checked_size(B, self.sampling, "at_batch_size")
        if not isinstance(draws, int) or isinstance(draws, bool) or draws < 1:
            raise ValueError(
                f"`at_batch_size`: `draws` must be an int of at least 1, got {draws!r}"
            )
        if draws > 1 and self.setup.draws == 1:
            raise ValueError(
                f"`at_batch_size`: draws={draws} needs the part of the variance within an example, "
                "which one draw cannot tell; run `gradient_variance` with draws=2 or more"
            )
        factors = self.sampling.factor(size), 1 / (size * draws)
        found = jax.device_get(_predicted(self.setup, self.parts, *factors))
        leaves = [jax.tree.map(lambda x, k=k: x[k], found) for k in self._leaves]
        return Prediction(jax.tree.map(lambda x: x[-1], found), self._tree(leaves))

    def explain(self) -> str:
        """What the numbers mean for these data, in sentences."""
        return "\n".join(sentences(self))

    def to_dict(self) -> dict:
        """JSON-safe: estimates of the total and of every leaf by its path."""
        one = lambda k: {  # noqa: E731
            name: jax.tree.map(lambda x: x[k], e).to_dict()
            for name, e in self.estimates._asdict().items()
        }
        return json_safe(
            {
                "total": one(-1),
                "per_leaf": {name: one(k) for k, name in enumerate(self.names)},
                "batch_size": self.batch_size,
                "batches": self.batches,
                "examples": self.examples,
                "draws": self.setup.draws,
                "unit": "batch" if self.setup.coupled else "example",
                "sampling": {
                    "law": type(self.sampling).__name__,
                    "population": getattr(self.sampling, "population", None),
                },
                "skipped": self.skipped,
                "not_finite": self.not_finite,
            }
        )

    def __str__(self):
        return f"{table(self)}\n{self.explain()}"

    def plot(self) -> "Figure":
        """Variance and signal-to-noise of the mini-batch gradient by leaf, with intervals."""
        from ...figures.spread import variance_by_leaf

        result = self.to_dict()
        short = labels(list(result["per_leaf"]), _LONGEST_NAME)
        leaves = dict(zip(short, result["per_leaf"].values(), strict=True))
        return variance_by_leaf({**result, "per_leaf": leaves})
