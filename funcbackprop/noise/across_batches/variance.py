"""`gradient_variance`: how much the gradient differs from mini-batch to mini-batch."""

import math
from functools import partial
from typing import Any

import chex
import jax
import numpy as np

from ...contract import Loss, checked_params, differentiable, leaf_names
from ...per_example import SquaredNorms, gradient_statistics, total
from . import groups as grouped
from . import parts as made
from . import spread
from .draws import has_keys
from .result import GradientVariance
from .sampling import Sampling, WithReplacement, checked_sampling
from .stream import MiniBatch, mini_batches
from .tally import Tally

UNITS = ("example", "batch")
_CALLER = "gradient_variance"


def gradient_variance(
    loss: Loss,
    params: chex.ArrayTree,
    batches: Any,
    *,
    unit: str = "example",
    sampling: Sampling = WithReplacement(),  # noqa: B008 (frozen, without fields)
    draws: int = 1,
    groups: int = 20,
    weighted: bool = False,
    batch_size: int | None = None,
) -> GradientVariance:
    """How much the gradient of a mini-batch differs from one mini-batch to the next.

    S = tr(Sigma) is the variance of the gradient of one example, summed over parameters. The
    gradient of B independent examples has variance S/B; of B of N without replacement,
    S_N^2 (1/B - 1/N). Per leaf and in total, each with a 95 % interval from a delete-a-group
    jackknife: mini-batch b belongs to group b mod `groups`.

    Args:
      loss: `loss(params, example) -> scalar`; with `unit="batch"`, `loss(params, batch)`.
      params: pytree at which the gradients are taken.
      batches: iterable of batches (pytrees with a leading axis [B]), gone through once; B may
        differ. Or, with `batch_size`, a data set, a pytree with a leading axis of examples.
      unit: `"example"`, or `"batch"` for a loss whose examples are coupled (batch norm, in-batch
        negatives): then the mini-batch is the unit, and nothing is known of single examples.
      sampling: how the mini-batches were drawn, which an iterable cannot say:
        `WithReplacement()`, `WithoutReplacement(N)` or `ShuffledEpochs(N)`.
      draws: K draws of the randomness of each example, from random keys in the batch (see
        `funcbackprop.attach_keys`). With 2 or more, S is taken apart into `between` and `within`.
        With 1, S of a random loss holds both, and a law of N examples is wrong for the part within.
      groups: of the jackknife, 2 or more; as many as there are mini-batches if those are fewer.
      weighted: whether the items of `batches` are pairs `(batch, weights [B])`. Weights are
        relative importances, taken as independent of the gradients; 0 is padding.
      batch_size: cut `batches`, a data set, into consecutive mini-batches of this size.

    Returns:
      `GradientVariance`. Eager: it is not for use under `jit`.

    Raises:
      ValueError, TypeError: an argument is of the wrong kind, `batches` is empty, mini-batches
        differ in structure, or one is larger than the population.

    Cost: for each mini-batch that of `funcbackprop.Variance()`, 2 K times as much with draws=K;
    compiled once per shape of a batch. Memory of 2 trees like `params` for each group (3 with draws
    of 2 or more), however many mini-batches there are.

    Sources: Chan, Golub and LeVeque (1983) for the merging; Busing, Meijer and van der Leeden
    (1999) for the jackknife; Faghri et al. (2020, arXiv 2007.04532) for the normalised variance,
    whose coordinates that are 0/0 we leave out. The divisors of the finite laws count the pairs of
    examples that may be the same.

    >>> import jax, jax.numpy as jnp
    >>> loss = lambda w, x: 0.5 * (w - x) ** 2  # g_i = w - x_i, of variance 1
    >>> x = jax.random.normal(jax.random.key(0), (4000,))
    >>> result = gradient_variance(loss, jnp.array(3.0), x, batch_size=8)
    >>> S, predicted = result.total.S, result.at_batch_size(16).total
    >>> print(f"{S.value:.2f} {predicted.value:.3f}")
    1.02 0.064
    """
    sampling = checked_sampling(sampling, _CALLER)
    _check(loss, unit, draws, groups, weighted, sampling)
    trained, _ = differentiable(params, _CALLER)
    checked_params(trained, _CALLER)
    if not jax.tree.leaves(trained):
        raise ValueError(f"`{_CALLER}`: `params` has no leaves, so there is no gradient")
    coupled = unit == "batch"
    stream = mini_batches(batches, weighted, batch_size, padded=not coupled)
    measure = grouped.of_batch(loss) if coupled else grouped.of_examples(loss, draws)
    tally, states, bad, random = _streamed(
        measure, params, stream, sampling, draws, groups, coupled
    )
    divisors = tally.divisors()
    setup = made.setup(tally, sampling, draws, coupled=coupled, random=random)
    parts, variance = _parts(states, divisors, setup)
    # On the host: what follows compiles nothing for the shape of a few numbers.
    parts, estimates = jax.device_get((parts, _estimates(setup, parts)))
    names = leaf_names(states["mean"])
    return GradientVariance(
        estimates=estimates,
        variance=variance,
        names=tuple(names),
        sampling=sampling,
        batches=tally.batches,
        examples=None if coupled else tally.examples,
        skipped=_skipped(states["mean"], parts),
        not_finite=bad and (bad.number, _culprit(loss, params, bad, coupled)),
        random=random,
        parts=parts,
        setup=setup,
    )


