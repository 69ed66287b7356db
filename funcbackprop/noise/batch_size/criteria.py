"""Tests of the gradient of a batch, and the batch size that each would ask for."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from .. import status as statuses
from ..design import of_examples
from ..estimate import Estimate
from ..geometry.pairs import Pairs, pairs
from ..leave_one_out import (
    Rows,
    S_left_out,
    above_zero,
    left_out,
    positive,
    resolved,
    rows,
    spread_status,
)


class BatchSizeTest(NamedTuple):
    """Whether a batch is large enough, and the smallest size that would be.

    Attributes:
      passed: whether the batch in hand passes.
      batch_size: the smallest size that passes, as this batch estimates it, in examples. Its
        interval is for the ratio of expectations at the present number of examples.
      examples: of the batch in hand, the effective number (sum w)^2/sum w^2.
      status: int32, a code of `funcbackprop.noise.STATUS`.
    """

    passed: chex.Array
    batch_size: Estimate
    examples: chex.Array
    status: chex.Array

    def explain(self) -> str:
        """What the status means, as a sentence (on the host)."""
        return statuses.sentences(self.status)

    def to_dict(self) -> dict:
        """JSON-safe: numbers that are not finite are None, the status is its name."""
        return statuses.to_dict(self)

    def __str__(self):
        return statuses.text(self)


def norm_test(
    mean: chex.ArrayTree,
    sq_norms: chex.ArrayTree | None = None,
    inner: chex.ArrayTree | None = None,
    *,
    theta: float = 0.9,
    population: int | None = None,
    sq_deviations: chex.ArrayTree | None = None,
    variance: chex.ArrayTree | None = None,
    weights: chex.Array | None = None,
) -> BatchSizeTest:
    """Norm test: is the error of the mean gradient small beside the mean gradient?

    Passed if S/B <= theta^2 |gbar|^2, times (1 - B/N) on the left for draws without replacement
    from N examples; the smallest such B is S/(theta^2 |gbar|^2 + S/N). |gbar|^2 exceeds |G|^2 by
    S/B on average, so the size that follows is too small where it is far above B: the noise scale
    over theta^2 has no such bias.

    Args:
      mean: the mean gradient, from `funcbackprop.Mean()`.
      sq_norms: from `funcbackprop.SquaredNorms()`: a tree like `mean` with leaves [B], or one array
        [B]; or, exact where the mean dominates the spread, `sq_deviations` or `variance`.
      inner: from `funcbackprop.InnerWithMean()`, same forms. With `sq_norms` or `sq_deviations` it
        gives the interval.
      theta: the largest relative error of the mean gradient.
      population: N, if the batch was drawn from N examples without replacement.
      weights: [B]; B is the effective number. Any weights; rows of weight 0 are left out.

    Returns:
      `BatchSizeTest`. The interval is a jackknife on the log scale, O(B).

    Raises:
      ValueError: forms disagree, or `theta` or `population` is not positive, or `population` is
        less than the examples drawn from it.

    Byrd, Chin, Nocedal and Wu 2012, who write the factor (N - B)/(N - 1) for a population variance
    over N; here S has N - 1.

    >>> import jax.numpy as jnp
    >>> g = jnp.array([1.0, 3.0, 2.0, 2.5])  # four examples, one parameter
    >>> print(norm_test(g.mean(), g**2, g * g.mean(), theta=0.5).passed)
    True
    """
    above_zero("norm_test", theta=theta, population=population)
    spread: Any = {"sq_norms": sq_norms, "sq_deviations": sq_deviations, "variance": variance}
    r = rows("norm_test", mean, inner=inner, weights=weights, **spread)
    if isinstance(population, int) and weights is None and population < len(r.kept):
        raise ValueError(
            f"`norm_test`: `population` must be at least the {len(r.kept)} examples that were "
            f"drawn from it without replacement, got {population}"
        )
    return norm_test_of(r, theta, population)


@jax.jit
def norm_test_of(r: Rows, theta, population=None):
    def size(S, sq_mean):
        return S / (theta**2 * sq_mean + (0 if population is None else S / population))

    out = left_out(r)
    values = None if out is None else size(out.S, out.sq_mean)
    return _tested(size(r.moments.S, r.sq_mean), values, r)


def inner_product_test(
    mean: chex.ArrayTree,
    sq_norms: chex.ArrayTree,
    inner: chex.ArrayTree,
    *,
    gram: chex.ArrayTree | None = None,
    theta: float = 0.9,
    weights: chex.Array | None = None,
) -> BatchSizeTest:
    """Inner-product test: does the step descend, most of the time?

    Passed if Var(<g_i, gbar>)/B <= theta^2 |gbar|^4: noise along the gradient alone counts. The
    smallest such B is Var(<g_i, gbar>)/(theta^2 |gbar|^4).

    Args:
      mean, sq_norms, inner, weights: as in `norm_test`.
      gram: from `funcbackprop.Gram()`, [B, B]. With one example left out, all <g_i, gbar> change by
        inner products of pairs, so the interval needs it.
      theta: the largest relative error of <g, gbar>.

    Returns:
      `BatchSizeTest`; without `gram` the standard error is NaN. O(B), with `gram` O(B^2).

    Raises:
      ValueError: forms disagree, or `theta` is not positive.

    Bollapragada, Byrd and Nocedal 2018, arXiv 1710.11258.

    >>> import jax.numpy as jnp
    >>> g = jnp.array([[1.0, 9.0], [2.0, -9.0], [3.0, 0.0]])  # noise across the mean [2, 0]
    >>> print(inner_product_test(g.mean(0), jnp.sum(g**2, 1), g @ g.mean(0)).passed)
    True
    """
    above_zero("inner_product_test", theta=theta)
    r = rows("inner_product_test", mean, sq_norms=sq_norms, inner=inner, weights=weights)
    return inner_product_test_of(r, theta, _pairs("inner_product_test", gram, r))


@jax.jit
def inner_product_test_of(r: Rows, theta, both):
    values = None if both is None else _along_left_out(both).along / theta**2
    return _tested(_along(r) / theta**2, values, r)


def orthogonality_test(
    mean: chex.ArrayTree,
    sq_norms: chex.ArrayTree,
    inner: chex.ArrayTree,
    *,
    gram: chex.ArrayTree | None = None,
    nu: float = 5.84,
    weights: chex.Array | None = None,
) -> BatchSizeTest:
    """Orthogonality test: is the part of the noise across the mean gradient small enough?

    Passed if V/B <= nu^2 |gbar|^2 with V = S - Var(<g_i, gbar>)/|gbar|^2, the variance of the part
    of g_i that is orthogonal to gbar. It goes with `inner_product_test`: take the larger size.

    Args:
      mean, sq_norms, inner, gram, weights: as in `inner_product_test`.
      nu: the largest ratio of that part of the error of the mean gradient to |gbar|; 5.84 is the
        paper's value (there called tan 80 degrees, which is 5.67).

    Returns:
      `BatchSizeTest`; without `gram` the standard error is NaN. O(B), with `gram` O(B^2).

    Raises:
      ValueError: forms disagree, or `nu` is not positive.

    Bollapragada, Byrd and Nocedal 2018, arXiv 1710.11258.

    >>> import jax.numpy as jnp
    >>> g = jnp.array([[1.0, 9.0], [2.0, -9.0], [3.0, 0.0]])  # V = 81
    >>> test = orthogonality_test(g.mean(0), jnp.sum(g**2, 1), g @ g.mean(0), nu=1.0)
    >>> print(test.passed, test.batch_size.value)
    False 20.25
    """
    above_zero("orthogonality_test", nu=nu)
    r = rows("orthogonality_test", mean, sq_norms=sq_norms, inner=inner, weights=weights)
    return orthogonality_test_of(r, nu, _pairs("orthogonality_test", gram, r))


@jax.jit
def orthogonality_test_of(r: Rows, nu, both):
    def size(S, along, sq_mean):
        # With one parameter there is no other direction: what is left is rounding.
        return jnp.maximum(S / sq_mean - along, 0) / nu**2

    values = None if both is None else size(*_along_left_out(both))
    return _tested(size(r.moments.S, _along(r), r.sq_mean), values, r)


def _tested(size, values, r: Rows):
    """`size`: the smallest that passes; `values`: with one example left out, [B]."""
    zero = r.sq_mean == 0
    none = r.moments.S == 0
    status = statuses.first_problem(
        spread_status(r.moments), (zero & none, "no spread"), (zero, "zero mean gradient")
    )
    size = jnp.where(zero, jnp.where(none, jnp.nan, jnp.inf), size)
    found = positive(size, values, r.kept, status)
    return BatchSizeTest(size <= r.moments.examples, found, r.moments.examples, status)


def _along(r: Rows):
    """Unbiased variance of <g_i, gbar>/|gbar|^2, gbar taken as given."""
    w, along = r.weights, r.along / r.sq_mean
    return jnp.sum(w * along**2) / (jnp.sum(w) - jnp.sum(w**2) / jnp.sum(w))


class _AlongLeftOut(NamedTuple):
    S: jax.Array
    along: jax.Array
    sq_mean: jax.Array


def _along_left_out(both: Pairs) -> _AlongLeftOut:
    """S, Var(<g_i, gbar>)/|gbar|^4 and |gbar|^2 with example j left out, each [B].

    <g_i - gbar_-j, gbar_-j> = d_i + a_j d_j - a_j C_ij - a_j^2 C_jj, C the centred Gram matrix.
    """
    w, C, d = both.weights, both.centred, both.along
    rest = jnp.sum(w) - w
    a, e = w / rest, jnp.diagonal(C)
    sq_mean = resolved(both.sq_mean, -2 * a * d, a**2 * e)
    inner = d[:, None] + a[None] * (d[None] - C) - (a**2 * e)[None]
    inner = jnp.where(jnp.eye(len(w), dtype=bool), 0, inner / sq_mean[None])
    design = of_examples(w)
    along = jnp.sum(w[:, None] * inner**2, 0) / design.divisor_left
    along = jnp.where(design.enough, along, jnp.nan)
    return _AlongLeftOut(S_left_out(design, both.S, e), along, sq_mean)


def _pairs(caller, gram, r):
    if gram is None:
        return None
    return pairs(caller, gram, r.weights)
