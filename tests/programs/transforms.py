"""Transformations inside the loss: jit, remat, custom rules, vmap, derivatives."""

import functools

import jax
import jax.numpy as jnp
from cases import Case
from jax.ad_checkpoint import checkpoint_name

from .random import normal


def _mlp(rng):
    return [normal(rng, 3, 4), normal(rng, 4, 2)]


def _forward(p, x):
    return jnp.tanh(x @ p[0]) @ p[1]


def _jitted(rng):
    @jax.jit
    def layer(x, w):
        return jnp.tanh(x @ w)

    def loss(p, x):
        return jnp.sum(jnp.sin(layer(layer(x, p[0]), p[1])))

    return loss, _mlp(rng), lambda n: normal(rng, n, 2, 3)


def _remat(policy):
    def make(rng):
        @functools.partial(jax.checkpoint, policy=policy)
        def forward(p, x):
            return jnp.sin(checkpoint_name(jnp.tanh(x @ p[0]), "hidden") @ p[1])

        return lambda p, x: jnp.sum(forward(p, x)), _mlp(rng), lambda n: normal(rng, n, 2, 3)

    return make


def _custom_jvp(rng):
    @jax.custom_jvp
    def gate(x, a):
        return x * jax.nn.sigmoid(a * x)

    @gate.defjvp
    def _(primals, tangents):
        _, tangent = jax.jvp(lambda x, a: x * jax.nn.sigmoid(a * x), primals, tangents)
        return gate(*primals), tangent

    def loss(p, x):
        return jnp.sum(gate(jax.nn.relu(x @ p["w"]), p["a"]) ** 2)

    return loss, {"w": normal(rng, 3, 2), "a": normal(rng)}, lambda n: normal(rng, n, 4, 3)


def _custom_linear(rng):
    """A linear layer with a rule of its own, which forms the weight's gradient itself."""

    @jax.custom_vjp
    def linear(x, w):
        return x @ w

    def backward(saved, g):
        x, w = saved
        return g @ w.T, jnp.einsum("tm,tn->mn", x, g)

    linear.defvjp(lambda x, w: (x @ w, (x, w)), backward)

    def loss(p, x):
        return jnp.sum(jnp.sin(linear(jnp.tanh(linear(x, p[0])), p[1])))

    return loss, _mlp(rng), lambda n: normal(rng, n, 2, 3)


def _clipped_cotangent(rng):
    """The weight passes through a rule that changes its gradient's entries."""

    @jax.custom_vjp
    def clip(w):
        return w

    clip.defvjp(lambda w: (w, None), lambda _, g: (jnp.tanh(g),))

    def loss(p, x):
        return jnp.sum(jnp.sin(x @ clip(p)))

    return loss, normal(rng, 3, 2), lambda n: normal(rng, n, 4, 3)


def _vmapped(rng):
    """The loss maps over positions, and over heads with a weight each."""
    params = {"w": normal(rng, 3, 2), "heads": normal(rng, 2, 2, 3)}

    def loss(p, x):
        h = jax.vmap(lambda x_t: jnp.tanh(x_t @ p["w"]))(x)
        y = jax.vmap(lambda w: h @ w)(p["heads"])
        return jnp.sum(jnp.sin(y))

    return loss, params, lambda n: normal(rng, n, 4, 3)


def _inner_step(rng):
    """The loss after a gradient step on part of the example."""

    def loss(p, example):
        (x, y), (x_new, y_new) = example

        def error(p, x, y):
            return jnp.mean((_forward(p, x) - y) ** 2)

        step = jax.tree.map(lambda q, g: q - 0.1 * g, p, jax.grad(error)(p, x, y))
        return error(step, x_new, y_new)

    def batch(n):
        return tuple((normal(rng, n, 2, 3), normal(rng, n, 2, 2)) for _ in range(2))

    return loss, _mlp(rng), batch


def _gradient_penalty(rng):
    def loss(p, x):
        g = jax.grad(lambda x: jnp.sum(_forward(p, x)))(x)
        return (jnp.sqrt(jnp.sum(g**2) + 1e-2) - 1) ** 2 + jnp.mean(_forward(p, x))

    return loss, _mlp(rng), lambda n: normal(rng, n, 3)


def _second_derivative(rng):
    """A physics loss: u'' + u at a point of the example."""

    def loss(p, t):
        def u(t):
            return jnp.sum(jnp.tanh(t * p["w"] + p["b"]) * p["out"])

        return (jax.grad(jax.grad(u))(t) + u(t)) ** 2

    params = {name: normal(rng, 4) for name in ("w", "b", "out")}
    return loss, params, lambda n: normal(rng, n)


def _jacobian(rng):
    """The log-determinant of a map's Jacobian, by forward mode."""

    def loss(p, x):
        def flow(x):
            return x + 0.3 * jnp.tanh(x @ p[0]) @ p[1]

        jacobian = jax.jacfwd(flow)(x)
        return jnp.sum(flow(x) ** 2) / 2 - jnp.linalg.slogdet(jacobian)[1]

    return loss, [normal(rng, 3, 4), normal(rng, 4, 3)], lambda n: normal(rng, n, 3)


CASES = {
    "jit": Case(_jitted),
    "remat, everything again": Case(_remat(jax.checkpoint_policies.nothing_saveable)),
    "remat, products kept": Case(_remat(jax.checkpoint_policies.dots_saveable)),
    "remat, a name kept": Case(_remat(jax.checkpoint_policies.save_only_these_names("hidden"))),
    "custom_jvp": Case(_custom_jvp),
    "custom_vjp of a linear layer": Case(_custom_linear),
    "custom_vjp on a weight": Case(_clipped_cotangent),
    "vmap": Case(_vmapped),
    "inner gradient step": Case(_inner_step),
    "gradient penalty": Case(_gradient_penalty),
    "second derivative": Case(_second_derivative),
    "Jacobian of a flow": Case(_jacobian),
}
