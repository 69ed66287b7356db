"""A small loss, parameters, an update and a batch, for the tests of what an update does."""

import jax
import jax.numpy as jnp
import numpy as np


def loss(p, example):
    x, y = example
    return jnp.log1p(jnp.exp(-y * jnp.sum(jnp.tanh(p["w"] @ x + p["b"]))))


def problem(n=12, seed=0):
    """`(params, updates, batch)`."""
    rng = np.random.default_rng(seed)
    params = {"w": jnp.asarray(rng.normal(size=(3, 2))), "b": jnp.asarray(rng.normal(size=3))}
    updates = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)) / 10, params)
    batch = jnp.asarray(rng.normal(size=(n, 2))), jnp.asarray(rng.choice([-1.0, 1.0], size=n))
    return params, updates, batch
