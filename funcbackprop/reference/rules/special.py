"""Special functions."""

import numpy as np
from scipy import special

from ...graph import UnsupportedPrimitive
from .incomplete import beta_density, beta_grads, gamma_density, gamma_grad_a
from .kinds import elementwise, general, opaque, unbroadcast

# --- gamma and its relatives -------------------------------------------------------------------


def trigamma(x):
    return special.zeta(2.0, x)


def _polygamma(p, m, x):
    """(-1)^(m+1) m! zeta(m+1, x), for m = 0, 1, 2, ...; NaN for others."""
    sign = np.where(m % 2 == 0, -1.0, 1.0)
    y = np.where(m == 0, special.psi(x), sign * special.gamma(m + 1) * special.zeta(m + 1, x))
    return np.where((m < 0) | (m != np.floor(m)), np.nan, y)


def _polygamma_order(p, m, x, y):
    raise UnsupportedPrimitive(
        "`polygamma` is defined for integer orders only: there is no derivative with respect to "
        "the order. JAX raises too. Pass the order as an integer."
    )


def _zeta_exponent(p, s, q, y):
    """d zeta(s, q) / ds by the formula of Euler and Maclaurin, for s > 1.

    zeta = sum_{k<N} (q+k)^-s + w^(1-s) / (s-1) + w^-s / 2
           + sum_j B_2j / (2j)! s (s+1) ... (s+2j-2) w^(1-s-2j)  with w = q + N,
    each term differentiated.
    """
    s, q = np.broadcast_arrays(s, q)
    total = np.zeros(s.shape)
    for k in range(_SHIFT):
        total = total - np.log(q + k) * (q + k) ** -s
    w = q + _SHIFT
    log_w = np.log(w)
    total = total - w ** (1 - s) / (s - 1) * (log_w + 1 / (s - 1)) - log_w * w**-s / 2
    rising, slope = s * w ** (-1 - s), 1 / s
    for j, bernoulli in enumerate(_BERNOULLI, start=1):
        total = total + bernoulli * rising * (slope - log_w)
        for i in (2 * j - 1, 2 * j):
            rising, slope = rising * (s + i) / w, slope + 1 / (s + i)
    return np.where(s > 1, total, np.nan)


_SHIFT = 16
# B_2j / (2j)! for j = 1, 2, ..., 12
_BERNOULLI = special.bernoulli(24)[2::2] / special.factorial(np.arange(2, 25, 2))


# --- Bessel functions --------------------------------------------------------------------------


def _bessel_gap(x):
    """exp(-x) (I_0(x) - I_1(x)) for x >= 0.

    The two agree more and more as x grows. For large x their series in 1/x are subtracted term by
    term: exp(-x) I_v(x) = 1 / sqrt(2 pi x) sum_k c_k with c_0 = 1 and
    c_k = -c_{k-1} (4 v^2 - (2k-1)^2) / (8 k x).
    """
    large = np.maximum(x, 50.0)
    zeroth, first, gap = 1.0, 1.0, 0.0
    for k in range(1, 16):
        zeroth = zeroth * (2 * k - 1) ** 2 / (8 * k * large)
        first = -first * (4 - (2 * k - 1) ** 2) / (8 * k * large)
        gap = gap + (zeroth - first)
    by_series = gap / np.sqrt(2 * np.pi * large)
    return np.where(x > 50.0, by_series, special.i0e(x) - special.i1e(x))


def _i1e_partial(p, x, y):
    size = np.abs(x)
    # y / x tends to 1/2 at 0.
    ratio = np.where(size > 0, special.i1e(size) / np.where(size > 0, size, 1.0), 0.5)
    return _bessel_gap(size) - ratio


# --- error functions ---------------------------------------------------------------------------


def _gaussian(scale):
    return lambda p, x, y: scale * np.exp(-x * x)


# --- polynomials -------------------------------------------------------------------------------


def _polynomial(p, x, *coefficients):
    """a_0 + x (a_1 + x (a_2 + ...))"""
    y = coefficients[-1]
    for a in coefficients[-2::-1]:
        y = y * x + a
    return y


def _polynomial_pull(local, dys):
    x, *coefficients = local.x
    (dy,) = dys
    slope = _polynomial(local.p, x, *(k * a for k, a in enumerate(coefficients) if k > 0))
    return [
        unbroadcast(slope * dy, x.shape),
        *(unbroadcast(x**k * dy, a.shape) for k, a in enumerate(coefficients)),
    ]


