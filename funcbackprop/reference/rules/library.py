"""Functions of JAX whose derivative is not that of their body entry by entry.

JAX gives them derivative rules of their own, because their bodies pass kinks, approximate by
polynomials piece by piece, or divide 0 by 0 in a branch that is not taken. Here they stay one
equation, `jax:<name>`: its value is that of the body, its derivative the one in this table. A
function of the same name that is not JAX's own is entered like any other.

Functions of JAX with such rules that are not here are entered: the derivative of their body is
right everywhere (`_softmax`, `_xlogx`, `zeta`).
"""

import numpy as np
from scipy import special

from ...graph import UnsupportedPrimitive
from . import hypergeometric, matrices
from .kinds import Rule, general, opaque, times, unbroadcast
from .transcendental import sigmoid


def run(tape, equation, inputs):
    """The body evaluated off the record, and one step with the rule of the table."""
    own, wide, rough = tape.off_record(equation.programs["body"], inputs)
    rule, choice = RULES[equation.name], None
    if rule.choose is not None:
        choice = rule.choose(equation.params, *(value.own for value in inputs))
    return tape.record(equation, rule, inputs, own, wide, choice, rough)


def frexp(tape, equation, inputs):
    """x = m 2^e with the program's own e, and m in float64: the body cuts m out of bits."""
    x = inputs[-1]
    mantissa, exponent = np.frexp(x.own)
    exponent = np.where(np.isfinite(x.own), exponent, 0).astype(equation.outputs[1].dtype)
    wide = [np.ldexp(x.wide, -exponent), exponent]
    own = [np.asarray(mantissa, x.own.dtype), exponent]
    return tape.record(equation, RULES[equation.name], inputs, own, wide)


def function(*partials, formula, choose=None, convention="") -> Rule:
    """y = f(x_0, x_1, ...), entry by entry; y may be several outputs.

    The last inputs of the call are the arguments of f. Those before them, if any, are tables of
    coefficients.

    Args:
      partials: for each x_k, `partial(*x, *y) -> df/dx_k`, a tuple of them if there are several
        outputs; with `choose`, `partial(choice, *x, *y)`.
    """

    def terms(local, dys, squared):
        x = local.x[-len(partials) :]
        chosen = () if local.choice is None else (local.choice,)
        contributions: list = [None] * (len(local.x) - len(partials))
        for partial, v, wanted in zip(partials, x, local.active[-len(x) :], strict=True):
            factors = partial(*chosen, *x, *local.y) if wanted else None
            contributions.append(_total(factors, dys, v.shape, squared, local.cut))
        return contributions

    return general(
        lambda local, dys: terms(local, dys, squared=False),
        formula=formula,
        choose=choose,
        square=lambda local, dys: terms(local, dys, squared=True),
        convention=convention,
    )


def _total(factors, dys, shape, squared, cut):
    """Sum over the outputs of factor times cotangent; None without factors.

    Of several outputs, those that nothing flows to add nothing, even with an infinite factor.
    """
    if factors is None:
        return None
    factors = factors if isinstance(factors, tuple) else (factors,)
    terms = [
        times(np.abs(f) ** 2 if squared else f, dy, cut)
        for f, dy in zip(factors, dys, strict=True)
        if dy is not None and (len(dys) == 1 or np.any(dy))
    ]
    return unbroadcast(sum(terms), shape) if terms else None


# --- kinks and infinities ------------------------------------------------------------------------


def _positive(p, x):
    return np.asarray(x > 0)


def _between_0_and_6(p, x):
    return np.asarray((x > 0) & (x < 6))


def _selected(choice, x, y):
    return choice.astype(float)


def _share(x, other, base=1.0):
    """exp(base x) / (exp(base x) + exp(base other)); infinities of the same sign share."""
    difference = np.where(x == other, 0.0, x - other)
    return sigmoid(base * difference)


