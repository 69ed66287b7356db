"""Loops and branches."""

import jax
import jax.numpy as jnp
from cases import Case
from jax import lax

from .random import integers, normal


def _layers(rng, depth=3, width=3):
    return {"w": normal(rng, depth, width, width, scale=0.7), "b": normal(rng, depth, width)}


def _layer(h, p):
    return jnp.tanh(h @ p["w"] + p["b"][None]), None


def _stack(body, **options):
    """A scan over layers, with positions."""

    def make(rng):
        def loss(p, x):
            return jnp.sum(lax.scan(body, x, p, **options)[0] ** 2)

        return loss, _layers(rng), lambda n: normal(rng, n, 2, 3)

    return make


def _nested_scans(rng):
    """Layers over time: a recurrent network of two layers, with a state for each."""
    params = {"u": normal(rng, 2, 3, 3, scale=0.7), "w": normal(rng, 2, 3, 3, scale=0.7)}

    def loss(p, x):
        def step(states, x_t):
            def layer(below, inputs):
                q, state = inputs
                state = jnp.tanh(below @ q["u"] + state @ q["w"])
                return state, state

            top, states = lax.scan(layer, x_t, (p, states))
            return states, jnp.sum(top**2)

        return jnp.sum(lax.scan(step, jnp.zeros((2, 3), x.dtype), x)[1])

    return loss, params, lambda n: normal(rng, n, 4, 3)


def _time_inside_layers(rng):
    """Every layer scans over time, and all layers are scanned."""

    def loss(p, x):
        def layer(x, q):
            def step(h, x_t):
                h = jnp.tanh(h @ q["w"] + x_t + q["b"])
                return h, h

            return lax.scan(step, jnp.zeros((3,), x.dtype), x)[1], None

        return jnp.sum(lax.scan(layer, x, p)[0] ** 2)

    return loss, _layers(rng, 2), lambda n: normal(rng, n, 4, 3)


def _fori_loop(rng):
    def loss(p, x):
        return jnp.sum(lax.fori_loop(0, 3, lambda k, h: jnp.tanh(h @ p) + k * x, x) ** 2)

    return loss, normal(rng, 3, 3, scale=0.5), lambda n: normal(rng, n, 3)


def _indexed_in_loop(rng):
    """The loop reads the weight of its layer by number."""

    def loss(p, x):
        return jnp.sum(lax.fori_loop(0, 3, lambda k, h: jnp.tanh(h @ p[k]), x) ** 2)

    return loss, normal(rng, 3, 3, 3), lambda n: normal(rng, n, 2, 3)


def _parameter_in_carry(rng):
    """The loop changes the weight that it uses."""

    def loss(p, x):
        def step(carry, x_t):
            h, w = carry
            h = jnp.tanh(h @ w + x_t)
            return (h, 0.9 * w), jnp.sum(h**2)

        return jnp.sum(lax.scan(step, (jnp.zeros((3,), x.dtype), p), x)[1])

    return loss, normal(rng, 3, 3), lambda n: normal(rng, n, 4, 3)


def _fast_weights(rng):
    """The carried weight starts at the parameter and learns from the example."""

    def loss(p, x):
        def step(w, x_t):
            y = x_t @ w
            return w + 0.1 * x_t[:, None] * jnp.tanh(y)[None], jnp.sum(y**2)

        return jnp.sum(lax.scan(step, p, x)[1])

    return loss, normal(rng, 3, 3), lambda n: normal(rng, n, 4, 3)


def _accumulates(rng):
    """The carry adds up products with a weight."""

    def loss(p, x):
        def step(total, x_t):
            return total + jnp.tanh(x_t @ p["w"]), None

        total, _ = lax.scan(step, jnp.zeros((2,), x.dtype), x)
        return jnp.sum(jnp.sin(total @ p["out"]))

    params = {"w": normal(rng, 3, 2), "out": normal(rng, 2, 2)}
    return loss, params, lambda n: normal(rng, n, 4, 3)


