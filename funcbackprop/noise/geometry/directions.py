"""How the gradients of the examples of one batch lie to each other."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from .. import status as statuses
from ..estimate import Estimate
from ..leave_one_out import (
    Rows,
    left_out,
    plain,
    positive,
    rows,
    scaled_by,
    spread_status,
)
from .pairs import Pairs, pairs


class Diversity(NamedTuple):
    """How much the gradients of n examples differ, as one number and its inverse.

    Attributes:
      diversity: sum |g_i|^2/|sum g_i|^2: 1/n if all are equal, 1 if they are orthogonal.
      coherence: its inverse: how many examples a gradient helps, itself included.
      batch_size_bound: n times the diversity, in examples: the batch size up to which SGD keeps
        the speed of single examples (Yin et al.). mean |g_i|^2/|gbar|^2.
      status: int32, a code of `funcbackprop.noise.STATUS`.
    """

    diversity: Estimate
    coherence: Estimate
    batch_size_bound: Estimate
    status: chex.Array

    def explain(self) -> str:
        """What the status means, as a sentence (on the host)."""
        return statuses.sentences(self.status)

    def to_dict(self) -> dict:
        """JSON-safe: numbers that are not finite are None, the status is its name."""
        return statuses.to_dict(self)

    def __str__(self):
        return statuses.text(self)


def diversity(
    mean: chex.ArrayTree,
    sq_norms: chex.ArrayTree,
    inner: chex.ArrayTree | None = None,
    *,
    weights: chex.Array | None = None,
) -> Diversity:
    """Gradient diversity sum |g_i|^2/|sum g_i|^2 and coherence, its inverse.

    Both belong to n examples: |sum g_i|^2 is n S + n^2 |G|^2 on average. Compare them at equal n
    only; the noise scale does not depend on it.

    Args:
      mean: the mean gradient, from `funcbackprop.Mean()`.
      sq_norms: from `funcbackprop.SquaredNorms()`: a tree like `mean` with leaves [B], or one array
        [B].
      inner: from `funcbackprop.InnerWithMean()`, same forms; gives the interval.
      weights: [B]. Any weights: w_i g_i takes the place of g_i, and the effective number that of n.
        Rows of weight 0 are left out.

    Returns:
      `Diversity`. Intervals: jackknife on the log scale at the present n, O(B).

    Raises:
      ValueError: forms disagree.

    Yin et al. 2018, arXiv 1706.05699; Chatterjee and Zielinski 2020, arXiv 2008.01217.

    >>> import jax.numpy as jnp
    >>> g = jnp.eye(4)  # orthogonal
    >>> found = diversity(g.mean(0), jnp.sum(g**2, 1), g @ g.mean(0))
    >>> print(found.diversity.value, found.coherence.value, found.batch_size_bound.value)
    1.0 1.0 4.0
    """
    return diversity_of(rows("diversity", mean, sq_norms=sq_norms, inner=inner, weights=weights))


@jax.jit
def diversity_of(r: Rows) -> Diversity:
    n, w2 = r.moments.examples, r.weights**2
    squares, summed = w2 * r.sq_norms, jnp.sum(w2)
    second = jnp.sum(squares) / summed
    out = left_out(r)
    values = None
    if out is not None:
        values = (jnp.sum(squares) - squares) / (summed - w2) / out.sq_mean
    nothing = second == 0
    status = statuses.first_problem(
        jnp.where(jnp.isfinite(second), 0, spread_status(r.moments)),
        (jnp.isnan(second + r.sq_mean), "not finite"),
        (nothing, "no spread"),
        (r.sq_mean == 0, "zero mean gradient"),
    )
    ratio = jnp.where(nothing, jnp.nan, second / r.sq_mean)
    found = positive(ratio, values, r.kept, status)
    inverse = positive(1 / ratio, None if values is None else 1 / values, r.kept, status)
    return Diversity(scaled_by(1 / n, found), scaled_by(n, inverse), found, status)


class Confusion(NamedTuple):
    """The two gradients that disagree most.

    Attributes:
      inner: the smallest <g_i, g_j> over i != j. Squared gradient.
      cosine: the smallest cosine.
      inner_pair, cosine_pair: [2], the examples i < j; -1 where there is no pair.
      skipped: gradients that are zero, which have no cosine.
      status: int32, a code of `funcbackprop.noise.STATUS`: `extreme value` if all is well.
    """

    inner: Estimate
    cosine: Estimate
    inner_pair: chex.Array
    cosine_pair: chex.Array
    skipped: chex.Array
    status: chex.Array

    def explain(self) -> str:
        """What the status means, as a sentence (on the host)."""
        return statuses.sentences(self.status)

    def to_dict(self) -> dict:
        """JSON-safe: numbers that are not finite are None, the status is its name."""
        return statuses.to_dict(self)

    def __str__(self):
        return statuses.text(self)


def confusion(gram: chex.ArrayTree, *, weights: chex.Array | None = None) -> Confusion:
    """Gradient confusion: the smallest inner product, and the smallest cosine, of two gradients.

    The paper's bound eta is -min <g_i, g_j> if that is above 0. A minimum over pairs has no
    standard error (NaN, status `extreme value`): it falls as examples are added, and a population
    has no such number. Compare batches of one size.

    Args:
      gram: the inner products of all pairs, [B, B], from `funcbackprop.Gram()`.
      weights: [B]. Only which are 0 matters.

    Returns:
      `Confusion`, with the pairs by index. O(B^2).

    Raises:
      ValueError: `gram` is neither [B, B] nor a tree of such, or `weights` are wrong in form.

    Sankararaman et al. 2020, arXiv 1904.06963.

    >>> import jax.numpy as jnp
    >>> g = jnp.array([[1.0, 0.0], [-3.0, 0.0], [-0.5, 0.5]])
    >>> found = confusion(g @ g.T)
    >>> print(found.inner.value, found.inner_pair, found.cosine.value, found.cosine_pair)
    -3.0 [0 1] -1.0 [0 1]
    """
    return _confusion(pairs("confusion", gram, weights))


@jax.jit
def _confusion(k: Pairs) -> Confusion:
    cosines, usable = _cosines(k)
    smallest = []
    for values, rows_used in ((k.gram, k.kept), (cosines, usable)):
        smallest.append(_smallest(values, rows_used, k.status))
    (inner, inner_pair), (cosine, cosine_pair) = smallest
    skipped = jnp.sum(k.kept & ~usable)
    return Confusion(inner, cosine, inner_pair, cosine_pair, skipped, inner.status)


def _smallest(values, used, status):
    size = len(values)
    upper = jnp.triu(used[:, None] & used[None], 1)
    candidates = jnp.where(upper, values, jnp.inf).reshape(-1)
    place = jnp.argmin(candidates)
    enough = jnp.any(upper)
    status = statuses.first_problem(
        _of_pairs(status, candidates), (~enough, "too few examples"), (True, "extreme value")
    )
    value = jnp.where(enough, candidates[place], jnp.nan)
    pair = jnp.where(enough, jnp.stack([place // size, place % size]), -1)
    nan = jnp.full_like(value, jnp.nan)
    return Estimate(value, nan, nan, nan, status), pair


class Stiffness(NamedTuple):
    """How alike the gradients of two examples are, on average over pairs.

    Attributes:
      sign: mean sign of <g_i, g_j> over i != j.
      cosine: mean cosine.
      skipped: gradients that are zero, which are left out of both.
      status: int32, a code of `funcbackprop.noise.STATUS`.
    """

    sign: Estimate
    cosine: Estimate
    skipped: chex.Array
    status: chex.Array

    def explain(self) -> str:
        """What the status means, as a sentence (on the host)."""
        return statuses.sentences(self.status)

    def to_dict(self) -> dict:
        """JSON-safe: numbers that are not finite are None, the status is its name."""
        return statuses.to_dict(self)

    def __str__(self):
        return statuses.text(self)


def stiffness(gram: chex.ArrayTree, *, weights: chex.Array | None = None) -> Stiffness:
    """Stiffness: the mean sign and the mean cosine of <g_i, g_j> over i != j.

    Above 0, a step for one example also helps another. Both are U-statistics, unbiased for two
    independent examples.

    Args:
      gram: the inner products of all pairs, [B, B], from `funcbackprop.Gram()`; of a mini-batch,
        or of a part of it, such as one class.
      weights: [B]. Any weights: the pair i, j counts w_i w_j. Rows of weight 0 are left out.

    Returns:
      `Stiffness`, with jackknife intervals, O(B^2). The jackknife errs to the large side where
      pairs are all but independent (gradients without a common mean).

    Raises:
      ValueError: `gram` is neither [B, B] nor a tree of such, or `weights` are wrong in form.

    Fort, Nowak, Jastrzebski and Narayanan 2019, arXiv 1901.09491.

    >>> import jax.numpy as jnp
    >>> g = jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> found = stiffness(g @ g.T)
    >>> print(f"{found.sign.value:.4f} {found.cosine.value:.4f}")
    -0.1667 -0.1667
    """
    return _stiffness(pairs("stiffness", gram, weights))


@jax.jit
def _stiffness(k: Pairs) -> Stiffness:
    cosines, usable = _cosines(k)
    w = jnp.where(usable, k.weights, 0)
    sign, cosine = (_mean_of_pairs(x, w, k.status) for x in (jnp.sign(k.gram), cosines))
    return Stiffness(sign, cosine, jnp.sum(k.kept & ~usable), sign.status)


def _mean_of_pairs(values, w, status):
    """The mean over i != j with weights w_i w_j, and its jackknife."""
    values = jnp.where(jnp.eye(len(w), dtype=bool) | ~((w > 0)[:, None] & (w > 0)[None]), 0, values)
    of_row = w * (values @ w)
    weight_of_row = w * (jnp.sum(w) - w)
    summed, weight = jnp.sum(of_row), jnp.sum(weight_of_row)
    status = statuses.first_problem(_of_pairs(status, values), (weight <= 0, "too few examples"))
    left = (summed - 2 * of_row) / (weight - 2 * weight_of_row)
    return plain(summed / weight, left, w > 0, status)


def _cosines(k: Pairs):
    """`(cosines [B, B], which rows have one [B])`."""
    norms = jnp.sqrt(jnp.diagonal(k.gram))
    usable = k.kept & (norms != 0)
    safe = jnp.where(usable, norms, 1)
    # Row by row, then column by column: the product of two norms may underflow.
    return k.gram / safe[:, None] / safe[None], usable


def _of_pairs(status, values):
    """The status of inner products as they are: whether S is rounding does not matter to them."""
    broken = jnp.any(jnp.isnan(values))
    alone = statuses.first_that_holds((broken, "not finite"))
    return jnp.where(status == statuses.code("one example"), status, alone)
