"""Cases for funcbackprop.reference.rules.control_flow, and for calls, which are flattened."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .case import Case, normal

W, XS = normal(3, 3) / 2, normal(4, 3, seed=1)


def _recurrent(w, h, xs, **options):
    def cell(h, x):
        h = jnp.tanh(h @ w + x)
        return h, jnp.sum(h**2)

    return lax.scan(cell, h, xs, **options)


def _no_inputs(w, h):
    return lax.scan(lambda h, _: (jnp.sin(h @ w), None), h, None, length=3)[0]


def _counting(w, xs):
    """A carry with an integer, which selects the row that is used."""

    def body(carry, x):
        total, n = carry
        return (total + x * w[n % 3], n + 1), n

    return lax.scan(body, (jnp.zeros(3, xs.dtype), 0), xs)


def _nested(w, xs):
    def outer(h, x):
        h, ys = _recurrent(w, h, jnp.stack([x, 2 * x]))
        return h, ys

    return lax.scan(outer, jnp.ones(3, xs.dtype), xs)


def _with_keys(w):
    keys = jax.random.split(jax.random.key(3), 4)

    def body(h, key):
        keep = jax.random.bernoulli(key, 0.5, h.shape)
        return jnp.where(keep, jnp.sin(h @ w), h), None

    return lax.scan(body, jnp.ones(3, w.dtype), keys)[0]


def _gradient_of_a_scan(w, xs):
    return jax.grad(lambda w: jnp.sum(_recurrent(w, jnp.ones(3, w.dtype), xs)[1]))(w)


def _power_loop(x):
    """x^(2^n), squared until it exceeds 10: the trip count depends on x."""
    return lax.while_loop(lambda y: jnp.all(y < 10), lambda y: y * y, x)


def _power_loop_gradient(x, dy):
    y, derivative = np.array(x), np.ones_like(x)
    while np.all(y < 10):
        derivative, y = 2 * y * derivative, y * y
    return (dy * derivative,)


def _halving(x):
    """A while loop under vmap: each row stops on its own."""
    loop = lambda y: lax.while_loop(lambda z: z > 1, lambda z: z / 2 + 0.1, y)  # noqa: E731
    return jax.vmap(loop)(x)


def _halving_gradient(x, dy):
    derivative = np.ones_like(x)
    for i, z in enumerate(x):
        while z > 1:
            z, derivative[i] = z / 2 + 0.1, derivative[i] / 2
    return (dy * derivative,)


def _switch(i, x, y):
    return lax.switch(i, [lambda x, y: x * y, lambda x, y: jnp.sin(x), lambda x, y: y**2], x, y)


@jax.custom_vjp
def _twice(x):
    return 2 * jnp.sin(x)


_twice.defvjp(lambda x: (_twice(x), x), lambda x, dy: (2 * jnp.cos(x) * dy,))


@jax.custom_jvp
def _thrice(x):
    return 3 * jnp.sin(x)


_thrice.defjvp(lambda p, t: (_thrice(*p), 3 * jnp.cos(p[0]) * t[0]))
DOTS = jax.checkpoint_policies.dots_saveable

CASES = {
    "scan": Case(_recurrent, (W, normal(3), XS)),
    "scan, reverse": Case(lambda *a: _recurrent(*a, reverse=True), (W, normal(3), XS)),
    "scan, unroll": Case(lambda *a: _recurrent(*a, unroll=3), (W, normal(3), XS)),
    "scan without inputs": Case(_no_inputs, (W, normal(3))),
    "scan of no steps": Case(_recurrent, (W, normal(3), np.zeros((0, 3)))),
    "scan with a counter": Case(_counting, (W, XS)),
    "scan in a scan": Case(_nested, (W, XS)),
    "scan under vmap": Case(jax.vmap(_recurrent, (None, 0, 0)), (W, normal(2, 3), normal(2, 4, 3))),
    "scan over keys": Case(_with_keys, (W,), narrow=False),
    "scan, its own gradient": Case(_gradient_of_a_scan, (W, XS)),
    "scan of remat": Case(
        lambda w, xs: lax.scan(jax.checkpoint(lambda h, x: (jnp.tanh(h @ w + x), h)), xs[0], xs),
        (W, XS),
    ),
    "gradient of a scan of remat": Case(
        jax.grad(
            lambda w: jnp.sum(
                lax.scan(jax.checkpoint(lambda h, _: (jnp.tanh(h @ w), h)), w[0], None, length=3)[0]
            )
        ),
        (W,),
    ),
    "fori_loop": Case(lambda w: lax.fori_loop(0, 3, lambda i, h: jnp.sin(h) * i + h @ w, w), (W,)),
    "while": Case(_power_loop, (np.array([1.5, 2.0]),), jax=False, expect=_power_loop_gradient),
    "while that does not run": Case(
        _power_loop, (np.array([11.0]),), jax=False, expect=_power_loop_gradient
    ),
    "while under vmap": Case(
        _halving, (np.array([0.5, 3.0, 11.0]),), jax=False, expect=_halving_gradient
    ),
    "cond": Case(lambda x: lax.cond(x[0] > 0, jnp.sin, lambda y: y**2, x), (normal(3),)),
    "cond, the other branch": Case(
        lambda x: lax.cond(x[0] < 0, jnp.sin, lambda y: y**2, x), (normal(3),)
    ),
    "cond under vmap": Case(
        jax.vmap(lambda x: lax.cond(x > 0, jnp.sin, lambda y: y**2, x)), (normal(4),)
    ),
    **{
        f"switch, index {i}": Case(
            lambda x, y, i=i: _switch(i, x, y), (normal(3), normal(3, seed=1))
        )
        for i in (-1, 0, 2, 5)
    },
    "switch under vmap": Case(
        jax.vmap(_switch), (np.array([2, 0, 1], np.int32), normal(3), normal(3, seed=1))
    ),
    "platform_dependent": Case(
        lambda x: lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos), (normal(3),)
    ),
    "associative_scan": Case(lambda x: lax.associative_scan(jnp.multiply, x), (normal(5, 2),)),
    "map": Case(lambda w: lax.map(lambda row: jnp.sum(jnp.sin(row @ w)), w), (W,)),
    "jit, and jit inside": Case(jax.jit(lambda x: jax.jit(jnp.sin)(x) * x), (normal(3),)),
    "remat": Case(jax.checkpoint(lambda x: jnp.sin(jnp.sin(x))), (normal(3),)),
    "remat with a policy, its gradient": Case(
        jax.grad(jax.checkpoint(lambda w: jnp.sum(jnp.sin(jnp.sin(w) @ w)), policy=DOTS)), (W,)
    ),
    "custom_vjp": Case(lambda x: _twice(x) * x, (normal(3),)),
    "custom_vjp, its gradient": Case(jax.grad(lambda x: jnp.sum(_twice(x) * x)), (normal(3),)),
    "custom_vjp under vmap and jit": Case(jax.jit(jax.vmap(_twice)), (normal(3),)),
    "custom_jvp": Case(lambda x: _thrice(x) * x, (normal(3),)),
    "custom_jvp, its gradient": Case(jax.grad(lambda x: jnp.sum(_thrice(x) * x)), (normal(3),)),
}
