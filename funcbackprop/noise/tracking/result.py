"""What the tracker says: the noise scale of the last steps with its interval, and right now."""

import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ...results import is_traced
from .. import status as statuses
from ..estimate import Estimate, around, around_positive, student
from ..scale.ratio import covariance_of, positive_ratio
from .slots import TrackerState
from .step import Step

# Slots that an interval needs: with fewer their correlation cannot be seen.
FEWEST = 8
# One-sided, 5 %: so often slots of independent steps are called correlated.
SEEN = 1.645
# Fields that are printed as a sentence.
_COUNTS = ("window", "slot_length", "steps", "skipped", "parts_left_out")


class RecentNoise(NamedTuple):
    """Exponential averages over the last steps, without an interval.

    Attributes:
      S, sq_gradient_norm: averages apart, in squared gradient; the second may be negative.
      B_simple: their ratio, in examples; infinite where |G|^2 is not above 0.
      status: int32, a code of `funcbackprop.noise.STATUS`.
    """

    S: chex.Array
    sq_gradient_norm: chex.Array
    B_simple: chex.Array
    status: chex.Array

    def explain(self) -> str:
        """What the status means, as a sentence (on the host); one line for each entry."""
        return statuses.sentences(self.status)

    def to_dict(self) -> dict:
        """JSON-safe: numbers that are not finite are None, the status is its name."""
        return statuses.to_dict(self)

    def __str__(self):
        return statuses.text(self)


class TrackedNoise(NamedTuple):
    """The noise scale over a window of recorded steps.

    Attributes:
      S: mean over the window of tr(Sigma), the variance of one example's gradient. Squared
        gradient.
      sq_gradient_norm: mean over the window of the unbiased |G|^2; may be negative.
      B_simple: their ratio, in examples.
      recent: `RecentNoise`, exponential averages that end at the last step.
      window: steps of the window; int32.
      slot_length: steps in each of its slots; int32.
      correlation: of neighbouring slots, in what decides the ratio; NaN where there are too few.
        About -1/(number of slots) where steps are independent.
      steps: recorded in all; int32.
      skipped: steps left out because they were not finite; int32.
      parts_left_out: parts that were not finite, left out of recorded steps; int32.
    """

    S: Estimate
    sq_gradient_norm: Estimate
    B_simple: Estimate
    recent: RecentNoise
    window: chex.Array
    slot_length: chex.Array
    correlation: chex.Array
    steps: chex.Array
    skipped: chex.Array
    parts_left_out: chex.Array

    def explain(self) -> str:
        """What the statuses mean, as sentences, each once, and what was left out (on the host)."""
        codes = [np.ravel(x.status) for x in (self.S, self.sq_gradient_norm, self.B_simple)]
        return "\n".join([statuses.sentences(np.unique(np.concatenate(codes))), *self._left_out()])

    def to_dict(self) -> dict:
        """JSON-safe: numbers that are not finite are None, statuses are names."""
        return statuses.to_dict(self)

    def __str__(self):
        if is_traced(self):
            return "TrackedNoise(traced)"
        estimates = statuses.text(self, "recent", *_COUNTS)
        recent = statuses.text(self.recent, "S", "sq_gradient_norm", "status")
        return "\n".join([estimates, f"recent {recent}", *self._when(), *self._left_out()])

    def _when(self):
        if np.ndim(self.steps) == 0:
            steps, length = int(self.steps), int(self.slot_length)
            yield (
                f"Intervals are for the {int(self.window)} steps up to step "
                f"{steps - steps % length} of {steps}, in slots of {length}."
            )

    def _left_out(self):
        skipped, parts = int(np.sum(self.skipped)), int(np.sum(self.parts_left_out))
        if skipped:
            yield f"{skipped} steps were left out: their gradients were not finite."
        if parts:
            yield f"{parts} parts of recorded steps were left out: not finite."


def tracked_noise(state: Any, *, last: float = 0.5) -> TrackedNoise:
    """The noise scale with its 95 % interval, from what the tracker recorded.

    The window is the last half of the recorded steps, in whole slots; S and |G|^2 are averaged over
    it, and the ratio is that of the averages: S-bar/G2-bar, not a mean of ratios. As training goes
    on, the window moves on with it. `recent` is about the last 1/(1 - decay) steps.

    Steps are correlated, so single steps tell no error. The slots are batch means: of n slots, with
    the covariance C of their pairs, the averages have the covariance C/n, and the interval of the
    ratio is Fieller's with Student's quantile of n - 1 degrees of freedom. It is right where a slot
    is long beside the correlation time. Whether it is, the correlation of neighbouring slots tells:
    where it is above what independent slots show once in 20 times, the status is
    "correlated slots".

    Args:
      state: a `TrackerState`, or any optimizer state that holds one, see
        `funcbackprop.noise.track`.
      last: the share of the recorded steps in the window, above 0 and at most 1 (all).

    Returns:
      `TrackedNoise`. With too few steps values without an interval, status "too few steps". Pure;
      works under `jit` and `vmap`.

    Raises:
      ValueError: `last` is out of range, or `state` holds no tracker or several.

    Source: batch means are Conway 1963 (Management Science 10); merging neighbours in a fixed
    number of them is Fishman and Yarberry 1997 (INFORMS J. Computing 9); Fieller 1954. Moran 1948
    (Biometrika 35) for mean and variance of the correlation of independent numbers.

    >>> import jax, jax.numpy as jnp
    >>> from funcbackprop.noise import tracker
    >>> track = tracker()
    >>> state = track.init()
    >>> for x in 1 + 2.0 * jax.random.bernoulli(jax.random.key(0), shape=(200, 4)):
    ...     state = track.update(state, x.mean(), sq_norms=x**2)  # gradients 1 or 3
    >>> print(tracked_noise(state).B_simple)  # the truth is 1/4
    0.243 [0.209, 0.285]
    """
    state = tracked_state(state)
    if not 0 < last <= 1:
        raise ValueError(
            f"`tracked_noise`: `last` must be above 0 and at most 1, the share of the recorded "
            f"steps in the window, got {last!r}"
        )
    return _estimate(state, last)


