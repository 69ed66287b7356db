"""Signal and noise of every parameter: GSNR and normalised variance."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ...contract import leaf_names, same_structure
from ...files import json_safe
from ...per_example.numbers import abs2
from ...results import is_traced
from ...tables import number
from .. import status as statuses
from ..leave_one_out import common_weights
from ..moments import SINGLE, scaled
from ..status import first_that_holds


class CoordinateRatio(NamedTuple):
    """A ratio for every parameter, and its means.

    Attributes:
      per_parameter: a tree like `params`; NaN where gradient and spread are both 0.
      per_leaf: the mean of each leaf over the parameters that are not skipped.
      mean: the same over all parameters. Without an error: it depends on how the coordinates are
        correlated, which a mean and a variance do not tell.
      skipped: parameters without gradient and spread (0/0), a tree of counts.
      status: int32, a code of `funcbackprop.noise.STATUS`.
    """

    per_parameter: Any
    per_leaf: Any
    mean: chex.Array
    skipped: Any
    status: chex.Array

    def explain(self) -> str:
        """What the status means, as a sentence (on the host)."""
        return statuses.sentences(self.status)

    def to_dict(self) -> dict:
        """JSON-safe, without the single parameters."""
        names = leaf_names(self.per_leaf)
        leaves, skipped = (
            dict(zip(names, map(np.asarray, jax.tree.leaves(tree)), strict=True))
            for tree in (self.per_leaf, self.skipped)
        )
        whole = {"mean": np.asarray(self.mean), "per_leaf": leaves, "skipped": skipped}
        return json_safe({**whole, "status": statuses.names(self.status)})

    def __str__(self):
        if is_traced(self):
            return "CoordinateRatio(traced)"
        skipped = sum(int(np.sum(x)) for x in jax.tree.leaves(self.skipped))
        means = ", ".join(number(x) for x in np.ravel(self.mean).tolist())
        return f"mean {means}, {skipped} skipped  status: {statuses.names(self.status)}"


def gsnr(mean: chex.ArrayTree, variance: chex.ArrayTree, *, weights: chex.Array) -> CoordinateRatio:
    """Gradient signal-to-noise ratio of every parameter: (gbar_k^2 - V_k/n)/V_k.

    The plug-in gbar_k^2/V_k is too large by 1/n; here the numerator is unbiased for G_k^2, and may
    be negative. What is left is the bias of 1/V_k: for Gaussian gradients a factor (n-1)/(n-3) on
    gbar_k^2/V_k.

    Args:
      mean, variance: from `funcbackprop.Mean()` and `funcbackprop.Variance()`.
      weights: [B], those that they were measured with; ones if the examples count alike. n is the
        effective number (sum w)^2/sum w^2.

    Returns:
      `CoordinateRatio`; pure numbers, of one example: n times that for a batch of n. Parameters
      whose gradients are all 0 are skipped; equal and not zero gives inf. O(P).

    Raises:
      ValueError: the trees disagree, or `weights` are no [B] numbers of 0 or more.

    Liu et al. 2020, arXiv 2001.07384.

    >>> import jax.numpy as jnp
    >>> found = gsnr(jnp.array([2.0, 0.0]), jnp.array([1.0, 0.0]), weights=jnp.ones(4))
    >>> print(found.mean, found.skipped)
    3.75 1
    """
    return _ratios(_signal_to_noise, mean, variance, weights, "gsnr")


def normalised_variance(
    mean: chex.ArrayTree, variance: chex.ArrayTree, *, weights: chex.Array
) -> CoordinateRatio:
    """Normalised variance: the mean over parameters of V_k/E[g_k^2].

    Between 0 (no noise) and about 1 (no signal): n/(n - 1) at most. E[g_k^2] of one example is
    estimated without bias by gbar_k^2 + V_k (1 - 1/n), the mean of the squares.

    Args:
      mean, variance, weights: as in `gsnr`.

    Returns:
      `CoordinateRatio`; pure numbers. Parameters whose gradients are all 0 are skipped. O(P).

    Faghri, Duvenaud, Fleet and Ba 2020, arXiv 2007.04532.

    >>> import jax.numpy as jnp
    >>> g = jnp.array([1.0, 3.0])  # V = 2, mean g^2 = 5
    >>> print(normalised_variance(g.mean(), jnp.var(g, ddof=1), weights=jnp.ones(2)).mean)
    0.4
    """
    return _ratios(_normalised, mean, variance, weights, "normalised_variance")


def _signal_to_noise(square, v, c):
    return square - c * v, v


def _normalised(square, v, c):
    return v, square + v * (1 - c)


def _ratios(rule, mean, variance, weights, caller):
    """`rule(gbar_k^2, V_k, 1/n) -> (numerator, denominator)`; 0/0 where both inputs are 0."""
    same_structure(variance, mean, "variance", caller)
    return _computed(rule, mean, variance, common_weights(caller, {}, weights))


@functools.partial(jax.jit, static_argnames="rule")
def _computed(rule, mean, variance, weights):
    w = scaled(weights)
    concentration = jnp.sum(w**2) / jnp.sum(w) ** 2

    def one(m, v):
        square = abs2(m)
        none = (square == 0) & (v == 0)
        above, below = rule(square, v, concentration.astype(square.dtype))
        ratio = above / jnp.where(none, 1, below)
        count = jnp.sum(none)
        return jnp.where(none, jnp.nan, ratio), jnp.sum(jnp.where(none, 0, ratio)), count

    leaves, treedef = jax.tree.flatten(mean)
    found = [one(m, v) for m, v in zip(leaves, treedef.flatten_up_to(variance), strict=True)]
    sizes = [jnp.size(m) - count for m, (*_, count) in zip(leaves, found, strict=True)]
    summed = sum((x for _, x, _ in found), jnp.zeros(()))
    whole = summed / sum(sizes, jnp.zeros((), int))
    status = first_that_holds(
        (~(1 / concentration > 1 + SINGLE), "one example"),
        (sum(sizes, jnp.zeros((), int)) == 0, "no spread"),
        (jnp.isnan(whole), "not finite"),
        (jnp.isinf(whole), "coordinate without spread"),
    )
    return CoordinateRatio(
        per_parameter=treedef.unflatten([x for x, *_ in found]),
        per_leaf=treedef.unflatten(
            [x / size for (_, x, _), size in zip(found, sizes, strict=True)]
        ),
        mean=whole,
        skipped=treedef.unflatten([count for *_, count in found]),
        status=status,
    )
