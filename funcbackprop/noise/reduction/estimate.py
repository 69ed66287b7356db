"""The gradient estimate itself, written once for all estimators."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from ...contract import Loss, differentiable
from ...per_example import WeightedSum, gradient_statistics
from .. import status as statuses
from .control import LEAVE_ONE_OUT, coefficients_without_own, zeros_of
from .sampling import Draw, Estimator, unreadable
from .spread import shares_of


class GradientEstimate(NamedTuple):
    """An unbiased estimate of the mean gradient over a data set.

    Attributes:
      gradient: a tree like `params`, in their dtypes.
      evaluations: gradient evaluations that it took.
      status: int32, a code of `funcbackprop.noise.STATUS`.
    """

    gradient: chex.ArrayTree
    evaluations: int
    status: chex.Array

    def explain(self) -> str:
        """What the status means, as a sentence (on the host)."""
        return statuses.sentences(self.status)


def estimate(
    estimator: Estimator,
    loss: Loss,
    params: chex.ArrayTree,
    data: chex.ArrayTree,
    key: chex.PRNGKey,
    batch_size: int,
    *,
    weights: Any = None,
    memory_limit: int | None = None,
) -> GradientEstimate:
    """An unbiased estimate of the mean gradient G = sum_i w_i g_i/sum_i w_i of a data set.

    sum_k c_k (g_(i_k) - a h_(i_k)) + a mean h, over the examples i_k and coefficients c_k that the
    estimator draws; the terms with h are those of its control variate, if it has one.

    Args:
      estimator: `plain()`, `stratified(labels)`, `importance(p)`, `control_variate(h, mean)` or
        `svrg(anchor)`.
      loss: `loss(params, example) -> scalar`.
      data: pytree with a leading axis [N]: the data set, or a batch in hand from which fewer
        examples are drawn.
      key: random key.
      batch_size: B, examples to draw.
      weights: [N], relative importances; an example of weight 0 is never used.
      memory_limit: as for `funcbackprop.gradient_statistics`.

    Returns:
      `GradientEstimate`. Pure: may be jitted, vmapped over keys, and scanned.

    Raises:
      TypeError, ValueError: an argument has the wrong form, or the estimator cannot draw
        `batch_size` examples from `data`.

    Cost: B gradient evaluations, and B of h where there is a control variate. The gradients stay
    factored: nothing of B times the size of the parameters is made.

    >>> import jax, jax.numpy as jnp
    >>> from funcbackprop.noise import reduction
    >>> loss = lambda w, x: 0.5 * (w - x) ** 2  # g_i = w - x_i
    >>> data, key = jnp.array([1.0, 1.0, 5.0, 5.0]), jax.random.key(0)
    >>> strata = reduction.stratified([0, 0, 1, 1])  # nothing varies within
    >>> found = reduction.estimate(strata, loss, jnp.array(0.0), data, key, 2)
    >>> print(found.gradient, found.evaluations)
    -3.0 2
    """
    shares = shares_of(data, weights, "estimate")
    options = {"memory_limit": memory_limit}
    draw = draw_of(estimator, data, key, batch_size, shares, weights is None)
    wide = wide_estimate(estimator, loss, params, data, draw, options)
    kept, _ = differentiable(params, "estimate")
    gradient = jax.tree.map(lambda g, p: g.astype(jnp.result_type(p)), wide, kept)
    finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(wide)]))
    status = statuses.first_that_holds(
        (~jnp.all(jnp.isfinite(draw.coefficients)), "probability not positive"),
        (~finite, "not finite"),
    )
    return GradientEstimate(gradient, batch_size * estimator.evaluations, status)


def draw_of(estimator, data, key, batch_size, shares, equal) -> Draw:
    """The examples that an estimator draws. `equal`: all shares are 1/N."""
    if not isinstance(estimator, Estimator):
        raise TypeError(
            "`estimate`: `estimator` must be made by `plain`, `stratified`, `importance`, "
            f"`control_variate` or `svrg`, got {type(estimator).__name__}"
        )
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"`estimate`: `batch_size` must be an int above 0, got {batch_size!r}")
    draw = estimator.draw(key, shares, equal, batch_size)
    # Examples of coefficient 0 stand for one that has a weight: NaN in padding never spreads.
    used = draw.coefficients != 0
    return draw._replace(indices=jnp.where(used, draw.indices, jnp.argmax(shares > 0)))


def wide_estimate(estimator, loss, params, data, draw, options) -> chex.ArrayTree:
    """The estimate from the examples drawn, in float32 or wider."""
    unreadable(loss, "estimate")
    batch = jax.tree.map(lambda x: jnp.asarray(x)[draw.indices], data)
    gradient = _sum(loss, params, batch, draw.coefficients, options)
    control = estimator.control
    if control is None:
        return gradient
    own = control.coefficient
    if own is LEAVE_ONE_OUT:
        own = coefficients_without_own(control, loss, params, batch, options)
    how = {**options, "method": control.method}
    surrogate, coefficients = control.surrogate(loss, params), draw.coefficients * own
    h = _sum(surrogate, zeros_of(params), batch, coefficients, how)
    known = jnp.mean(jnp.asarray(own, draw.coefficients.dtype))
    return jax.tree.map(
        lambda g, h, m: g - h + known.astype(g.dtype) * m, gradient, h, control.mean(params)
    )


def _sum(loss, params, batch, coefficients, options):
    return gradient_statistics(loss, WeightedSum(coefficients), **options)(params, batch)[1]
