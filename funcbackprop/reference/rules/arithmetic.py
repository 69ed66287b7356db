"""Arithmetic, comparisons, selections and casts, entry by entry."""

import numpy as np

from ...graph import evaluate
from .kinds import constant, elementwise, general, linear, unbroadcast

_ROUNDING = "not differentiable where it jumps; 0 everywhere, as in JAX"


def _one(p, *values):
    return 1.0


def _minus_one(p, *values):
    return -1.0


def _power(x, n):
    """x^n for an integer n, by squaring; NumPy's power is several times slower."""
    if n < 0:
        return 1 / _power(x, -n)
    result = np.ones_like(x)
    while n:
        if n % 2:
            result = result * x
        x, n = x * x, n // 2
    return result


def _power_partial(p, x, y):
    n = p["y"]
    return n * _power(x, n - 1) if n else np.zeros_like(x)


def _pow_base(p, x, n, y):
    # n x^(n-1) is 0 for n = 0, also at x = 0, where x^(n-1) is infinite.
    return np.where(n == 0, 0.0, n * np.power(x, np.where(n == 0, 1.0, n - 1)))


def _pow_exponent(p, x, n, y):
    # log(x) x^n. At x = 0 it is 0 for n > 0; for n = 0 it is that by convention.
    return np.where((x == 0) & (n >= 0), 0.0, np.log(x) * y)


def _signs(p, x):
    return (np.zeros(()) if np.iscomplexobj(x) else np.sign(x),)


def _take_sign(p, choice, x):
    (sign,) = choice
    return np.where(x == 0, 0, x / np.abs(x)) if np.iscomplexobj(x) else sign


def _sign_pull(local, dys):
    (x,), (dy,) = local.x, dys
    if not np.iscomplexobj(x):
        return [None]
    size = np.abs(x)
    turned = dy / size - np.conj(x) * np.real(x * dy) / size**3
    return [np.where(x == 0, 0, turned)]


# --- selections: decided in the program's own precision, and replayed ---------------------------


def _share_of_max(p, x, y):
    """1 where x is selected, 0 where y is, one half at a tie."""
    return (_share(_after(x, y), _after(y, x)),)


def _share_of_min(p, x, y):
    return (_share(_after(y, x), _after(x, y)),)


def _share(first, second):
    return np.where(first, 1.0, np.where(second, 0.0, 0.5))


def _after(x, y):
    """x > y; complex numbers in lexicographic order."""
    if not np.iscomplexobj(x):
        return x > y
    return (x.real > y.real) | ((x.real == y.real) & (x.imag > y.imag))


def _take_share(p, choice, x, y):
    (share,) = choice
    # A NaN in either is passed on, as the primitive does.
    return np.where(np.isnan(y) | (~np.isnan(x) & (share < 0.5)), y, x)


def _clamp_region(p, low, x, high):
    """-1 below, 1 above, 0 between, 2 at a bound."""
    region = np.where((x > low) & (x < high), 0, 2)
    return (np.where(x > high, 1, np.where(x < low, -1, region)),)


def _take_clamped(p, choice, low, x, high):
    (region,) = choice
    return np.where(region == -1, low, np.where(region == 1, high, x))


def _within(p, choice, low, x, high, y):
    return (choice[0] == 0).astype(float)


def _at_bound(sign):
    return lambda p, choice, low, x, high, y: (choice[0] == sign).astype(float)


def _abs_sign(p, x):
    return (x if np.iscomplexobj(x) else np.where(x >= 0, 1.0, -1.0),)


def _take_abs(p, choice, x):
    (sign,) = choice
    return np.abs(x) if np.iscomplexobj(sign) else sign * x


def _abs_partial(p, choice, x, y):
    (sign,) = choice
    return np.where(y == 0, 0, np.conj(x) / y) if np.iscomplexobj(sign) else sign


def _quotient(p, x, y):
    with np.errstate(all="ignore"):
        return (np.trunc(x / y),)


def _remainder(p, choice, x, y):
    (n,) = choice
    return x - n * y


# --- select_n, casts, complex numbers -------------------------------------------------------------


