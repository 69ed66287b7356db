"""How mini-batches were drawn: what an iterable cannot say, and what the variance depends on."""

import inspect
import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class WithReplacement:
    """Independent examples: a stream of new data, or draws with replacement.

    The gradient of B examples has variance S/B, S = tr(Sigma) of the law that they are drawn from.

    >>> WithReplacement().factor(4)
    0.25
    """

    @property
    def population(self) -> float:
        """N: inf, for there is always a new example."""
        return np.inf

    def factor(self, size: float) -> float:
        """The variance of the mean of `size` examples, in units of S."""
        return 1 / size

    def begins_block(self, seen: int, size: int) -> bool:
        """Whether a mini-batch of `size` may repeat one of the `seen` examples before it."""
        return True


@dataclass(frozen=True)
class WithoutReplacement:
    """Each mini-batch holds distinct examples of N, and is drawn independently of the others.

    Its gradient has variance S_N^2 (1/B - 1/N), S_N^2 with divisor N - 1.

    Attributes:
      population: N, the number of examples that are drawn from.

    >>> WithoutReplacement(100).factor(50)
    0.01
    """

    population: int

    def __post_init__(self):
        _checked_population(self)

    def factor(self, size: float) -> float:
        """The variance of the mean of `size` examples, in units of S_N^2."""
        return 1 / size - 1 / self.population

    def begins_block(self, seen: int, size: int) -> bool:
        """Whether a mini-batch of `size` may repeat one of the `seen` examples before it."""
        return True


@dataclass(frozen=True)
class ShuffledEpochs(WithoutReplacement):
    """The N examples in a new random order every epoch, cut into consecutive mini-batches.

    One mini-batch has the law of `WithoutReplacement`. Two of one epoch are disjoint, with
    covariance -S_N^2/N. Mini-batches are taken to arrive in this order; where the next one would
    exceed N, a new epoch begins with it (the remainder was dropped).

    Attributes:
      population: N, the number of examples of an epoch.
    """

    def begins_block(self, seen: int, size: int) -> bool:
        return seen + size > self.population


Sampling = WithReplacement | WithoutReplacement | ShuffledEpochs


def _checked_population(law):
    N, name = law.population, type(law).__name__
    if not isinstance(N, numbers.Integral) or isinstance(N, bool) or N < 1:
        raise ValueError(
            f"`{name}`: the population N must be an int of at least 1, the number of examples "
            f"that are drawn from, got {N!r}"
        )


def checked_sampling(sampling: Any, caller: str) -> Sampling:
    """`sampling`, or TypeError."""
    if isinstance(sampling, WithReplacement | WithoutReplacement):
        return sampling
    name = sampling.__name__ if inspect.isclass(sampling) else repr(sampling)
    hint = ""
    if inspect.isclass(sampling) and issubclass(sampling, WithReplacement | WithoutReplacement):
        hint = f"; write {name}({'' if sampling is WithReplacement else 'N'})"
    raise TypeError(
        f"`{caller}`: `sampling` must be WithReplacement(), WithoutReplacement(N) or "
        f"ShuffledEpochs(N), got {name}{hint}"
    )


def checked_size(size: Any, sampling: Sampling, caller: str) -> float:
    """The size of a mini-batch; ValueError where the law has no such mini-batch."""
    number = isinstance(size, numbers.Real) and not isinstance(size, bool)
    if not number or not 0 < float(size) < np.inf:
        raise ValueError(
            f"`{caller}`: the size of a mini-batch must be a number above 0, got {size!r}"
        )
    if float(size) > sampling.population:
        raise ValueError(
            f"`{caller}`: a mini-batch of {size} examples cannot be drawn without replacement from "
            f"{sampling.population}; give the right N to {type(sampling).__name__}"
        )
    return float(size)
