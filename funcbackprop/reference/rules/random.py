"""Random numbers: drawn as the program draws them, in its own precision.

In float64 JAX would draw other numbers, so what was drawn is taken over, not drawn again.
"""

import numpy as np

from .incomplete import gamma_log_slope
from .kinds import constant, general, opaque


def _gamma_pull(local, dys):
    return [None, _gamma_factor(local) * dys[0]]


def _gamma_square(local, dys):
    return [None, _gamma_factor(local) ** 2 * dys[0]]


def _gamma_factor(local):
    """dx/da at constant P(a, x): the quantile of the draw is held fixed."""
    _, a = local.x
    (x,) = local.y
    if local.p["log_space"]:
        return gamma_log_slope(a, x)
    return np.where(x > 0, x * gamma_log_slope(a, np.log(x)), 0.0)


def draw(tape, equation, inputs):
    """The program's own draws."""
    return tape.take_over(equation, RULES[equation.name], inputs)


_BITS = "0: random bits and keys"

RULES = {
    "random_gamma": general(
        _gamma_pull,
        formula="da = -(dP(a, x) / da) / p(x; a) dy; in log space divided by x",
        square=_gamma_square,
        convention="the quantile P(a, x) of a draw x is held fixed, as in JAX",
    ),
    "rng_uniform": opaque("it draws anew each time it runs, so it is no function of its bounds"),
    # Keys and bits.
    "iota_2x32_shape": constant("0: counters"),
    "philox2x32": constant(_BITS),
    "philox4x32": constant(_BITS),
    "random_bits": constant(_BITS),
    "random_clone": constant(_BITS),
    "random_fold_in": constant(_BITS),
    "random_seed": constant(_BITS),
    "random_split": constant(_BITS),
    "random_unwrap": constant(_BITS),
    "random_wrap": constant(_BITS),
    "rng_bit_generator": constant(_BITS),
    "threefry2x32": constant(_BITS),
    "threefry4x32": constant(_BITS),
}

# primitive -> run(tape, equation, inputs) -> outputs
STRUCTURED = {"random_gamma": draw}
