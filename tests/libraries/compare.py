"""The factored statistics of a model beside their definition."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import funcbackprop as fb
from tests.tolerances import AGREE

# The programs are compiled once and run once.
UNOPTIMIZED = {"xla_backend_optimization_level": 0}


def statistics(max_norm):
    return {
        "mean": fb.Mean(),
        "sq_norms": fb.SquaredNorms(),
        "variance": fb.Variance(),
        "clipped mean": fb.ClippedMean(max_norm),
        "inner with mean": fb.InnerWithMean(),
    }


class Comparison(NamedTuple):
    """Errors in units of the tolerance: (statistic, leaf) -> error."""

    errors: dict
    losses: float

    @property
    def largest(self):
        """(error, where)."""
        error, where = max((e, where) for where, e in self.errors.items())
        return max((error, where), (self.losses, ("losses", "")))


def compare(model, dtype, weights=None, padded=None, jit=True):
    """Factored statistics beside those of gradients that are written out.

    Half of the gradients are longer than the norm that they are clipped to.

    Args:
      model: `(loss, params, batch)`.
      weights: [B], 0 for padding; the definition is that of the other rows.
      padded: the batch with padding in it, for the factored statistics.
    """
    loss, params, batch = model
    kept = np.ones(len(jax.tree.leaves(batch)[0]), bool) if weights is None else weights > 0
    weights = None if weights is None else jnp.asarray(weights, dtype)

    def definition(params, batch, weights):
        first = {"norms": fb.SquaredNorms(), "each": fb.PerExample()}
        measure = fb.gradient_statistics(loss, first, method="materialize")
        g = measure(params, batch)[1]
        max_norm = jnp.median(jnp.sqrt(fb.total(g["norms"])))
        measure = fb.gradient_statistics(loss, statistics(max_norm), method="materialize")
        return g["each"], max_norm, measure(params, batch, weights)

    def factored(params, batch, weights, max_norm):
        return fb.gradient_statistics(loss, statistics(max_norm))(params, batch, weights)

    if jit:
        definition, factored = (
            jax.jit(f, compiler_options=UNOPTIMIZED) for f in (definition, factored)
        )
    rows = jax.tree.map(lambda x: x[kept], batch)
    each, max_norm, (losses, expected) = definition(
        params, rows, None if weights is None else weights[kept]
    )
    given = batch if padded is None else padded
    got_losses, got = factored(params, given, weights, max_norm)
    for stat in ("sq_norms", "inner with mean"):  # rows of padding are 0
        expected[stat] = jax.tree.map(lambda x: _spread(x, kept), expected[stat])
    names, sizes = fb.contract.leaf_names(params), _sizes(each, dtype)
    found = {}
    for stat in expected:
        leaves = map(jax.tree.leaves, (got[stat], expected[stat]))
        for name, size, a, b in zip(names, sizes, *leaves, strict=True):
            found[stat, name] = _error(a, b, size[stat], dtype)
    return Comparison(found, _error(got_losses, _spread(losses, kept), 0, dtype))


def _spread(x, kept):
    whole = np.zeros((len(kept), *x.shape[1:]))
    whole[kept] = x
    return whole


def _error(a, b, size, dtype):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    tolerance = AGREE[np.dtype(dtype)] * max(np.abs(b).max(), size)
    error = np.abs(a - b).max() / tolerance
    return float(error) if np.isfinite(error) else np.inf


def _sizes(each, dtype):
    """The size m of the terms that are added to form an element, for each leaf and statistic.

    Some gradients are zero by structure: of the keys' bias in attention, of a bias before a norm.
    They are sums of terms, of the size of other gradients, that cancel; rounding is left.
    """
    leaves = [np.asarray(g, np.float64).reshape(len(g), -1) for g in jax.tree.leaves(each)]
    largest = max(np.abs(g).max() for g in leaves)

    def of_leaf(g):
        entry = np.abs(g).max()
        entry = largest if entry <= AGREE[np.dtype(dtype)] * largest else entry
        return {
            "mean": entry,
            "clipped mean": entry,
            "sq_norms": entry**2,
            # A squared deviation carries the rounding of the gradient; see test_per_example.py.
            "variance": (g.std(0).max() + 1e-6 * entry) * entry,
            "inner with mean": max(np.abs(g * g.mean(0)).sum(1).max(), 1e-6 * entry**2),
        }

    return [of_leaf(g) for g in leaves]
