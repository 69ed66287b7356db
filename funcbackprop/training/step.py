"""One update: forward, loss, backward, optimizer."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from ..contract import (
    Loss,
    attach_keys,
    batch_size,
    checked_weights,
    wide,
    without_padding,
)
from ..per_example import Mean, gradient_statistics, mean_gradient
from .state import TrainState


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    stats: Any = None,
    update_with: Mapping[str, Any] | None = None,
    rng: bool = False,
    has_aux: bool = False,
    micro_batches: int = 1,
    donate: bool = True,
    jit: bool = True,
) -> Callable:
    """A training step `(state, batch, weights=None) -> (state, metrics)`.

    The gradient is that of the weighted mean loss, sum_i w_i loss_i / sum_i w_i.

    Args:
      loss: `loss(params, example) -> scalar` of one example; `(scalar, aux)` with `has_aux=True`.
      optimizer: an optax transformation. Those that take them also get `value=` (the mean loss),
        `grad=` and `value_fn=` (line searches).
      stats: a pytree of statistics of the per-example gradients, measured on the same batch and
        returned as `metrics["statistics"]`; see `funcbackprop.gradient_statistics`.
      update_with: name -> statistic, measured on the same batch and given to `optimizer.update` as
        an argument of that name, with `weights` [B] if the batch has any: what transformations such
        as `funcbackprop.noise.track` need, `{"sq_norms": funcbackprop.SquaredNorms()}`.
      rng: whether the example is `(example, key)`. Keys are folded from `state.key` and
        `state.step` before the batch is split, so they do not depend on `micro_batches`.
      has_aux: whether the loss returns `(scalar, aux)`; `metrics["aux"]` has a leading axis [B].
      micro_batches: the batch is gone through in this many equal parts, one after the other
        (gradient accumulation); they combine with their sums of weights.
      donate: let XLA reuse the memory of `state`. The state passed in must not be used again.
      jit: compile. This is the one function of the library that does.

    Returns:
      The step. `metrics` holds `loss` (the weighted mean before the update), `grad_norm` (of the
      mean gradient) and, where asked for, `statistics` and `aux`.

    Raises:
      ValueError: `micro_batches` is not positive or does not divide the batch, or a statistic needs
        the mean of the whole batch first while `micro_batches > 1`.
      TypeError: `optimizer` is no optax transformation.

    >>> import jax.numpy as jnp, optax
    >>> from funcbackprop.training import init_state
    >>> loss = lambda w, x: 0.5 * (w - x) ** 2
    >>> step = make_step(loss, optax.sgd(0.5))
    >>> state, metrics = step(init_state(jnp.array(0.0), optax.sgd(0.5), 0), jnp.array([1.0, 3.0]))
    >>> print(state.params, metrics["loss"], metrics["grad_norm"])
    1.0 2.5 2.0
    """
    if not isinstance(micro_batches, int) or micro_batches < 1:
        raise ValueError(
            f"`make_step`: `micro_batches` must be a positive integer, got {micro_batches!r}"
        )
    wanted = {"mean": Mean(), "user": stats or {}, "update": dict(update_with or {})}
    measure = gradient_statistics(loss, wanted, has_aux=has_aux)
    only_mean = len(measure.stats) == 1
    slow = [
        type(stat).__name__
        for stat in measure.stats
        if stat.needs_mean or getattr(stat, "whole_batch", False)
    ]
    if slow and micro_batches > 1:
        raise ValueError(
            f"`make_step`: {', '.join(slow)} must see the whole batch at once, which "
            f"micro_batches={micro_batches} cannot give; use "
            "micro_batches=1, or Variance() and SquaredNorms(), which merge"
        )
    gradient = mean_gradient(loss, has_aux=has_aux, caller="make_step")
    accepted = accepted_arguments(optimizer)

    def step(state: TrainState, batch: chex.ArrayTree, weights=None):
        size = batch_size(batch, "make_step")
        if size % micro_batches:
            raise ValueError(
                f"`make_step`: micro_batches={micro_batches} must divide the batch, "
                f"which has {size} examples; pad it with zero weights"
            )
        padded = weights is not None
        weights = checked_weights(weights, size, "make_step")
        if rng:
            batch = attach_keys(batch, jax.random.fold_in(state.key, state.step))
        if padded and micro_batches > 1:  # a micro-batch may be nothing but padding
            batch = without_padding(batch, weights)

        def measure_chunk(batch, weights):
            given = weights if padded else None
            if not only_mean:
                return measure.states(state.params, batch, given)
            losses, aux, grads = gradient(state.params, batch, given)
            return losses, aux, [Mean().of(grads, jnp.sum(weights))]

        if micro_batches == 1:
            losses, aux, states = measure_chunk(batch, weights)
        else:
            losses, aux, states = measure.fold(
                measure_chunk, state.params, (batch, weights), size // micro_batches
            )
        results = measure.finalize(states, state.params)
        value = _weighted_mean(losses, weights)
        grads = results["mean"]
        extra = {
            "value": value,
            "grad": grads,
            "value_fn": lambda p: _weighted_mean(gradient(p, batch, weights)[0], weights),
        }
        extra = {name: x for name, x in extra.items() if accepted(name)} | results["update"]
        if update_with and padded:
            extra["weights"] = weights
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, **extra)
        params: Any = optax.apply_updates(state.params, updates)
        metrics = {"loss": value, "grad_norm": optax.tree.norm(jax.tree.map(wide, grads))}
        if stats is not None:
            metrics["statistics"] = results["user"]
        if has_aux:
            metrics["aux"] = aux
        return TrainState(params, opt_state, state.step + 1, state.key), metrics

    return jax.jit(step, donate_argnums=(0,) if donate else ()) if jit else step


def accepted_arguments(optimizer) -> Callable[[str], bool]:
    """Which extra arguments `optimizer.update` takes; TypeError where it is no optimizer."""
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            "`make_step`: `optimizer` must be an optax transformation such as optax.adam(1e-3), "
            f"got {type(optimizer).__name__}"
        )
    if not isinstance(optimizer, optax.GradientTransformationExtraArgs):
        return lambda name: False
    parameters = inspect.signature(optimizer.update).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return lambda name: open_ended or name in parameters


def _weighted_mean(losses, weights):
    return jnp.sum(losses * weights) / jnp.sum(weights)
