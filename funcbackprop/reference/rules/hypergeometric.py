"""Derivatives of hypergeometric functions with respect to their parameters.

The series is differentiated term by term: with t_{k+1} = r_k t_k,
dt_{k+1} = r_k dt_k + dr_k t_k.
"""

import numpy as np

from ...graph import UnsupportedPrimitive


def slopes_1f1(a, b, x):
    """(d/da, d/db) of 1F1(a; b; x), for x < 0 by 1F1(a; b; x) = exp(x) 1F1(b - a; b; -x)."""
    a, b, x = np.broadcast_arrays(a, b, x)
    negative = x < 0
    upper = np.where(negative, b - a, a)
    d_upper, d_lower = _series(((upper,), (b,)), np.abs(x))
    scale = np.where(negative, np.exp(np.minimum(x, 0)), 1.0)
    da = np.where(negative, -d_upper, d_upper)
    db = np.where(negative, d_upper + d_lower, d_lower)
    return scale * da, scale * db


def slopes_2f1(a, b, c, x):
    """(d/da, d/db, d/dc) of 2F1(a, b; c; x), for |x| < 1."""
    a, b, c, x = np.broadcast_arrays(a, b, c, x)
    if np.any(np.abs(x) >= 1):
        raise UnsupportedPrimitive(
            "`hyp2f1`: the derivatives with respect to a, b and c are known for |x| < 1 only, "
            f"got |x| up to {np.max(np.abs(x)):.3g}"
        )
    return _series(((a, b), (c,)), x)


def _series(parameters, x):
    """Derivatives of sum_k t_k with respect to the upper and lower parameters.

    t_{k+1} = t_k x / (k+1) prod(upper + k) / prod(lower + k). The sum ends where neither a term
    nor its derivatives change it.
    """
    upper, lower = parameters
    count = len(upper) + len(lower)
    term, total = np.ones(x.shape), np.ones(x.shape)
    slopes, sums = np.zeros((count, *x.shape)), np.zeros((count, *x.shape))
    for k in range(_MOST_TERMS):
        ratio, d_ratio = _ratio(upper, lower, k, x)
        slopes = ratio * slopes + d_ratio * term
        term = ratio * term
        total, sums = total + term, sums + slopes
        small = np.abs(slopes) <= 1e-17 * (np.abs(sums) + np.abs(total))
        if k > 1 and not np.any(~small & np.isfinite(slopes)) and np.all(np.abs(ratio) < 1):
            return tuple(sums)
    return tuple(np.where(small, sums, np.nan))


_MOST_TERMS = 100_000


def _ratio(upper, lower, k, x):
    """r = x / (k+1) prod(upper + k) / prod(lower + k), and its derivatives [parameter, ...]."""
    scale = x / (k + 1) / np.prod([b + k for b in lower], axis=0)
    factors = [a + k for a in upper]
    ratio = scale * np.prod(factors, axis=0)
    # Without a division by a + k, which is 0 where the series ends.
    by_upper = [
        scale * np.prod([f for j, f in enumerate(factors) if j != i] or [np.ones_like(x)], axis=0)
        for i in range(len(upper))
    ]
    by_lower = [-ratio / (b + k) for b in lower]
    return ratio, np.stack([*by_upper, *by_lower])
