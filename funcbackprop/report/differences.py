"""The difference of a number between two runs, with its standard error over seeds."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..files import json_safe
from ..noise.estimate import quantile


class Difference(NamedTuple):
    """A mean over seeds less another.

    Attributes:
      value: the difference.
      standard_error: over seeds; None where a run has one seed.
      lower, upper: of the 95 % interval, by Student's t.
      how: what the standard error rests on, in words.
    """

    value: float
    standard_error: float | None
    lower: float | None
    upper: float | None
    how: str

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.lower is not None and self.upper is not None and self.lower * self.upper > 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return json_safe(self._asdict())


def difference(of: Mapping[Any, float], base: Mapping[Any, float]) -> Difference:
    """The mean of `of` less the mean of `base`.

    With the same seeds in both, the seeds are pairs: they share initial parameters and the order of
    the data, and the standard error is that of the mean of the pairs' differences. Else it is
    (s_1^2/n_1 + s_2^2/n_2)^(1/2), with the degrees of freedom of Welch (1947).

    Args:
      of, base: seed -> number, of one run each; at least one.

    >>> d = difference({0: 1.0, 1: 2.0, 2: 4.0}, {0: 0.0, 1: 1.0, 2: 2.0})
    >>> print(f"{d.value:.3f} {d.standard_error:.3f} {d.how}")
    1.333 0.333 3 pairs of equal seeds
    >>> difference({0: 1.0}, {0: 3.0}).standard_error is None
    True
    """
    x, y = (np.array(list(values.values()), np.float64) for values in (of, base))
    value = float(x.mean() - y.mean())
    if len(x) < 2 or len(y) < 2:
        return Difference(value, None, None, None, "one seed: no standard error")
    if of.keys() == base.keys():
        pairs = np.array([of[seed] - base[seed] for seed in of])
        error, freedom = math.sqrt(pairs.var(ddof=1) / len(pairs)), len(pairs) - 1
        how = f"{len(pairs)} pairs of equal seeds"
    else:
        parts = [v.var(ddof=1) / len(v) for v in (x, y)]
        error = math.sqrt(sum(parts))
        below = sum(p**2 / (len(v) - 1) for p, v in zip(parts, (x, y), strict=True))
        freedom = sum(parts) ** 2 / below if below > 0 else len(x) + len(y) - 2
        how = f"{len(x)} and {len(y)} different seeds"
    half = quantile(freedom) * error
    return Difference(value, error, value - half, value + half, how)
