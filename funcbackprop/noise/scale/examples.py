"""The noise scale S/|G|^2 from statistics of the per-example gradients, with its interval."""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_leaves_with_path

from ...contract import checked_weights, wide
from .. import status as statuses
from ..design import Design, of_examples
from ..estimate import around, around_positive
from ..moments import ROUNDING_FACTOR, sq_norm
from .ratio import covariance, positive_ratio, unknown_covariance
from .result import NoiseScale

# By what share averages of the same numbers may differ: so many roundings, also of TF32 products.
_ROUNDINGS, _LEAST, _MOST = 2.0**14, 1e-6, 0.05


class Sums(NamedTuple):
    """What is known of the gradients of some of the parameters; these add up over leaves.

    Attributes:
      sq_mean: |gbar|^2.
      spread: sum w d, with d_i = |g_i - gbar|^2.
      excess: what |gbar|^2 has too much of |G|^2, times (sum w)^2 - sum w^2.
      deviations: d_i [n], or None.
      inner: c_i = <g_i - gbar, gbar> [n], or None.
      rounding: of `spread`, where it is a difference of larger terms.
      disagreement: `sq_mean` less the |mean|^2 that was given.
      allowed: how much of that rounding may explain.
    """

    sq_mean: chex.Array
    spread: chex.Array
    excess: chex.Array
    deviations: Any
    inner: Any
    rounding: Any = 0.0
    disagreement: Any = 0.0
    allowed: Any = 0.0


def noise_scale(
    mean: chex.ArrayTree,
    *,
    sq_norms: chex.ArrayTree | None = None,
    sq_deviations: chex.ArrayTree | None = None,
    inner: chex.ArrayTree | None = None,
    weights: chex.Array | None = None,
    groups: Callable[[str], Any] | None = None,
) -> NoiseScale:
    """The noise scale B_simple = S/|G|^2 with its 95 % interval, from one batch of n examples.

    With s_i = |g_i|^2, d_i = |g_i - gbar|^2 and weights w,

        S = sum w d/(sum w - sum w^2/sum w),
        |G|^2 = (|sum w g|^2 - sum w^2 s)/((sum w)^2 - sum w^2),

    both unbiased for independent examples; with equal weights the first divisor is n - 1, and
    |G|^2 = |gbar|^2 - S/n. All is computed from deviations from the mean. Standard errors are those
    of the delete-one jackknife, in O(n). The interval of S is symmetric in the logarithm. That of
    B_simple is Fieller's, with the variance taken at the ratio in question; its upper limit is
    infinite where |G|^2 cannot be told from zero.

    Args:
      mean: the mean gradient, from `funcbackprop.Mean()`.
      sq_norms: from `funcbackprop.SquaredNorms()`: a tree like `mean` with leaves [n], or one array
        [n] of totals. Without `inner` it gives values, but no standard errors.
      sq_deviations: from `funcbackprop.SquaredDeviations()`, same forms, in place of `sq_norms`:
        exact where the mean dominates the spread.
      inner: from `funcbackprop.InnerWithMean()`, same forms.
      weights: [n], those that the statistics were measured with.
      groups: `path -> name`, where path is a leaf's path as text, `['layers'][0]['w']`; leaves of
        one name are taken together, those of the name None are left out. The form of
        `funcbackprop.Problem.groups`.

    Returns:
      `NoiseScale`: S and |G|^2 in squared gradient, B_simple in examples; by leaf where all
      statistics are given by leaf. Pure; works under `jit` and `vmap`.

    Raises:
      ValueError: no statistic of the spread was given, shapes disagree, or `groups` is given with
        a statistic that is not by leaf.
      TypeError: `groups` is not a function.

    Cost: O(n) for each leaf.

    Source: McCandlish, Kaplan and Amodei 2018 (arXiv 1812.06162) for the noise scale; the standard
    errors and the interval are ours.

    >>> import funcbackprop as fb, jax, jax.numpy as jnp
    >>> loss = lambda w, x: 0.5 * jnp.sum((w - x) ** 2)  # g_i = w - x_i
    >>> x = 1 + jax.random.normal(jax.random.key(0), (200, 2))
    >>> stats = {"mean": fb.Mean(), "sq_norms": fb.SquaredNorms(), "inner": fb.InnerWithMean()}
    >>> losses, g = fb.gradient_statistics(loss, stats)(jnp.zeros(2), x)
    >>> print(noise_scale(**g).B_simple)  # the truth is 1
    0.955 [0.746, 1.2]
    """
    given = {"sq_norms": sq_norms, "sq_deviations": sq_deviations, "inner": inner}
    given = {name: tree for name, tree in given.items() if tree is not None}
    if not given.keys() - {"inner"}:
        raise ValueError(
            "`noise_scale`: the spread of the gradients is needed: pass `sq_norms` or "
            "`sq_deviations`, measured with funcbackprop.gradient_statistics"
        )
    weights = checked_weights(weights, _size(given, mean, weights), "noise_scale")
    design = of_examples(weights)
    by_leaf = all(jax.tree.structure(t) == jax.tree.structure(mean) for t in given.values())
    if by_leaf:
        means, columns = jax.tree.leaves(mean), {k: jax.tree.leaves(t) for k, t in given.items()}
    else:
        means, columns = [mean], {k: [_total(tree)] for k, tree in given.items()}
    sums = [
        _sums(m, design, **{name: wide(column[k]) for name, column in columns.items()})
        for k, m in enumerate(means)
    ]
    examples = 1 / design.share
    return assembled(sums, mean if by_leaf else None, design, examples, groups, "noise_scale")


