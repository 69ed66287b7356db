"""Stratified sampling: a fixed number of examples from each part of the data set."""

import heapq
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .sampling import Draw, Estimator, weighted
from .spread import sq_deviations_within


class Strata(NamedTuple):
    """The rows of each stratum, on the host.

    Attributes:
      labels: of the H strata, sorted.
      members: rows [H, n_max], padded with the first of the stratum.
      valid: [H, n_max], which of them are no padding.
      counts: N_h, [H].
    """

    labels: np.ndarray
    members: np.ndarray
    valid: np.ndarray
    counts: np.ndarray


def allocate(
    shares: Any, batch_size: int, spreads: Sequence[float] | None = None
) -> tuple[int, ...]:
    """How many of B examples to draw from each stratum, at least one from each.

    The integers n_h >= 1 with sum B that minimise sum_h W_h^2 S_h^2/n_h: the next example goes to
    the stratum with the largest W_h S_h/sqrt(n_h (n_h + 1)), which is optimal (Wright 2012, The
    American Statistician 66). Without `spreads` all S_h are taken to be equal, which is
    proportional allocation; with them it is Neyman's (1934).

    Args:
      shares: W_h = N_h/N, above 0, [H].
      batch_size: B >= H.
      spreads: S_h >= 0, [H]: the root of the summed variance within each stratum, in any unit. If
        all are 0, allocation is proportional.

    Returns:
      H ints. On the host.

    Raises:
      ValueError: B is below H, a share is not above 0, or a spread is negative or not finite.

    >>> allocate([0.5, 0.25, 0.25], 8)
    (4, 2, 2)
    >>> allocate([0.5, 0.25, 0.25], 8, [1.0, 6.0, 0.0])
    (2, 5, 1)
    """
    W = np.asarray(shares, np.float64)
    S = np.ones_like(W) if spreads is None else np.asarray(spreads, np.float64)
    if S.shape != W.shape:
        raise ValueError(
            f"`allocate`: `spreads` must hold one number for each of the {len(W)} strata, in the "
            f"order of the sorted labels, got shape {S.shape}"
        )
    if not (np.isfinite(W) & (W > 0)).all():
        raise ValueError(f"`allocate`: `shares` must be above 0, got {W.tolist()}")
    if not (np.isfinite(S) & (S >= 0)).all():
        raise ValueError(f"`allocate`: `spreads` must be finite and not negative, got {S.tolist()}")
    if batch_size < len(W):
        raise ValueError(
            f"`allocate`: {len(W)} strata need at least {len(W)} examples, one from each, got "
            f"batch_size={batch_size}; draw more examples or merge strata"
        )
    need = W * S if (W * S).any() else W
    heap = [(-x / np.sqrt(2), h, 1) for h, x in enumerate(need)]
    heapq.heapify(heap)
    for _ in range(batch_size - len(W)):
        _, h, n = heap[0]
        heapq.heapreplace(heap, (-need[h] / np.sqrt((n + 1) * (n + 2)), h, n + 1))
    return tuple(n for _, _, n in sorted(heap, key=lambda entry: entry[1]))


def stratified(
    labels: Any,
    *,
    spreads: Sequence[float] | None = None,
    allocation: Sequence[int] | None = None,
    setup: int | None = None,
) -> Estimator:
    """Stratified sampling: n_h examples from stratum h, with replacement, coefficients W_h/n_h.

    Its variance is sum_h W_h^2 S_h^2/n_h, S_h^2 the summed variance within stratum h: what varies
    between strata is gone. With proportional allocation it is never above plain sampling, but for
    rounding of the n_h. Inside a stratum, examples of unequal weight are drawn by their weights.

    Args:
      labels: stratum of each example of the data set, [N], integers or strings; known on the host.
      spreads: S_h of each stratum in the order of its sorted label, for Neyman allocation; None is
        proportional allocation. See `allocate`.
      allocation: the n_h themselves, in place of `spreads`.
      setup: gradient evaluations that finding `spreads` took; None is N if they are given.

    Raises:
      TypeError: `labels` are traced, or floating-point.
      ValueError: an argument has the wrong form; when drawing, fewer examples than strata.

    Cost: B gradient evaluations. `estimate` shows one at work.
    """
    strata = strata_of(labels, "stratified")
    size = int(strata.counts.sum())
    if allocation is not None:
        allocation = _checked_allocation(allocation, strata)

    def numbers(shares, batch_size):
        if len(shares) != size:
            raise ValueError(
                f"`stratified`: `labels` must hold one label for each of the {len(shares)} "
                f"examples of `data`, got {size}"
            )
        if allocation is None:
            return allocate(strata.counts / size, batch_size, spreads)
        if sum(allocation) != batch_size:
            raise ValueError(
                f"`stratified`: `allocation` draws {sum(allocation)} examples, but "
                f"batch_size={batch_size}"
            )
        return allocation

    def draw(key, shares, equal, batch_size):
        return _draw(key, shares, equal, strata, numbers(shares, batch_size))

    def variance(loss, params, data, shares, batch_size, options):
        n = jnp.asarray(numbers(shares, batch_size), shares.dtype)
        members, valid = strata.members, strata.valid
        r = sq_deviations_within(loss, params, data, shares, members, valid, **options)
        W, within = (jnp.sum(_of_strata(x, strata), 1) for x in (shares, shares * r))
        return jnp.sum(W * within / n)

    if setup is None:
        setup = 0 if spreads is None else size
    return Estimator(draw, variance, setup=setup)


def strata_of(labels: Any, caller: str) -> Strata:
    """`Strata` of labels [N]; TypeError if they are traced."""
    try:
        labels = np.asarray(labels)
    except jax.errors.TracerArrayConversionError as error:
        raise TypeError(
            f"`{caller}`: `labels` must be known on the host (how many examples are drawn from "
            "each stratum is a shape), got a traced array; make the estimator outside jit"
        ) from error
    if labels.ndim != 1 or len(labels) == 0:
        raise ValueError(f"`{caller}`: `labels` must have shape [N], got {labels.shape}")
    if np.issubdtype(labels.dtype, np.inexact):
        raise TypeError(
            f"`{caller}`: `labels` must be integers or strings, got {labels.dtype}; "
            "cut numbers into classes first, for instance with numpy.digitize"
        )
    names, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    first = np.cumsum(counts) - counts
    place = np.arange(counts.max())[None]
    valid = place < counts[:, None]
    return Strata(names, order[first[:, None] + np.where(valid, place, 0)], valid, counts)


def _checked_allocation(allocation, strata):
    n = np.asarray(allocation)
    if n.shape != strata.counts.shape or not np.issubdtype(n.dtype, np.integer) or (n < 1).any():
        raise ValueError(
            f"`stratified`: `allocation` must hold one int above 0 for each of the "
            f"{len(strata.counts)} strata, or the estimate would be biased, got {n.tolist()}"
        )
    return tuple(n.tolist())


def _draw(key, shares, equal, strata, allocation):
    stratum = np.repeat(np.arange(len(allocation)), allocation)
    own = _of_strata(shares, strata)
    if equal:
        column = jax.random.randint(key, stratum.shape, 0, jnp.asarray(strata.counts[stratum]))
    else:
        column = weighted(key, own, jnp.asarray(stratum))
    coefficients = jnp.sum(own, 1) / jnp.asarray(allocation, own.dtype)
    return Draw(jnp.asarray(strata.members)[stratum, column], coefficients[stratum])


def _of_strata(x, strata):
    """`x` [N] as [H, n_max], 0 in the padding."""
    return jnp.where(strata.valid, x[strata.members], 0)
