"""Whole networks in small."""

import jax
import jax.numpy as jnp
from cases import Case
from jax import lax

from .random import integers, normal


def _residual_block(rng):
    params = {"first": normal(rng, 3, 3, 2, 2), "second": normal(rng, 3, 3, 2, 2)}

    def loss(p, x):
        def conv(x, w):
            return lax.conv_general_dilated(
                x[None], w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )[0]

        return jnp.mean(jnp.sin(x + conv(jax.nn.relu(conv(x, p["first"])), p["second"])))

    return loss, params, lambda n: normal(rng, n, 4, 4, 2)


def _attend(q, k, v, mask=None):
    scores = jnp.einsum("thk,shk->hts", q, k) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = jnp.where(mask[None], scores, -1e9)
    return jnp.einsum("hts,shk->thk", jax.nn.softmax(scores), v)


def _attention(rng):
    """Kernels [D, H, K], as in Flax's `DenseGeneral`."""
    params = {name: normal(rng, 4, 2, 2, scale=0.5) for name in ("q", "k", "v")}
    params["out"] = normal(rng, 2, 2, 4)

    def loss(p, x):
        q, k, v = (jnp.einsum("td,dhk->thk", x, p[name]) for name in ("q", "k", "v"))
        y = jnp.einsum("thk,hkd->td", _attend(q, k, v), p["out"])
        return jnp.mean(jnp.sin(y))

    return loss, params, lambda n: normal(rng, n, 3, 4)


def _fused_attention(rng):
    """One parameter for queries, keys and values, split afterwards; causal."""
    params = {"qkv": normal(rng, 4, 12, scale=0.5), "b": normal(rng, 12), "out": normal(rng, 4, 4)}

    def loss(p, x):
        parts = jnp.split(x @ p["qkv"] + p["b"][None], 3, axis=-1)
        y = _attend(*(part.reshape(3, 2, 2) for part in parts), jnp.tril(jnp.ones((3, 3), bool)))
        return jnp.mean(jnp.sin(y.reshape(3, 4) @ p["out"]))

    return loss, params, lambda n: normal(rng, n, 3, 4)


def _split_weight_attention(rng):
    """The parameter [3, D, D] itself is split, before it is used."""

    def loss(p, x):
        q, k, v = (x @ w for w in p)
        return jnp.mean(jnp.sin(jax.nn.softmax(q @ k.T) @ v))

    return loss, normal(rng, 3, 4, 4, scale=0.5), lambda n: normal(rng, n, 3, 4)


def _transformer_block(rng):
    params = {
        "qkv": normal(rng, 4, 12, scale=0.5),
        "up": normal(rng, 4, 6),
        "down": normal(rng, 6, 4),
        "gains": [1 + normal(rng, 4), 1 + normal(rng, 4)],
    }

    def loss(p, x):
        def norm(x, gain):
            return x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-3) * gain[None]

        q, k, v = jnp.split(norm(x, p["gains"][0]) @ p["qkv"], 3, axis=-1)
        x = x + jax.nn.softmax(q @ k.T / 2) @ v
        x = x + jax.nn.gelu(norm(x, p["gains"][1]) @ p["up"]) @ p["down"]
        return jnp.mean(jnp.sin(x))

    return loss, params, lambda n: normal(rng, n, 3, 4)


def _mixer(rng):
    """Products over tokens, then over channels."""
    params = {"tokens": normal(rng, 3, 3), "channels": normal(rng, 4, 4)}

    def loss(p, x):
        x = x + jnp.tanh(p["tokens"] @ x)
        return jnp.mean(jnp.sin(x + jnp.tanh(x @ p["channels"])))

    return loss, params, lambda n: normal(rng, n, 3, 4)


def _experts(rng):
    """Every token goes to its experts by a product with a sparse matrix."""
    params = {"router": normal(rng, 3, 2), "up": normal(rng, 2, 3, 4), "down": normal(rng, 2, 4, 3)}

    def loss(p, x):
        gates = jax.nn.softmax(x @ p["router"])
        best = jnp.argmax(gates, axis=-1)
        gates = gates * jax.nn.one_hot(best, 2, dtype=x.dtype)
        h = jnp.tanh(jnp.einsum("td,edf->tef", x, p["up"]))
        return jnp.mean(jnp.sin(jnp.einsum("tef,efd,te->td", h, p["down"], gates)))

    return loss, params, lambda n: normal(rng, n, 4, 3)


