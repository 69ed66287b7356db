"""The state of the tracker: a recent average, and a fixed number of slots for all steps.

Slot j holds the mean of `length` steps in a row. When all slots are full, neighbours merge and
`length` doubles: half of the slots are free again. So the slots always hold all steps, in order,
in as many numbers as at the start.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from .step import Step


class TrackerState(NamedTuple):
    """What the tracker remembers: plain arrays, to be carried, sharded and saved like any others.

    Attributes:
      slots: `Step` of [slots]: means over `length` steps each; the last in use may hold fewer.
      length: steps in a full slot, a power of 2; int32.
      recent: `Step` of scalars: sums over steps, weighted with (1 - decay) decay^age.
      recent_weight: sum of those weights.
      steps: recorded, int32.
      skipped: steps left out because they, or all parts but one, were not finite; int32.
      parts_left_out: parts (examples, micro-batches) that were not finite and were left out of a
        step that was recorded; int32.
    """

    slots: Step
    length: chex.Array
    recent: Step
    recent_weight: chex.Array
    steps: chex.Array
    skipped: chex.Array
    parts_left_out: chex.Array


def empty(slots: int) -> TrackerState:
    # Arrays of their own: a step that gives its memory back must not see one twice.
    zero = lambda shape=(): jnp.zeros(shape, jnp.result_type(float))  # noqa: E731
    none = lambda: jnp.zeros((), jnp.int32)  # noqa: E731
    return TrackerState(
        slots=Step(zero((slots,)), zero((slots,)), zero((slots,))),
        length=jnp.ones((), jnp.int32),
        recent=Step(zero(), zero(), zero()),
        recent_weight=zero(),
        steps=none(),
        skipped=none(),
        parts_left_out=none(),
    )


def record(state: TrackerState, step: Step, left_out: jax.Array, decay: float) -> TrackerState:
    """The state after one more step; a step that is not finite is counted and left out.

    Args:
      left_out: how many parts of it were.
    """
    dtype = state.recent_weight.dtype
    step = Step(*(jnp.asarray(x).astype(dtype) for x in step))
    good = jnp.isfinite(step.S) & jnp.isfinite(step.sq_gradient_norm)
    step = jax.tree.map(lambda x: jnp.where(good, x, 0), step)
    place, before = jnp.divmod(state.steps, state.length)
    count = jnp.shape(state.slots.S)[0]
    here = good & (jnp.arange(count) == place)
    slots = jax.tree.map(
        lambda slot, x: slot + jnp.where(here, (x - slot) / (before + 1).astype(dtype), 0),
        state.slots,
        step,
    )
    steps = state.steps + good
    full = steps == count * state.length
    keep = jnp.where(good, jnp.asarray(decay, dtype), 1)
    return TrackerState(
        slots=jax.tree.map(lambda slot: jnp.where(full, _merged(slot), slot), slots),
        length=jnp.where(full, 2 * state.length, state.length),
        recent=jax.tree.map(lambda old, x: keep * old + (1 - keep) * x, state.recent, step),
        recent_weight=keep * state.recent_weight + (1 - keep),
        steps=steps,
        skipped=state.skipped + ~good,
        parts_left_out=state.parts_left_out + jnp.where(good, left_out, 0),
    )


def _merged(slot):
    halves = slot.reshape(-1, 2).mean(1)
    return jnp.concatenate([halves, jnp.zeros_like(halves)])
