"""The estimates, with errors from the values without each group, and what is wrong with them."""

from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
from scipy import special

from .. import estimate, status
from ..estimate import Estimate
from ..moments import ROUNDING_FACTOR
from .parts import Parts, Setup

# Two ways to one variance disagree where they are this many standard errors apart.
_DISAGREE = 4.0
# Mini-batches of equal means are no chance if there are this many.
_EQUAL_MEANS = 8
# What rounding leaves of the variance of equal gradients, in eps^2 |G|^2.
_EQUAL_GRADIENTS = 4.0**2


class Spread(NamedTuple):
    """How the gradient spreads, of one leaf or in total: each field an `Estimate`.

    Attributes:
      S: variance of the gradient of a single example, with one draw of its randomness, summed over
        parameters. Squared gradient. Where N examples are sampled, S_N^2 with divisor N - 1.
      batch_variance: variance of the mini-batch gradient, predicted from single examples for the
        mean size of the mini-batches and one draw. Squared gradient.
      normalised_variance: of the mini-batch gradient: mean over coordinates of V_k/E[g_k^2],
        0 without noise, 1 where there is nothing else (above 1 where |G_k|^2 comes out negative).
      sq_gradient_norm: |G|^2 without bias; may be negative. G is the expected gradient, or its
        mean over the N examples. Squared gradient.
      signal_to_noise: |G|^2/S, of a single example.
      batch_signal_to_noise: |G|^2 over the variance of the mini-batch gradient.
      across_batches: variance of the mini-batch gradient seen from the spread of the mini-batch
        means, without a look at single examples. With draws=K, of the mean over K draws.
      between, within: the parts of S between and within examples; known for draws of 2 or more.
    """

    S: Estimate
    batch_variance: Estimate
    normalised_variance: Estimate
    sq_gradient_norm: Estimate
    signal_to_noise: Estimate
    batch_signal_to_noise: Estimate
    across_batches: Estimate
    between: Estimate
    within: Estimate


def estimates(p: Parts, setup: Setup) -> Spread:
    """The estimates of all leaves and of the total, [L + 1]; pure."""
    S = p.between + p.within
    predicted = p.between * setup.factor + p.within / setup.size
    why = reasons(p, setup)
    no_random = [] if setup.coupled else [(disagree(p, setup), "batches no random samples")]
    eps = float(jnp.finfo(S.dtype).eps)
    rest = (S[0] > 0) & (S[0] <= _EQUAL_GRADIENTS * eps**2 * p.sq_gradient_norm[0])
    rounding = rest, "variance at rounding"
    zero = S[0] == 0, "zero variance"
    not_above = ~(p.sq_gradient_norm[0] > 0), "gradient not above zero"
    found = {
        "S": positive(estimated(S, setup, *why, rounding), setup),
        "batch_variance": positive(estimated(predicted, setup, *why, rounding, *no_random), setup),
        "normalised_variance": _normalised(p, setup, *why, rounding, no_random=no_random),
        "sq_gradient_norm": estimated(p.sq_gradient_norm, setup, *why, not_above),
        "signal_to_noise": estimated(
            p.sq_gradient_norm / S, setup, *why, rounding, zero, not_above
        ),
        "batch_signal_to_noise": estimated(
            p.sq_gradient_norm / predicted,
            setup,
            *why,
            rounding,
            (predicted[0] == 0, "zero variance"),
            *no_random,
            not_above,
        ),
        "across_batches": _across(p, setup),
    }
    return Spread(**(found | _nested(p, setup, why)))._replace(**_of_coupled(found, setup))


def _normalised(p, setup, *why, no_random):
    """NaN for one mini-batch: |G_k|^2 + V_k/B is then the square of what it drew, maybe near 0."""
    one = jnp.asarray(setup.batches == 1), "one mini-batch"
    zero = p.coordinates[0] == 0, "zero gradients"
    found = estimated(p.ratios / p.coordinates, setup, *why, zero, one, *no_random)
    known = ~(one[0] & (p.coordinates[0] > 0))
    return found._replace(
        **{n: jnp.where(known, x, jnp.nan) for n, x in found._asdict().items() if n != "status"}
    )


