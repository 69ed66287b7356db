"""Networks over time."""

import jax
import jax.numpy as jnp
from cases import Case
from jax import lax

from .random import normal


def _zeros(x, *shape):
    return jnp.zeros(shape, x.dtype)


def _lstm(rng):
    params = {"w": normal(rng, 2, 12), "u": normal(rng, 3, 12, scale=0.5), "b": normal(rng, 12)}

    def loss(p, x):
        def step(state, x_t):
            h, c = state
            i, f, g, o = jnp.split(x_t @ p["w"] + h @ p["u"] + p["b"], 4)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        _, h = lax.scan(step, (_zeros(x, 3), _zeros(x, 3)), x)
        return jnp.sum(jnp.sin(h))

    return loss, params, lambda n: normal(rng, n, 4, 2)


def _gru(rng):
    params = {"w": normal(rng, 3, 2, 3), "u": normal(rng, 3, 3, 3, scale=0.5)}

    def loss(p, x):
        def step(h, x_t):
            z = jax.nn.sigmoid(x_t @ p["w"][0] + h @ p["u"][0])
            r = jax.nn.sigmoid(x_t @ p["w"][1] + h @ p["u"][1])
            new = jnp.tanh(x_t @ p["w"][2] + (r * h) @ p["u"][2])
            return (1 - z) * h + z * new, None

        return jnp.sum(lax.scan(step, _zeros(x, 3), x)[0] ** 2)

    return loss, params, lambda n: normal(rng, n, 4, 2)


def _conv_lstm(rng):
    params = {"w": normal(rng, 3, 4, 12, scale=0.5), "b": normal(rng, 12)}

    def loss(p, x):
        def step(state, x_t):
            h, c = state
            both = jnp.concatenate([x_t, h], -1)[None]
            y = lax.conv_general_dilated(
                both, p["w"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
            )[0]
            i, f, g, o = jnp.split(y + p["b"][None], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), None

        first = jax.nn.sigmoid(jnp.concatenate([x[0]] * 3, -1))
        return jnp.sum(jnp.sin(lax.scan(step, (first, 0 * first), x)[0][0]))

    return loss, params, lambda n: normal(rng, n, 3, 4, 1)


def _state_space(rng):
    """A diagonal linear system with complex poles, made of real parameters."""
    params = {"rate": normal(rng, 3), "angle": normal(rng, 3), "b": normal(rng, 2, 3)}

    def loss(p, x):
        pole = jnp.exp(-jnp.exp(p["rate"]) + 1j * p["angle"])

        def step(h, x_t):
            h = pole * h + x_t @ p["b"]
            return h, jnp.sum(jnp.sin(h.real))

        zero = jnp.zeros((3,), jnp.result_type(x.dtype, jnp.complex64))
        return jnp.sum(lax.scan(step, zero, x)[1])

    return loss, params, lambda n: normal(rng, n, 4, 2)


def _both_directions(rng):
    """One weight, forwards and backwards in time."""
    params = {"w": normal(rng, 3, 3, scale=0.5), "u": normal(rng, 2, 3)}

    def loss(p, x):
        def step(h, x_t):
            h = jnp.tanh(h @ p["w"] + x_t @ p["u"])
            return h, h

        forth = lax.scan(step, _zeros(x, 3), x)[1]
        back = lax.scan(step, _zeros(x, 3), x, reverse=True)[1]
        return jnp.sum(jnp.sin(forth * back))

    return loss, params, lambda n: normal(rng, n, 4, 2)


def _neural_ode(rng):
    """Runge-Kutta steps: the weight is used four times in each."""

    def loss(p, x):
        def slope(x):
            return jnp.tanh(x @ p["w"] + p["b"][None])

        def step(x, _):
            a = slope(x)
            b = slope(x + 0.1 * a)
            c = slope(x + 0.1 * b)
            d = slope(x + 0.2 * c)
            return x + 0.2 / 6 * (a + 2 * b + 2 * c + d), None

        return jnp.sum(lax.scan(step, x, length=3)[0] ** 2)

    return loss, {"w": normal(rng, 3, 3), "b": normal(rng, 3)}, lambda n: normal(rng, n, 2, 3)


CASES = {
    "LSTM": Case(_lstm),
    "GRU with stacked gates": Case(_gru),
    "ConvLSTM": Case(_conv_lstm),
    "state space model": Case(_state_space),
    "both directions": Case(_both_directions),
    "neural ODE": Case(_neural_ode),
}
