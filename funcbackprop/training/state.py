"""What training changes, as one pytree."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from ..contract import checked_params


class TrainState(NamedTuple):
    """Parameters, optimizer state, number of updates taken (int32) and the run's random key."""

    params: chex.ArrayTree
    opt_state: optax.OptState
    step: chex.Array
    key: chex.PRNGKey


def init_state(
    params: chex.ArrayTree, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """The state before the first update.

    Everything is copied, because a step gives the memory of its state back to XLA
    (`donate=True`): the caller's arrays must survive, and no array may be in the state twice.

    Args:
      params: a tree of arrays.
      optimizer: the optax transformation that is given to `make_step`.
      seed: of the state's random key.

    Raises:
      TypeError: a leaf of `params` is not floating-point, real or complex.

    >>> import jax.numpy as jnp, optax
    >>> int(init_state({"w": jnp.ones(2)}, optax.sgd(0.1), seed=0).step)
    0
    """
    checked_params(params, "init_state")
    params, opt_state = jax.tree.map(
        lambda x: jnp.array(x, copy=True), (params, optimizer.init(params))
    )
    return TrainState(params, opt_state, jnp.int32(0), jax.random.key(seed))
