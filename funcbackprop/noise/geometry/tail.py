"""Tail index of the gradient noise, beside that of Gaussian noise with the same covariance."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ... import tables
from ...contract import batch_size, checked_weights, wide
from ...results import is_traced
from .. import status as statuses
from ..estimate import Estimate, quantile
from ..leave_one_out import estimate
from ..moments import ROUNDING_FACTOR, scaled
from ..status import first_that_holds


class Beside(NamedTuple):
    """One measure of the tail.

    Attributes:
      gradients: of the gradients in hand.
      surrogate: its mean over Gaussian surrogates.
      difference: the first less the second, with the error of one surrogate about their mean.
    """

    gradients: chex.Array
    surrogate: chex.Array
    difference: Estimate


class TailIndex(NamedTuple):
    """Measures of the tail beside those of Gaussian noise.

    Each measure has `gradients`, its value; `surrogate`, the mean value of Gaussian surrogates; and
    `difference`, the first less the second, an `Estimate`.

    Attributes:
      stable_index: alpha of a symmetric stable law, from sums of `block` examples; 2 if Gaussian.
      hill: Hill's tail index of the largest entries; lower is heavier.
      excess_kurtosis: mean over coordinates; 0 if Gaussian and n is large.
      skipped: coordinates without spread.
      status: int32, a code of `funcbackprop.noise.STATUS`.
    """

    stable_index: Beside
    hill: Beside
    excess_kurtosis: Beside
    skipped: chex.Array
    status: chex.Array

    def explain(self) -> str:
        """What the status means, as a sentence (on the host)."""
        return statuses.sentences(self.status)

    def to_dict(self) -> dict:
        """JSON-safe: numbers that are not finite are None, the status is its name."""
        beside = {name: statuses.to_dict(getattr(self, name)) for name in _MEASURES}
        return {**beside, **statuses.to_dict(self, *_MEASURES)}

    def __str__(self):
        if is_traced(self) or np.ndim(self.status):
            return f"TailIndex({'traced' if is_traced(self) else 'several'})"
        rows = [_row(name, getattr(self, name)) for name in _MEASURES]
        table = tables.text(rows, ["measure", "gradients", "Gaussian", "difference", ""])
        return f"{table}\n{_READ}\nstatus: {statuses.names(self.status)}"


_MEASURES = ("stable_index", "hill", "excess_kurtosis")
_READ = (
    "A claim of heavy tails needs the difference: Gaussian noise with unequal variances, or few "
    "examples, moves the measures too."
)


def _row(name, measure):
    low, high = float(measure.difference.lower), float(measure.difference.upper)
    if np.isnan(low):
        verdict = ""
    elif low > 0 or high < 0:
        heavier = (low > 0) == (name == "excess_kurtosis")
        verdict = "heavier" if heavier else "lighter"
    else:
        verdict = "as Gaussian"
    numbers = [float(measure.gradients), float(measure.surrogate), str(measure.difference)]
    return [name.replace("_", " "), *numbers, verdict]


def tail_index(
    gradients: chex.ArrayTree,
    key: chex.PRNGKey,
    *,
    block: int = 8,
    tail: float = 0.05,
    surrogates: int = 40,
    weights: chex.Array | None = None,
) -> TailIndex:
    """Is the gradient noise heavier than Gaussian noise with the same covariance?

    Of g_i - gbar, all coordinates pooled:

        alpha = log m/(mean log|sum of m examples| - mean log|one example|),
        hill = 1/mean log(x_(i)/x_(k)) over the k largest |x|,
        kurtosis = mean over coordinates of n sum x^4/(sum x^2)^2 - 3.

    The surrogates are Z (g - gbar)/sqrt(n-1) with Z standard Gaussian [n, n]: Gaussian, with the
    variance of every coordinate and all correlations of the sample. Norms |g_i - gbar| are not
    taken: how they spread depends on the correlations, and says nothing about tails.

    Args:
      gradients: [B, K] or a tree with leaves [B, ...], from `funcbackprop.Projection`, from
        `funcbackprop.Sketch`, or of some leaves from `funcbackprop.PerExample`. Sums of many
        coordinates are closer to Gaussian than each (central limit theorem): a sketch that looks
        Gaussian does not show that the coordinates are.
      key: random key of the surrogates.
      block: m, examples in a sum.
      tail: share of the entries that Hill's index takes.
      surrogates: how many; at least 2.
      weights: [B], 0 or 1. Other weights: NaN, status `unequal weights`.

    Returns:
      `TailIndex`. The interval of a difference is where it would be 0 if the noise was Gaussian:
      Student's quantile times the spread of the surrogates. O(surrogates n^2 K).

    Raises:
      ValueError: B is below 2 `block`, or `block`, `tail` or `surrogates` is out of range.

    Simsekli, Sagun and Gurbuzbalaban 2019, arXiv 1901.06053; Panigrahi et al. 2019, arXiv
    1910.09626; Xie, Tang, Cai, Sun and Li 2023 (against reading it without a comparison).

    >>> import jax
    >>> g = jax.random.normal(jax.random.key(0), (64, 10))
    >>> found = tail_index(g, jax.random.key(1))
    >>> d = found.stable_index.difference
    >>> print(d.lower < 0 < d.upper)
    True
    """
    n = batch_size(gradients, "tail_index")
    _check(n, block, tail, surrogates)
    weights = checked_weights(weights, n, "tail_index")
    return _tail_index(gradients, key, weights, block, tail, surrogates)


@functools.partial(jax.jit, static_argnames=("block", "tail", "surrogates"))
def _tail_index(gradients, key, weights, block, tail, surrogates):
    n, w = len(weights), scaled(weights)
    x, kept, used = _noise(gradients, w)

    def measured(key_and_own):
        key, own = key_and_own
        z = jax.random.normal(key, (n, n), x.dtype)
        gaussian = _centred(z @ x / jnp.sqrt(jnp.sum(kept) - 1), kept)
        return jnp.stack(_measures(jnp.where(own, x, gaussian), kept, used, block, tail))

    keys = jax.random.split(key, surrogates + 1)
    own, others = jnp.split(jax.lax.map(measured, (keys, jnp.arange(surrogates + 1) == 0)), [1])
    status = first_that_holds(
        (jnp.any(jnp.isnan(w)) | ~jnp.all(jnp.isfinite(x)), "not finite"),
        (jnp.sum(kept) < 2, "one example"),
        (jnp.any((w > 0) & (w < 1)), "unequal weights"),
        (~jnp.any(used), "no spread"),
        (jnp.sum(kept) < 2 * block, "too few examples"),
    )
    found = [_beside(own[0, k], others[:, k], status) for k in range(len(_MEASURES))]
    return TailIndex(*found, skipped=jnp.sum(~used), status=status)


def _beside(own, others, status):
    count = len(others)
    fine = status == 0
    own, middle = (jnp.where(fine, v, jnp.nan) for v in (own, jnp.mean(others)))
    error = jnp.std(others, ddof=1) * (1 + 1 / count) ** 0.5
    error = jnp.where(fine, error, jnp.nan)
    difference, half = own - middle, quantile(count - 1) * error
    found = estimate(difference, error, difference - half, difference + half, status)
    return Beside(own, middle, found)


def _noise(gradients, w):
    """`(g - gbar [B, K], kept [B], used [K])`: rows kept first, coordinates with spread."""
    order = jnp.argsort(w == 0, stable=True)
    kept = (w > 0)[order]
    columns = []
    for leaf in map(wide, jax.tree.leaves(gradients)):
        flat = leaf.reshape(len(leaf), -1)[order]
        columns += [flat.real, flat.imag] if jnp.iscomplexobj(flat) else [flat]
    raw = jnp.where(kept[:, None], jnp.concatenate(columns, 1), 0)
    x = _centred(raw, kept)
    # Below this, what differs between equal gradients is rounding.
    rounding = ROUNDING_FACTOR * jnp.finfo(x.dtype).eps * jnp.max(jnp.abs(raw), 0)
    used = jnp.max(jnp.abs(x), 0) > rounding
    size = jnp.max(jnp.abs(x), initial=0)
    # Fourth powers of small gradients underflow.
    x = x / jnp.where(size > 0, size, 1)
    return x, kept, used


def _centred(x, kept):
    x = jnp.where(kept[:, None], x, 0)
    for _ in range(2):  # the second time takes what rounding left of a large mean
        x = jnp.where(kept[:, None], x - jnp.sum(x, 0, keepdims=True) / jnp.sum(kept), 0)
    return x


def _measures(x, kept, used, block, tail):
    return _stable(x, kept, used, block), _hill(x, kept, used, tail), _kurtosis(x, kept, used)


def _stable(x, kept, used, block):
    blocks = len(x) // block
    x = x[: blocks * block].reshape(blocks, block, -1)
    whole = kept[: blocks * block].reshape(blocks, block).all(1)[:, None] & used[None]
    sums = _mean_log(jnp.sum(x, 1), whole)
    singles = _mean_log(x, jnp.broadcast_to(whole[:, None], x.shape))
    return jnp.log(float(block)) / (sums - singles)


def _mean_log(x, valid):
    """Mean of log|x|; entries that are exactly 0 say nothing about a continuous law."""
    valid = valid & (x != 0)
    return jnp.sum(jnp.where(valid, jnp.log(jnp.abs(jnp.where(valid, x, 1))), 0)) / jnp.sum(valid)


def _hill(x, kept, used, tail):
    valid = kept[:, None] & used[None]
    largest = jnp.sort(jnp.where(valid, jnp.abs(x), 0).reshape(-1))[::-1]
    k = jnp.maximum((tail * jnp.sum(valid)).astype(int), 1)
    first = (jnp.arange(largest.size) < k) & (largest > 0)
    threshold = largest[jnp.minimum(k, largest.size - 1)]
    logs = jnp.where(first, jnp.log(jnp.where(first, largest, 1) / threshold), 0)
    return k / jnp.sum(logs)


def _kurtosis(x, kept, used):
    squares = jnp.where(used, jnp.sum(x**2, 0), 1)
    each = jnp.sum(kept) * jnp.sum(x**4, 0) / squares**2 - 3
    return jnp.sum(jnp.where(used, each, 0)) / jnp.sum(used)


def _check(n, block, tail, surrogates):
    if block < 2 or not 0 < tail < 1 or surrogates < 2:
        raise ValueError(
            "`tail_index`: `block` and `surrogates` must be at least 2 and `tail` between 0 and 1, "
            f"got {block}, {surrogates} and {tail}"
        )
    if n < 2 * block:
        raise ValueError(
            f"`tail_index`: two blocks of {block} examples need {2 * block}, got {n}; "
            "measure more, or choose a smaller `block`"
        )
