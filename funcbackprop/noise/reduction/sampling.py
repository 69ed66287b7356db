"""What an estimator of the mean gradient is: a way to draw examples, perhaps a control variate.

With shares q_i = w_i/sum w of the data set (1/N without weights) the target is G = sum_i q_i g_i.
An estimator draws examples i_1 .. i_B with coefficients c_k such that E sum_k c_k f(i_k) =
sum_i q_i f(i) for every f, so sum_k c_k g_(i_k) is unbiased for G.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from ...contract import Loss
from .spread import Spread, spread


class Draw(NamedTuple):
    """Examples drawn from a data set.

    Attributes:
      indices: rows of the data set, int32 [B].
      coefficients: c_k >= 0, [B].
    """

    indices: jax.Array
    coefficients: jax.Array


class Control(NamedTuple):
    """A quantity h_i, like a gradient, whose mean over the data set is known.

    Attributes:
      surrogate: `(loss, params) -> f(shift, example) -> scalar` whose gradient with respect to
        `shift` at zero is h_i: what the engine of per-example gradients can take apart.
      mean: `(params) -> tree like params`, the known mean of the h_i.
      coefficient: a in g_i - a (h_i - mean h), a number, or `LEAVE_ONE_OUT`.
      evaluations: what one h_i costs, in gradient evaluations.
      method: of `funcbackprop.gradient_statistics` for the surrogate.
    """

    surrogate: Callable
    mean: Callable
    coefficient: Any
    evaluations: int
    method: str


class Estimator(NamedTuple):
    """An unbiased estimator of the mean gradient over a data set, for `estimate` and `compare`.

    Attributes:
      draw: `(key, shares [N], equal, batch_size) -> Draw`; `equal` says that all shares are 1/N.
      variance: `(loss, params, data, shares, batch_size, options) -> scalar`, the summed variance
        that this draw gives the estimate, with the data set as the population.
      control: a `Control`, or None.
      setup: gradient evaluations spent before the first estimate.
    """

    draw: Callable
    variance: Callable
    control: Control | None = None
    setup: int = 0

    @property
    def evaluations(self) -> int:
        """Gradient evaluations for each example drawn."""
        return 1 + (self.control.evaluations if self.control else 0)


def plain(*, replace: bool = True) -> Estimator:
    """Plain uniform sampling: the mean gradient of B examples.

    With replacement, example i is drawn with probability q_i: the variance is S/B, with
    S = sum_i q_i |g_i - G|^2. Without replacement (all rows equally likely, coefficients N q_i/B)
    it is (S_N^2/B)(1 - B/N), with S_N^2 the variance of N q_i g_i over N - 1.

    Args:
      replace: whether an example can be drawn twice.

    Cost: B gradient evaluations.

    >>> import jax, jax.numpy as jnp
    >>> from funcbackprop.noise import reduction
    >>> loss = lambda w, x: 0.5 * (w - x) ** 2  # g_i = w - x_i
    >>> x = jnp.array([1.0, 2.0, 6.0])
    >>> all_three = reduction.plain(replace=False)
    >>> print(reduction.estimate(all_three, loss, jnp.array(0.0), x, jax.random.key(0), 3).gradient)
    -3.0
    """
    return Estimator(*(_WITH_REPLACEMENT if replace else _WITHOUT_REPLACEMENT))


def _draw_with_replacement(key, shares, equal, batch_size):
    coefficients = jnp.full(batch_size, 1 / batch_size, shares.dtype)
    if equal:
        return Draw(jax.random.randint(key, (batch_size,), 0, len(shares)), coefficients)
    return Draw(weighted(key, shares[None], jnp.zeros(batch_size, int)), coefficients)


def _variance_with_replacement(loss, params, data, shares, batch_size, options):
    found = spread(loss, params, data, shares, **options)
    return jnp.sum(shares * found.sq_deviations) / batch_size


def _draw_without_replacement(key, shares, equal, batch_size):
    size = len(shares)
    if batch_size > size:
        raise ValueError(
            f"`plain`: without replacement at most the {size} examples of `data` can be drawn, got "
            f"batch_size={batch_size}"
        )
    indices = jax.random.permutation(key, size)[:batch_size]
    return Draw(indices, size / batch_size * shares[indices])


def _variance_without_replacement(loss, params, data, shares, batch_size, options):
    size = len(shares)
    if size == 1:
        return jnp.zeros(())
    found = spread(loss, params, data, shares, **options)
    # N q_i g_i - G, about G: the deviations do not cancel where the mean dominates.
    sq_sum = jnp.sum(scaled_sq_distances(found, size * shares))
    return sq_sum / (size - 1) / batch_size * (1 - batch_size / size)


_WITH_REPLACEMENT = (_draw_with_replacement, _variance_with_replacement)
_WITHOUT_REPLACEMENT = (_draw_without_replacement, _variance_without_replacement)


def scaled_sq_distances(found: Spread, a: jax.Array) -> jax.Array:
    """|a_i g_i - G|^2, [N], from the deviations of the g_i from G."""
    excess = a - 1
    return (
        a**2 * found.sq_deviations + 2 * a * excess * found.along_mean + excess**2 * found.sq_mean
    )


def weighted(key: chex.PRNGKey, mass: jax.Array, row: jax.Array) -> jax.Array:
    """Columns drawn with probabilities proportional to `mass` [R, M], one for each of `row` [n].

    In two steps, a block of about sqrt(M) columns and a column of it: a random float32 number has
    24 bits, so that one step over 10^6 columns would miss their probabilities by several percent.
    """
    groups, size = mass.shape
    width = max(1, math.isqrt(size))
    blocks = -(-size // width)
    mass = jnp.pad(mass, ((0, 0), (0, blocks * width - size))).reshape(groups, blocks, width)
    of_block, of_column = jax.random.uniform(key, (2, len(row), 1), mass.dtype)
    block = _first_above(of_block, jnp.sum(mass, -1)[row])
    column = _first_above(of_column, mass[row, block])
    return jnp.minimum(block * width + column, size - 1)


def _first_above(u, mass):
    """The first column at which the cumulated share of `mass` [n, K] is above `u` [n, 1]."""
    whole = jnp.cumsum(mass, axis=-1)
    whole = whole / jnp.where(whole[:, -1:] > 0, whole[:, -1:], 1)
    return jnp.minimum(jnp.sum(whole <= u, axis=-1), mass.shape[1] - 1)


def unreadable(loss: Loss, caller: str) -> None:
    """TypeError if `loss` cannot be called: the estimator and the loss are easily exchanged."""
    if not callable(loss) or isinstance(loss, Estimator):
        raise TypeError(
            f"`{caller}`: `loss` must be a function (params, example) -> scalar, got "
            f"{type(loss).__name__}"
        )
