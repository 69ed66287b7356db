"""Losses for every route to be tried on: name -> case. A new program joins by one row."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Case(NamedTuple):
    """`make(rng) -> (loss, params, batch)`, in float64 NumPy arrays that a test casts."""

    make: Callable
    examples: int = 5


def _normal(rng, *shape):
    return rng.normal(size=shape)


def _linear(rng):
    params = {"w": _normal(rng, 3, 2), "b": _normal(rng, 2)}

    def loss(p, example):
        x, y = example
        return jnp.sum((x @ p["w"] + p["b"] - y) ** 2)

    return loss, params, lambda n: (_normal(rng, n, 3), _normal(rng, n, 2))


def _scalar_and_empty(rng):
    params = {"scale": np.float64(0.7), "empty": np.zeros((0, 3)), "unused": _normal(rng, 2)}
    return (
        lambda p, x: jnp.sin(p["scale"] * x) + jnp.sum(p["empty"]),
        params,
        lambda n: _normal(rng, n),
    )


def _scan_over_layers(rng):
    params = {"w": _normal(rng, 3, 4, 4) / 2, "b": _normal(rng, 3, 4)}

    def loss(p, x):
        def layer(h, w):
            return jnp.tanh(h @ w["w"] + w["b"]), None

        return jnp.sum(jax.lax.scan(layer, x, p)[0] ** 2)

    return loss, params, lambda n: _normal(rng, n, 4)


def _remat(rng):
    loss, params, batch = _scan_over_layers(rng)
    return jax.checkpoint(loss), params, batch


def _cond_on_example(rng):
    params = {"a": _normal(rng, 3), "b": _normal(rng, 3)}

    def loss(p, x):
        return jax.lax.cond(x[0] > 0, lambda: jnp.dot(p["a"], x) ** 2, lambda: jnp.dot(p["b"], x))

    return loss, params, lambda n: _normal(rng, n, 3)


def _tied_embedding(rng):
    params = {"table": _normal(rng, 6, 3)}

    def loss(p, tokens):
        logits = jnp.tanh(p["table"][tokens]) @ p["table"].T
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(4), (tokens + 1) % 6])

    return loss, params, lambda n: rng.integers(0, 6, size=(n, 4))


def _convolution(dilation, groups):
    def make(rng):
        params = {"w": _normal(rng, 3, 3, 4 // groups, 4), "b": _normal(rng, 4)}

        def loss(p, x):
            y = jax.lax.conv_general_dilated(
                *(x[None], p["w"], (1, 1), "SAME"),
                rhs_dilation=(dilation, dilation),
                feature_group_count=groups,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            return jnp.mean((y[0] + p["b"][None, None]) ** 2)

        return loss, params, lambda n: _normal(rng, n, 6, 5, 4)

    return make


def _recurrent(rng):
    params = {"w": _normal(rng, 3, 3) / 2, "u": _normal(rng, 2, 3)}

    def loss(p, x):
        def cell(h, x_t):
            h = jnp.tanh(h @ p["w"] + x_t @ p["u"])
            return h, jnp.sum(h**2)

        return jnp.mean(jax.lax.scan(cell, jnp.zeros(3, x.dtype), x)[1])

    return loss, params, lambda n: _normal(rng, n, 4, 2)


def _custom_vjp(rng):
    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))
    params = [_normal(rng, 3), (_normal(rng, 2), None)]
    return (
        lambda p, x: jnp.sum(square(p[0] * x)) * jnp.sum(p[1][0]),
        params,
        lambda n: _normal(rng, n, 3),
    )


def _complex_parameter(rng):
    params = _normal(rng, 3) + 1j * _normal(rng, 3)
    return lambda p, x: jnp.sum(jnp.abs(p * x) ** 2), params, lambda n: _normal(rng, n, 3)


def _mean_dominates(rng):
    """The mean gradient is 1e4 times the spread."""
    return (
        lambda p, x: jnp.sum(p * (1e4 + x)),
        _normal(rng, 4),
        lambda n: np.round(_normal(rng, n, 4) * 256) / 256,
    )


CASES = {
    "linear": Case(_linear, 7),
    "batch of 1": Case(_linear, 1),
    "scalar, empty and unused leaves": Case(_scalar_and_empty),
    "scan over layers": Case(_scan_over_layers),
    "remat": Case(_remat),
    "cond on the example": Case(_cond_on_example),
    "tied embedding": Case(_tied_embedding),
    "dilated convolution": Case(_convolution(2, 1)),
    "grouped convolution": Case(_convolution(1, 2)),
    "recurrent": Case(_recurrent),
    "custom_vjp": Case(_custom_vjp),
    "complex parameter": Case(_complex_parameter),
    "mean dominates": Case(_mean_dominates, 6),
}


def build(name, dtype):
    """`(loss, params, batch)` of a case, floating-point arrays in `dtype`."""
    case = CASES[name]
    loss, params, batch = case.make(np.random.default_rng(0))

    def cast(x):
        x = np.asarray(x)
        if x.dtype.kind == "c":
            return jnp.asarray(x, jnp.result_type(dtype, jnp.complex64))
        return jnp.asarray(x, dtype if x.dtype.kind == "f" else jnp.int32)

    return loss, jax.tree.map(cast, params), jax.tree.map(cast, batch(case.examples))
