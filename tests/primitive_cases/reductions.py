"""Cases for funcbackprop.reference.rules.reductions."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .case import Case, cplx, distinct, normal, uniform

TIES = np.array([[1.0, 3.0, 3.0, 2.0], [3.0, 3.0, 0.0, 3.0]])
ZEROS = np.array([[2.0, 0.0, 3.0, -1.0], [0.0, 1.5, 0.0, 2.0]])
CUMULATIVE = {
    "cumsum": lax.cumsum,
    "cumprod": lax.cumprod,
    "cummax": lax.cummax,
    "cummin": lax.cummin,
    "cumlogsumexp": lax.cumlogsumexp,
}
REDUCTIONS = {"sum": jnp.sum, "prod": jnp.prod, "max": jnp.max, "min": jnp.min}
AXES = {
    "of a vector": ((5,), 0),
    "all axes": ((2, 3), None),
    "first axis": ((2, 3), 0),
    "last axis": ((2, 3), -1),
    "no axes": ((2, 3), ()),
    "two of four axes": ((2, 3, 2, 2), (2, 0)),
    "beside an empty axis": ((0, 3), 1),
}
INFINITE = -jnp.inf


def _reduce(computation, initial, axes):
    """`lax.reduce` by a program: `0 * a` hides from JAX that it knows the reduction."""
    return lambda x: lax.reduce(x, initial, computation, axes)


def _product(a, b):
    return a * b + 0 * a


def _norm(a, b):
    return jnp.sqrt(a * a + b * b)


def _max_and_argmax(a, b):
    (x, i), (y, j) = a, b
    first = (x > y) | ((x == y) & (i < j))
    return jnp.where(first, x, y), jnp.where(first, i, j)


def _with_argmax(x, axis):
    numbers = lax.broadcasted_iota(jnp.int32, x.shape, axis)
    initial = (jnp.asarray(-jnp.inf, x.dtype), jnp.int32(2**30))
    value, index = lax.reduce((x, numbers), initial, _max_and_argmax, (axis,))
    return value * (1 + index)


def _moments(x):
    """Sum, sum of squares and a weighted sum, in one reduction of three arrays."""
    add = lambda a, b: tuple(u + v for u, v in zip(a, b, strict=True))  # noqa: E731
    zero = jnp.asarray(0, x.dtype)
    return lax.reduce((x, x * x, jnp.sin(x)), (zero, zero, zero), add, (0,))


def _grad_of_prod(x):
    return jax.grad(lambda x: jnp.prod(x) * jnp.max(x))(x)


def _cumsum_of_constants(x):
    return x * jnp.cumsum(jnp.arange(3)) + jnp.max(jnp.arange(4)) + jnp.any(x > 0)


def _bits(n, x):
    bits = [lax.reduce_and_p, lax.reduce_or_p, lax.reduce_xor_p]
    return sum(x * p.bind(n, axes=(0,)).astype(x.dtype) for p in bits)


def _after_minus_infinity(x, dy):
    """y_1 = x_1 and y_2 = logaddexp(x_1, x_2)."""
    weights = np.exp(x - np.logaddexp(x[1], x[2]))
    return (weights * dy[2] + np.array([dy[0], dy[1], 0.0]),)


def _argmax_gradient(axis):
    """Of value * (1 + index)."""

    def expect(x, dy):
        index = np.expand_dims(np.argmax(x, axis), axis)
        dx = np.zeros_like(x)
        np.put_along_axis(dx, index, (1 + index) * np.expand_dims(dy, axis), axis)
        return (dx,)

    return expect


def _running_gradient(extreme):
    """Of distinct complex numbers: each dy_t goes to the extreme one of x_0 ... x_t."""

    def expect(x, dy):
        dx = np.zeros_like(x)
        for t, d in enumerate(dy):
            dx[extreme(range(t + 1), key=lambda s: (x[s].real, x[s].imag))] += d
        return (dx,)

    return expect


CASES = {
    **{
        f"{n}, {where}": Case(lambda x, f=f, axis=axis: f(x, axis), (distinct(*shape),))
        for n, f in REDUCTIONS.items()
        for where, (shape, axis) in AXES.items()
    },
    **{f"{n}, complex": Case(lambda x, f=f: f(x, 0), (cplx(3, 2),)) for n, f in REDUCTIONS.items()},
    **{
        f"{n} of an empty axis": Case(
            lambda x, f=f, i=i: lax.reduce(x, i, f, (1,)), (np.zeros((2, 0)),)
        )
        for n, f, i in (
            ("sum", lax.add, 0.0),
            ("prod", lax.mul, 1.0),
            ("max", lax.max, -np.inf),
            ("min", lax.min, np.inf),
        )
    },
    "max, ties": Case(lambda x: jnp.max(x, 1), (TIES,)),
    "min, ties": Case(lambda x: jnp.min(-x, 1), (TIES,)),
    "max, ties over two axes": Case(jnp.max, (TIES,)),
    "max of infinities": Case(jnp.max, (np.array([-np.inf, np.inf, 1.0]),)),
    "max of nothing but -inf": Case(jnp.max, (np.array([-np.inf, -np.inf]),)),
    # What JAX gives depends on whether it compiles the whole.
    "max with a NaN": Case(
        lambda x: jnp.max(x, 1),
        (np.array([[1.0, np.nan], [2.0, 1.0]]),),
        jax=False,
        expect=lambda x, dy: (np.array([[np.nan, np.nan], [dy[1], 0.0]]),),
    ),
    "max, batched": Case(jax.vmap(jnp.max), (distinct(3, 2, 2),)),
    "max of integers": Case(lambda x: x * jnp.max(jnp.arange(5)) * jnp.min(jnp.arange(2)), (TIES,)),
    "max with initial and where": Case(
        lambda x: jnp.max(x, 1, where=x < 2.5, initial=-5.0), (TIES,)
    ),
    "prod, zeros": Case(lambda x: jnp.prod(x, 1), (ZEROS,)),
    "prod, zeros, all axes": Case(jnp.prod, (ZEROS,)),
    "gradient of a product and a maximum": Case(_grad_of_prod, (distinct(4),)),
    "logsumexp": Case(lambda x: jax.nn.logsumexp(x, axis=1), (10 * normal(2, 3),)),
    "variance": Case(lambda x: jnp.var(x, axis=0) + jnp.std(x, axis=0), (normal(4, 2),)),
    "argmax and argmin": Case(
        lambda x: x * jnp.argmax(x, 1)[:, None] + jnp.argmin(x), (distinct(2, 3),)
    ),
    "argmax of ties": Case(lambda x: x * jnp.argmax(x) + jnp.argmin(x, 1)[:, None], (TIES,)),
    "any and all": Case(lambda x: x * jnp.any(x > 0) + jnp.all(x > 1), (normal(2, 3),)),
    "reduce_and, reduce_or, reduce_xor": Case(_bits, (np.array([7, 6, 12], np.int32), normal(2))),
    "reductions of constants": Case(_cumsum_of_constants, (normal(3),)),
    # Cumulative.
    **{
        f"{n}, {'reverse, ' if reverse else ''}{where}": Case(
            lambda x, f=f, axis=axis, reverse=reverse: f(x, axis, reverse=reverse),
            (distinct(*shape) / 4,),
        )
        for n, f in CUMULATIVE.items()
        for reverse in (False, True)
        for where, (shape, axis) in {
            "vector": ((5,), 0),
            "one entry": ((1,), 0),
            "empty": ((0,), 0),
            "second of four axes": ((2, 6, 1, 2), 1),
        }.items()
    },
    **{
        f"{n}, complex": Case(CUMULATIVE[n], (cplx(4, 2),))
        for n in ("cumsum", "cumprod", "cumlogsumexp")
    },
    # Complex numbers in lexicographic order; JAX 0.12 has no gradient of these.
    **{
        f"{n}, complex": Case(
            CUMULATIVE[n], (cplx(6),), jax=False, expect=_running_gradient(extreme)
        )
        for n, extreme in (("cummax", max), ("cummin", min))
    },
    **{
        f"{n}, ties, {length} entries": Case(lambda x, f=f: f(x, 0), (TIES.ravel()[:length],))
        for n, f in (("cummax", lax.cummax), ("cummin", lax.cummin))
        for length in (2, 5, 8)
    },
    "cummax, all entries equal": Case(lax.cummax, (np.ones((7, 2)),)),
    "cummin, reverse, ties": Case(lambda x: lax.cummin(x, 1, reverse=True), (TIES,)),
    "cummax of integers": Case(lambda n, x: lax.cummax(n) * x, (np.array([1, 3, 2]), normal(3))),
    "cumprod, zeros": Case(lambda x: lax.cumprod(x, 1), (ZEROS,)),
    "cumprod, zeros, reverse": Case(lambda x: lax.cumprod(x, 1, reverse=True), (ZEROS,)),
    "cumlogsumexp, far apart": Case(
        lax.cumlogsumexp, (np.array([-800.0, 0.0, 700.0, 699.0, -5.0]),)
    ),
    # JAX gives NaN.
    "cumlogsumexp from -inf": Case(
        lax.cumlogsumexp,
        (np.array([-np.inf, 0.5, 0.2]),),
        jax=False,
        expect=_after_minus_infinity,
    ),
    "jnp.cumsum, batched": Case(jax.vmap(lambda x: jnp.cumsum(x) * x), (normal(2, 3),)),
    "gradient of cumulative ones": Case(
        jax.grad(lambda x: jnp.sum(lax.cumprod(x) * lax.cummax(x) + lax.cumlogsumexp(x))),
        (distinct(4) / 4,),
        1e-9,
    ),
    # Reductions by a program.
    **{
        f"reduce by a product, {n} entries": Case(
            _reduce(_product, 1.0, (0,)), (uniform(n, low=-2, high=2),)
        )
        for n in (0, 1, 2, 5, 8)
    },
    "reduce by a product, two of three axes": Case(
        _reduce(_product, 1.0, (2, 0)), (uniform(3, 2, 2),)
    ),
    "reduce by a product, no axes": Case(_reduce(_product, 1.0, ()), (normal(2, 2),)),
    "reduce by a product with zeros": Case(_reduce(_product, 1.0, (1,)), (ZEROS,)),
    "reduce by a product, complex": Case(_reduce(_product, 1.0 + 0j, (0,)), (cplx(3, 2),)),
    "reduce by a norm": Case(_reduce(_norm, 0.0, (0,)), (normal(5, 2),)),
    "reduce by logaddexp": Case(_reduce(jnp.logaddexp, INFINITE, (1,)), (normal(2, 5),)),
    "reduce by a maximum with ties": Case(
        _reduce(lambda a, b: -jnp.minimum(-a, -b), INFINITE, (1,)), (TIES[:, :3],)
    ),
    # JAX cannot differentiate a reduction with an array of integers.
    **{
        f"reduce to maximum and argmax, {kind}": Case(
            lambda x, axis=axis: _with_argmax(x, axis),
            (x,),
            jax=False,
            expect=_argmax_gradient(axis),
        )
        for kind, x, axis in (("distinct", distinct(2, 5), 1), ("last axis", distinct(3, 4), 0))
    },
    "reduce to three sums": Case(_moments, (normal(5, 2),)),
    "reduce with a constant array": Case(
        _reduce(lambda a, b: a + b + 0.5 * a * b * jnp.arange(3.0)[1].astype(a.dtype), 0.0, (0,)),
        (uniform(4, 2),),
    ),
    "reduce of integers": Case(
        lambda n, x: x * lax.reduce(n, np.int32(1), _product, (0,)),
        (np.array([3, 2, 5], np.int32), normal(2)),
    ),
    "reduce, batched": Case(jax.vmap(_reduce(_product, 1.0, (1,))), (uniform(2, 2, 3),)),
    # JAX leaves the initial value out of its derivative and has none with respect to it.
    "reduce, gradient of the initial value": Case(
        lambda x, i: lax.reduce(x, i, _product, (0,)),
        (uniform(3, 2), np.array(2.0)),
        jax=False,
        expect=lambda x, i, dy: (i * np.prod(x, 0) / x * dy, np.sum(np.prod(x, 0) * dy)),
    ),
    "reduce of an empty axis, gradient of the initial value": Case(
        lambda x, i: lax.reduce(x, i, _product, (0,)),
        (np.zeros((0, 2)), np.array(2.0)),
        jax=False,
        expect=lambda x, i, dy: (np.zeros((0, 2)), np.sum(dy)),
    ),
}
