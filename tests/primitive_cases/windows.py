"""Cases for funcbackprop.reference.rules.windows."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .case import Case, cplx, distinct, normal, uniform

POOLS = {
    "sum": (lax.add, 0.0),
    "maximum": (lax.max, -jnp.inf),
    "minimum": (lax.min, jnp.inf),
}
IMAGE = distinct(1, 4, 5, 2)
TIES = np.array([[1.0, 1, 0, 2], [1, 1, 2, 2], [0, 2, 2, 1], [2, 2, 1, 1]])
SETTINGS = {
    "flax style": (IMAGE, (1, 2, 2, 1), {"window_strides": (1, 2, 2, 1)}),
    "SAME, overlapping": (IMAGE, (1, 3, 3, 1), {"window_strides": (1, 2, 1, 1), "padding": "SAME"}),
    "vector": (distinct(7), (3,), {"window_strides": (2,)}),
    "uneven padding": (distinct(4, 3), (2, 2), {"padding": ((0, 2), (1, 0))}),
    "base dilation": (
        distinct(3, 3),
        (2, 2),
        {"base_dilation": (2, 3), "padding": ((1, 0), (0, 2))},
    ),
    "a window as large as the array": (distinct(3, 2), (3, 2), {}),
    "a window larger than the array": (distinct(2, 2), (3, 1), {}),
    "empty array": (np.zeros((0, 3)), (1, 2), {}),
    "five axes": (distinct(1, 2, 3, 2, 1), (1, 2, 2, 1, 1), {}),
}


def _pool(kind, window, settings):
    computation, initial = POOLS[kind]
    settings = {"window_strides": (1,) * len(window), **settings}
    return lambda x: lax.reduce_window(x, initial, computation, window, **settings)


def _reduce(computation, initial, window, **settings):
    """`0 * a` in the computation hides from JAX that it knows the reduction."""
    return lambda x: lax.reduce_window(x, initial, computation, window, **settings)


def _product(a, b):
    return a * b + 0 * a


def _of_windows(fun, size, step=1, dilation=1, low=0, high=0, fill=1.0):
    """fun(windows [n, size]) of a vector, with windows taken by indices, and its gradient."""

    def expect(x, dy):
        n = (len(x) + low + high - dilation * (size - 1) - 1) // step + 1
        at = step * np.arange(n)[:, None] + dilation * np.arange(size)
        pad = lambda x: jnp.pad(x, (low, high), constant_values=fill)  # noqa: E731
        return jax.vjp(lambda x: fun(pad(x)[at]), x)[1](dy)

    return expect


def _dilated_pool(extreme, axis_fun):
    window = _pool(extreme, (3,), {"window_dilation": (2,), "window_strides": (2,)})
    return Case(
        window,
        (distinct(9),),
        jax=False,
        expect=_of_windows(lambda w: axis_fun(w, axis=1), 3, step=2, dilation=2),
    )


def _cut_first(kind, window, settings):
    """The gradient of a pool of x[1:, :-1]."""
    pool = _pool(kind, window, settings)
    return lambda x, dy: jax.vjp(lambda x: pool(x[1:, :-1]), x)[1](dy)


def _product_gradient(x, dy):
    """Of products over windows of 2 x 2, one window at a time."""
    dx = np.zeros_like(x)
    for i, j in itertools.product(*map(range, dy.shape)):
        window = x[i : i + 2, j : j + 2]
        for a, b in itertools.product(range(2), range(2)):
            others = np.delete(window.ravel(), 2 * a + b)
            dx[i + a, j + b] += np.prod(others) * dy[i, j]
    return (dx,)


def _max_and_index(a, b):
    (x, i), (y, j) = a, b
    first = x >= y
    return jnp.where(first, x, y), jnp.where(first, i, j)


def _max_with_index(x):
    numbers = jnp.arange(x.shape[0], dtype=jnp.int32)
    initial = (jnp.asarray(-jnp.inf, x.dtype), jnp.int32(0))
    value, index = lax.reduce_window((x, numbers), initial, _max_and_index, (3,))
    return value * index


def _max_with_index_gradient(x, dy):
    dx = np.zeros_like(x)
    for k, d in enumerate(dy):
        top = k + np.argmax(x[k : k + 3])
        dx[top] += top * d
    return (dx,)


def _second_order(kind, **settings):
    """A loss with the gradient of a loss of a pooled array in it."""
    pool = _pool(kind, (2, 2), settings)
    inner = jax.grad(lambda x: jnp.sum(jnp.sin(pool(x)) * pool(x)))
    return lambda x: inner(x) * x


def _tangent(kind, **settings):
    """A loss with the derivative of a pooled array along v in it: select_and_gather_add."""
    pool = _pool(kind, (2, 2), settings)
    return lambda x, v: jax.jvp(pool, (x,), (v,))[1] * pool(x)


def _tangent_gradient(x, v, dz):
    """Of v at the maxima times the maxima, over windows of 2 x 2 with stride 1."""
    dx, dv = np.zeros_like(x), np.zeros_like(v)
    for i, j in itertools.product(*map(range, dz.shape)):
        a, b = np.unravel_index(np.argmax(x[i : i + 2, j : j + 2]), (2, 2))
        dx[i + a, j + b] += v[i + a, j + b] * dz[i, j]
        dv[i + a, j + b] += x[i + a, j + b] * dz[i, j]
    return dx, dv


CASES = {
    **{
        f"{kind}, {name}": Case(_pool(kind, window, settings), (x,))
        for kind in POOLS
        for name, (x, window, settings) in SETTINGS.items()
    },
    "sum, window dilation": Case(
        _pool("sum", (2, 3), {"window_dilation": (2, 1), "padding": "SAME"}), (normal(5, 4),)
    ),
    # JAX has no gradient of these.
    **{
        f"{kind}, negative padding": Case(
            _pool(kind, (2, 1), {"padding": ((-1, 1), (0, -1))}),
            (distinct(5, 3),),
            jax=False,
            expect=_cut_first(kind, (2, 1), {"padding": ((0, 1), (0, 0))}),
        )
        for kind in POOLS
    },
    "maximum, window dilation": _dilated_pool("maximum", jnp.max),
    "minimum, window dilation": _dilated_pool("minimum", jnp.min),
    "sum, complex": Case(
        lambda x: lax.reduce_window(x, 0j, lax.add, (2, 2), (1, 1), "SAME"), (cplx(3, 3),)
    ),
    **{
        f"{kind}, ties, {padding}": Case(
            _pool(kind, (2, 3), {"padding": padding, "window_strides": (1, 2)}), (TIES,)
        )
        for kind in ("maximum", "minimum")
        for padding in ("VALID", "SAME")
    },
    "maximum, all equal": Case(_pool("maximum", (3, 3), {"padding": "SAME"}), (np.ones((4, 4)),)),
    "maximum of -inf": Case(
        _pool("maximum", (2,), {"padding": ((1, 1),)}), (np.array([-np.inf, -np.inf, 1.0]),)
    ),
    "maximum after a rectifier": Case(
        lambda x: _pool("maximum", (2, 2), {})(jnp.maximum(x, 0)), (normal(4, 4),)
    ),
    "maximum, batched": Case(jax.vmap(_pool("maximum", (2,), {})), (distinct(3, 4),)),
    "sum, batched along the last axis": Case(
        jax.vmap(_pool("sum", (2,), {}), in_axes=1), (distinct(4, 3),)
    ),
    "pools of integers": Case(
        lambda n, x: (
            x
            * lax.reduce_window(n, n.dtype.type(0), lax.add, (2,))
            * lax.reduce_window(n, n.dtype.type(-9), lambda a, b: lax.max(a, b) + 0 * a, (2,))
        ),
        (np.array([3, 1, 2]), normal(2)),
    ),
    "average": Case(
        lambda x: (
            _pool("sum", (2, 2), {"padding": "SAME"})(x)
            / _pool("sum", (2, 2), {"padding": "SAME"})(jnp.ones_like(x))
        ),
        (normal(3, 3),),
    ),
    # Gradients of pools inside the function.
    **{
        f"gradient of a pool, {kind}": Case(_second_order(kind, window_strides=(2, 2)), (x,))
        for kind in POOLS
        for x in (distinct(4, 4),)
    },
    "gradient of a pool, overlapping, padded": Case(
        _second_order("maximum", padding="SAME"), (distinct(4, 3),)
    ),
    "gradient of a pool, ties": Case(_second_order("maximum", window_strides=(2, 2)), (TIES,)),
    "gradient of a pool, batched": Case(
        jax.vmap(_second_order("minimum", window_strides=(1, 2))), (distinct(2, 3, 3),)
    ),
    "tangent of a pool": Case(
        _tangent("maximum"),
        (distinct(4, 3), normal(4, 3)),
        jax=False,
        expect=_tangent_gradient,
    ),
    "tangent of a pool, ties": Case(
        _tangent("maximum"), (TIES, normal(4, 4)), jax=False, expect=_tangent_gradient
    ),
    "tangent of a pool, minimum, padded": Case(
        _tangent("minimum", padding="SAME", window_strides=(2, 2)), (distinct(3, 3), normal(3, 3))
    ),
    # Pools by a program. JAX has no gradient of these.
    "product": Case(
        lambda x: lax.reduce_window(x, 1.0, lax.mul, (2, 2)),
        (uniform(3, 3),),
        jax=False,
        expect=_product_gradient,
    ),
    "product with zeros": Case(
        lambda x: lax.reduce_window(x, 1.0, lax.mul, (2, 2)),
        (np.array([[0.0, 1, 2], [3, 0, 4], [5, 6, 7]]),),
        jax=False,
        expect=_product_gradient,
    ),
    "product by a program, dilated, with padding and strides": Case(
        _reduce(
            _product,
            1.0,
            (3,),
            window_strides=(2,),
            window_dilation=(2,),
            padding=((2, 1),),
        ),
        (uniform(8),),
        jax=False,
        expect=_of_windows(lambda w: jnp.prod(w, 1), 3, step=2, dilation=2, low=2, high=1),
    ),
    "logaddexp by a program": Case(
        _reduce(jnp.logaddexp, -jnp.inf, (3,), padding=((0, 2),)),
        (normal(5),),
        jax=False,
        expect=_of_windows(lambda w: jax.nn.logsumexp(w, 1), 3, high=2, fill=-jnp.inf),
    ),
    "maximum and its index": Case(
        _max_with_index, (distinct(6),), jax=False, expect=_max_with_index_gradient
    ),
    "gradient of the initial value": Case(
        lambda x, i: lax.reduce_window(x, i, _product, (2,), padding=((1, 0),)),
        (np.array([2.0, 3.0]), np.array(5.0)),
        jax=False,
        # i x_0 and i x_0 x_1: there is nothing in the padding.
        expect=lambda x, i, dy: (
            np.array([5 * dy[0] + 15 * dy[1], 10 * dy[1]]),
            np.array(2 * dy[0] + 6 * dy[1]),
        ),
    ),
}
