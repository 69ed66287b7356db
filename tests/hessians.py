"""Losses with a known Hessian, for the tests of curvature."""

import jax
import jax.numpy as jnp
import numpy as np

import funcbackprop as fb


def quadratic(p, example):
    """Its Hessian is `example`, of the tree {"a": [2], "b": [P - 2]} in that order."""
    x = jnp.concatenate([p["a"], p["b"]])
    return 0.5 * x @ example @ x


def quadratic_params(size, dtype=None):
    return {"a": jnp.ones(2, dtype), "b": jnp.ones(size - 2, dtype)}


def symmetric(spectrum, seed=0):
    """A matrix with these eigenvalues and random eigenvectors."""
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.normal(size=(len(spectrum), len(spectrum))))
    return (Q * np.asarray(spectrum)[None]) @ Q.T


def network(examples=12):
    """A small network: (loss, params, batch, weights), padded with NaN."""
    model = fb.models.mlp((3, 5, 2), activation="tanh")
    loss = fb.example_loss(model.apply, fb.losses.cross_entropy)
    params = model.init(jax.random.key(1), jnp.zeros(3))
    rng = np.random.default_rng(2)
    x = rng.normal(size=(examples, 3))
    x[-2:] = np.nan
    weights = np.linspace(0.5, 2, examples)
    weights[-2:] = 0
    batch = jnp.asarray(x), jnp.asarray(rng.integers(0, 2, examples))
    return loss, params, batch, jnp.asarray(weights)


def dense(loss, params, batch, weights):
    """The Hessian of the weighted mean loss, by `jax.hessian`, without the padding."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    keep = np.flatnonzero(np.asarray(weights) > 0)
    batch = jax.tree.map(lambda x: x[keep], batch)
    share = weights[keep] / jnp.sum(weights)

    def mean_loss(f):
        return share @ jax.vmap(lambda example: loss(unravel(f), example))(batch)

    return np.asarray(jax.jit(jax.hessian(mean_loss))(flat))