def of_totals(mean: chex.ArrayTree, weights: Any, columns: dict) -> NoiseScale:
    """`noise_scale` in total, without its checks.

    Args:
      columns: name -> the total over leaves, [n]; also `variance`, S itself.
    """
    design = of_examples(weights)
    return of_sums(_sums(mean, design, **columns), design, 1 / design.share)


def assembled(
    sums: list, like: Any, design: Design, examples: Any, groups: Any, caller: str
) -> NoiseScale:
    """The result in total, by leaf of the tree `like`, and by group.

    Args:
      sums: `Sums` of each leaf.
      like: None where `sums` has only the total.
    """
    if groups is not None and not callable(groups):
        raise TypeError(
            f"`{caller}`: `groups` must be a function from a leaf's path, such as "
            f"\"['layers'][0]['w']\", to the name of its group, got {type(groups).__name__}"
        )
    if groups is not None and like is None:
        raise ValueError(
            f"`{caller}`: `groups` needs every statistic by leaf: trees like `mean`, not totals"
        )
    whole = of_sums(total(sums), design, examples)
    if like is None:
        return whole
    leaves = [of_sums(s, design, examples) for s in sums] if len(sums) > 1 else [whole]
    per_leaf = jax.tree.unflatten(jax.tree.structure(like), leaves)
    if groups is None:
        return whole._replace(per_leaf=per_leaf)
    members = {}
    for (path, _), s in zip(tree_leaves_with_path(like), sums, strict=True):
        members.setdefault(groups(keystr(path)), []).append(s)
    members.pop(None, None)
    by_group = {str(name): of_sums(total(m), design, examples) for name, m in members.items()}
    return whole._replace(per_leaf=per_leaf, groups=by_group)


@jax.jit
def of_sums(sums: Sums, design: Design, examples: Any) -> NoiseScale:
    """The estimates for the parameters that were added up in `sums`."""
    S = sums.spread / design.divisor
    rounding = (sums.rounding / design.divisor > S) & design.several
    S = jnp.where(design.several, S, jnp.nan)
    W = jnp.sum(design.weights)
    pairs = W**2 - jnp.sum(design.weights**2)
    excess = jnp.where(design.several, sums.excess / jnp.where(pairs > 0, pairs, 1), jnp.nan)
    sq_norm = sums.sq_mean - excess
    if sums.deviations is None:
        known = unknown_covariance(S, sq_norm)
    else:
        known = covariance(design, S, sq_norm, excess, sums.deviations, sums.inner)
    wrong = (
        (~jnp.isfinite(S + sq_norm), "not finite"),
        (jnp.abs(sums.disagreement) > sums.allowed, "statistics disagree"),
        (rounding, "below rounding"),
    )
    without_error = (
        (sums.inner is None, "no inner products"),
        (~design.enough, "too few to leave one out"),
    )

    def first(*conditions):
        return jnp.where(design.several, statuses.first_that_holds(*conditions), design.alone)

    q = design.quantile.astype(S.dtype)
    status = first(*wrong, *without_error)
    S_status = first(*wrong, (sums.deviations is None, "no inner products"), without_error[1])
    # A ratio that is infinite says so first; that its limits are unknown comes second.
    of_ratio = first(*wrong, (sq_norm <= 0, "gradient not above zero"), *without_error)
    return NoiseScale(
        S=around_positive(S, known.scale * jnp.sqrt(known.numerator), q, S_status),
        sq_gradient_norm=around(sq_norm, known.scale * jnp.sqrt(known.denominator), q, status),
        B_simple=positive_ratio(S, sq_norm, known, q, design.share, of_ratio),
        examples=examples,
    )


