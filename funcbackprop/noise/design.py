"""S and |G|^2 with one example, or one part, left out: in O(n) from two numbers for each.

With c_i = <g_i - gbar, gbar>, d_i = |g_i - gbar|^2 and weights w of sum W, the unbiased |G|^2 is
|gbar|^2 - e, where the excess e = sum w^2 (d + 2 c)/(W^2 - sum w^2); without example i

    |G|^2_-i - |G|^2 = 2 w_i [w_i (d_i + 2 c_i + e) - W (c_i + e)]/(W_-i^2 - sum_-i w^2).

All is written as a difference from the value of all examples: a mean far larger than the spread
then costs no digits.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .estimate import student
from .moments import SINGLE, scaled
from .status import code


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
      alone: the code of the status of one that has no other.
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
    alone: Any


@jax.jit
def of_examples(weights: Any) -> Design:
    """Every g_i has the variance Sigma; `weights` [n] are relative importances."""
    w = scaled(weights)
    W, squares = jnp.sum(w), jnp.sum(w**2)
    left = safe(W - w)
    divisor_left = left - (squares - w**2) / left
    share = squares / W**2
    several = 1 / share > 1 + SINGLE
    return Design(
        weights=w,
        divisor=W - squares / W,
        divisor_left=safe(divisor_left),
        drop=w * (W**2 - 2 * w * W + squares) / (W * left),
        share=share,
        factor=1 - share,
        quantile=student(1 / share - 1),
        several=several,
        # Without the largest weight, two must be left.
        enough=several & (jnp.min(jnp.where(w > 0, divisor_left / W, 1)) > SINGLE),
        alone=jnp.int32(code("one example")),
    )


@jax.jit
def of_parts(sizes: Any) -> Design:
    """The mean of part j, of m_j examples, has the variance Sigma/m_j; `sizes` [k] is m."""
    dtype = sizes.dtype
    parts = jnp.sum(sizes > 0).astype(dtype)
    return Design(
        weights=sizes,
        divisor=safe(parts - 1),
        divisor_left=safe(jnp.broadcast_to(parts - 2, sizes.shape)),
        drop=(sizes > 0).astype(dtype),
        share=1 / jnp.sum(sizes),
        factor=1 - 1 / parts,
        quantile=student(parts - 1),
        several=parts > 1,
        enough=parts > 2,
        alone=jnp.int32(code("one part")),
    )


def S_moves(design: Design, S: Any, deviations: Any) -> jax.Array:
    """S without i, less S of all, [n]; `deviations` d_i."""
    w = design.weights
    W = jnp.sum(w)
    # Without i the sum of w d is smaller by w_i d_i W/(W - w_i).
    moves = (S * design.drop - w * deviations * W / safe(W - w)) / design.divisor_left
    return jnp.where(w > 0, moves, 0)


def sq_norm_moves(design: Design, excess: Any, deviations: Any, inner: Any) -> jax.Array:
    """The unbiased |G|^2 without i, less that of all, [n]; `deviations` d_i and `inner` c_i."""
    w, d, c = design.weights, deviations, inner
    W, squares = jnp.sum(w), jnp.sum(w**2)
    pairs_left = safe((W - w) ** 2 - (squares - w**2))
    moves = 2 * w * (w * (d + 2 * c + excess) - W * (c + excess)) / pairs_left
    return jnp.where(w > 0, moves, 0)


def safe(x: Any) -> jax.Array:
    """A divisor: 1 where it is not above 0, and the quotient is not used."""
    return jnp.where(x > 0, x, 1)
