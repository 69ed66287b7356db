"""The noise tracker inside an optax optimizer: its state lies in the optimizer's state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ...contract import wide
from .slots import TrackerState, empty, record
from .step import SOURCES, Given, observe, of_sums, rounding_of, tree_sq_norm
from .tracker import checked_options

_EXAMPLE = "optimizer.update(gradient, state, params, sq_norms=sq_norms)"


def track(
    *, micro_size: Any = None, axis_name: Any = None, decay: float = 0.99, slots: int = 32
) -> optax.GradientTransformationExtraArgs:
    """`funcbackprop.noise.tracker` as a member of `optax.chain`, which leaves updates unchanged.

    It must stand first, where `updates` is the mean gradient itself, not clipped or scaled. Each
    call is one step, and says with one extra argument what its parts are, as `Tracker.update` does:

        optimizer = optax.chain(fb.noise.track(), optax.adamw(1e-3))
        updates, state = optimizer.update(gradient, state, params, sq_norms=sq_norms)
        fb.noise.tracked_noise(state)

    Args:
      micro_size: m, the number of examples in each micro-batch or replica; for `micro_sq_norms=`,
        `micro_gradients=` and `replica_gradient=`.
      axis_name: of the mapped axis of devices, for `replica_gradient=`; or where `sq_norms=` or
        `micro_sq_norms=` are those of this device.
      decay, slots: as in `funcbackprop.noise.tracker`.

    Returns:
      The transformation; its state is a `TrackerState`. It works inside `optax.chain` and
      `optax.inject_hyperparams`, but not inside `optax.MultiSteps`, which keeps one call of k: the
      norms of the last micro-batch would meet the mean of all. From the norms of its m examples, S
      is then expected at S (1 - 1/(k m))/(1 - 1/m), which looks right, and |G|^2 at
      |G|^2 - S (1 - 1/k)/(m - 1), far too small. Use `funcbackprop.noise.tracked` around it.

    Raises:
      ValueError: when `update` is called, as `Tracker.update`.

    >>> import jax.numpy as jnp
    >>> import funcbackprop as fb
    >>> optimizer = optax.chain(fb.noise.track(), optax.sgd(0.1))
    >>> gradients = jnp.array([1.0, 3.0])  # of two examples
    >>> state = optimizer.init(jnp.array(0.0))
    >>> updates, state = optimizer.update(gradients.mean(), state, sq_norms=gradients**2)
    >>> print(fb.noise.tracked_noise(state).recent.S)
    2.0
    """
    checked_options(decay, slots, "track")

    def update(updates, state, params=None, **extra):
        del params
        given = Given(updates, extra.get("weights"), micro_size, axis_name, "track", _EXAMPLE)
        sources = {name: extra.get(name) for name in SOURCES}
        return updates, record(state, *observe(sources, given), decay)

    return optax.GradientTransformationExtraArgs(lambda params: empty(slots), update)


class TrackedState(NamedTuple):
    """The state of `funcbackprop.noise.tracked`.

    Attributes:
      noise: the tracker's.
      inner: that of the optimizer inside, as for `optax.MultiSteps.has_updated`.
      sum_of_sq_norms: of the micro-batches of this step so far.
      seen, parts, left_out: micro-batches of this step so far, those taken, those not; int32.
      mean: mean of those taken; None where `optax.MultiSteps` keeps it.
    """

    noise: TrackerState
    inner: Any
    sum_of_sq_norms: chex.Array
    seen: chex.Array
    parts: chex.Array
    left_out: chex.Array
    mean: Any


def tracked(
    optimizer: Any,
    *,
    micro_size: Any,
    every: int | None = None,
    decay: float = 0.99,
    slots: int = 32,
) -> optax.GradientTransformationExtraArgs:
    """Track the noise around an optimizer that accumulates: it sees each micro-batch's gradient.

        optimizer = fb.noise.tracked(optax.MultiSteps(optax.adamw(1e-3), 8), micro_size=32)
        updates, state = optimizer.update(gradient, state, params)  # of each micro-batch
        fb.noise.tracked_noise(state)

    No extra argument is needed: one step of the tracker is made of the micro-batches of one step of
    the optimizer. `updates` are those of the optimizer, unchanged.

    With `optax.MultiSteps` the number of micro-batches is read from its state, so it may follow a
    schedule, and so is the mean gradient. What it refuses (`should_skip_update_fn`) is left out and
    counted. Without `optax.skip_not_finite` one NaN stays in its accumulator for good, and all
    steps from then on are skipped. Any other optimizer is taken to accumulate `every` calls; a
    micro-batch that is not finite is then left out of the tracker's own mean.

    Args:
      optimizer: `optax.MultiSteps`, or an optax transformation that is called once for each
        micro-batch.
      micro_size: the number of examples in a micro-batch, the unit of the noise scale.
      every: micro-batches in a step. Not needed for `optax.MultiSteps`; if given, it must agree.
      decay, slots: as in `funcbackprop.noise.tracker`.

    Returns:
      The transformation, with extra arguments passed on; its state is a `TrackedState`.

    Raises:
      ValueError: `every` is missing, below 2, or another than that of `optax.MultiSteps`;
        `micro_size` is not above 0.
      TypeError: `optimizer` is no optax transformation.

    Cost: a pass over the gradient for each micro-batch, and one for each step. Memory: scalars with
    `optax.MultiSteps`; with another optimizer one copy of the parameters in float32.

    >>> import jax.numpy as jnp
    >>> import funcbackprop as fb
    >>> optimizer = tracked(optax.MultiSteps(optax.sgd(0.1), 2), micro_size=4)
    >>> state = optimizer.init(jnp.array(0.0))
    >>> for gradient in jnp.array([1.0, 3.0]):  # of two micro-batches of 4 examples
    ...     updates, state = optimizer.update(gradient, state)
    >>> print(fb.noise.tracked_noise(state).recent.S, updates)
    8.0 -0.2
    """
    checked_options(decay, slots, "tracked")
    rule = _rule(optimizer, every)
    inner = optax.with_extra_args_support(optimizer)
    if np.ndim(micro_size) or not micro_size > 0:
        raise ValueError(
            f"`tracked`: `micro_size` must be a number of examples above 0, got {micro_size!r}"
        )

    def init(params):
        none = lambda dtype: jnp.zeros((), dtype)  # noqa: E731
        return TrackedState(
            noise=empty(slots),
            inner=inner.init(params),
            sum_of_sq_norms=none(jnp.result_type(float)),
            seen=none(jnp.int32),
            parts=none(jnp.int32),
            left_out=none(jnp.int32),
            mean=_zeros(params) if rule is _by_itself else None,
        )

    def update(updates, state: Any, params=None, **extra):
        new_updates, new = inner.update(updates, state.inner, params, **extra)
        s = tree_sq_norm(updates)
        taken, done, mean = rule(updates, s, state, new, every)
        # Of the mean over micro-batches only the last one's is needed: one pass in k calls.
        sq_mean = jax.lax.cond(done, lambda: tree_sq_norm(mean()), lambda: jnp.zeros_like(s))
        parts = state.parts + taken
        total = state.sum_of_sq_norms + jnp.where(taken, s, 0).astype(state.sum_of_sq_norms.dtype)
        left_out = state.left_out + ~taken
        own = None if state.mean is None else mean()
        step = _step(
            sq_mean, total, parts, micro_size, state.inner.acc_grads if own is None else own
        )
        recorded = record(state.noise, step, left_out, decay)
        pick = lambda yes, no: jax.tree.map(lambda a, b: jnp.where(done, a, b), yes, no)  # noqa: E731
        progress = (total, state.seen + 1, parts, left_out, own)
        so_far = pick(jax.tree.map(jnp.zeros_like, progress), progress)
        return new_updates, TrackedState(pick(recorded, state.noise), new, *so_far)

    return optax.GradientTransformationExtraArgs(init, update)


def _step(sq_mean, total, parts, micro_size, accumulator):
    m, k = jnp.asarray(micro_size, total.dtype), parts.astype(total.dtype)
    divisor = jnp.maximum(k - 1, 1)
    step = of_sums(sq_mean, (k * m, k * m**2, m * total, m**2 * total), divisor)
    return step._replace(rounding=rounding_of(accumulator, m * total, divisor))


def _rule(optimizer, every) -> Callable:
    """`(updates, |updates|^2, state, new inner state, every) -> (taken, done, () -> mean)`."""
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            "`tracked`: `optimizer` must be an optax transformation such as "
            f"optax.MultiSteps(optax.adam(1e-3), 8), got {type(optimizer).__name__}"
        )
    # Whether its accumulator is a mean is nowhere public; where it is not known, keep one apart.
    averages = getattr(optimizer, "_use_grad_mean", None)
    if isinstance(optimizer, optax.MultiSteps) and averages is not None:
        own = getattr(optimizer, "_every_k_schedule", lambda step: every)(0)
        if every is not None and int(own) != every:
            raise ValueError(
                f"`tracked`: `every` is {every}, but the optax.MultiSteps inside accumulates "
                f"{int(own)}; leave `every` out"
            )
        return _of_mean if averages else _of_sum
    if not isinstance(every, int) or every < 2:
        raise ValueError(
            "`tracked`: `every` must be the number of micro-batches in a step, 2 or more, for an "
            f"optimizer other than optax.MultiSteps; got {every!r}. Without accumulation use "
            "funcbackprop.noise.track"
        )
    return _by_itself


def _of_mean(updates, s, state, new, every):
    old = state.inner
    return *_clock(old, new), lambda: _moved(old.acc_grads, updates, old.mini_step)


def _of_sum(updates, s, state, new, every):
    count = state.inner.mini_step + 1
    add = lambda acc, g: (wide(acc) + wide(g)) / count  # noqa: E731
    mean = lambda: jax.tree.map(add, state.inner.acc_grads, updates)  # noqa: E731
    return *_clock(state.inner, new), mean


def _by_itself(updates, s, state, new, every):
    taken = jnp.isfinite(s)
    finite = jax.tree.map(lambda g: jnp.where(taken, g, 0), updates)
    moved = _moved(state.mean, finite, state.parts)
    mean = jax.tree.map(lambda a, b: jnp.where(taken, a, b).astype(b.dtype), moved, state.mean)
    return taken, state.seen + 1 == every, lambda: mean


def _clock(old, new):
    """Whether MultiSteps took this micro-batch, and whether it was the last of its step."""
    done = new.gradient_step != old.gradient_step
    return done | (new.mini_step != old.mini_step), done


def _moved(mean, g, count):
    return jax.tree.map(lambda m, x: wide(m) + (wide(x) - wide(m)) / (count + 1), mean, g)


def _zeros(params):
    return jax.tree.map(lambda p: jnp.zeros_like(wide(p)), params)
