"""The spectrum of the noise covariance from the Gram matrix: eigenvalues and effective rank."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from ...results import is_traced
from .. import status as statuses
from ..estimate import Estimate, unknown
from ..leave_one_out import choose, plain, positive, scaled_by
from ..moments import ROUNDING_FACTOR
from .pairs import Pairs, pairs

# Fewest examples for four different ones.
_FEWEST = 4
# Share of S that the other examples must hold, so that the traces without one are no rounding.
_RESOLVED = 0.005


class CovarianceSpectrum(NamedTuple):
    """Eigenvalues of the sample covariance, which are biased.

    Attributes:
      biased_eigenvalues: [B], falling; at most n - 1 are not 0. Squared gradient.
      S: their sum, unbiased for tr(Sigma).
      status: int32, a code of `funcbackprop.noise.STATUS`.
    """

    biased_eigenvalues: chex.Array
    S: chex.Array
    status: chex.Array

    def explain(self) -> str:
        """What the status means, as a sentence (on the host)."""
        return statuses.sentences(self.status)

    def to_dict(self) -> dict:
        """JSON-safe: numbers that are not finite are None, the status is its name."""
        return statuses.to_dict(self)

    def __str__(self):
        if is_traced(self):
            return "CovarianceSpectrum(traced)"
        largest = self._replace(
            biased_eigenvalues=jnp.asarray(self.biased_eigenvalues)[..., :_SHOWN]
        )
        return f"{statuses.text(largest)}\nThe {_SHOWN} largest. {_BIASED}"


_SHOWN = 5
_BIASED = (
    "Eigenvalues of a sample covariance are biased: the largest are too large, the rest too small, "
    "and those beyond the number of examples are missing. Their sum is unbiased."
)


def covariance_spectrum(
    gram: chex.ArrayTree, *, weights: chex.Array | None = None
) -> CovarianceSpectrum:
    """Eigenvalues of the sample covariance of the gradients, which are biased.

    They are those of the centred Gram matrix over n - 1. With far more parameters than examples the
    largest come out too large (26.5 for a true 22.1 in one simulation) and the rest too small; no
    error is given, for it would be about the wrong number. `effective_rank` has no such bias.

    Args:
      gram: the inner products of all pairs, [B, B], from `funcbackprop.Gram()`.
      weights: [B]. Any weights: sum w (g - gbar)(g - gbar)'/(sum w - sum w^2/sum w). Rows of weight
        0 are left out, and make eigenvalues of 0.

    Returns:
      `CovarianceSpectrum`. O(B^3).

    Raises:
      ValueError: `gram` is neither [B, B] nor a tree of such, or `weights` are wrong in form.

    >>> import jax.numpy as jnp
    >>> g = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    >>> found = covariance_spectrum(g @ g.T)
    >>> print(f"{found.biased_eigenvalues[0]:.4f} {found.S:.4f}")
    1.0000 1.0000
    """
    return _spectrum(pairs("covariance_spectrum", gram, weights))


@jax.jit
def _spectrum(k: Pairs) -> CovarianceSpectrum:
    root, summed = jnp.sqrt(k.weights), jnp.sum(k.weights)
    divisor = summed - jnp.sum(k.weights**2) / summed
    matrix = root[:, None] * k.centred * root[None] / divisor
    # eigvalsh of NaN may not return NaN on every device.
    values = jnp.linalg.eigvalsh(jnp.where(jnp.isfinite(matrix), matrix, 0))[::-1]
    bad = ~jnp.all(jnp.isfinite(matrix))
    values = jnp.where(bad, jnp.nan, jnp.maximum(values, 0))
    return CovarianceSpectrum(values, jnp.where(bad, jnp.nan, k.S), k.status)


class EffectiveRank(NamedTuple):
    """How many directions the noise has.

    Attributes:
      effective_rank: (tr Sigma)^2/tr(Sigma^2), from unbiased forms of both: 1 if the noise has one
        direction, P if it is the same in all. Not clipped; its lower limit is at least 1.
      sq_trace: unbiased (tr Sigma)^2. Gradient^4.
      trace_of_square: unbiased tr(Sigma^2). Gradient^4.
      status: int32, a code of `funcbackprop.noise.STATUS`.
    """

    effective_rank: Estimate
    sq_trace: Estimate
    trace_of_square: Estimate
    status: chex.Array

    def explain(self) -> str:
        """What the status means, as a sentence (on the host)."""
        return statuses.sentences(self.status)

    def to_dict(self) -> dict:
        """JSON-safe: numbers that are not finite are None, the status is its name."""
        return statuses.to_dict(self)

    def __str__(self):
        return statuses.text(self)


def effective_rank(gram: chex.ArrayTree, *, weights: chex.Array | None = None) -> EffectiveRank:
    """The effective rank (tr Sigma)^2/tr(Sigma^2) of the noise, without the bias of eigenvalues.

    Numerator and denominator are unbiased: means over four different examples of
    |g_1 - g_2|^2 |g_3 - g_4|^2/4 and <g_1 - g_2, g_3 - g_4>^2/4, which are the forms of Himeno and
    Yamada. Their ratio is consistent. It sets the precision of the unbiased |G|^2 near G = 0:
    Var = 2 tr(Sigma^2)/(n(n-1)).

    Args:
      gram: the inner products of all pairs, [B, B], from `funcbackprop.Gram()`; at least four
        examples.
      weights: [B], 0 or 1. Other weights have no such form: NaN, status `unequal weights`.

    Returns:
      `EffectiveRank`. The intervals are the delete-one jackknife's, that of the traces on the log
      scale. Both traces are means of squares, so never negative; where tr(Sigma^2) is 0 the rank is
      inf, with a status. O(B^2): every leave-one-out value follows from row sums.

    Raises:
      ValueError: `gram` is neither [B, B] nor a tree of such, or `weights` are wrong in form.

    Himeno and Yamada 2014.

    >>> import jax, jax.numpy as jnp
    >>> g = jax.random.normal(jax.random.key(0), (60, 3))  # three directions
    >>> found = effective_rank(g @ g.T)
    >>> print(f"{found.effective_rank.value:.1f}")
    3.0
    """
    return _effective_rank(pairs("effective_rank", gram, weights))


@jax.jit
def _effective_rank(k: Pairs) -> EffectiveRank:
    # Squares of squared gradients under- and overflow: S is the unit until the end.
    unit = jnp.where(k.S > 0, k.S, 1)
    k = k._replace(centred=k.centred / unit)
    sums = _sums(k)
    whole, left = _traces(k.examples, sums), _traces(k.examples - 1, _sums_left_out(k, sums))
    status = statuses.first_problem(
        k.status,
        (k.unequal, "unequal weights"),
        (k.examples < _FEWEST, "too few examples"),
        (k.S == 0, "no spread"),
    )
    traces = (
        scaled_by(unit, scaled_by(unit, positive(x, y, k.kept, status)))
        for x, y in zip(whole, left, strict=True)
    )
    found = (_rank(whole, left, k.kept, status), *traces)
    rank, sq_trace, of_square = (choose(status == 0, x, unknown(0.0, status)) for x in found)
    return EffectiveRank(rank, sq_trace, of_square, rank.status)


def _rank(whole, left, kept, status):
    """The ratio of the traces; no rank is below 1, so a limit may be moved there."""
    (above, below), (above_left, below_left) = whole, left
    # tr(Sigma^2) is a difference of terms of this size.
    rounding = ROUNDING_FACTOR * jnp.finfo(above.dtype).eps * above / jnp.sum(kept) ** 2
    zero = below <= rounding
    status = statuses.first_problem(status, (zero, "spectrum not above zero"))
    known = plain(above / below, above_left / below_left, kept, status)
    known = known._replace(lower=jnp.maximum(known.lower, 1))
    inf, nan, one = (jnp.full_like(above, x) for x in (jnp.inf, jnp.nan, 1))
    return choose(zero, Estimate(inf, nan, one, inf, status), known)


class _Sums(NamedTuple):
    """Sums that the two traces need; C the centred Gram matrix, A the same with diagonal 0.

    Attributes:
      s1, s2: sum C_ii, sum C_ii^2.
      t: sum_ij A_ij.
      r: sum_i (sum_j A_ij)^2.
      q: sum_ij A_ij^2.
      x: sum_i C_ii sum_j A_ij.
    """

    s1: jax.Array
    s2: jax.Array
    t: jax.Array
    r: jax.Array
    q: jax.Array
    x: jax.Array


def _parts(k: Pairs):
    diagonal = jnp.diagonal(k.centred)
    A = jnp.where(jnp.eye(len(diagonal), dtype=bool), 0, k.centred)
    return diagonal, A, jnp.sum(A, 1)


def _sums(k: Pairs) -> _Sums:
    s, A, a = _parts(k)
    return _Sums(
        jnp.sum(s), jnp.sum(s**2), jnp.sum(a), jnp.sum(a**2), jnp.sum(A**2), jnp.sum(s * a)
    )


def _sums_left_out(k: Pairs, whole: _Sums) -> _Sums:
    """The sums with example j left out, each [B].

    The traces do not change if all g_i are shifted, so the centre may stay where it is.
    """
    s, A, a = _parts(k)
    squares = jnp.sum(A**2, 1)
    rest = whole.s1 - s
    # The traces are squares of this: were it below, their leading digits would be rounding.
    rest = jnp.where(rest < _RESOLVED * whole.s1, jnp.nan, rest)
    return _Sums(
        rest,
        whole.s2 - s**2,
        whole.t - 2 * a,
        whole.r - a**2 - 2 * (A @ a) + squares,
        whole.q - 2 * squares,
        whole.x - s * a - A @ s,
    )


def _traces(n, c: _Sums):
    """Unbiased (tr Sigma)^2 and tr(Sigma^2): means over two, three and four different examples."""
    two, three = n * (n - 1), n * (n - 1) * (n - 2)
    four = three * (n - 3)
    quadruples = c.t**2 - 4 * c.r + 2 * c.q
    sq_trace = (c.s1**2 - c.s2) / two - 2 * (c.s1 * c.t - 2 * c.x) / three + quadruples / four
    of_square = c.q / two - 2 * (c.r - c.q) / three + quadruples / four
    return sq_trace, of_square
