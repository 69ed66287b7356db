"""Several draws of the randomness inside an example: dropout, diffusion time, samples of a VAE."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from ...contract import Loss
from ...per_example import Variance, gradient_statistics


def has_keys(batch: chex.ArrayTree) -> bool:
    """Whether a leaf holds typed random keys."""
    return any(map(_is_key, jax.tree.leaves(batch)))


def _is_key(x):
    return jnp.issubdtype(jax.dtypes.result_type(x), jax.dtypes.prng_key)


def redrawn(example: chex.ArrayTree, k: Any) -> chex.ArrayTree:
    """`example` with its random keys replaced by the k-th of their descendants."""

    def fold(x):
        if not _is_key(x):
            return x
        flat = jax.vmap(jax.random.fold_in, (0, None))(x.reshape(-1), k)
        return flat.reshape(x.shape)

    return jax.tree.map(fold, example)


def nested_state(loss: Loss, draws: int, params, batch, weights) -> tuple[dict, chex.ArrayTree]:
    """`(state of Variance of the example means, variance within an example)`, each over K draws.

    The gradient of the mean loss of K draws is the mean over an example's draws. All K draws of
    all examples, as a batch of B K, give the total sum of squares, centred on the same mean; what
    the example means leave of it is within.
    """
    ks = jnp.arange(draws)

    def mean_loss(p, example):
        return jnp.mean(jax.vmap(lambda k: loss(p, redrawn(example, k)))(ks))

    def loss_of_draw(p, pair):
        example, k = pair
        return loss(p, redrawn(example, k))

    size = len(weights)
    of = jnp.repeat(jnp.arange(size), draws)
    every = jax.tree.map(lambda x: jnp.asarray(x)[of], batch), jnp.tile(ks, size)
    means = _state(mean_loss, params, batch, weights)
    total = _state(loss_of_draw, params, every, weights[of])

    def within(v_total, v_means):
        squares = (1 - total["concentration"]) * v_total - (1 - means["concentration"]) * v_means
        return draws / (draws - 1) * squares

    return means, jax.tree.map(within, total["variance"], means["variance"])


def _state(loss, params, batch, weights):
    # Centred whatever the mean: the difference of the two states must be no rounding.
    _, _, (state,) = gradient_statistics(loss, Variance(centred=True)).states(
        params, batch, weights
    )
    return state
