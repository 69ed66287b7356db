"""Computation in bfloat16."""

import jax.numpy as jnp
from cases import Case

from .random import normal

BF16 = jnp.bfloat16


def _mixed(rng):
    """Parameters as they are, activations in bfloat16."""
    params = {"w": normal(rng, 3, 4), "b": normal(rng, 4), "out": normal(rng, 4, 2)}

    def loss(p, x):
        h = x.astype(BF16) @ p["w"].astype(BF16) + p["b"].astype(BF16)[None]
        y = jnp.tanh(h) @ p["out"].astype(BF16)
        return jnp.sum(jnp.sin(y.astype(x.dtype)))

    return loss, params, lambda n: normal(rng, n, 2, 3)


def _low_parameters(rng):
    params = {"w": normal(rng, 3, 4), "gain": normal(rng, 4)}
    params = {name: p.astype(BF16) for name, p in params.items()}

    def loss(p, x):
        h = jnp.tanh(x.astype(BF16) @ p["w"]) * p["gain"][None]
        return jnp.sum(jnp.sin(h.astype(x.dtype)))

    return loss, params, lambda n: normal(rng, n, 2, 3)


def _wide_accumulation(rng):
    """Products of bfloat16 arrays, added up in the dtype of the example."""

    def loss(p, x):
        y = jnp.einsum(
            "tm,mn->tn", x.astype(BF16), p.astype(BF16), preferred_element_type=jnp.float32
        )
        return jnp.sum(jnp.sin(y.astype(x.dtype)))

    return loss, normal(rng, 3, 2), lambda n: normal(rng, n, 4, 3)


CASES = {
    "bfloat16 activations": Case(_mixed),
    "bfloat16 parameters": Case(_low_parameters),
    "bfloat16 products": Case(_wide_accumulation),
}
