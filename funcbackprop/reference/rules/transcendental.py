"""Exponentials, logarithms, trigonometric and hyperbolic functions, in stable forms."""

import numpy as np

from .kinds import elementwise


def sigmoid(x):
    """1 / (1 + exp(-x)), from exp(-|Re x|) <= 1."""
    positive = np.real(x) >= 0
    small = np.exp(np.where(positive, -x, x))
    return np.where(positive, 1, small) / (1 + small)


def _sech2(p, x, y):
    """tanh' = 4 e / (1 + e)^2 with e = exp(-2 |x|); 1 - tanh^2 would cancel."""
    small = np.exp(np.where(np.real(x) >= 0, -2 * x, 2 * x))
    return 4 * small / (1 + small) ** 2


def _tan_partial(p, x, y):
    return 1 + y * y


def _unit_root(x):
    """sqrt(1 - x^2) without cancellation near x = 1 and -1."""
    return np.sqrt(1 - x) * np.sqrt(1 + x)


def _root_plus(x):
    """sqrt(1 + x^2), without overflow for real x."""
    if np.iscomplexobj(x):
        return np.sqrt(1 + 1j * x) * np.sqrt(1 - 1j * x)
    return np.hypot(1, x)


def _atan_partial(p, x, y):
    if np.iscomplexobj(x):
        return 1 / ((1 + 1j * x) * (1 - 1j * x))
    return 1 / (1 + x * x)


RULES = {
    "exp": elementwise(lambda p, x: np.exp(x), lambda p, x, y: y, formula="dx = y dy"),
    "exp2": elementwise(
        lambda p, x: np.exp2(x), lambda p, x, y: np.log(2) * y, formula="dx = log(2) y dy"
    ),
    "expm1": elementwise(
        None, lambda p, x, y: np.exp(x), formula="dx = exp(x) dy", cancels=lambda p, x, y: 1.0
    ),
    "log": elementwise(lambda p, x: np.log(x), lambda p, x, y: 1 / x, formula="dx = dy / x"),
    "log2": elementwise(
        lambda p, x: np.log2(x), lambda p, x, y: 1 / (np.log(2) * x), formula="dx = dy / (log(2) x)"
    ),
    "log1p": elementwise(None, lambda p, x, y: 1 / (1 + x), formula="dx = dy / (1 + x)"),
    "logistic": elementwise(
        lambda p, x: sigmoid(x),
        lambda p, x, y: y * sigmoid(-x),
        formula="dx = sigma(x) sigma(-x) dy",
        cancels=lambda p, x, y: y,
    ),
    "sin": elementwise(lambda p, x: np.sin(x), lambda p, x, y: np.cos(x), formula="dx = cos(x) dy"),
    "cos": elementwise(
        lambda p, x: np.cos(x), lambda p, x, y: -np.sin(x), formula="dx = -sin(x) dy"
    ),
    "tan": elementwise(lambda p, x: np.tan(x), _tan_partial, formula="dx = (1 + y^2) dy"),
    "asin": elementwise(
        None,
        lambda p, x, y: 1 / _unit_root(x),
        formula="dx = dy / sqrt((1 - x) (1 + x))",
        cancels=lambda p, x, y: 0.5 / _unit_root(x) ** 3,
    ),
    "acos": elementwise(
        None,
        lambda p, x, y: -1 / _unit_root(x),
        formula="dx = -dy / sqrt((1 - x) (1 + x))",
        cancels=lambda p, x, y: 0.5 / _unit_root(x) ** 3,
    ),
    "atan": elementwise(None, _atan_partial, formula="dx = dy / (1 + x^2)"),
    "atan2": elementwise(
        lambda p, y, x: np.arctan2(y, x),
        lambda p, y, x, z: x / np.hypot(x, y) ** 2,
        lambda p, y, x, z: -y / np.hypot(x, y) ** 2,
        formula="dy = x dz / (x^2 + y^2), dx = -y dz / (x^2 + y^2)",
    ),
    "sinh": elementwise(
        lambda p, x: np.sinh(x), lambda p, x, y: np.cosh(x), formula="dx = cosh(x) dy"
    ),
    "cosh": elementwise(
        lambda p, x: np.cosh(x), lambda p, x, y: np.sinh(x), formula="dx = sinh(x) dy"
    ),
    "tanh": elementwise(
        lambda p, x: np.tanh(x),
        _sech2,
        formula="dx = 4 e / (1 + e)^2 dy with e = exp(-2 |x|)",
        cancels=lambda p, x, y: 1.0,
    ),
    "asinh": elementwise(
        None, lambda p, x, y: 1 / _root_plus(x), formula="dx = dy / sqrt(1 + x^2)"
    ),
    "acosh": elementwise(
        None,
        lambda p, x, y: 1 / (np.sqrt(x - 1) * np.sqrt(x + 1)),
        formula="dx = dy / (sqrt(x - 1) sqrt(x + 1))",
    ),
    "atanh": elementwise(
        None,
        lambda p, x, y: 1 / ((1 - x) * (1 + x)),
        formula="dx = dy / ((1 - x) (1 + x))",
        cancels=lambda p, x, y: 1 / ((1 - x) * (1 + x)) ** 2,
    ),
}