def total(sums: list) -> Sums:
    """Added up over leaves."""
    return jax.tree.map(lambda *x: functools.reduce(operator.add, x), *sums)


@jax.jit
def _sums(
    mean,
    design,
    sq_norms: Any = None,
    sq_deviations: Any = None,
    inner: Any = None,
    variance: Any = None,
) -> Sums:
    """Of one leaf, or of all (`mean` is a tree), from what was measured."""
    found = _measured(mean, design, sq_norms, sq_deviations, inner, variance)
    if inner is None:
        return found
    w, kept = design.weights, design.weights > 0
    size = jnp.sum(jnp.where(kept, w * jnp.abs(inner), 0)) / jnp.sum(w)
    eps = max(float(jnp.finfo(x.dtype).eps) for x in (*jax.tree.leaves(mean), inner))
    share = min(max(_ROUNDINGS * eps, _LEAST), _MOST)
    given = _total(jax.tree.map(sq_norm, mean))
    return found._replace(disagreement=found.sq_mean - given, allowed=share * size)


def _measured(mean, design, sq_norms, sq_deviations, inner, variance):
    w = design.weights
    W, kept = jnp.sum(w), w > 0
    average = lambda x: jnp.sum(jnp.where(kept, w * x, 0)) / W  # noqa: E731
    if inner is None:
        # Mean() is in the dtype of the parameters, and its rounding is in |gbar|^2.
        eps = max((float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(mean)), default=0.0)
        sq_mean = _total(jax.tree.map(sq_norm, mean))
        centred = None
    else:
        eps, sq_mean = 0.0, average(inner)
        centred = inner - sq_mean
    if sq_deviations is not None or variance is not None:
        d = sq_deviations
        if d is None and sq_norms is not None and inner is not None:
            d = jnp.where(kept, sq_norms - 2 * inner + sq_mean, 0)
        c = None if d is None else centred
        spread = variance * design.divisor if sq_deviations is None else W * average(d)
        return Sums(sq_mean, spread, excess(w, spread, d, c), d, c)
    cancelled = average(sq_norms)
    eps = max(eps, float(jnp.finfo(cancelled.dtype).eps))
    rounding = ROUNDING_FACTOR * eps * W * cancelled
    spread = W * (cancelled - sq_mean)
    if inner is None:
        # d + 2 c is s less |gbar|^2.
        too_much = jnp.sum(jnp.where(kept, w**2 * (sq_norms - sq_mean), 0))
        return Sums(sq_mean, spread, too_much, None, None, rounding)
    deviations = sq_norms - 2 * inner + sq_mean
    too_much = excess(w, spread, deviations, centred)
    return Sums(sq_mean, spread, too_much, deviations, centred, rounding)


def excess(w, spread, deviations, inner):
    """sum w^2 (d + 2 c), or where c is not known what it is on average if weights are chance."""
    if inner is None:
        return jnp.sum(w**2) / jnp.sum(w) * spread
    return jnp.sum(jnp.where(w > 0, w**2 * (deviations + 2 * inner), 0))


def _total(tree):
    return functools.reduce(operator.add, map(wide, jax.tree.leaves(tree)), jnp.zeros(()))


def _size(given, mean, weights):
    """The number of examples; ValueError where the statistics do not fit `mean` or each other."""
    sizes = set() if weights is None else {len(weights)}
    for name, tree in given.items():
        same = jax.tree.structure(tree) == jax.tree.structure(mean)
        if not same and not jax.tree_util.all_leaves([tree]):
            raise ValueError(
                f"`noise_scale`: `{name}` must be a tree like `mean` with leaves [n], or one array "
                f"[n]; got the structure {jax.tree.structure(tree)}"
            )
        shapes = {jnp.shape(leaf) for leaf in jax.tree.leaves(tree)}
        if any(len(shape) != 1 for shape in shapes):
            raise ValueError(
                f"`noise_scale`: `{name}` must have leaves of shape [n], got {sorted(shapes)}"
            )
        sizes |= {shape[0] for shape in shapes}
    if len(sizes) != 1:
        raise ValueError(
            "`noise_scale`: the number of examples must be the same everywhere, got "
            f"{sorted(sizes)}"
        )
    return sizes.pop()
