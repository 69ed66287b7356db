"""The interval of a ratio of two correlated estimates, by Fieller's theorem."""

from typing import Any, NamedTuple

import chex
import jax.numpy as jnp

from .. import status as statuses
from ..design import Design, S_moves, sq_norm_moves
from ..estimate import Estimate


class Covariance(NamedTuple):
    """Variances of a numerator and a denominator, and their covariance.

    All are divided by `scale`^2, so that fourth powers of gradients neither over- nor underflow.
    """

    numerator: chex.Array
    denominator: chex.Array
    both: chex.Array
    scale: chex.Array


def covariance_of(numerator, denominator, moves_n, moves_d, factor) -> Covariance:
    """By the jackknife: factor times the sums of products of the moves [n] when one is left out."""
    scale = jnp.abs(numerator) + jnp.abs(denominator)
    scale = jnp.where(scale > 0, scale, 1)
    n, d = moves_n / scale, moves_d / scale
    v_n, v_d, v = (factor * jnp.sum(x * y) for x, y in ((n, n), (d, d), (n, d)))
    return Covariance(v_n, v_d, v, scale)


def covariance(design: Design, S, sq_norm, excess, deviations, inner) -> Covariance:
    """Of S and the unbiased |G|^2, by the delete-one jackknife: factor sum_i (t_-i - t)^2.

    For equal weights this is its usual form, for both are U-statistics: the mean of the t_-i is t.
    Unequal weights are not sizes; each difference counts once.

    Args:
      S, sq_norm, excess: of all; |G|^2 = |gbar|^2 - excess.
      deviations: d_i, [n].
      inner: c_i, [n], or None: then only the variance of S is known, and the others are NaN.
    """
    of_S = S_moves(design, S, deviations)
    if inner is None:
        of_sq_norm = jnp.full_like(of_S, jnp.nan)
    else:
        of_sq_norm = sq_norm_moves(design, excess, deviations, inner)
    factor = jnp.where(design.enough, design.factor, jnp.nan)
    return covariance_of(S, sq_norm, of_S, of_sq_norm, factor)


def unknown_covariance(numerator, denominator) -> Covariance:
    """NaN: values without standard errors."""
    nan = jnp.full((1,), jnp.nan)
    return covariance_of(numerator, denominator, nan, nan, 1.0)


def ratio(numerator: Any, denominator: Any, covariance: Covariance, q: Any, status: Any = 0):
    """numerator/denominator with Fieller's interval (1954): all r with (n - r d)^2 <= q^2 Var.

    Where d is less than q standard errors from 0 the set is not bounded; then the limits are
    infinite, with status "unbounded". The standard error is that of the delta method.

    Args:
      status: codes of what is wrong already; they are kept.
    """
    v_n, v_d, v, scale = covariance
    n, d = numerator / scale, denominator / scale
    a, b, c = n**2 - q**2 * v_n, n * d - q**2 * v, d**2 - q**2 * v_d
    root = jnp.sqrt(jnp.maximum(b**2 - a * c, 0))
    bounded = c > 0
    safe = jnp.where(bounded, c, 1)
    unknown = ~jnp.isfinite(a + b + c)
    lower, upper = (
        jnp.where(unknown, jnp.nan, jnp.where(bounded, (b + s * root) / safe, s * jnp.inf))
        for s in (-1, 1)
    )
    status = statuses.first_problem(status, (~bounded & ~unknown, "unbounded"))
    value = jnp.where(d != 0, n / jnp.where(d != 0, d, 1), jnp.nan)
    return Estimate(value, _delta(n, d, v_n, v_d, v), lower, upper, status)


def positive_ratio(numerator, denominator, covariance, q, share, status) -> Estimate:
    """S/|G|^2 with an interval in [0, inf], the variance taken at the ratio in question.

    The interval is the set of r >= 0 with (S - r |G|^2)^2 <= q^2 Var(S - r |G|^2), Fieller's. But
    the variance of the unbiased |G|^2 is not a constant: it is close to 4 lambda |gbar|^2 share,
    where lambda is the variance of one example in the direction of gbar and
    E|gbar|^2 = |G|^2 + share S. So for the ratio r = 1/t the jackknife variance of |G|^2 is
    multiplied by (t S + share S)/|gbar|^2. The condition remains a quadratic one in r.

    Where even then no r >= 0 is left, lambda is taken as large as it can be, S; so the lower limit
    is always a number.

    Args:
      numerator, denominator: S and the unbiased |G|^2, which may be negative.
      covariance: of these two, by the jackknife.
      q: quantile.
      share: sum w^2/(sum w)^2, which is 1/n for equal weights: |gbar|^2 = |G|^2 + share S. None
        for numbers that do not come from one law, as those of many steps: then the variance of
        |G|^2 stays as it is.
      status: codes of what is wrong already; they are kept.
    """
    v_n, v_d, v, scale = covariance
    n, d = numerator / scale, denominator / scale
    if share is None:
        a, b, c, root = _quadratic(n, d, v_n, v, q, 0.0, v_d)
    else:
        a, b, c, root = _at_the_ratio(n, d, v_n, v_d, v, q, share)
    there = b + root > 0
    lower = jnp.where(there, jnp.maximum(a, 0) / jnp.where(there, b + root, 1), 0)
    bounded = (c > 0) & (d > 0)
    # Rounding may leave an S below 0.
    upper = jnp.maximum((b + root) / jnp.where(bounded, c, 1), lower)
    upper = jnp.where(bounded, upper, jnp.inf)
    unknown = ~jnp.isfinite(a + b + c)
    lower, upper = (jnp.where(unknown, jnp.nan, x) for x in (lower, upper))
    positive = d > 0
    beyond = jnp.where(n > 0, jnp.inf, jnp.nan)
    value = jnp.where(positive, n / jnp.where(positive, d, 1), beyond)
    value = jnp.where(jnp.isfinite(n + d), value, jnp.nan)
    error = jnp.where(positive, _delta(n, d, v_n, v_d, v), jnp.nan)
    status = statuses.first_problem(
        status, (d <= 0, "gradient not above zero"), (~bounded & ~unknown, "unbounded above")
    )
    return Estimate(value, error, lower, upper, status)


def _at_the_ratio(n, d, v_n, v_d, v, q, share):
    """The variance of the denominator is slope n (1/r + share)."""
    sq_mean = d + share * n
    slope = jnp.where(sq_mean > 0, v_d / jnp.where(sq_mean > 0, sq_mean, 1), 4 * share * n)
    a, b, _, root = _quadratic(n, d, v_n, v, q, slope * n, slope * share * n)
    empty = (a > 0) & ~(b + root > 0)
    slope = jnp.where(empty, 4 * share * n, slope)
    return _quadratic(n, d, v_n, v, q, slope * n, slope * share * n)


def _quadratic(n, d, v_n, v, q, falling, constant):
    """Coefficients of a - 2 b r + c r^2 <= 0, and sqrt(b^2 - a c).

    The variance of the denominator is falling/r + constant.
    """
    a = n**2 - q**2 * v_n
    b = n * d - q**2 * (v - falling / 2)
    c = d**2 - q**2 * constant
    return a, b, c, jnp.sqrt(jnp.maximum(b**2 - a * c, 0))


def _delta(n, d, v_n, v_d, v):
    there = d != 0
    safe = jnp.where(there, d, 1)
    r = n / safe
    variance = jnp.maximum(v_n - 2 * r * v + r**2 * v_d, 0)
    return jnp.where(there, jnp.sqrt(variance) / jnp.abs(safe), jnp.nan)
