"""What a statistic can ask of the gradients g_i of one parameter leaf, and what an answer costs.

Data only: `Gradient` has a method for each, `kernels` and `entries` know how to answer them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


class Ask:
    """A question; compared by identity, so that one which is asked twice is answered once."""


@dataclass(frozen=True, eq=False)
class Mean(Ask):
    """sum_i w_i g_i / sum_i w_i: [*shape]; 0 if all weights are 0."""


@dataclass(frozen=True, eq=False)
class WeightedSum(Ask):
    """sum_i c_i g_i: [*shape] for c [B], [K, *shape] for c [K, B]."""

    c: Any


@dataclass(frozen=True, eq=False)
class MeanOf(Ask):
    """sum_i w_i f(g_i) / sum_i w_i of a function of entries: [*shape]; 0 if all weights are 0."""

    f: Callable


@dataclass(frozen=True, eq=False)
class Deviations(Ask):
    """`(mean, scale sum_i w_i |g_i - mean|^2 / sum_i w_i)`, entry by entry; 0 if all weights are 0.

    Attributes:
      centred: whether every entry is centred before squaring, whatever its mean.
      scale: a number; entries of the size of the leaf are not gone through again for it.
    """

    centred: bool
    scale: Any


@dataclass(frozen=True, eq=False)
class SquaredNorms(Ask):
    """|g_i|^2: [B]."""


@dataclass(frozen=True, eq=False)
class SquaredDistances(Ask):
    """|g_i - d|^2: [B] for d [*shape]."""

    d: Any


@dataclass(frozen=True, eq=False)
class Inner(Ask):
    """Real part of <g_i, d>: [B] for d [*shape], [B, K] for d [K, *shape]."""

    d: Any


@dataclass(frozen=True, eq=False)
class Gram(Ask):
    """Real part of <g_i, g_j>: [B, B]."""


@dataclass(frozen=True, eq=False)
class Fold(Ask):
    """The sum of `f(g [C, *shape], weights [C])` over groups of examples."""

    f: Callable


@dataclass(frozen=True, eq=False)
class Each(Ask):
    """`f(g [C, *shape])` of groups of examples, concatenated along its first axis [C]."""

    f: Callable


class Kernel(NamedTuple):
    """A way to one answer.

    Attributes:
      name: in the plan.
      flops: for one example; those of a matrix product that would take as long.
      run: `() -> answer`.
    """

    name: str
    flops: float
    run: Callable