def _select_forward(p, which, *cases):
    which = np.asarray(which)
    chosen = cases[0]
    for k, case in enumerate(cases[1:], 1):
        chosen = np.where(which == k, case, chosen)
    return chosen


def _select_pull(local, dys):
    (dy,), which = dys, np.asarray(local.x[0])
    cases = (np.where(which == k, dy, 0) for k in range(len(local.x) - 1))
    return [None, *cases]


def _cast_forward(p, x):
    """A cast between floating-point dtypes is the identity in float64."""
    kind = np.dtype(complex if _is_complex(p["new_dtype"]) else float)
    return (x.real if np.iscomplexobj(x) and kind.kind == "f" else x).astype(kind)


def _is_complex(dtype):
    return np.dtype(dtype).kind == "c"


def _to_dtype_of(x, dy):
    return np.real(dy) if not np.iscomplexobj(x) else dy


def _same(local, dys):
    return [_to_dtype_of(local.x[0], dys[0])]


def _complex_pull(local, dys):
    (dy,) = dys
    parts = np.real(dy), -np.imag(dy)
    return [unbroadcast(part, x.shape) for part, x in zip(parts, local.x, strict=True)]


RULES = {
    "add": elementwise(lambda p, x, y: x + y, _one, _one, formula="dx = dz, dy = dz"),
    "add_any": elementwise(lambda p, x, y: x + y, _one, _one, formula="dx = dz, dy = dz"),
    "sub": elementwise(lambda p, x, y: x - y, _one, _minus_one, formula="dx = dz, dy = -dz"),
    "mul": elementwise(
        lambda p, x, y: x * y,
        lambda p, x, y, z: y,
        lambda p, x, y, z: x,
        formula="dx = y dz, dy = x dz",
    ),
    "div": elementwise(
        lambda p, x, y: x / y,
        lambda p, x, y, z: 1 / y,
        lambda p, x, y, z: -z / y,
        formula="dx = dz / y, dy = -(z / y) dz",
    ),
    "neg": elementwise(lambda p, x: -x, _minus_one, formula="dx = -dy"),
    "square": elementwise(lambda p, x: x * x, lambda p, x, y: 2 * x, formula="dx = 2 x dy"),
    "integer_pow": elementwise(
        lambda p, x: _power(x, p["y"]),
        _power_partial,
        formula="dx = n x^(n-1) dy",
        convention="n = 0 gives 0, also at x = 0",
    ),
    "pow": elementwise(
        None,
        _pow_base,
        _pow_exponent,
        formula="dx = n x^(n-1) dz, dn = log(x) x^n dz",
        convention="n = 0 gives dx = 0 (at x = 0 JAX gives NaN); x = 0 with n >= 0 gives dn = 0",
    ),
    "sqrt": elementwise(
        lambda p, x: np.sqrt(x), lambda p, x, y: 0.5 / y, formula="dx = dy / (2 sqrt x)"
    ),
    "rsqrt": elementwise(
        lambda p, x: 1 / np.sqrt(x), lambda p, x, y: -0.5 * y / x, formula="dx = -dy / (2 x^(3/2))"
    ),
    "cbrt": elementwise(
        lambda p, x: np.cbrt(x), lambda p, x, y: y / (3 * x), formula="dx = cbrt(x) / (3 x) dy"
    ),
    "abs": elementwise(
        _take_abs,
        _abs_partial,
        formula="dx = sign(x) dy; complex: conj(x) / |x| dy",
        choose=_abs_sign,
        convention="at 0: +dy for real x, 0 for complex x",
    ),
    "max": elementwise(
        _take_share,
        lambda p, choice, x, y, z: choice[0],
        lambda p, choice, x, y, z: 1 - choice[0],
        formula="dx = dz where x > y, dy = dz where y > x",
        choose=_share_of_max,
        convention="a tie gives one half to each",
    ),
    "min": elementwise(
        _take_share,
        lambda p, choice, x, y, z: choice[0],
        lambda p, choice, x, y, z: 1 - choice[0],
        formula="dx = dz where x < y, dy = dz where y < x",
        choose=_share_of_min,
        convention="a tie gives one half to each",
    ),
    "clamp": elementwise(
        _take_clamped,
        _at_bound(-1),
        _within,
        _at_bound(1),
        formula="dx = dy where low < x < high; otherwise dy goes to the bound",
        choose=_clamp_region,
        convention="where x equals a bound, all are 0",
    ),
    "rem": elementwise(
        _remainder,
        _one,
        lambda p, choice, x, y, z: -choice[0],
        formula="dx = dz, dy = -trunc(x / y) dz",
        choose=_quotient,
    ),
    "select_n": general(
        _select_pull,
        formula="dcase_k = dy where k was selected, else 0",
        forward=_select_forward,
        square=_select_pull,
        exact=True,
    ),
    "convert_element_type": general(
        _same,
        formula="dx = dy; real part where a real number became complex",
        forward=_cast_forward,
        square=lambda local, dys: list(dys),
        convention="a cast to a narrower float is the identity; to an integer or bool it is 0",
    ),
    "reduce_precision": linear(
        _same,
        formula="dx = dy",
        convention="straight through, as in JAX; in float64 the identity",
    ),
    "copy": linear(_same, formula="dx = dy", forward=lambda p, x: x, exact=True),
    "complex": general(
        _complex_pull,
        formula="d re = Re dz, d im = -Im dz",
        forward=lambda p, re, im: re + 1j * im,
    ),
    "real": linear(
        lambda local, dys: [dys[0] + 0j], formula="dz = dx", forward=lambda p, z: np.real(z)
    ),
    "imag": linear(
        lambda local, dys: [-1j * dys[0]], formula="dz = -i dy", forward=lambda p, z: np.imag(z)
    ),
    "conj": linear(
        lambda local, dys: [_to_dtype_of(local.x[0], np.conj(dys[0]))],
        formula="dx = conj(dy)",
        forward=lambda p, x: np.conj(x) + 0j,
    ),
    "sign": general(
        _sign_pull,
        formula="0; complex: dx = dy / |x| - conj(x) Re(x dy) / |x|^3",
        forward=_take_sign,
        choose=_signs,
        convention="at 0: 0. For complex x, where x / |x| is not constant, JAX gives 0 everywhere",
    ),
    # Piecewise constant.
    "floor": constant("0", convention=_ROUNDING),
    "ceil": constant("0", convention=_ROUNDING),
    "round": constant("0", convention=_ROUNDING),
    "nextafter": constant("0", convention="JAX has no rule"),
    "stop_gradient": constant("0, by intention", lambda p, x: x, exact=True),
    "eq": constant("0", lambda p, x, y: x == y),
    "ne": constant("0", lambda p, x, y: x != y),
    "lt": constant("0", lambda p, x, y: x < y),
    "le": constant("0", lambda p, x, y: x <= y),
    "gt": constant("0", lambda p, x, y: x > y),
    "ge": constant("0", lambda p, x, y: x >= y),
    "eq_to": constant("0"),
    "lt_to": constant("0"),
    "le_to": constant("0"),
    "is_finite": constant("0", lambda p, x: np.isfinite(x)),
    "and": constant("0: integers"),
    "or": constant("0: integers"),
    "not": constant("0: integers"),
    "xor": constant("0: integers"),
    "shift_left": constant("0: integers"),
    "shift_right_arithmetic": constant("0: integers"),
    "shift_right_logical": constant("0: integers"),
    "population_count": constant("0: integers"),
    "clz": constant("0: integers"),
    "mulhi": constant("0: integers"),
    "bitcast_convert_type": constant("0: bits", convention="the bits are those of the program"),
}


def _same_bits(tape, equation, inputs):
    return tape.take_over(equation, RULES[equation.name], inputs)


def _rounded(tape, equation, inputs):
    """Rounded in the program's own value, which decides what follows; not in float64."""
    (x,) = inputs
    own = evaluate(equation, x.own)
    return tape.record(equation, RULES[equation.name], inputs, own, [x.wide])


# primitive -> run(tape, equation, inputs) -> outputs
STRUCTURED = {"bitcast_convert_type": _same_bits, "reduce_precision": _rounded}
