"""The noise tracker: S and |G|^2 of every step, averaged over steps, in any training loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

from .result import tracked_noise
from .slots import TrackerState, empty, record
from .step import SOURCES, Given, observe

# Slots below this leave the last half of them too few for an interval.
FEWEST_SLOTS = 32


class Tracker(NamedTuple):
    """Three pure functions on a `TrackerState`, as an optax transformation has two.

    Attributes:
      init: `() -> state`.
      update: `(state, updates=None, *, <one source>, ...) -> state`, see
        `funcbackprop.noise.tracker`.
      estimate: `(state, *, last=0.5) -> TrackedNoise`: `funcbackprop.noise.tracked_noise`.
    """

    init: Callable[[], TrackerState]
    update: Callable[..., TrackerState]
    estimate: Callable[..., Any]


def tracker(*, decay: float = 0.99, slots: int = 32) -> Tracker:
    """Track the noise scale S/|G|^2 over training, in a few numbers that ride inside the step.

    Each step gives an unbiased pair (S, |G|^2) from the gradients g_j of its k parts, of m examples
    each and N = k m in all, and their mean gbar:

        S = (mean |g_j|^2 - |gbar|^2)/(1/m - 1/N),   |G|^2 = (N |gbar|^2 - m mean |g_j|^2)/(N - m).

    Numerator and denominator are averaged apart, the ratio is taken last; |G|^2 may be negative,
    and is not clipped. `update(state, updates, ...)` takes the mean gradient of the step, not yet
    clipped, scaled or preconditioned, and one of these sources:

    * `sq_norms=`: [B] squared norms of examples, from `funcbackprop.SquaredNorms()`, or a tree with
      such leaves; `weights=` [B] if the examples have some. By far the smallest error.
    * `micro_sq_norms=`: [k] squared norms of the mean gradients of micro-batches; `micro_size=` m.
    * `micro_gradients=`: these gradients, a tree with leaves [k, ...]; `micro_size=`. `updates` is
      not needed.
    * `replica_gradient=`: the mean gradient of this device's m examples, as many as on any other,
      inside `shard_map`, `pmap` or `vmap`; `micro_size=`, `axis_name=`. All devices hold the mean
      in `updates` already; two numbers more are added up over devices.
    * `moments=`: `funcbackprop.noise.moments` of the step. `updates` is not needed.

    `micro_size` is a number of examples, or [k] numbers. With `axis_name=`, `sq_norms` and
    `micro_sq_norms` are those of this device, and six numbers are added up over devices.

    A part whose squared norm is not finite is left out and counted: `updates` must then be the mean
    of the others (`micro_gradients=` sees to that itself). A step with fewer than two parts left,
    or whose `updates` are not finite, is skipped and counted. The state stays finite.

    Args:
      decay: of the exponential averages in `TrackedNoise.recent`; 0.99 is about the last 100 steps.
      slots: in how many means all steps are kept for the interval; even, 32 or more.

    Returns:
      `Tracker`. Its state is a pytree of 3 x `slots` + 8 numbers, float32 (float64 under x64) and
      int32, to be carried through `jit`, `scan` and `vmap` and saved with the rest; resuming is
      exact. Numbers are totals over all parameters, not by layer.

    Raises:
      ValueError: of `tracker`, for a `decay` or `slots` out of range. Of `update`, at trace time:
        not exactly one source, something that it needs is missing, a wrong shape, one part only.

    Cost: of `update`, one pass over `updates` for |gbar|^2 and over the gradients that are given.
    S from squared norms cancels where the mean gradient dominates; the status is then
    "below rounding". `micro_gradients` and `replica_gradient` do not cancel.

    Source: McCandlish, Kaplan and Amodei 2018 (arXiv 1812.06162), appendix A.1; Gray et al. 2024
    (arXiv 2411.00999) for single examples. The intervals are ours, see `tracked_noise`.

    >>> import jax.numpy as jnp
    >>> track = tracker()
    >>> state = track.init()
    >>> gradients = jnp.array([[1.0], [3.0]])  # of two micro-batches of 4 examples
    >>> state = track.update(state, micro_gradients=gradients, micro_size=4)
    >>> print(track.estimate(state).recent)  # |G|^2 is 4 - S/8
    S: 8
    sq gradient norm: 3
    B simple: 2.67
    status: ok
    """
    checked_options(decay, slots, "tracker")

    def init() -> TrackerState:
        return empty(slots)

    def update(
        state: TrackerState,
        updates: Any = None,
        *,
        sq_norms: Any = None,
        micro_sq_norms: Any = None,
        micro_gradients: Any = None,
        replica_gradient: Any = None,
        moments: Any = None,
        weights: Any = None,
        micro_size: Any = None,
        axis_name: Any = None,
    ) -> TrackerState:
        values = (sq_norms, micro_sq_norms, micro_gradients, replica_gradient, moments)
        given = Given(updates, weights, micro_size, axis_name)
        sources = dict(zip(SOURCES, values, strict=True))
        return record(state, *observe(sources, given), decay)

    return Tracker(init, update, tracked_noise)


def checked_options(decay: Any, slots: Any, caller: str) -> None:
    if not 0 <= decay < 1:
        raise ValueError(f"`{caller}`: `decay` must be at least 0 and below 1, got {decay!r}")
    if not isinstance(slots, int) or slots % 2 or slots < FEWEST_SLOTS:
        raise ValueError(
            f"`{caller}`: `slots` must be an even number of {FEWEST_SLOTS} or more, got {slots!r}; "
            "with fewer, the last half of the steps has no interval"
        )
