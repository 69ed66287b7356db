"""The variance that an estimator would have, from per-example statistics of one sample.

The inputs are `fb.SquaredDeviations()`, r_i = |g_i - gbar|^2, and `fb.InnerWithMean()`,
p_i = <g_i, gbar>, of n examples, summed over leaves with `fb.total`. The norms are
s_i = r_i + 2 p_i - |gbar|^2; formulas in r_i and p_i do not cancel where the mean dominates.

Either the n examples are a sample of what will be drawn from (`population=False`: unbiased, n - 1
forms, with a standard error by the delete-one jackknife in O(n), and an interval on the log scale),
or they are all there is (`population=True`: exact, with a standard error of 0).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import status as statuses
from ..estimate import Estimate, jackknife, normal, on_log_scale, quantile
from .spread import without_own
from .stratified import strata_of

PROPORTIONAL, NEYMAN = "proportional", "neyman"


def plain_variance(
    sq_deviations: jax.Array, batch_size: int, *, population: bool = False
) -> Estimate:
    """S/B: the summed variance of the mean gradient of B examples drawn with replacement.

    Args:
      sq_deviations: |g_i - gbar|^2, [n].
      batch_size: B.
      population: whether the n examples are all that there are, and not a sample.

    Returns:
      `Estimate`, squared gradient. Unbiased for independent examples. Pure.

    >>> import jax.numpy as jnp
    >>> print(plain_variance(jnp.array([1.0, 0.0, 1.0]), 2, population=True))
    0.333 [0.333, 0.333]
    """
    r = _rows(sq_deviations, "sq_deviations", "plain_variance")
    n = len(r)
    if population:
        return _exact(jnp.mean(r) / batch_size, r)
    if n < 2:
        return _unknown(r, "one example")
    left_out = without_own(r) / max(n - 2, 1)
    return _sampled(jnp.sum(r) / (n - 1) / batch_size, left_out / batch_size, n >= 3, r)


def stratified_variance(
    sq_deviations: jax.Array,
    labels: Any,
    batch_size: int,
    allocation: str | Sequence[int] = PROPORTIONAL,
    *,
    shares: Sequence[float] | None = None,
    population: bool = False,
) -> Estimate:
    """sum_h W_h^2 S_h^2/n_h: the summed variance under stratified sampling of B examples.

    (1/B) sum_h W_h S_h^2 with proportional allocation n_h = B W_h, (sum_h W_h S_h)^2/B with
    Neyman's, n_h in proportion to W_h S_h; both without the rounding of n_h. The second is slightly
    biased in a sample, for it takes roots of the S_h^2.

    Args:
      sq_deviations: |g_i - mean of its stratum|^2, [n], measured stratum by stratum.
      labels: stratum of each example, [n], known on the host.
      batch_size: B.
      allocation: `"proportional"`, `"neyman"`, or the n_h in the order of the sorted labels.
      shares: W_h in the order of the sorted labels; None are those of the n examples.
      population: whether the n examples are all that there are, and not a sample.

    Returns:
      `Estimate`, squared gradient; the jackknife leaves out one example within each stratum, and
      needs three in each. Pure in `sq_deviations`.

    Raises:
      TypeError, ValueError: an argument has the wrong form.

    >>> import jax.numpy as jnp
    >>> r, labels = jnp.array([1.0, 1.0, 4.0, 4.0]), ["a", "a", "b", "b"]
    >>> print(stratified_variance(r, labels, 4, population=True))  # (1 + 4)/2/4
    0.625 [0.625, 0.625]
    """
    r = _rows(sq_deviations, "sq_deviations", "stratified_variance")
    strata = strata_of(labels, "stratified_variance")
    counts = strata.counts
    if counts.sum() != len(r):
        raise ValueError(
            f"`stratified_variance`: `labels` must hold one label for each of the {len(r)} "
            f"examples, got {counts.sum()}"
        )
    W = counts / counts.sum() if shares is None else np.asarray(shares, float)
    if W.shape != counts.shape:
        raise ValueError(
            f"`stratified_variance`: `shares` must hold one number for each of the {len(counts)} "
            f"strata, got shape {W.shape}"
        )
    term, finish = _rule(allocation, W, batch_size, r.dtype)
    own = jnp.where(strata.valid, r[strata.members], 0)
    n, sums = jnp.asarray(counts, r.dtype)[:, None], jnp.sum(own, 1, keepdims=True)
    if population:
        return _exact(finish(jnp.sum(term(sums / n))), r)
    if counts.min() < 2:
        return _unknown(r, "stratum of too few examples")
    terms = term(sums / (n - 1))
    value = finish(jnp.sum(terms))
    if counts.min() < 3:
        return normal(value, jnp.nan, _code(r, True, "stratum of too few examples"))
    # One example of one stratum left out, [H, n_max]: only that stratum's term changes.
    less = jnp.maximum(sums - own * n / (n - 1), 0) / (n - 2)
    left_out = finish(jnp.sum(terms) - terms + term(less))

    def error_of(t):
        centre = jnp.sum(jnp.where(strata.valid, t, 0), 1, keepdims=True) / n
        squares = jnp.where(strata.valid, (t - centre) ** 2, 0)
        return jnp.sqrt(jnp.sum((n - 1) / n * squares))

    positive = jnp.all((left_out > 0) | ~strata.valid)
    errors = error_of(left_out), error_of(jnp.log(left_out))
    return _interval(value, *errors, positive, len(r) - len(counts), _code(r))


def importance_variance(
    sq_deviations: jax.Array,
    inner_with_mean: jax.Array,
    probabilities: jax.Array,
    batch_size: int,
    *,
    population: bool = False,
) -> Estimate:
    """(mean of s_i/(N p_i) - |G|^2)/B: the summed variance under importance sampling.

    With a_i = 1/(N p_i) it is computed as (mean of a_i r_i + 2 (a_i - 1)(<g_i, gbar> - |gbar|^2)
    + (a_i - 1)|gbar|^2 + S/n)/B, the last term for a sample only.

    Args:
      sq_deviations: |g_i - gbar|^2, [n].
      inner_with_mean: <g_i, gbar>, [n].
      probabilities: p_i N, [n]: the probability of each example in units of 1/N, so 1 for uniform
        sampling. With `population=True` any scale will do.
      batch_size: B.
      population: whether the n examples are all that there are, and not a sample.

    Returns:
      `Estimate`, squared gradient. Unbiased for independent examples. NaN, with a status, if a
      probability is not above 0. Pure.

    Raises:
      ValueError: the arrays are not all of one shape [n].

    >>> import jax.numpy as jnp
    >>> g = jnp.array([1.0, 3.0])  # drawn in proportion to g: no variance is left
    >>> print(f"{importance_variance((g - 2) ** 2, g * 2, g, 1, population=True).value:.3f}")
    0.000
    """
    r = _rows(sq_deviations, "sq_deviations", "importance_variance")
    p = _rows(inner_with_mean, "inner_with_mean", "importance_variance", len(r))
    q = _rows(probabilities, "probabilities", "importance_variance", len(r))
    n = len(r)
    valid = jnp.all((q > 0) & jnp.isfinite(q))
    q = jnp.where(valid, q, jnp.nan)
    a = 1 / (q / jnp.mean(q) if population else q)
    sq_mean = jnp.mean(p)
    terms = a * r + (a - 1) * (2 * (p - sq_mean) + sq_mean)
    if population:
        return _exact(jnp.mean(terms) / batch_size, terms, ~valid, "probability not positive")
    if n < 2:
        return _unknown(r, "one example")
    value = jnp.mean(terms) + jnp.sum(r) / (n - 1) / n
    # |G|^2 without example i differs by 2 ((n - 2)(p_i - mean p) - (r_i - mean r))/((n-1)(n-2)).
    change = (jnp.mean(terms) - terms) / (n - 1)
    change -= 2 * (r - jnp.mean(r)) / ((n - 1) * max(n - 2, 1))
    left_out = (value + change) / batch_size
    return _sampled(value / batch_size, left_out, n >= 3, terms, ~valid, "probability not positive")


def importance_gain(sq_norms: jax.Array, *, population: bool = False) -> Estimate:
    """mean s_i - (mean |g_i|)^2: what the best probabilities take off the variance of one example.

    S under uniform sampling less S under p_i ~ |g_i| (Katharopoulos and Fleuret 2018,
    arXiv 1803.00942): the variance of the norms, computed from their deviations.

    Args:
      sq_norms: s_i = |g_i|^2, [n].
      population: whether the n examples are all that there are, and not a sample.

    Returns:
      `Estimate`, squared gradient, for B = 1; divide by B. Unbiased for independent examples. Pure.

    >>> import jax.numpy as jnp
    >>> print(importance_gain(jnp.array([1.0, 9.0]), population=True))  # of the norms 1 and 3
    1 [1, 1]
    """
    norms = jnp.sqrt(_rows(sq_norms, "sq_norms", "importance_gain"))
    return plain_variance((norms - jnp.mean(norms)) ** 2, 1, population=population)


def _rule(allocation, W, batch_size, dtype):
    """`(term, finish)`: the variance is finish(sum of term(S_h^2)), S_h^2 [H, ...]."""
    share = jnp.asarray(W, dtype)[:, None]
    if isinstance(allocation, str):
        if allocation == PROPORTIONAL:
            return lambda S2: share * S2, lambda x: x / batch_size
        if allocation == NEYMAN:
            return lambda S2: share * jnp.sqrt(S2), lambda x: x**2 / batch_size
        raise ValueError(
            f"`stratified_variance`: `allocation` must be {PROPORTIONAL!r}, {NEYMAN!r} or one int "
            f"for each stratum, got {allocation!r}"
        )
    n = np.asarray(allocation)
    if n.shape != W.shape or (n < 1).any() or n.sum() != batch_size:
        raise ValueError(
            f"`stratified_variance`: `allocation` must hold one int above 0 for each of the "
            f"{len(W)} strata, with sum batch_size={batch_size}, got {n.tolist()}"
        )
    counts = jnp.asarray(n, dtype)[:, None]
    return lambda S2: share**2 / counts * S2, lambda x: x


def _rows(x, name, caller, size=None):
    x = jnp.asarray(x)
    if x.ndim != 1 or len(x) == 0 or (size is not None and len(x) != size):
        want = "[n], summed over leaves with funcbackprop.total" if size is None else f"({size},)"
        raise ValueError(f"`{caller}`: `{name}` must have shape {want}, got {x.shape}")
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _code(terms, holds: Any = False, name="one example"):
    return statuses.first_that_holds((holds, name), (~jnp.isfinite(jnp.sum(terms)), "not finite"))


def _exact(value, terms, holds: Any = False, name="one example"):
    return normal(value, value * 0, _code(terms, holds, name))


def _unknown(r, name):
    nan = jnp.full((), jnp.nan)
    return normal(nan, nan, _code(r, True, name))


def _sampled(value, left_out, enough, terms, holds: Any = False, name="one example"):
    """With fewer than three examples the jackknife would need the variance of a single one."""
    code = _code(terms, holds, name)
    if not enough:
        return normal(value, jnp.nan, code)
    errors = jackknife(value, left_out), jackknife(jnp.log(value), jnp.log(left_out))
    return _interval(value, *errors, jnp.all(left_out > 0), len(left_out) - 1, code)


def _interval(value, error, log_error, positive, freedom, code):
    """On the log scale, for a variance is skewed; on its own where an estimate is not above 0."""
    q = quantile(freedom)
    low, high = on_log_scale(value, q * log_error)
    lower = jnp.where(positive, low, value - q * error)
    upper = jnp.where(positive, high, value + q * error)
    return Estimate(value, error, lower, upper, code)