# Apart from the loss, so that a study of many parameters compiles them once.
_parts = jax.jit(made.parts)
_estimates = made.jitted(lambda setup, parts: spread.estimates(parts, setup))


def _streamed(measure, params, stream, sampling, draws, groups, coupled):
    """`(tally, states, first mini-batch that is not finite, whether there are keys)`."""

    @partial(jax.jit, donate_argnums=0)
    def step(states, params, batch, weights, group):
        state = measure(params, batch, weights)
        return grouped.add(states, group, state), grouped.is_finite(state)

    tally, bad, random = Tally(groups, sampling), None, False
    states = grouped.empty(params, groups, draws)
    for item in stream:
        random = random or has_keys(item.batch)
        if draws > 1 and not random:
            raise ValueError(
                f"`{_CALLER}`: draws={draws} needs the random key of each example, and `batches` "
                "hold no typed one. Make every batch with funcbackprop.attach_keys(batch, key), "
                "from a typed key jax.random.key(seed); the loss takes it from the example"
            )
        group = tally.next_group
        tally.add(np.ones(1) if coupled else np.asarray(item.weights))
        try:
            states, finite = step(states, params, item.batch, item.weights, np.int32(group))
        except Exception as error:
            error.add_note(_note(item, coupled))
            raise
        if bad is None and not finite:
            bad = item
    return tally, states, bad, random


def _note(item, coupled):
    """What an error inside the loss may come from."""
    given = (
        'the whole mini-batch, by unit="batch"; leave `unit` out for a loss of one example'
        if coupled
        else "one example, without the leading axis; for a loss of batches pass "
        'funcbackprop.one_example(loss), or unit="batch" if it couples the examples'
    )
    return (
        f"`{_CALLER}`: raised at mini-batch {item.number}, where the loss was given {given}. If "
        "the items of `batches` are pairs (batch, weights), pass weighted=True"
    )


def _check(loss, unit, draws, groups, weighted, sampling):
    """ValueError or TypeError for what does not fit together."""
    if not callable(loss):
        raise TypeError(f"`{_CALLER}`: `loss` must be callable, got {type(loss).__name__}")
    if unit not in UNITS:
        raise ValueError(f"`{_CALLER}`: `unit` must be 'example' or 'batch', got {unit!r}")
    for name, value, least in (("draws", draws, 1), ("groups", groups, 2)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(
                f"`{_CALLER}`: `{name}` must be an int of at least {least}, got {value!r}"
            )
    if unit == "example":
        return
    conflicts = (
        (draws > 1, "draws=1: draws within one example need a loss of one example"),
        (weighted, "weighted=False: a loss of a batch takes no weights; put them into the batch"),
        (
            np.isfinite(sampling.population),
            "sampling=WithReplacement(): how coupled gradients of disjoint mini-batches vary "
            "together is not known",
        ),
    )
    for wrong, remedy in conflicts:
        if wrong:
            raise ValueError(f'`{_CALLER}`: unit="batch" needs {remedy}')


def _culprit(loss, params, item: MiniBatch, coupled: bool) -> int | None:
    """Index of the first example whose gradient is not finite, if single examples have one."""
    if coupled:
        return None
    measure = jax.jit(gradient_statistics(loss, SquaredNorms()))
    norms = np.asarray(total(measure(params, item.batch, item.weights)[1]))
    wrong = np.flatnonzero(~np.isfinite(norms))
    return int(wrong[0]) if len(wrong) else None


def _skipped(means, parts) -> np.ndarray:
    """Coordinates left out of the normalised variance, of each leaf and in total."""
    sizes = np.array([math.prod(x.shape[1:]) for x in jax.tree.leaves(means)], np.int64)
    known = np.rint(np.asarray(parts.coordinates[0], np.float64)).astype(np.int64)
    return np.append(sizes, sizes.sum()) - known
