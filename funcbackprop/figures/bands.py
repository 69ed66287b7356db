"""Curves as lines with bands: of several seeds their range, of one the interval of each value."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

Curve = Mapping[Any, tuple[Any, Any]]  # seed -> (steps, values): sequences of equal length
Limits = tuple[Curve, Curve]  # lower and upper limits of the values of a curve


class Band(NamedTuple):
    """Several seeds as one curve: NaN where no seed has a value.

    Attributes:
      steps: every step at which any seed was measured, ascending.
      mean: of the finite values at each step.
      low, high: smallest and largest of these; of a single seed the limits of its value, where they
        are given. `high` is infinite where a value is bounded from below only.
      missing: whether a seed was measured at the step without a finite value.
    """

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    missing: np.ndarray


def band(curve: Curve, limits: Limits | None = None) -> Band:
    """Mean, smallest and largest value over seeds, at every step; `missing` where a seed has none.

    Args:
      curve: the values.
      limits: of the values; a single seed has them as its band. An upper limit that is None beside
        a lower one is infinite.

    >>> b = band({0: ([0, 1], [1.0, 4.0]), 1: ([0, 1], [3.0, None])})
    >>> b.mean.tolist(), b.high.tolist(), b.missing.tolist()
    ([2.0, 4.0], [3.0, 4.0], [False, True])
    >>> b = band({0: ([0, 1], [2.0, 4.0])}, ({0: ([0, 1], [1.0, 3.0])}, {0: ([0, 1], [5.0, None])}))
    >>> b.low.tolist(), b.high.tolist()
    ([1.0, 3.0], [5.0, inf])
    """
    steps = np.array(sorted({step for x, _ in curve.values() for step in x}), dtype=float)
    table = np.full((len(curve), len(steps)), np.nan)
    missing = np.zeros(len(steps), bool)
    for row, (x, values) in zip(table, curve.values(), strict=True):
        place = np.searchsorted(steps, x)
        row[place] = values = floats(values)
        missing[place] |= np.isnan(values)
    found = np.isfinite(table)
    count = found.sum(axis=0)
    none = count == 0
    mean = np.where(found, table, 0).sum(axis=0) / np.where(none, np.nan, count)
    low = np.where(none, np.nan, np.where(found, table, np.inf).min(axis=0, initial=np.inf))
    high = np.where(none, np.nan, np.where(found, table, -np.inf).max(axis=0, initial=-np.inf))
    if limits is not None and len(curve) == 1:
        low, high = _limits(limits, low, high)
    return Band(steps, mean, low, high, missing)


def _limits(limits, low, high):
    """The limits of one seed; where there are none, what was there."""
    (lower,), (upper,) = ([floats(values) for _, values in x.values()] for x in limits)
    known = np.isfinite(lower)
    upper = np.where(known & np.isnan(upper), np.inf, upper)
    return np.where(known, lower, low), np.where(known, upper, high)


def floats(values: Iterable) -> np.ndarray:
    """A float array with NaN for None and for what is not finite."""
    array = np.array([np.nan if x is None else x for x in values], dtype=float)
    return np.where(np.isfinite(array), array, np.nan)


def extent(bands: Iterable[Band]) -> np.ndarray:
    """All values that bands reach, for the limits of an axis."""
    return np.concatenate([np.zeros(0), *(x for b in bands for x in (b.low, b.high))])


def log_extent(bands: Iterable[Band], room: float = 10.0) -> np.ndarray:
    """The same for a log axis: limits count up to a factor `room` beyond the means, no further."""
    bands = tuple(bands)
    means = np.concatenate([np.zeros(0), *(b.mean for b in bands)])
    means, values = means[means > 0], extent(bands)
    if not len(means):
        return values
    near = np.where(values > 0, np.clip(values, means.min() / room, means.max() * room), values)
    return np.append(means, near)


def running_mean(steps, values, reach: float = 0.1) -> np.ndarray:
    """Mean over the steps within a factor 1 + `reach` of each step, of the finite values.

    >>> running_mean([1, 100, 105], [5.0, 1.0, 3.0]).tolist()
    [5.0, 2.0, 2.0]
    """
    steps, values = np.asarray(steps, float), floats(values)
    finite = np.isfinite(values)
    sums = np.append(0, np.cumsum(np.where(finite, values, 0)))
    counts = np.append(0, np.cumsum(finite))
    first = np.searchsorted(steps, steps / (1 + reach), side="left")
    last = np.searchsorted(steps, steps * (1 + reach), side="right")
    count = counts[last] - counts[first]
    return (sums[last] - sums[first]) / np.where(finite, np.maximum(count, 1), np.nan)