def _associative_scan(rng):
    """A linear recurrence, in parallel."""
    params = {"decay": normal(rng, 3), "u": normal(rng, 2, 3)}

    def loss(p, x):
        a = jnp.broadcast_to(jax.nn.sigmoid(p["decay"])[None], (4, 3))

        def combine(left, right):
            return left[0] * right[0], left[1] * right[0] + right[1]

        return jnp.sum(jnp.sin(lax.associative_scan(combine, (a, x @ p["u"]))[1]))

    return loss, params, lambda n: normal(rng, n, 4, 2)


def _mapped(rng):
    def loss(p, x):
        return jnp.sum(lax.map(lambda x_t: jnp.sum(jnp.sin(x_t @ p)), x))

    return loss, normal(rng, 3, 2), lambda n: normal(rng, n, 4, 3)


def _cond_on_parameters(rng):
    params = {"w": normal(rng, 3, 2), "gate": normal(rng)}

    def loss(p, x):
        y = lax.cond(p["gate"] > -9, lambda: x @ p["w"], lambda: jnp.sin(x @ p["w"]))
        return jnp.sum(jnp.tanh(y * p["gate"]))

    return loss, params, lambda n: normal(rng, n, 4, 3)


def _cond_with_products(rng):
    """Each branch multiplies by its own weights, and both by a common one."""
    params = {"a": normal(rng, 3, 2), "b": normal(rng, 3, 2), "both": normal(rng, 3, 2)}

    def loss(p, x):
        y = lax.cond(
            x[0, 0] > 0,
            lambda: x @ p["a"] + jnp.sin(x @ p["both"]),
            lambda: jnp.tanh(x @ p["b"]) * (x @ p["both"]),
        )
        return jnp.sum(jnp.sin(y))

    return loss, params, lambda n: normal(rng, n, 4, 3)


def _switch(rng):
    params = [normal(rng, 3, 2) for _ in range(3)]

    def loss(p, example):
        x, which = example
        branches = [lambda w=w: jnp.sum(jnp.sin(x @ w)) for w in p]
        return lax.switch(which, branches)

    return loss, params, lambda n: (normal(rng, n, 4, 3), integers(rng, 3, n))


def _switch_in_loop(rng):
    """Layers of two kinds in turn: the branch does not depend on the example."""

    def loss(p, x):
        def step(h, data):
            k, w = data
            return lax.cond(k % 2 == 0, lambda: jnp.tanh(h @ w), lambda: jnp.sin(h @ w.T)), None

        return jnp.sum(lax.scan(step, x, (jnp.arange(3), p))[0] ** 2)

    return loss, normal(rng, 3, 3, 3), lambda n: normal(rng, n, 2, 3)


def _while_loop(rng):
    """The example is scaled by a loop of its own length, which is not differentiated."""

    def loss(p, x):
        def far(s):
            return s[1] < 8

        def step(s):
            scale, k = s
            stop = jnp.max(jnp.abs(x)) * scale < 0.5
            return jnp.where(stop, scale, scale / 2), jnp.where(stop, 8, k + 1)

        scale, _ = lax.while_loop(far, step, (jnp.ones((), x.dtype), 0))
        return jnp.sum(jnp.sin((x * lax.stop_gradient(scale)) @ p))

    return loss, normal(rng, 3, 2), lambda n: normal(rng, n, 4, 3)


CASES = {
    "scan over layers, positions": Case(_stack(_layer)),
    "scan over layers, reversed": Case(_stack(_layer, reverse=True)),
    "scan over layers, unrolled": Case(_stack(_layer, unroll=2)),
    "remat inside a scan": Case(_stack(jax.checkpoint(_layer))),
    "layers over time": Case(_nested_scans),
    "time inside layers": Case(_time_inside_layers),
    "fori_loop": Case(_fori_loop),
    "weight read in a loop": Case(_indexed_in_loop),
    "parameter in the carry": Case(_parameter_in_carry),
    "fast weights": Case(_fast_weights),
    "carry that accumulates": Case(_accumulates),
    "associative scan": Case(_associative_scan),
    "lax.map": Case(_mapped),
    "cond on parameters": Case(_cond_on_parameters),
    "cond with products": Case(_cond_with_products),
    "switch on the example": Case(_switch),
    "cond inside a scan": Case(_switch_in_loop),
    "while loop": Case(_while_loop),
}