def _ratio(x, y):
    """x / y, and 0 where x is 0, also for y = 0."""
    return np.where(x == 0, 0.0, x / np.where(x == 0, 1.0, y))


def _damped(x, y):
    """x y where y underflows long before x does."""
    return np.where(y == 0, 0.0, x * y)


# --- error functions -----------------------------------------------------------------------------


def wofz_slope(z):
    """w'(z) = -2 z w(z) + 2 i / sqrt(pi), which cancels for large z.

    There, for Im z >= 0, w' ~ -i / sqrt(pi) sum_k (2k+1)!! / (2^k z^(2k+2)); below the axis
    w(z) = 2 exp(-z^2) - w(-z).
    """
    z = np.asarray(z, complex)
    above = np.imag(z) >= 0
    u = np.where(above, z, -z)
    large = np.where(np.abs(u) > 8, u, 8.0)
    term = total = 1 / large**2
    for k in range(1, 20):
        term = term * (2 * k + 1) / (2 * large**2)
        total = total + term
    exact = -2 * u * special.wofz(u) + 2j / np.sqrt(np.pi)
    slope = np.where(np.abs(u) > 8, -1j / np.sqrt(np.pi) * total, exact)
    return np.where(above, slope, slope - 4 * z * np.exp(-(np.where(above, 0, z) ** 2)))


def _erfcx_slope(x, y):
    """erfcx(x) = w(i x)."""
    return (1j * wofz_slope(1j * x)).real


def _dawson_slope(x, y):
    """The Dawson function is sqrt(pi) / 2 Im w(x)."""
    return np.sqrt(np.pi) / 2 * wofz_slope(x).imag


def _log_ndtr_slope(x, y):
    """Density over distribution function, without underflow in the left tail."""
    left = np.sqrt(2 / np.pi) / special.erfcx(-np.minimum(x, 0) / np.sqrt(2))
    right = np.maximum(x, 0)
    density = np.exp(-(right**2) / 2) / np.sqrt(2 * np.pi)
    return np.where(x <= 0, left, np.where(np.isnan(x), x, density / special.ndtr(right)))


def _gaussian_tail(h, a, y):
    return -np.exp(-h * h / 2) * special.erf(a * h / np.sqrt(2)) / (2 * np.sqrt(2 * np.pi))


def _owens_t_angle(h, a, y):
    return np.exp(-h * h * (1 + a * a) / 2) / (2 * np.pi * (1 + a * a))


# --- integrals -----------------------------------------------------------------------------------


def _sici_slopes(x, si, ci):
    sinc = np.where(x == 0, 1.0, np.sin(x) / np.where(x == 0, 1.0, x))
    return sinc, np.cos(x) / x


def _fresnel_slopes(x, s, c):
    angle = np.pi / 2 * x * x
    return np.sin(angle), np.cos(angle)


def _expn_slope(n, x, y):
    """-E_{n-1}(x), with E_0(x) = exp(-x) / x and E_{-1}(x) = exp(-x) (1 + 1/x) / x."""
    before_0 = np.exp(-x) * (1 + 1 / x) / x
    slope = np.where(n == 0, before_0, special.expn(np.maximum(n - 1, 0).astype(int), x))
    return np.where(np.isnan(y), np.nan, -slope)


def _expn_order(x, y):
    """n from x and y = E_n(x), which the call does not hold otherwise.

    E_n(x) exp(x) is about (1 + n / (x + n)^2) / (x + n) (Abramowitz & Stegun 5.1.52): with
    e = exp(-x) / y - x, n (x + n - 1) = e (x + n), whose root is less than 1/2 off for n >= 1.
    For n = 0, e = 0.
    """
    e = np.exp(-x) / y - x
    root = (1 + e - x + np.sqrt((1 + e - x) ** 2 + 4 * e * x)) / 2
    n = np.where(e < 1e-3, 0, np.rint(root))
    # At 0, E_1 is infinite like E_0; where y underflows the slope is 0 for every n.
    return np.where(np.isfinite(n), n, 1)