# --- incomplete beta ---------------------------------------------------------------------------


def _betainc_pull(local, dys):
    return _betainc_terms(local, dys[0], lambda f: f)


def _betainc_square(local, dys):
    return _betainc_terms(local, dys[0], np.square)


def _betainc_terms(local, dy, power):
    a, b, x = local.x
    da, db, dx = local.active
    parts: list = [None, None, None]
    if da or db:
        parts[:2] = beta_grads(a, b, x)
    if dx:
        parts[2] = beta_density(a, b, x)
    return [
        unbroadcast(power(part) * dy, v.shape) if wanted else None
        for part, v, wanted in zip(parts, local.x, local.active, strict=True)
    ]


RULES = {
    "erf": elementwise(
        lambda p, x: special.erf(x),
        _gaussian(2 / np.sqrt(np.pi)),
        formula="dx = 2 / sqrt(pi) exp(-x^2) dy",
    ),
    "erfc": elementwise(
        lambda p, x: special.erfc(x),
        _gaussian(-2 / np.sqrt(np.pi)),
        formula="dx = -2 / sqrt(pi) exp(-x^2) dy",
    ),
    "erf_inv": elementwise(
        lambda p, x: special.erfinv(x),
        lambda p, x, y: np.sqrt(np.pi) / 2 * np.exp(y * y),
        formula="dx = sqrt(pi) / 2 exp(y^2) dy",
    ),
    "lgamma": elementwise(
        lambda p, x: special.gammaln(x),
        lambda p, x, y: special.psi(x),
        formula="dx = psi(x) dy",
    ),
    "digamma": elementwise(
        lambda p, x: special.psi(x),
        lambda p, x, y: trigamma(x),
        formula="dx = psi'(x) dy = zeta(2, x) dy",
    ),
    "polygamma": elementwise(
        _polygamma,
        _polygamma_order,
        lambda p, m, x, y: _polygamma(p, m + 1, x),
        formula="dx = polygamma(m + 1, x) dy",
        convention="the order m is an integer: a gradient with respect to it is refused",
    ),
    "zeta": elementwise(
        lambda p, s, q: special.zeta(s, q),
        _zeta_exponent,
        lambda p, s, q, y: -s * special.zeta(s + 1, q),
        formula="ds = -sum_k log(q + k) (q + k)^-s dy, dq = -s zeta(s + 1, q) dy",
    ),
    "igamma": elementwise(
        lambda p, a, x: special.gammainc(a, x),
        lambda p, a, x, y: gamma_grad_a(a, x),
        lambda p, a, x, y: gamma_density(a, x),
        formula="da = dP/da dy by a series or a continued fraction, dx = p(x; a) dy, "
        "p = x^(a-1) exp(-x) / Gamma(a)",
    ),
    "igammac": elementwise(
        lambda p, a, x: special.gammaincc(a, x),
        lambda p, a, x, y: -gamma_grad_a(a, x),
        lambda p, a, x, y: -gamma_density(a, x),
        formula="da = -dP/da dy, dx = -p(x; a) dy, as for igamma",
    ),
    "igamma_grad_a": opaque(
        "the second derivatives of the incomplete gamma function have no rule, as in JAX"
    ),
    "regularized_incomplete_beta": general(
        _betainc_pull,
        formula="da, db = dI/da dy, dI/db dy by a continued fraction, "
        "dx = x^(a-1) (1-x)^(b-1) / B(a, b) dy",
        forward=lambda p, a, b, x: special.betainc(a, b, x),
        square=_betainc_square,
        convention="da and db too, which JAX refuses",
    ),
    "bessel_i0e": elementwise(
        lambda p, x: special.i0e(x),
        lambda p, x, y: -np.sign(x) * _bessel_gap(np.abs(x)),
        formula="dx = (i1e(x) - sign(x) y) dy",
        convention="0 at x = 0, where exp(-|x|) has a kink",
    ),
    "bessel_i1e": elementwise(
        lambda p, x: special.i1e(x),
        _i1e_partial,
        formula="dx = (i0e(x) - (sign(x) + 1 / x) y) dy",
        convention="1/2 at x = 0",
    ),
    "polynomial": general(
        _polynomial_pull,
        formula="dx = sum_k k a_k x^(k-1) dy, da_k = x^k dy",
        forward=_polynomial,
    ),
    "one_minus_square": elementwise(
        lambda p, x: (1 + x) * (1 - x), lambda p, x, y: -2 * x, formula="dx = -2 x dy"
    ),
}
