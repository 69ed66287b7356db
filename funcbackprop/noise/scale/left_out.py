"""S and |G|^2 with one example, or one part, left out: in O(n) from two numbers for each.

With c_i = <g_i - gbar, gbar>, d_i = |g_i - gbar|^2 and weights w of sum W, the unbiased |G|^2 is
|gbar|^2 - e, where the excess e = sum w^2 (d + 2 c)/(W^2 - sum w^2); without example i

    |G|^2_-i - |G|^2 = 2 w_i [w_i (d_i + 2 c_i + e) - W (c_i + e)]/(W_-i^2 - sum_-i w^2).

All is written as a difference from the value of all examples: a mean far larger than the spread
then costs no digits.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from .ratio import Covariance, covariance_of, student

# Effective examples beyond the first that are rounding: one example, or a weight that dwarfs all.
SINGLE = 1e-5


class Design(NamedTuple):
    """How S follows from deviations: S = sum w d/divisor; and how the spread of one is left out.

    Attributes:
      weights: w [n].
      divisor: of all.
      divisor_left, drop: the divisor without i, and by how much it is smaller; [n].
      share: the variance of gbar is share S.
      factor: what the sum of the squared differences is multiplied with, (n - 1)/n.
      quantile: of Student's distribution with n - 1 degrees of freedom.
      several: whether there is a spread at all.
      enough: whether one can be left out.
      alone: the name of the status of one that has no other.
    """

    weights: Any
    divisor: Any
    divisor_left: Any
    drop: Any
    share: Any
    factor: Any
    quantile: Any
    several: Any
    enough: Any
    alone: str


def of_examples(weights: Any) -> Design:
    """Every g_i has the variance Sigma; `weights` [n] are relative importances."""
    w = weights / jnp.maximum(jnp.max(weights), jnp.finfo(weights.dtype).tiny)
    W, squares = jnp.sum(w), jnp.sum(w**2)
    left = _safe(W - w)
    divisor_left = left - (squares - w**2) / left
    share = squares / W**2
    several = 1 / share > 1 + SINGLE
    return Design(
        weights=w,
        divisor=W - squares / W,
        divisor_left=_safe(divisor_left),
        drop=w * (W**2 - 2 * w * W + squares) / (W * left),
        share=share,
        factor=1 - share,
        quantile=student(1 / share - 1),
        several=several,
        # Without the largest weight, two must be left.
        enough=several & (jnp.min(jnp.where(w > 0, divisor_left / W, 1)) > SINGLE),
        alone="one example",
    )


def of_parts(sizes: Any) -> Design:
    """The mean of part j, of m_j examples, has the variance Sigma/m_j; `sizes` [k] is m."""
    dtype = sizes.dtype
    parts = jnp.sum(sizes > 0).astype(dtype)
    return Design(
        weights=sizes,
        divisor=_safe(parts - 1),
        divisor_left=_safe(jnp.broadcast_to(parts - 2, sizes.shape)),
        drop=(sizes > 0).astype(dtype),
        share=1 / jnp.sum(sizes),
        factor=1 - 1 / parts,
        quantile=student(parts - 1),
        several=parts > 1,
        enough=parts > 2,
        alone="one part",
    )


def covariance(design: Design, S, sq_norm, excess, deviations, inner) -> Covariance:
    """Of S and the unbiased |G|^2, by the delete-one jackknife: factor sum_i (t_-i - t)^2.

    For equal weights this is its usual form, for both are U-statistics: the mean of the t_-i is t.
    Unequal weights are not sizes; each difference counts once.

    Args:
      S, sq_norm, excess: of all; |G|^2 = |gbar|^2 - excess.
      deviations: d_i, [n].
      inner: c_i, [n], or None: then only the variance of S is known, and the others are NaN.
    """
    w, kept = design.weights, design.weights > 0
    d = jnp.where(kept, deviations, 0)
    W, squares = jnp.sum(w), jnp.sum(w**2)
    # Without i the sum of w d is smaller by w_i d_i W/(W - w_i).
    S_moves = (S * design.drop - w * d * W / _safe(W - w)) / design.divisor_left
    if inner is None:
        sq_norm_moves = jnp.full_like(S_moves, jnp.nan)
    else:
        c = jnp.where(kept, inner, 0)
        pairs_left = _safe((W - w) ** 2 - (squares - w**2))
        sq_norm_moves = 2 * w * (w * (d + 2 * c + excess) - W * (c + excess)) / pairs_left
    S_moves, sq_norm_moves = (jnp.where(kept, x, 0) for x in (S_moves, sq_norm_moves))
    factor = jnp.where(design.enough, design.factor, jnp.nan)
    return covariance_of(S, sq_norm, S_moves, sq_norm_moves, factor)


def _safe(x):
    return jnp.where(x > 0, x, 1)
