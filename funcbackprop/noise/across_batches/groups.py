"""Mini-batches go by and are merged into a few groups: the memory of the stream, centred.

The state of a group is that of `funcbackprop.Variance`, and beside it `batches`, for each leaf
sum_b W_b |m_b - m|^2/W over the group's mini-batches b, and `within`, the variance between the
draws of an example. All groups stand in one tree, behind a leading axis [g].
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ...contract import Loss, differentiable, scalar_loss
from ...per_example import Variance, gradient_statistics
from ...per_example.numbers import abs2, ratio
from .draws import nested_state

State = dict[str, Any]
_VARIANCE = Variance()


def empty(params: chex.ArrayTree, groups: int, draws: int = 1) -> State:
    """The states of groups without examples; two trees like `params` for each, or three."""
    params, _ = differentiable(params, "gradient_variance")

    def of_one():
        state = _complete(_VARIANCE.init(params), ())
        return state | ({"within": state["variance"]} if draws > 1 else {})

    # Of NumPy, which compiles nothing for the shapes of the leaves.
    form = jax.eval_shape(of_one)
    return jax.tree.map(lambda x: np.zeros((groups, *x.shape), x.dtype), form)


def of_examples(loss: Loss, draws: int = 1) -> Callable[..., State]:
    """`(params, batch, weights [B]) -> state` of one mini-batch."""
    if draws > 1:
        return lambda *given: _complete(*nested_state(loss, draws, *given))
    measure = gradient_statistics(loss, _VARIANCE)
    return lambda *given: _complete(measure.states(*given)[2][0], ())


def of_batch(loss: Loss) -> Callable[..., State]:
    """The same of a mini-batch whose examples are coupled: it counts as one example."""

    def state(params, batch, weights):
        params, join = differentiable(params, "gradient_variance")
        checked = scalar_loss(lambda p, b: loss(join(p), b), False, "gradient_variance")
        grads = jax.grad(lambda p: checked(p, batch)[0])(params)
        own = _VARIANCE.init(params)
        mean = jax.tree.map(lambda m, g: g.astype(m.dtype), own["mean"], grads)
        return _complete(
            own | {"weight": jnp.ones(()), "concentration": jnp.ones(()), "mean": mean}, ()
        )

    return state


def _complete(state, within):
    zeros = jax.tree.map(lambda v: jnp.zeros((), v.dtype), state["variance"])
    return state | {"batches": zeros, "within": within}


def add(groups: State, group: Any, state: State) -> State:
    """`groups` with the state of one mini-batch merged into that of `group` (may be traced)."""
    groups = jax.tree.map(jnp.asarray, groups)
    old = jax.tree.map(lambda x: x[group], groups)
    new = merge(old, state)
    return jax.tree.map(lambda x, y: x.at[group].set(y.astype(x.dtype)), groups, new)


def merge(a: State, b: State) -> State:
    """The state of the mini-batches of both."""
    share = ratio(b["weight"], a["weight"] + b["weight"])

    def batches(x, y, m, n):
        t = share.astype(x.dtype)
        return (1 - t) * x + t * y + t * (1 - t) * jnp.sum(abs2(n - m))

    def within(x, y):
        return x + (y - x) * share.astype(x.dtype)

    return _VARIANCE.merge(a, b) | {
        "batches": jax.tree.map(batches, a["batches"], b["batches"], a["mean"], b["mean"]),
        "within": jax.tree.map(within, a["within"], b["within"]),
    }


def is_finite(state: State) -> chex.Array:
    """Whether every number of a state is finite."""
    leaves = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(state)]
    return jnp.all(jnp.stack(leaves))
