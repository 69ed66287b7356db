"""Hooks for `fit` that measure at some steps: the effect of the next update, the sharpness."""

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from ..contract import Loss, differentiable
from ..curvature import sharpness, stability_threshold
from ..effect import update_effect
from .state import TrainState


class Measurement:
    """A hook that records `measure(state)` as a row at some steps, and what it cost.

    Args:
      kind: the row's `"kind"`.
      when: every so many steps, an integer; or the numbers of the steps, counted from 0.
      measure: `measure(state) -> row`, a dict of what JSON can hold. It must not keep `state`.

    Attributes:
      seconds: of every measurement so far; the first includes compilation.

    Raises:
      ValueError: `when` is an integer below 1.

    >>> import jax.numpy as jnp, optax
    >>> from funcbackprop.training import fit, init_state, make_step
    >>> loss = lambda w, x: 0.5 * (w - x) ** 2
    >>> hook = Measurement("weight", 2, lambda state: {"w": float(state.params)})
    >>> state = init_state(jnp.array(0.0), optax.sgd(0.5), 0)
    >>> data = lambda number: (jnp.array([1.0, 3.0]), None)
    >>> state = fit(make_step(loss, optax.sgd(0.5)), state, data, steps=4, hooks=[hook])
    >>> len(hook.seconds)
    3
    """

    def __init__(
        self,
        kind: str,
        when: int | Collection[int],
        measure: Callable[[TrainState], Mapping[str, Any]],
    ):
        if isinstance(when, int) and when < 1:
            raise ValueError(
                f"`Measurement`: `when` expected a positive integer, or steps, got {when}; 1 "
                "measures at every step"
            )
        self.kind = kind
        self.seconds: list[float] = []
        self._when = when if isinstance(when, int) else frozenset(when)
        self._measure = measure

    def __call__(self, number: int, state: TrainState, metrics: Mapping) -> Mapping | None:
        if not self._is_due(number):
            return None
        jax.block_until_ready(state)
        start = time.perf_counter()
        row = {"kind": self.kind, **self._measure(state)}
        self.seconds.append(time.perf_counter() - start)
        return row

    def _is_due(self, number):
        if isinstance(self._when, int):
            return number % self._when == 0
        return number in self._when


def next_update(
    step: Callable, state: TrainState, batch: chex.ArrayTree, weights: Any = None
) -> Any:
    """What `step` would add to the parameters, rounding included: `after - before`.

    Args:
      step: from `make_step`, or any other function `(state, batch, weights) -> (state, metrics)`.
      state: it is copied, so that a step that donates it may be given.
      batch, weights: of the update in question.

    Returns:
      A tree like `state.params`, with None at leaves that are not differentiated.

    Cost: one training step, and the memory of the state.

    >>> import jax.numpy as jnp, optax
    >>> from funcbackprop.training import init_state, make_step
    >>> step = make_step(lambda w, x: 0.5 * (w - x) ** 2, optax.sgd(0.5))
    >>> state = init_state(jnp.array(0.0), optax.sgd(0.5), 0)
    >>> print(next_update(step, state, jnp.array([1.0, 3.0])))
    1.0
    """
    after, _ = step(jax.tree.map(jnp.copy, state), batch, weights)
    both = (differentiable(x.params, "next_update")[0] for x in (after, state))
    return jax.tree.map(jnp.subtract, *both)


def effect_of_next_update(
    step: Callable,
    data: Callable[[int], tuple],
    loss: Loss,
    batch: chex.ArrayTree,
    weights: Any = None,
    *,
    groups: Callable[[str], str] | None = None,
) -> Callable[[TrainState], dict[str, Any]]:
    """For `Measurement`: what the update that comes next does to the loss of other examples.

    Args:
      step: as given to `fit`.
      data: as given to `fit`, a function of the step: `data(number) -> (batch, weights or None)`.
      loss: `loss(params, example) -> scalar`, of the examples of `batch`.
      batch, weights: examples that training does not see; see `update_effect`.
      groups: as in `update_effect`.

    Returns:
      `measure(state) -> row`: `UpdateEffect.to_dict()` without the numbers of single examples.

    Cost: one training step, and three to five gradients of `batch`.

    >>> import jax.numpy as jnp, optax
    >>> from funcbackprop.training import init_state, make_step
    >>> loss = lambda w, x: 0.5 * (w - x) ** 2
    >>> step, state = make_step(loss, optax.sgd(0.5)), init_state(jnp.array(0.0), optax.sgd(0.5), 0)
    >>> data = lambda number: (jnp.array([1.0, 3.0]), None)
    >>> row = effect_of_next_update(step, data, loss, jnp.array([2.0, 2.0]))(state)
    >>> print(row["actual"]["value"])
    -1.5
    """

    @jax.jit
    def effect(params, updates, batch, weights):
        found = update_effect(loss, params, updates, batch, weights, groups=groups)
        return found._replace(of_examples=None, weights=None)

    def measure(state):
        updates = next_update(step, state, *data(int(state.step)))
        return effect(state.params, updates, batch, weights).to_dict()

    return measure


def sharpness_against_threshold(
    loss: Loss,
    batch: chex.ArrayTree,
    weights: Any = None,
    *,
    learning_rate: float | None = None,
    momentum: float | None = None,
    nesterov: bool = False,
    adam_b1: float | None = None,
    steps: int = 10,
) -> Callable[[TrainState], dict[str, Any]]:
    """For `Measurement`: the sharpness, and the threshold above which full-batch steps diverge.

    Args:
      loss: `loss(params, example) -> scalar`, differentiable twice.
      batch, weights: training examples; the sharpness of few is larger than that of all.
      learning_rate, momentum, nesterov, adam_b1: as in `stability_threshold`. None for
        `learning_rate` leaves the threshold out. With `adam_b1` (0 for RMSProp) the sharpness is
        that of the Hessian preconditioned by the second moments in `state.opt_state`.
      steps: of Lanczos.

    Returns:
      `measure(state) -> row`: `Sharpness.to_dict()` with `threshold`, None if it is not known, and
      `preconditioned`.

    Cost: steps + 1 products with the Hessian of the loss over `batch`.

    >>> import jax.numpy as jnp, optax
    >>> from funcbackprop.training import init_state
    >>> loss = lambda w, x: 0.5 * x * w**2  # Hessian x
    >>> measure = sharpness_against_threshold(loss, jnp.array([3.0, 5.0]), learning_rate=0.1)
    >>> row = measure(init_state(jnp.array(1.0), optax.sgd(0.1), 0))
    >>> print(f"{row['value']:.2f} {row['threshold']:.2f}")
    4.00 20.00
    """
    threshold = None
    if learning_rate is not None:
        threshold = float(
            stability_threshold(
                learning_rate, momentum=momentum, nesterov=nesterov, adam_b1=adam_b1
            )
        )
    preconditioned = adam_b1 is not None

    @jax.jit
    def measured(params, opt_state, batch, weights):
        found = sharpness(
            *(loss, params, batch),
            weights=weights,
            steps=steps,
            preconditioner=opt_state if preconditioned else None,
        )
        return found._replace(vector=None)

    def measure(state):
        opt_state = state.opt_state if preconditioned else None
        row = measured(state.params, opt_state, batch, weights).to_dict()
        return {**row, "threshold": threshold, "preconditioned": preconditioned}

    return measure