# --- sin(x) / x at 0 -----------------------------------------------------------------------------


def _sinc_pull(local, dys):
    """The k-th derivative of sin(x) / x at 0, as 0 x + constant: 0 x for odd k.

    Its slope is the (k+1)-th derivative: 0 for even k. For odd k it is not, and k is not visible.
    """
    if np.all(local.y[0] == 0) and np.any(dys[0] != 0):
        raise UnsupportedPrimitive(
            "the second derivative of `jnp.sinc` at 0 cannot be followed: the order of the "
            "derivative is not among the inputs of `_sinc_maclaurin`"
        )
    return [None] * len(local.x)


RULES = {
    "jax:relu": function(
        _selected, formula="dx = dy where x > 0", choose=_positive, convention="0 at x = 0"
    ),
    "jax:relu6": function(
        _selected,
        formula="dx = dy where 0 < x < 6",
        choose=_between_0_and_6,
        convention="0 at x = 0 and at x = 6",
    ),
    "jax:logaddexp": function(
        lambda x1, x2, y: _share(x1, x2),
        lambda x1, x2, y: _share(x2, x1),
        formula="dx1 = sigma(x1 - x2) dy, dx2 = sigma(x2 - x1) dy",
        convention="equal infinities get one half each (JAX: NaN for -inf, 1 for +inf)",
    ),
    "jax:logaddexp2": function(
        lambda x1, x2, y: _share(x1, x2, np.log(2)),
        lambda x1, x2, y: _share(x2, x1, np.log(2)),
        formula="dx1 = dy / (1 + 2^(x2 - x1)), dx2 = dy / (1 + 2^(x1 - x2))",
        convention="equal infinities get one half each (JAX: NaN for -inf, 1 for +inf)",
    ),
    "jax:xlogy": function(
        lambda x, y, z: np.log(y),
        lambda x, y, z: _ratio(x, y),
        formula="dx = log(y) dz, dy = x / y dz",
        convention="x = 0 gives dy = 0, also at y = 0 (JAX: NaN)",
    ),
    "jax:xlog1py": function(
        lambda x, y, z: np.log1p(y),
        lambda x, y, z: _ratio(x, 1 + y),
        formula="dx = log(1 + y) dz, dy = x / (1 + y) dz",
        convention="x = 0 gives dy = 0, also at y = -1 (JAX: NaN)",
    ),
    "jax:logit": function(lambda x, y: 1 / (x * (1 - x)), formula="dx = dy / (x (1 - x))"),
    "jax:log1mexp": function(lambda x, y: 1 / np.expm1(x), formula="dx = dy / (exp(x) - 1)"),
    "jax:_frexp": function(
        lambda x, mantissa, e: (np.ldexp(1.0, -e), None),
        formula="dx = 2^-e d mantissa",
        convention="the exponent e is constant",
    ),
    "jax:_sinc_maclaurin": general(
        _sinc_pull,
        formula="0: the slope of sin(x) / x at 0",
        convention="the second derivative of jnp.sinc at 0 is refused",
    ),
    "jax:_i0": function(lambda x, y: special.i1(x), formula="dx = I_1(x) dy"),
    "jax:i0_impl": function(lambda x, y: special.i1(x), formula="dx = I_1(x) dy"),
    "jax:exp_neg_sq": function(lambda x, y: -2 * _damped(x, y), formula="dx = -2 x y dy"),
    "jax:_wofz": function(
        lambda z, w: wofz_slope(z), formula="dz = (2 i / sqrt(pi) - 2 z w) dw; a series for large z"
    ),
    "jax:_erfcx": function(
        _erfcx_slope, formula="dx = (2 x y - 2 / sqrt(pi)) dy; a series for large x"
    ),
    "jax:_dawsn": function(_dawson_slope, formula="dx = (1 - 2 x y) dy; a series for large x"),
    "jax:log_ndtr": function(
        _log_ndtr_slope, formula="dx = phi(x) / Phi(x) dy, by erfcx in the left tail"
    ),
    "jax:_ndtri": function(
        lambda x, y: np.sqrt(2 * np.pi) * np.exp(y * y / 2),
        formula="dx = sqrt(2 pi) exp(y^2 / 2) dy",
    ),
    "jax:_erfcinv": function(
        lambda x, y: -np.sqrt(np.pi) / 2 * np.exp(y * y),
        formula="dx = -sqrt(pi) / 2 exp(y^2) dy",
    ),
    "jax:_owens_t_impl": function(
        _gaussian_tail,
        _owens_t_angle,
        formula="dh = -exp(-h^2 / 2) erf(a h / sqrt 2) / (2 sqrt(2 pi)) dy, "
        "da = exp(-h^2 (1 + a^2) / 2) / (2 pi (1 + a^2)) dy",
    ),
    "jax:expi": function(lambda x, y: np.exp(x) / x, formula="dx = exp(x) / x dy"),
    "jax:expn": function(
        lambda x, y: _expn_slope(_expn_order(x, y), x, y), formula="dx = -E_{n-1}(x) dy"
    ),
    "jax:_expn": function(
        lambda n, x, y: np.zeros_like(y),
        lambda n, x, y: _expn_slope(np.floor(n), x, y),
        formula="dx = -E_{n-1}(x) dy",
        convention="the order n is cut to an integer: dn = 0",
    ),
    "jax:sici": function(
        _sici_slopes,
        formula="dx = sin(x) / x dSi + cos(x) / x dCi",
    ),
    "jax:fresnel": function(
        _fresnel_slopes, formula="dx = sin(pi x^2 / 2) dS + cos(pi x^2 / 2) dC"
    ),
    "jax:poch": function(
        lambda z, m, y: y * (special.psi(z + m) - special.psi(z)),
        lambda z, m, y: y * special.psi(z + m),
        formula="dz = (psi(z + m) - psi(z)) y dy, dm = psi(z + m) y dy",
    ),
    "jax:hyp1f1": function(
        lambda a, b, x, y: hypergeometric.slopes_1f1(a, b, x)[0],
        lambda a, b, x, y: hypergeometric.slopes_1f1(a, b, x)[1],
        lambda a, b, x, y: a / b * special.hyp1f1(a + 1, b + 1, x),
        formula="da, db: the series differentiated term by term, "
        "dx = a / b 1F1(a + 1; b + 1; x) dy",
    ),
    "jax:hyp2f1": function(
        lambda a, b, c, x, y: hypergeometric.slopes_2f1(a, b, c, x)[0],
        lambda a, b, c, x, y: hypergeometric.slopes_2f1(a, b, c, x)[1],
        lambda a, b, c, x, y: hypergeometric.slopes_2f1(a, b, c, x)[2],
        lambda a, b, c, x, y: a * b / c * special.hyp2f1(a + 1, b + 1, c + 1, x),
        formula="da, db, dc: the series differentiated term by term, "
        "dx = a b / c 2F1(a + 1, b + 1; c + 1; x) dy",
        convention="da, db and dc for |x| < 1 only",
    ),
    "jax:_det": matrices.DET,
    "jax:_det_2x2": matrices.DET,
    "jax:_det_3x3": matrices.DET,
    "jax:_slogdet_small": matrices.SLOGDET,
    "jax:_slogdet_lu": matrices.SLOGDET,
    "jax:_slogdet_qr": matrices.SLOGDET,
    "jax:_pinv": matrices.PINV,
    "jax:_custom_root": opaque(
        "the equation that a `custom_root` solves is not visible, only the steps of its solver"
    ),
}

# name -> run(tape, equation, inputs) -> outputs
STRUCTURED = {**dict.fromkeys(RULES, run), "jax:_frexp": frexp}
