"""Derivatives of the incomplete gamma and beta functions with respect to their parameters.

Both come from a series or a continued fraction whose derivative is carried along. All functions
take float64 arrays of equal shape.
"""

import numpy as np
from scipy import special


def gamma_density(a, x):
    """p(x; a) = x^(a-1) exp(-x) / Gamma(a) = dP(a, x) / dx."""
    log_density = special.xlogy(a - 1, x) - x - special.gammaln(a)
    return np.where(np.isinf(x), 0.0, np.exp(log_density))


def gamma_grad_a(a, x):
    """dP(a, x) / da = -dQ(a, x) / da. It is 0 at x = 0 and at infinity, NaN for a <= 0."""
    slope = x * gamma_log_slope(a, np.log(x))
    density = gamma_density(a, x)
    edge = (x == 0) | np.isinf(x) | (density == 0)
    inside = (a > 0) & (x >= 0)
    return np.where(inside, np.where(edge, 0.0, -slope * density), np.nan)


def gamma_log_slope(a, log_x):
    """d(log x) / da at constant P(a, x): -(dP/da) / (x p(x; a)).

    Neither density nor x appear on their own, so nothing underflows: log x is enough.
    """
    a, log_x = np.broadcast_arrays(a, log_x)
    slope = np.full(a.shape, np.nan)
    x = np.exp(log_x)
    known = (a > 0) & (x < np.inf)
    low, high = known & (x < a + 1), known & (x >= a + 1)
    slope[low] = _slope_by_series(a[low], x[low], log_x[low])
    slope[high] = _slope_by_fraction(a[high], x[high], log_x[high])
    return slope


def _slope_by_series(a, x, log_x):
    """P = x p(x; a) / a sum_n t_n with t_n = x^n / ((a+1) ... (a+n)).

    dt_n/da = -t_n (1/(a+1) + ... + 1/(a+n)), and x p / a = x^a exp(-x) / Gamma(a+1) has the
    logarithmic derivative log x - psi(a+1). For x < a + 1 the two sums have the same sign.
    """
    term, harmonic = np.ones_like(a), np.zeros_like(a)
    total, weighted = np.ones_like(a), np.zeros_like(a)
    n = 0
    while np.any(term * (1 + harmonic) > 1e-17 * total):
        n += 1
        term = term * (x / (a + n))
        harmonic = harmonic + 1 / (a + n)
        total, weighted = total + term, weighted + term * harmonic
    return (weighted - (log_x - special.psi(a + 1)) * total) / a


def _slope_by_fraction(a, x, log_x):
    """Q = x p(x; a) h with the continued fraction of Legendre, for x >= a + 1.

    1/h = x+1-a - 1 (1-a) / (x+3-a - 2 (2-a) / (x+5-a - ...)), evaluated from its far end.
    """
    largest = np.max(a, initial=1.0)
    terms = int(60 + 12 * np.sqrt(largest))
    value, slope = x + 2 * terms + 1 - a, -np.ones_like(a)
    for k in range(terms, 0, -1):
        over = k * (k - a) / value
        slope = -1 + k / value + over * slope / value
        value = x + 2 * k - 1 - a - over
    h, dh = 1 / value, -slope / value**2
    return dh + (log_x - special.psi(a)) * h


def beta_density(a, b, x):
    """x^(a-1) (1-x)^(b-1) / B(a, b) = dI_x(a, b) / dx."""
    log_density = special.xlogy(a - 1, x) + special.xlog1py(b - 1, -x) - special.betaln(a, b)
    return np.exp(log_density)


def beta_grads(a, b, x):
    """(dI_x(a, b) / da, dI_x(a, b) / db). Both are 0 at x = 0 and x = 1."""
    a, b, x = np.broadcast_arrays(a, b, x)
    swap = x > (a + 1) / (a + b + 2)  # I_x(a, b) = 1 - I_{1-x}(b, a)
    p, q = np.where(swap, b, a), np.where(swap, a, b)
    small, rest = np.where(swap, 1 - x, x), np.where(swap, x, 1 - x)
    dp, dq = _beta_grads_below(p, q, small, rest)
    da, db = np.where(swap, -dq, dp), np.where(swap, -dp, dq)
    edge = (x == 0) | (x == 1)
    return np.where(edge, 0.0, da), np.where(edge, 0.0, db)


def _beta_grads_below(a, b, x, y):
    """The derivatives of I = x^a y^b / (a B(a, b)) / f, with y = 1 - x, below the mean.

    f is the continued fraction 1 + d_1 / (1 + d_2 / (1 + ...)).
    """
    f, df_da, df_db = _beta_fraction(a, b, x)
    value = np.exp(a * np.log(x) + b * np.log(y) - special.betaln(a, b)) / (a * f)
    sum_psi = special.psi(a + b)
    da = value * (np.log(x) - 1 / a - special.psi(a) + sum_psi - df_da / f)
    db = value * (np.log(y) - special.psi(b) + sum_psi - df_db / f)
    return da, db


def _beta_fraction(a, b, x):
    """f, df/da and df/db, from the far end.

    d_{2m} = m (b-m) x / ((a+2m-1) (a+2m)), d_{2m+1} = -(a+m) (a+b+m) x / ((a+2m) (a+2m+1)).
    """
    terms = int(60 + 6 * np.sqrt(np.max(a + b, initial=1.0)))
    f, f_a, f_b = np.ones_like(a), np.zeros_like(a), np.zeros_like(a)
    for m in range(terms, -1, -1):
        n = a + 2 * m
        d = -(a + m) * (a + b + m) * x / (n * (n + 1))
        d_a = d * (1 / (a + m) + 1 / (a + b + m) - 1 / n - 1 / (n + 1))
        d_b = d / (a + b + m)
        f, f_a, f_b = 1 + d / f, (d_a - d * f_a / f) / f, (d_b - d * f_b / f) / f
        if m > 0:
            c = m * x / ((n - 1) * n)
            d = (b - m) * c
            d_a = -d * (1 / (n - 1) + 1 / n)
            f, f_a, f_b = 1 + d / f, (d_a - d * f_a / f) / f, (c - d * f_b / f) / f
    return f, f_a, f_b
