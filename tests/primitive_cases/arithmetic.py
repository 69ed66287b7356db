"""Cases for funcbackprop.reference.rules.arithmetic."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .case import Case, cplx, distinct, normal, uniform

X, Y = normal(2, 3), normal(2, 3, seed=1)
SHAPES = {"scalar": (), "empty": (0, 3), "rank 1": (4,), "rank 4": (2, 1, 3, 2)}

BINARY = {
    "add": lax.add,
    "sub": lax.sub,
    "mul": lax.mul,
    "div": lax.div,
    "max": lax.max,
    "min": lax.min,
    "rem": lax.rem,
}
UNARY = {"neg": lax.neg, "square": lax.square, "abs": lax.abs, "cbrt": lax.cbrt}
POSITIVE = {"sqrt": lax.sqrt, "rsqrt": lax.rsqrt}
COMPLEX = {
    "add": lax.add,
    "sub": lax.sub,
    "mul": lax.mul,
    "div": lax.div,
}


def _where(x, y):
    return jnp.where(x > y, x * x, jnp.sin(y))


def _real_part(z):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
        return lax.convert_element_type(z, z.real.dtype) * z.real


CASES = {
    **{f"{n}": Case(f, (X, Y)) for n, f in BINARY.items()},
    **{
        f"{n}, {kind}": Case(f, (normal(*s), normal(*s, seed=1)))
        for n, f in BINARY.items()
        for kind, s in SHAPES.items()
    },
    **{f"{n} by a scalar literal": Case(lambda x, f=f: f(x, 0.5), (X,)) for n, f in BINARY.items()},
    **{f"{n}": Case(f, (X,)) for n, f in UNARY.items()},
    **{
        f"{n}, {kind}": Case(f, (normal(*s),))
        for n, f in UNARY.items()
        for kind, s in SHAPES.items()
    },
    **{f"{n}": Case(f, (uniform(2, 3),)) for n, f in POSITIVE.items()},
    **{f"{n}, complex": Case(f, (cplx(2, 3), cplx(2, 3, seed=1))) for n, f in COMPLEX.items()},
    **{
        f"{n}, complex": Case(f, (cplx(2, 3),))
        for n, f in {**UNARY, **POSITIVE}.items()
        if n != "cbrt"
    },
    **{
        f"integer_pow {n}": Case(lambda x, n=n: lax.integer_pow(x, n), (X,))
        for n in (-3, -1, 0, 1, 2, 5)
    },
    "integer_pow 3, complex": Case(lambda x: lax.integer_pow(x, 3), (cplx(3),)),
    "integer_pow 0 at 0": Case(lambda x: lax.integer_pow(x, 0), (np.zeros(2),)),
    "pow": Case(lax.pow, (uniform(2, 3), Y)),
    "pow, integer exponent": Case(lambda x, n: lax.pow(x, n), (X, np.arange(6).reshape(2, 3))),
    "pow at 0": Case(lax.pow, (np.zeros(3), np.array([1.0, 2.0, 0.5]))),
    # x^0 is 1 for every x; JAX gives NaN for its derivative at 0.
    "pow, exponent 0 at 0": Case(
        lambda x: lax.pow(x, 0.0),
        (np.zeros(2),),
        jax=False,
        expect=lambda x, dy: (np.zeros(2),),
    ),
    "pow, complex": Case(lax.pow, (cplx(3), cplx(3, seed=1))),
    "abs at 0": Case(lax.abs, (np.array([0.0, -1.0, 2.0]),)),
    "abs at 0, complex": Case(lax.abs, (np.array([0.0, 1 + 1j]),)),
    "max, ties": Case(lax.max, (np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))),
    "min, ties": Case(lax.min, (np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))),
    "clamp": Case(lambda x: lax.clamp(-0.5, x, 0.5), (np.array([-1.0, -0.5, 0.1, 0.5, 2.0]),)),
    "clamp, bounds as arrays": Case(lax.clamp, (X - 0.3, Y, X + 0.3)),
    "clip": Case(lambda x: jnp.clip(x, -0.5, 0.5), (distinct(3, 3),)),
    "select_n": Case(lambda x, y: lax.select_n(x > y, x, y), (X, Y)),
    "select_n, scalar predicate": Case(lambda x, y: lax.select_n(x[0, 0] > 9, x, y), (X, Y)),
    "select_n, three cases": Case(
        lambda w, x, y, z: lax.select_n(w, x, y, z),
        (np.array([0, 2, 1, 0], np.int32), normal(4), normal(4, seed=1), normal(4, seed=2)),
    ),
    "where": Case(_where, (X, Y)),
    "casts": Case(
        lambda x: x.astype(jnp.float32).astype(jnp.bfloat16).astype(x.dtype) * 3, (X,), 1e-2
    ),
    "cast to int": Case(lambda x: x * x.astype(jnp.int32), (3 * X,)),
    "cast from int": Case(lambda n, x: n.astype(x.dtype) * x, (np.arange(3), normal(3))),
    "cast to complex and back": Case(
        lambda x: (x.astype(complex) * (1 + 2j)).real.astype(x.dtype), (X,)
    ),
    "cast of complex to real": Case(_real_part, (cplx(3),)),
    "cast of a bool": Case(lambda x: (x > 0).astype(x.dtype) * x, (X,)),
    "reduce_precision": Case(lambda x: x * lax.reduce_precision(x, 8, 7), (X,), 1e-2),
    "copy": Case(lambda x: lax.optimization_barrier(jnp.array(x, copy=True)) ** 2, (X,)),
    "complex": Case(lambda x, y: lax.complex(x, y) ** 2, (X, Y)),
    "real": Case(lambda z: lax.real(z) * z, (cplx(3),)),
    "imag": Case(lambda z: lax.imag(z) * z, (cplx(3),)),
    "conj": Case(lambda z: lax.conj(z) * z**2, (cplx(3),)),
    "conj of a real number": Case(lambda x: jnp.sin(lax.conj(x)), (X,)),
    "add_any": Case(jax.grad(lambda x: x[0] * x[1] + jnp.sin(x[0])), (normal(2),)),
    "stop_gradient": Case(lambda x: x * lax.stop_gradient(x), (X,)),
    **{
        f"{f.__name__}": Case(lambda x, f=f: f(x) * x, (3 * X,))
        for f in (lax.floor, lax.ceil, lax.round, lax.sign, lax.is_finite)
        if f is not lax.is_finite
    },
    # x / |x| turns with x; JAX takes it for constant.
    "sign, complex": Case(
        lax.sign,
        (cplx(3),),
        jax=False,
        expect=lambda x, dy: jax.vjp(lambda x: x / jnp.abs(x), x)[1](dy),
    ),
    "bits": Case(
        lambda x: (
            x * (lax.bitcast_convert_type(2 * x, jnp.dtype(f"int{8 * x.dtype.itemsize}")) & 1)
        ),
        (X,),
        narrow=False,
    ),
    "comparisons": Case(
        lambda x, y: x * ((x == y) | (x != y) & (x < y) ^ ~(x <= y)) + (x > y) * y + (x >= y),
        (X, Y),
    ),
    "is_finite": Case(lambda x: jnp.where(lax.is_finite(x), x, 0.0), (X,)),
    "integers": Case(
        lambda n, x: (
            x
            * (((n << 2) >> 1) & 5 | lax.population_count(n) ^ lax.clz(n)).astype(x.dtype)
            * lax.shift_right_logical(n, jnp.ones_like(n)).astype(x.dtype)
        ),
        (np.arange(3, dtype=np.int32), normal(3)),
    ),
}