def tracked_state(state: Any) -> TrackerState:
    """The one `TrackerState` inside an optimizer state, or any other pytree.

    Raises:
      ValueError: there is none, or there are several: pass the part of the state that is meant.

    >>> import jax.numpy as jnp, optax
    >>> import funcbackprop as fb
    >>> optimizer = optax.chain(fb.noise.track(), optax.adam(1e-3))
    >>> print(tracked_state(optimizer.init(jnp.zeros(3))).steps)
    0
    """
    is_state = lambda x: isinstance(x, TrackerState)  # noqa: E731
    found = [x for x in jax.tree.leaves(state, is_leaf=is_state) if is_state(x)]
    if len(found) != 1:
        raise ValueError(
            f"`tracked_state`: `state` must hold one tracker, got {len(found) or 'none'}; "
            + (
                "pass the part of it that is meant"
                if found
                else "put funcbackprop.noise.track() first in optax.chain, or wrap the optimizer "
                "in funcbackprop.noise.tracked"
            )
        )
    # Some libraries (Flax NNX) wrap each array of an optimizer's state.
    return _PLAIN.unflatten(jax.tree.leaves(found[0]))


_ANY: Any = 0
_THREE = Step(_ANY, _ANY, _ANY)
_PLAIN = jax.tree.structure(TrackerState(_THREE, _ANY, _THREE, _ANY, _ANY, _ANY, _ANY))


def _estimate(state, last):
    full = state.steps // state.length
    first = jnp.floor(full * (1 - last)).astype(jnp.int32)
    place = jnp.arange(len(state.slots.S))
    used = (place >= first) & (place < full)
    n = jnp.sum(used).astype(state.recent_weight.dtype)
    mean = jax.tree.map(lambda x: jnp.sum(jnp.where(used, x, 0)) / n, state.slots)
    away = jax.tree.map(lambda x, m: jnp.where(used, x - m, 0), state.slots, mean)
    S, sq_norm = mean.S, mean.sq_gradient_norm
    factor = jnp.where(n >= FEWEST, 1 / (n * (n - 1)), jnp.nan)
    known = covariance_of(S, sq_norm, away.S, away.sq_gradient_norm, factor)
    q = student(n - 1).astype(S.dtype)
    # What the ratio hangs on, S_j |G|^2 - |G|^2_j S, in numbers that do not overflow.
    apart = away.S / known.scale * (sq_norm / known.scale)
    apart -= away.sq_gradient_norm / known.scale * (S / known.scale)
    correlations = [_neighbours(x, n) for x in (away.S, away.sq_gradient_norm, apart)]
    wrong = (
        ((state.steps == 0) & (state.skipped > 0), "not finite"),
        (state.steps == 0, "no step recorded"),
        (mean.rounding > S, "below rounding"),
    )
    few = (n < FEWEST, "too few steps")

    def status(correlation, *more):
        alike = (_is_seen(correlation, n), "correlated slots")
        return statuses.first_that_holds(*wrong, *more, few, alike)

    negative = (sq_norm <= 0, "gradient not above zero")
    errors = (known.scale * jnp.sqrt(x) for x in (known.numerator, known.denominator))
    return TrackedNoise(
        S=around_positive(S, next(errors), q, status(correlations[0])),
        sq_gradient_norm=around(sq_norm, next(errors), q, status(correlations[1])),
        B_simple=positive_ratio(S, sq_norm, known, q, None, status(correlations[2], negative)),
        recent=_recent(state, wrong),
        window=jnp.sum(used).astype(jnp.int32) * state.length,
        slot_length=state.length,
        correlation=correlations[2],
        steps=state.steps,
        skipped=state.skipped,
        parts_left_out=state.parts_left_out,
    )


def _neighbours(away, n):
    """The correlation of neighbours, of n numbers less their mean; 0 stands beside them."""
    scale = jnp.max(jnp.abs(away))
    x = away / jnp.where(scale > 0, scale, 1)
    squares = jnp.sum(x**2)
    known = (n >= FEWEST) & (squares > 0)
    return jnp.where(known, jnp.sum(x[1:] * x[:-1]) / jnp.where(known, squares, 1), jnp.nan)


def _is_seen(correlation, n):
    """Of independent numbers the mean is -1/n and the variance (n - 2)^2/(n^2 (n - 1))."""
    return correlation + 1 / n > SEEN * (n - 2) / (n * jnp.sqrt(jnp.maximum(n - 1, 1)))


def _recent(state, wrong):
    S, sq_norm, rounding = (x / state.recent_weight for x in state.recent)
    positive = sq_norm > 0
    beyond = jnp.where(S > 0, math.inf, math.nan)
    return RecentNoise(
        S=S,
        sq_gradient_norm=sq_norm,
        B_simple=jnp.where(positive, S / jnp.where(positive, sq_norm, 1), beyond),
        status=statuses.first_that_holds(
            *wrong[:2], (rounding > S, "below rounding"), (~positive, "gradient not above zero")
        ),
    )
