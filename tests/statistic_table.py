"""Every statistic, and how far the results of two methods may lie apart.

The bounds follow from what was measured, the gradients g_i themselves, in float64 NumPy.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tolerances import AGREE

import funcbackprop as fb

EDGES = (-0.3, 0.11, 0.7)
MAX_NORM = 0.8
# A gradient carries a rounding of a few eps times the size of its terms.
ROUNDING = 8
# bfloat16 has 8 bits, and two programs round different intermediate results to it: the methods
# agree to 2 roundings of the largest entry, 2^-7, whatever the dtype of the statistics.
COARSE = 2.0**-7


def sign(g):
    """The sign of the real part: that of a complex number turns without end near 0."""
    return jnp.sign(g.real)


def soft(g):
    """Smooth, with a slope of at most 1, for complex numbers too."""
    return g / (1 + jnp.abs(g))


def cheap(params, examples):
    """The statistics that every program is tried with by default."""
    return {
        "mean": fb.Mean(),
        "variance": fb.Variance(),
        "per_example": fb.PerExample(),
        "sq_norms": fb.SquaredNorms(),
        "inner": fb.InnerWithMean(),
    }


def everything(params, examples):
    """All statistics, for B examples and parameters of these shapes."""
    rng = np.random.default_rng(1)

    def direction(p):
        d = rng.normal(size=(2, *jnp.shape(p)))
        if jnp.iscomplexobj(p):
            d = d + 1j * rng.normal(size=d.shape)
        return jnp.asarray(d, jnp.result_type(p, jnp.float32))

    return {
        **cheap(params, examples),
        "sq_deviations": fb.SquaredDeviations(),
        "second_moment": fb.SecondMoment(),
        "gram": fb.Gram(per_leaf=True),
        "projection": fb.Projection(jax.tree.map(direction, params), per_leaf=True),
        "sketch": fb.Sketch(4, jax.random.key(2)),
        "weighted_sum": fb.WeightedSum(jnp.asarray(coefficients(examples)[0])),
        "weighted_sums": fb.WeightedSum(jnp.asarray(coefficients(examples))),
        "clipped": fb.ClippedMean(MAX_NORM),
        "sign": fb.MeanOf(sign),
        "soft": fb.MeanOf(soft),
        "histogram": fb.Histogram(EDGES),
    }


def coefficients(examples):
    return np.random.default_rng(3).normal(size=(2, examples))


class Leaf(NamedTuple):
    """What is known of one leaf: gradients [B, P], weights [B], the roundoff eps of their dtype.

    `total` are the norms of the examples' gradients over all leaves.
    """

    g: np.ndarray
    weights: np.ndarray
    eps: float
    total: np.ndarray

    @property
    def largest(self):
        return np.abs(self.g).max(initial=0.0)

    @property
    def norm(self):
        return np.linalg.norm(self.g, axis=1).max(initial=0.0)

    @property
    def mean(self):
        return self.weights @ self.g / self.weights.sum()

    @property
    def deviations(self):
        return np.where(self.weights[:, None] > 0, np.abs(self.g - self.mean[None]), 0)

    @property
    def rounding(self):
        """Of an entry of g."""
        return ROUNDING * self.eps * self.largest

    def near(self, edge):
        """The share of the examples whose entries rounding may move over an edge: [P]."""
        return self.weights @ (np.abs(self.g.real - edge) <= self.rounding) / self.weights.sum()


# name -> the size of the terms that a result is made of.
SIZES = {
    "mean": lambda x: x.largest,
    "variance": lambda x: (x.deviations**2).max(initial=0.0),
    "per_example": lambda x: x.largest,
    "sq_norms": lambda x: x.norm**2,
    "inner": lambda x: x.norm * np.linalg.norm(x.mean),
    "sq_deviations": lambda x: (x.deviations**2).sum(1).max(),
    "second_moment": lambda x: x.largest**2,
    "gram": lambda x: x.norm**2,
    # The entries of a direction are below 5.
    "projection": lambda x: 5 * np.abs(x.g).sum(1).max(),
    "sketch": lambda x: np.abs(x.g).sum(1).max(),
    "weighted_sum": lambda x: np.abs(coefficients(len(x.g))).sum() * x.largest,
    "weighted_sums": lambda x: np.abs(coefficients(len(x.g))).sum() * x.largest,
    "clipped": lambda x: np.abs(x.g * _clipping(x)[:, None]).max(initial=0.0),
    "sign": lambda x: 1.0,
    "soft": lambda x: x.largest,
    "histogram": lambda x: x.g.shape[1],
}


# Statistics that add up the leaves.
TOGETHER = ("sketch",)


def _clipping(x):
    return np.minimum(1, MAX_NORM / np.maximum(x.total, MAX_NORM))


# name -> what the rounding of the gradients may add to the difference of two results.
#
# A squared deviation d^2 of entries that are known to e changes by 2 d e + e^2. A function with a
# jump changes by the jump, for every entry that lies within the rounding of it.
ALLOWED = {
    "variance": lambda x: (x.deviations.max(initial=0.0) + x.rounding) * x.rounding,
    "sq_deviations": lambda x: (
        (np.linalg.norm(x.deviations, axis=1).max() + ROUNDING * x.eps * x.norm)
        * (ROUNDING * x.eps * x.norm)
    ),
    "sign": lambda x: 2 * x.near(0.0),
    # Entries below, between and above the edges: near an edge they may be on either side.
    "histogram": lambda x: np.array(
        [
            sum(x.near(e).sum() for e in pair if e is not None)
            for pair in zip((None, *EDGES), (*EDGES, None), strict=True)
        ]
    ),
}


def errors(results, expected, weights, coarse):
    """The largest error of each statistic over the leaves, in units of the tolerance.

    Args:
      results, expected: name -> tree, with the gradients themselves under "per_example".
      weights: [B].
      coarse: whether the programs compute in bfloat16.
    """
    gradients = [np.asarray(g) for g in jax.tree.leaves(expected["per_example"])]
    dtype = np.result_type(
        *(g.real.dtype if g.dtype.kind != "V" else np.float32 for g in gradients)
    )
    flat = [_double(g).reshape(len(g), -1) for g in gradients]
    total = np.sqrt(sum((np.abs(g) ** 2).sum(1) for g in flat))
    unit = COARSE if coarse else AGREE[dtype]
    eps = COARSE if coarse else np.finfo(dtype).eps
    leaves = [Leaf(g, weights, eps, total) for g in flat]
    together = [Leaf(np.concatenate(flat, axis=1), weights, eps, total)]

    def largest(name):
        columns = (
            together if name in TOGETHER else leaves,
            jax.tree.leaves(results[name]),
            jax.tree.leaves(expected[name]),
        )
        return max(_error(name, *row, unit) for row in zip(*columns, strict=True))

    return {name: largest(name) for name in results}


def _error(name, leaf, a, b, unit):
    a, b = _double(a), _double(b)
    assert a.shape == b.shape, f"{name}: shapes {a.shape} and {b.shape}"
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return np.inf
    difference = np.abs(np.where(np.isfinite(a), a, 0) - np.where(np.isfinite(b), b, 0))
    allowed = ALLOWED.get(name, lambda x: 0.0)(leaf)
    excess = difference.reshape(-1) - np.asarray(allowed).reshape(-1)
    scale = max(np.abs(b[np.isfinite(b)]).max(initial=0.0), SIZES[name](leaf))
    largest = excess.max(initial=0.0)
    return largest / (unit * scale) if largest > 0 else 0.0


def _double(x):
    x = np.asarray(x)
    return x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)