def predicted(p: Parts, setup: Setup, factor: Any, of_draws: Any) -> Estimate:
    """(between) factor + (within) of_draws: the variance of another mini-batch, [L + 1]; pure."""
    why = *reasons(p, setup), (disagree(p, setup), "batches no random samples")
    return positive(estimated(p.between * factor + p.within * of_draws, setup, *why), setup)


def _across(p, setup):
    seen = p.from_batches * setup.factor + p.within / (setup.size * setup.draws)
    finite = jnp.isfinite(p.sq_gradient_norm[0]) | jnp.asarray(setup.alone)
    reasons = (~finite, "not finite"), (jnp.isnan(p.from_batches[0]), "no spread to see")
    return positive(estimated(seen, setup._replace(error_factor=1.0), *reasons), setup)


def _nested(p, setup, why):
    if setup.draws == 1:
        nothing = estimate.unknown(p.between[0], status.code("one draw"))
        return {"between": nothing, "within": nothing}
    eps = float(jnp.finfo(p.within.dtype).eps)
    rounding = p.within[0] < ROUNDING_FACTOR * eps * (p.between + p.within)[0]
    return {
        "between": estimated(p.between, setup, *why),
        "within": positive(
            estimated(p.within, setup, *why, (rounding, "within below rounding")), setup
        ),
    }


def _of_coupled(found, setup):
    """Where the mini-batch is the unit there is the spread of its gradient, and that alone."""
    if not setup.coupled:
        return {}
    code = status.code("unit is the batch")
    names = ("S", "signal_to_noise", "between", "within")
    nothing = {name: estimate.unknown(found["S"].value, code) for name in names}
    return nothing | {"across_batches": found["batch_variance"]}


def reasons(p, setup):
    finite = jnp.isfinite((p.between + p.within + p.sq_gradient_norm)[0])
    alone = "no spread to see" if setup.coupled else "one example"
    return (setup.alone, alone), (~finite, "not finite")


def estimated(x: Any, setup: Setup, *reasons: tuple) -> Estimate:
    """The first row of `x` [1 + g, ...], its error from the others, with the reasons that hold."""
    groups = len(x) - 1
    error = estimate.jackknife(x[0], x[1:], setup.weights if groups else None)
    error = error * jnp.asarray(setup.error_factor, error.dtype)
    code = status.first_that_holds(*reasons, (~jnp.isfinite(error), "no interval"))
    return estimate.normal(x[0], error, code, freedom=_freedom(setup))


def positive(e: Estimate, setup: Setup) -> Estimate:
    """`e` with the interval of a variance."""
    q = estimate.quantile(_freedom(setup))
    return estimate.around_positive(e.value, e.standard_error, q, e.status)


def _freedom(setup):
    groups = len(setup.weights)
    return groups - 1 if groups > 1 else None


def disagree(p: Parts, setup: Setup) -> chex.Array:
    """Whether the mini-batch means spread otherwise than single examples predict, [L + 1].

    By the logarithm of the ratio, whose error is more even than that of a difference; with few
    groups, by the quantile of Student's law that has the tail of 4 standard errors. The error is no
    smaller than that of Gaussian means: few mini-batches may hide the tails from the jackknife.
    """
    if _freedom(setup) is None:
        return jnp.zeros(p.between.shape[1:], bool)
    many = jnp.asarray(setup.batches >= _EQUAL_MEANS)
    seen, predicted = (
        x * setup.factor + p.within / (setup.size * setup.draws)
        for x in (p.from_batches, p.between)
    )
    usable = (seen > 0) & (predicted > 0)
    logs = jnp.log(jnp.where(usable, seen / jnp.where(usable, predicted, 1), jnp.nan))
    error = estimate.jackknife(logs[0], logs[1:], setup.weights)
    tail = special.ndtr(-_DISAGREE)
    limit = -float(special.stdtrit(_freedom(setup), tail))
    equal = many & (seen[0] <= 0) & (predicted[0] > 0)
    return equal | (jnp.abs(logs[0]) > limit * jnp.maximum(error, p.gaussian_error))
