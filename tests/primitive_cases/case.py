"""What a case of a primitive is."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """A function and its arguments; floating-point ones in float64, which a test may cast.

    Attributes:
      fun: a function of arrays that uses the primitive.
      args: NumPy arrays (or pytrees of them).
      tolerance: of max|a - b| / max(max|b|, 1) in float64.
      jax: whether `jax.vjp` can differentiate it; if not, `expect` gives the gradients.
      expect: `expect(*args, cotangents) -> gradients`, by another way than the rule.
      narrow: whether the case is also run in float32.
    """

    fun: Callable
    args: tuple
    tolerance: float = 1e-10
    jax: bool = True
    expect: Callable | None = None
    narrow: bool = True


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def uniform(*shape, low=0.1, high=0.9, seed=0):
    return np.random.default_rng(seed).uniform(low, high, size=shape)


def cplx(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def distinct(*shape, seed=0):
    """Numbers without ties, at least 1/2 apart."""
    size = int(np.prod(shape))
    return (np.random.default_rng(seed).permutation(size) / 2.0 - size / 4 + 0.3).reshape(shape)
