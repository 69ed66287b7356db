"""One fair comparison of estimators of the mean gradient: equal cost, equal random numbers."""

from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ...contract import Loss, differentiable
from ...contract import batch_size as size_of
from .comparison import PLAIN, Comparison, Row, Run, row
from .control import LEAVE_ONE_OUT, population_coefficient, residual
from .estimate import draw_of, wide_estimate
from .sampling import Estimator, plain, unreadable
from .spread import inner, mean_gradient, shares_of, sq_norms_of

# Repetitions below which a jackknife over them means nothing.
_FEWEST = 10


def compare(
    loss: Loss,
    params: chex.ArrayTree,
    data: chex.ArrayTree,
    key: chex.PRNGKey,
    *,
    batch_size: int,
    estimators: Mapping[str, Estimator],
    repetitions: int = 1000,
    steps: int | None = None,
    weights: Any = None,
    memory_limit: int | None = None,
) -> Comparison:
    """Compare estimators with plain sampling at the same number of gradient evaluations.

    Every estimator is run `repetitions` times with the same keys, and its squared errors about the
    known gradient of the whole data set are averaged: no variance is a difference of large numbers.

    * `ratio` of its variance to that of plain sampling, at `batch_size` gradient evaluations each:
      SVRG, which takes two for an example, draws half as many examples. The interval is paired: a
      jackknife over repetitions of the logarithm of the ratio.
    * `ratio_with_setup`: times 1 + setup/(steps batch_size), for plain sampling could have spent
      the set-up evaluations on larger batches. It is the ratio of variance times cost.
    * `bias_z`: how far the squared norm of the mean error is above what no bias would make it, in
      standard deviations (z); it sees a bias in any direction. Above 4 it is called biased.
    * `predicted`: the variance by the formula, exact for this data set.

    Args:
      loss: `loss(params, example) -> scalar`.
      params: a tree, where the gradients are taken.
      data: pytree with a leading axis [N]: the whole population.
      key: random key.
      batch_size: gradient evaluations of one estimate; even where SVRG is compared.
      estimators: name -> estimator. "plain" is added.
      repetitions: at least 10; the ratio is known to about 1/sqrt(repetitions).
      steps: steps that the set-up evaluations are spread over; None is one epoch, N/batch_size.
      weights: [N], relative importances.
      memory_limit: as for `funcbackprop.gradient_statistics`.

    Returns:
      `Comparison`. Eager; what it runs is jitted.

    Raises:
      TypeError, ValueError: an argument has the wrong form, `batch_size` is no multiple of what an
        estimator evaluates for one example, or the gradient of an example is not finite.

    Cost: `repetitions` times `batch_size` gradient evaluations for each estimator; memory of a few
    sets of parameters beside that of one estimate.

    >>> import jax, jax.numpy as jnp
    >>> from funcbackprop.noise import reduction
    >>> loss = lambda w, x: 0.5 * (w - x) ** 2  # g_i = w - x_i
    >>> data = jnp.array([1.0, 1.0, 5.0, 5.0])
    >>> strata = {"strata": reduction.stratified([0, 0, 1, 1])}  # nothing varies within
    >>> key, few = jax.random.key(0), {"batch_size": 2, "repetitions": 10}
    >>> reduction.compare(loss, jnp.array(0.0), data, key, estimators=strata, **few).winner
    'strata'
    """
    size = _checked(loss, data, batch_size, estimators, repetitions, steps)
    shares = shares_of(data, weights, "compare")
    options = {"memory_limit": memory_limit}
    rounding = _rounding(loss, params, data, shares, options)
    steps = max(1, size // batch_size) if steps is None else steps
    keys = jax.random.split(key, repetitions)
    rows: list[Row] = []
    for name, estimator in {PLAIN: plain(), **estimators}.items():
        draws = batch_size // estimator.evaluations
        run = _runner(estimator, loss, draws, weights is None, options)
        found = jax.device_get(run(params, data, shares, keys))
        per_step = estimator.setup / (steps * batch_size)
        baseline = rows[0].sq_errors if rows else found.sq_errors
        rows.append(row(name, found, baseline, draws, estimator, per_step, rounding))
    return Comparison(tuple(rows), batch_size, size, repetitions, steps)


def _runner(estimator, loss, draws, equal, options):
    """Jitted `(params, data, shares, keys) -> Run`."""

    @jax.jit
    def run(params, data, shares, keys):
        target = mean_gradient(loss, params, data, shares, **options)
        zeros = jax.tree.map(jnp.zeros_like, target)

        def repeat(carry: tuple, key: Any):
            total_error, last = carry
            draw = draw_of(estimator, data, key, draws, shares, equal)
            found = wide_estimate(estimator, loss, params, data, draw, options)
            error = jax.tree.map(jnp.subtract, found, target)
            total_error = jax.tree.map(jnp.add, total_error, error)
            return (total_error, error), (inner(error, error), inner(error, last))

        (total_error, _), (sq_errors, products) = jax.lax.scan(repeat, (zeros, zeros), keys)
        sq_bias = inner(total_error, total_error) / len(keys) ** 2
        predicted = _predicted(estimator, loss, params, data, shares, draws, options)
        return Run(sq_errors, products[1:], sq_bias, predicted)

    return run


def _predicted(estimator, loss, params, data, shares, draws, options):
    """The variance by the formula: that of g_i - a h_i under the same draw."""
    if estimator.control is None:
        return estimator.variance(loss, params, data, shares, draws, options)
    own = estimator.control.coefficient
    if own is LEAVE_ONE_OUT:
        own = population_coefficient(estimator, loss, params, data, shares, options)
    both, shift, method = residual(estimator.control, loss, params, own)
    how = {**options, "method": method}
    return estimator.variance(both, shift, data, shares, draws, how)


def _rounding(loss, params, data, shares, options):
    """What rounding makes of an estimate: the unit roundoff times the largest |g_i|.

    ValueError where a gradient is not finite: no estimate of the mean would be.
    """
    measure = jax.jit(lambda *args: sq_norms_of(loss, *args, **options))
    sq_norms = np.asarray(measure(params, data, shares))
    wrong = np.flatnonzero(~np.isfinite(sq_norms))
    if len(wrong):
        raise ValueError(
            f"`compare`: the gradient of example {wrong[0]} of `data` is not finite ({len(wrong)} "
            "such), so the mean gradient is not; remove the example or give it weight 0"
        )
    kept, _ = differentiable(params, "compare")
    eps = max(float(jnp.finfo(jnp.result_type(p)).eps) for p in jax.tree.leaves(kept))
    return eps * float(np.sqrt(sq_norms.max()))


def _checked(loss, data, batch_size, estimators, repetitions, steps):
    """N; ValueError or TypeError where an argument has the wrong form."""
    unreadable(loss, "compare")
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("repetitions", repetitions, _FEWEST),
        ("steps", 1 if steps is None else steps, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"`compare`: `{name}` must be an int from {least} on, got {value!r}")
    if not isinstance(estimators, Mapping):
        raise TypeError(
            '`compare`: `estimators` must be a mapping such as {"strata": stratified(labels)}, got '
            f"{type(estimators).__name__}"
        )
    for name, estimator in estimators.items():
        if name == PLAIN:
            raise ValueError(
                f"`compare`: the name {PLAIN!r} in `estimators` is that of plain sampling, which "
                "is always there; choose another"
            )
        if not isinstance(estimator, Estimator):
            raise TypeError(
                f"`compare`: `estimators`[{name!r}] must be made by `plain`, `stratified`, "
                f"`importance`, `control_variate` or `svrg`, got {type(estimator).__name__}"
            )
        if batch_size % estimator.evaluations:
            raise ValueError(
                f"`compare`: {name!r} takes {estimator.evaluations} gradient evaluations for an "
                f"example, so `batch_size` must be a multiple of that, got {batch_size}"
            )
    return size_of(data, "compare")