def _gathered_experts(rng):
    """Every token reads the matrix of its expert."""

    def loss(p, example):
        x, expert = example
        return jnp.mean(jnp.sin(jnp.einsum("td,tdf->tf", x, p[expert])))

    return loss, normal(rng, 3, 3, 2), lambda n: (normal(rng, n, 4, 3), integers(rng, 3, n, 4))


def _adapter(rng):
    """A frozen weight, closed over, and a low-rank correction."""
    frozen = normal(rng, 4, 3)
    params = {"a": normal(rng, 4, 2), "b": normal(rng, 2, 3)}

    def loss(p, x):
        w = jnp.asarray(frozen, x.dtype) + p["a"] @ p["b"]
        return jnp.sum(jnp.sin(x @ w))

    return loss, params, lambda n: normal(rng, n, 3, 4)


def _adapter_of_activations(rng):
    frozen = normal(rng, 4, 3)
    params = {"a": normal(rng, 4, 2), "b": normal(rng, 2, 3)}

    def loss(p, x):
        y = x @ jnp.asarray(frozen, x.dtype) + (x @ p["a"]) @ p["b"]
        return jnp.sum(jnp.sin(y))

    return loss, params, lambda n: normal(rng, n, 3, 4)


def _hypernetwork(rng):
    """The example makes the weights of a layer out of the parameters."""
    params = {"w": normal(rng, 2, 12), "b": normal(rng, 12)}

    def loss(p, example):
        x, z = example
        w = jnp.tanh(z @ p["w"] + p["b"]).reshape(3, 4)
        return jnp.sum(jnp.sin(x @ w))

    return loss, params, lambda n: (normal(rng, n, 2, 3), normal(rng, n, 2))


def _graph_network(rng):
    """Messages along the edges of a graph of five nodes."""
    params = {"message": normal(rng, 3, 3), "self": normal(rng, 3, 3)}

    def loss(p, example):
        nodes, edges = example
        for _ in range(2):
            sent = jnp.tanh(nodes[edges[0]] @ p["message"])
            nodes = jnp.sin(nodes @ p["self"] + jax.ops.segment_sum(sent, edges[1], 5))
        return jnp.mean(nodes)

    return loss, params, lambda n: (normal(rng, n, 5, 3), integers(rng, 5, n, 2, 6))


def _auto_encoder(rng):
    """Mean and scale of a code, noise from a key in the example, and back by the same weight."""
    params = {"mean": normal(rng, 4, 2), "scale": normal(rng, 4, 2)}

    def loss(p, example):
        x, key = example
        mean, log_scale = x @ p["mean"], jnp.tanh(x @ p["scale"])
        code = mean + jnp.exp(log_scale) * jax.random.normal(key, (2,), x.dtype)
        divergence = jnp.sum(mean**2 + jnp.exp(2 * log_scale) - 2 * log_scale) / 2
        return jnp.sum((code @ p["mean"].T - x) ** 2) + divergence

    def batch(n):
        return normal(rng, n, 4), jax.random.split(jax.random.key(1), n)

    return loss, params, batch


def _dropout(rng):
    params = {"w": normal(rng, 3, 4), "out": normal(rng, 4, 2)}

    def loss(p, example):
        x, key = example
        h = jnp.tanh(x @ p["w"])
        h = jnp.where(jax.random.bernoulli(key, 0.5, h.shape), 2 * h, 0)
        return jnp.sum(jnp.sin(h @ p["out"]))

    def batch(n):
        return normal(rng, n, 2, 3), jax.random.split(jax.random.key(0), n)

    return loss, params, batch


CASES = {
    "residual block": Case(_residual_block),
    "multi-head attention": Case(_attention),
    "fused attention": Case(_fused_attention),
    "split weight of attention": Case(_split_weight_attention),
    "transformer block": Case(_transformer_block),
    "mixer": Case(_mixer),
    "experts by einsum": Case(_experts),
    "expert of each token": Case(_gathered_experts),
    "adapter of weights": Case(_adapter),
    "adapter of activations": Case(_adapter_of_activations),
    "hypernetwork": Case(_hypernetwork),
    "graph network": Case(_graph_network),
    "variational auto-encoder": Case(_auto_encoder),
    "dropout": Case(_dropout),
}
