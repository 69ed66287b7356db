"""A number with its uncertainty, and the jackknife, which gives one to almost any estimator."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from ..files import json_safe
from ..tables import number
from . import status as statuses

# Of every interval.
LEVEL = 0.95
# Degrees of freedom at which Student's quantile is tabulated; between them 1/freedom is linear.
_FREEDOM = np.array([1, 1.2, 1.5, 1.75, *range(2, 61), 70, 100, 200, np.inf])
_TAIL = 1 - (1 - LEVEL) / 2
_QUANTILES = np.append(special.stdtrit(_FREEDOM[:-1], _TAIL), special.ndtri(_TAIL))
_KNOTS = 1 / _FREEDOM[:0:-1]  # from 0, of infinite freedom
_BENDS = np.diff(np.diff(_QUANTILES[::-1]) / np.diff(1 / _FREEDOM[::-1]), prepend=0)


class Estimate(NamedTuple):
    """A number, its standard error and its 95 % interval; arrays of one shape.

    Attributes:
      value: the estimate.
      standard_error: in the units of `value`. NaN where it is not known.
      lower, upper: limits of the 95 % interval; infinite where it is unbounded, NaN where it is not
        known. Not always symmetric.
      status: int32, a code of `funcbackprop.noise.STATUS`: why a number is NaN or cannot be
        trusted.
    """

    value: chex.Array
    standard_error: chex.Array
    lower: chex.Array
    upper: chex.Array
    status: chex.Array

    def explain(self) -> str:
        """What the status means, as a sentence (on the host); one line for each entry."""
        return statuses.sentences(self.status)

    def to_dict(self) -> dict:
        """JSON-safe: numbers that are not finite are None, the status is its name."""
        numbers = {name: np.asarray(x) for name, x in zip(self._fields, self, strict=True)}
        return json_safe({**numbers, "status": statuses.names(self.status)})

    def __str__(self):
        try:
            fields = [np.asarray(x) for x in self]
        except jax.errors.TracerArrayConversionError:
            return "Estimate(traced)"
        rows = zip(*(x.ravel().tolist() for x in fields), strict=True)
        return "\n".join(_line(*row) for row in rows)


def _line(value, standard_error, lower, upper, status):
    text = number(value)
    if np.isfinite(lower) or np.isfinite(upper):
        text += f" [{number(lower)}, {number(upper)}]"
    elif np.isfinite(standard_error):
        text += f" ± {number(standard_error)}"
    return text if status == 0 else f"{text} ({statuses.STATUS[status][0]})"


def normal(
    value: Any, standard_error: Any, status: Any = 0, freedom: float | None = None
) -> Estimate:
    """An estimate whose error is Gaussian: value -/+ q standard errors.

    Args:
      status: int32 codes; where one is not 0 the limits stay, for the status says what is wrong.
      freedom: degrees of freedom of the standard error, for Student's t; None for a known one.

    >>> print(normal(1.0, 0.5))
    1 [0.02, 1.98]
    """
    return around(value, standard_error, quantile(freedom), status)


def around(value: Any, error: Any, q: Any, status: Any = 0) -> Estimate:
    """value -/+ q standard errors."""
    value, error = jnp.broadcast_arrays(value, error)
    status = jnp.broadcast_to(jnp.asarray(status, jnp.int32), value.shape)
    return Estimate(value, error, value - q * error, value + q * error, status)


def around_positive(value: Any, error: Any, q: Any, status: Any = 0) -> Estimate:
    """The same for a variance: its interval is symmetric in the logarithm, as its errors are.

    Where the value is not above 0 it has no logarithm, and the interval is that of `around`.
    """
    plain = around(value, error, q, status)
    above = plain.value > 0
    one = jnp.ones((), plain.value.dtype)
    half = q * plain.standard_error
    low, high = on_log_scale(plain.value, half / jnp.where(above, plain.value, one))
    lower, upper = jnp.where(above, low, plain.lower), jnp.where(above, high, plain.upper)
    return plain._replace(lower=lower, upper=upper)


def on_log_scale(value: Any, half: Any) -> tuple:
    """`(lower, upper)` at a distance of `half` in the logarithm of a value above 0."""
    factor = jnp.exp(half)
    return value / factor, value * factor


def quantile(freedom: float | None = None) -> float:
    """The 97.5 % quantile of the normal or of Student's distribution.

    >>> print(f"{quantile():.3f} {quantile(3):.3f}")
    1.960 3.182
    """
    return float(special.ndtri(_TAIL) if freedom is None else special.stdtrit(freedom, _TAIL))


def student(freedom: Any) -> chex.Array:
    """The 97.5 % quantile of Student's distribution, for a number of degrees that may be traced.

    Relative error below 1e-3; exact at the integers up to 60. Below one degree: that of one.

    >>> print(f"{student(4):.3f} {student(1e9):.3f}")
    2.776 1.960
    """
    inverse = 1 / jnp.maximum(jnp.asarray(freedom, jnp.result_type(float)), 1)
    beyond = jnp.maximum(inverse[..., None] - _KNOTS.reshape((1,) * inverse.ndim + (-1,)), 0)
    return _QUANTILES[-1] + jnp.sum(beyond * _BENDS.reshape((1,) * inverse.ndim + (-1,)), -1)


def unknown(like: Any, status: Any) -> Estimate:
    """NaN in the form of `like`, with the status that says why."""
    nan = jnp.full(jnp.shape(like), jnp.nan)
    return Estimate(nan, nan, nan, nan, jnp.broadcast_to(jnp.asarray(status, jnp.int32), nan.shape))


def jackknife(whole: Any, left_out: Any, sizes: Any = None) -> chex.Array:
    """Standard error of an estimator, from its values with one group of the data left out.

    With groups of m_j of n examples, h_j = n/m_j and pseudo-values p_j = h_j t - (h_j - 1) t_-j,
    the squared error is the mean over the g groups of (p_j - t_J)^2/(h_j - 1), where
    t_J = sum_j p_j/h_j: the delete-a-group jackknife for groups of unequal size (Busing, Meijer and
    van der Leeden 1999); with equal sizes it is (g - 1)/g sum_j (t_-j - mean t_-)^2. Right for
    smooth functions of means; the groups must be independent.

    Args:
      whole: t, [...].
      left_out: t_-j, [g, ...].
      sizes: m_j, [g], all above 0 and fewer than all; None if they are equal.

    Returns:
      [...], in the units of `whole`; NaN for fewer than two groups.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([1.0, 2.0, 3.0, 6.0])  # of a mean: s/sqrt(n)
    >>> error = jackknife(x.mean(), (x.sum() - x) / 3)
    >>> print(f"{error:.4f} {jnp.std(x, ddof=1) / 2:.4f}")
    1.0801 1.0801
    """
    left_out = jnp.asarray(left_out)
    groups = len(left_out)
    if groups < 2:
        return jnp.full(jnp.shape(whole), jnp.nan)
    sizes = jnp.ones(groups) if sizes is None else jnp.asarray(sizes)
    h = (jnp.sum(sizes) / sizes).astype(left_out.dtype)
    h = h.reshape(-1, *([1] * (left_out.ndim - 1)))
    # About `whole`, so that a value far larger than its error does not cancel.
    about = (h - 1) * (jnp.asarray(whole)[None] - left_out)
    centre = jnp.sum(about / h, axis=0, keepdims=True)
    return jnp.sqrt(jnp.mean((about - centre) ** 2 / (h - 1), axis=0))
