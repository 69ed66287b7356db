"""Cases for funcbackprop.reference.rules.transcendental."""

import jax
import numpy as np
from jax import lax

from .case import Case, cplx, normal, uniform

ANY = {
    "exp": lax.exp,
    "exp2": lax.exp2,
    "expm1": lax.expm1,
    "logistic": lax.logistic,
    "sin": lax.sin,
    "cos": lax.cos,
    "tan": lax.tan,
    "atan": lax.atan,
    "sinh": lax.sinh,
    "cosh": lax.cosh,
    "tanh": lax.tanh,
    "asinh": lax.asinh,
}
POSITIVE = {"log": lax.log, "log1p": lax.log1p, "log2": jax.numpy.log2}
WITHIN = {"asin": lax.asin, "acos": lax.acos, "atanh": lax.atanh}
ALL = {**ANY, **POSITIVE, **WITHIN}

CASES = {
    **{n: Case(f, (normal(2, 3),)) for n, f in ANY.items()},
    **{n: Case(f, (uniform(2, 3),)) for n, f in {**POSITIVE, **WITHIN}.items()},
    "acosh": Case(lax.acosh, (1 + uniform(2, 3),)),
    "atan2": Case(lax.atan2, (normal(2, 3), normal(2, 3, seed=1))),
    **{
        f"{n}, {kind}": Case(f, (uniform(*shape),))
        for n, f in ALL.items()
        for kind, shape in {"scalar": (), "empty": (0,), "rank 4": (1, 2, 1, 2)}.items()
    },
    **{f"{n}, complex": Case(f, (0.5 * cplx(3),)) for n, f in ALL.items()},
    # JAX 0.10 takes the wrong branch of the root where Re x < 0.
    "acosh, complex": Case(
        lax.acosh,
        (0.5 * cplx(3),),
        jax=False,
        expect=lambda x, dy: (dy / np.sinh(np.arccosh(x)),),
    ),
    "derivatives of derivatives": Case(
        jax.grad(lambda x: lax.tanh(x) * lax.logistic(x) + lax.log1p(lax.exp(x))),
        (np.float64(0.3),),
    ),
}
