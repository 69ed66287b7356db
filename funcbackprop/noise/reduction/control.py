"""Control variates: subtract from each gradient something like it whose mean is known; SVRG.

g_i - a (h_i - mean h) has the mean of g_i for any fixed a, and a variance of
tr Cov(g) - 2 a tr Cov(g, h) + a^2 tr Cov(h), least for a = tr Cov(g, h)/tr Cov(h).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from ...contract import Loss, differentiable, same_structure
from ...contract import batch_size as size_of
from ...per_example import SquaredDeviations, SquaredNorms, gradient_statistics, total
from .. import status as statuses
from ..estimate import Estimate, jackknife, normal, on_log_scale, quantile
from ..moments import ROUNDING_FACTOR
from .sampling import Control, Estimator, plain, unreadable
from .spread import mean_gradient, shares_of, spread, without_own

LEAVE_ONE_OUT = "leave one out"


class Anchor(NamedTuple):
    """Where SVRG's control variate is taken.

    Attributes:
      params: w~, earlier parameters.
      gradient: the mean gradient over the data set at w~, in float32 or wider.
      evaluations: gradient evaluations that it took, N.
    """

    params: chex.ArrayTree
    gradient: chex.ArrayTree
    evaluations: int


def anchor_at(
    loss: Loss,
    params: chex.ArrayTree,
    data: chex.ArrayTree,
    *,
    weights: Any = None,
    memory_limit: int | None = None,
) -> Anchor:
    """The anchor of SVRG: parameters w~ with the mean gradient of the whole data set there.

    Args:
      loss: `loss(params, example) -> scalar`.
      params: w~.
      data: pytree with a leading axis [N]: the whole data set.
      weights: [N], as given to `estimate`; otherwise the estimates are biased.
      memory_limit: as for `funcbackprop.gradient_statistics`.

    Returns:
      `Anchor`, for `svrg`. Pure, so it may be made anew inside a jitted step.

    Cost: N gradient evaluations, 1024 examples in memory at a time.
    """
    shares = shares_of(data, weights, "anchor_at")
    gradient = mean_gradient(loss, params, data, shares, memory_limit=memory_limit)
    return Anchor(params, gradient, size_of(data, "anchor_at"))


def svrg(anchor: Anchor, *, coefficient: Any = 1.0, sampling: Estimator | None = None) -> Estimator:
    """Stochastic variance-reduced gradient: g_i(w) - a (g_i(w~) - mean_j g_j(w~)), paired examples.

    Johnson and Zhang 2013, with a = 1. Of use where w is near the anchor w~: see `variance_ratio`,
    and Defazio and Bottou 2019 (arXiv 1812.04529) on why it often is not for deep networks.
    Randomness of the loss must be part of the example, so that both gradients of a pair share it.

    Args:
      anchor: from `anchor_at`, for the same loss, data and weights.
      coefficient: a; or `LEAVE_ONE_OUT`, see `control_variate`.
      sampling: how examples are drawn: `plain()`, the default, `stratified(...)` or
        `importance(...)`.

    Returns:
      An `Estimator`.

    Raises:
      TypeError, ValueError: an argument has the wrong form.

    Cost: 2 B gradient evaluations, and N for each anchor.

    >>> import jax, jax.numpy as jnp
    >>> from funcbackprop.noise import reduction
    >>> loss = lambda w, x: 0.5 * (w - x) ** 2  # g_i(w) - g_i(w~) is w - w~ for all examples
    >>> data, key = jnp.array([1.0, 2.0, 6.0]), jax.random.key(0)
    >>> way = reduction.svrg(reduction.anchor_at(loss, jnp.array(1.0), data))
    >>> print(reduction.estimate(way, loss, jnp.array(0.0), data, key, 1).gradient)
    -3.0
    """
    if not isinstance(anchor, Anchor):
        raise TypeError(
            f"`svrg`: `anchor` must be made by `anchor_at`, got {type(anchor).__name__}"
        )

    def surrogate(loss, params):
        same_structure(anchor.params, params, "anchor.params", "svrg")
        return _shifted(loss, anchor.params)

    control = Control(surrogate, lambda _: anchor.gradient, coefficient, 1, "factored")
    return _controlled(control, sampling, anchor.evaluations, "svrg")


def control_variate(
    h: Callable[[chex.ArrayTree, chex.ArrayTree], chex.ArrayTree],
    mean: chex.ArrayTree,
    *,
    coefficient: Any = 1.0,
    evaluations: int = 0,
    setup: int = 0,
    sampling: Estimator | None = None,
) -> Estimator:
    """A control variate: g_i - a (h_i - mean h), for any h with a known mean.

    Args:
      h: `h(params, example) -> tree like params`, for instance the gradient of a cheaper model, or
        of a clean copy of the example.
      mean: mean of h over the data set (with the weights), exact, a tree like `params`; see
        `mean_of`.
      coefficient: a. It must not depend on the examples drawn, or the estimate is biased: estimate
        it on an independent batch with `best_coefficient`. Or `LEAVE_ONE_OUT`: each of the B >= 3
        examples takes the best coefficient of the B - 1 others, which are independent of it; plain
        sampling with replacement only.
      evaluations: what one h costs, in gradient evaluations.
      setup: gradient evaluations that `mean` took.
      sampling: how examples are drawn: `plain()`, the default, `stratified(...)` or
        `importance(...)`.

    Returns:
      An `Estimator`.

    Raises:
      TypeError, ValueError: an argument has the wrong form.

    Cost: B gradient evaluations, and B of h, of which at most `memory_limit` bytes (of `estimate`)
    are written out at a time.

    >>> import jax, jax.numpy as jnp
    >>> from funcbackprop.noise import reduction
    >>> loss, h = lambda w, x: w * x + x**2, lambda w, x: x  # g_i = h_i = x_i
    >>> w, data, key = jnp.array(0.0), jnp.array([1.0, 2.0, 6.0]), jax.random.key(0)
    >>> way = reduction.control_variate(h, reduction.mean_of(h, w, data))
    >>> print(reduction.estimate(way, loss, w, data, key, 1).gradient)
    3.0
    """
    if not callable(h):
        raise TypeError(
            "`control_variate`: `h` must be a function (params, example) -> tree like params, got "
            f"{type(h).__name__}"
        )

    def surrogate(_, params):
        return _linear(h, params)

    def checked_mean(params):
        kept, _ = differentiable(params, "control_variate")
        same_structure(mean, kept, "mean", "control_variate")
        return mean

    control = Control(surrogate, checked_mean, coefficient, evaluations, "materialize")
    return _controlled(control, sampling, setup, "control_variate")


def mean_of(
    h: Callable,
    params: chex.ArrayTree,
    data: chex.ArrayTree,
    *,
    weights: Any = None,
    memory_limit: int | None = None,
) -> chex.ArrayTree:
    """The weighted mean over the data set of h(params, example), a tree like `params`. Pure.

    `h` is as in `control_variate`, which shows it at work, the rest as in `anchor_at`.

    Cost: N of h; at most `memory_limit` bytes of them are written out at a time.
    """
    shares = shares_of(data, weights, "mean_of")
    options = {"memory_limit": memory_limit, "method": "materialize"}
    return mean_gradient(_linear(h, params), zeros_of(params), data, shares, **options)


def best_coefficient(
    estimator: Estimator, loss: Loss, params: chex.ArrayTree, batch: chex.ArrayTree
) -> Estimate:
    """a = tr Cov(g, h)/tr Cov(h), estimated on a batch, with its jackknife error.

    A ratio: biased by O(1/n). An estimate of the gradient that uses it stays unbiased if the batch
    is independent of the examples that are drawn later.

    Args:
      estimator: made by `control_variate` or `svrg`; its own coefficient does not matter.
      loss: `loss(params, example) -> scalar`.
      params: a tree, where the gradients are taken.
      batch: n >= 3 independent examples, a tree with a leading axis [n].

    Returns:
      `Estimate`, without unit. Status "no variance to reduce" where h does not vary. Pure.

    Raises:
      TypeError: `estimator` has no control variate.
      ValueError: there are fewer than 3 examples.

    Cost: 3 passes over the batch, of two gradient evaluations or fewer each.

    >>> import jax.numpy as jnp
    >>> from funcbackprop.noise import reduction
    >>> loss, h = lambda w, x: w * x, lambda w, x: 2 * x  # g_i = x_i = h_i/2
    >>> way, x = reduction.control_variate(h, jnp.array(6.0)), jnp.array([1.0, 2.0, 6.0])
    >>> print(f"{reduction.best_coefficient(way, loss, jnp.array(0.0), x).value:.2f}")
    0.50
    """
    g, h, difference = _deviations(_control(estimator, "best_coefficient"), loss, params, batch, {})
    whole, left_out = _best(g, h, difference, total_of), _best(g, h, difference, without_own)
    flat = ~_varies(h)
    status = statuses.first_that_holds(
        (~jnp.isfinite(jnp.sum(g) + jnp.sum(h)), "not finite"), (flat, "no variance to reduce")
    )
    value = jnp.where(flat, jnp.nan, whole)
    return normal(value, jnp.where(flat, jnp.nan, jackknife(whole, left_out)), status, len(g) - 1)


def variance_ratio(
    estimator: Estimator, loss: Loss, params: chex.ArrayTree, batch: chex.ArrayTree
) -> Estimate:
    """rho = tr Cov(g_i - a (h_i - mean h))/tr Cov(g_i), from n paired examples.

    For SVRG this is the ratio of Defazio and Bottou 2019 (arXiv 1812.04529). The reduction at an
    equal number of *examples*: SVRG pays only if rho < 1/2, for it takes two gradients of each.

    Args:
      estimator: made by `control_variate` or `svrg`, with a number as its coefficient.
      loss: `loss(params, example) -> scalar`.
      params: a tree, where the gradients are taken.
      batch: n >= 3 independent examples, a tree with a leading axis [n].

    Returns:
      `Estimate`, without unit; a ratio, biased by O(1/n). The interval is of the delete-one
      jackknife on the log scale. Pure.

    Raises:
      TypeError: `estimator` has no control variate.
      ValueError: there are fewer than 3 examples, or the coefficient is `LEAVE_ONE_OUT`.

    Cost: 3 passes over the batch, of two gradient evaluations or fewer each.

    >>> import jax.numpy as jnp
    >>> from funcbackprop.noise import reduction
    >>> loss, h = lambda w, x: w * x, lambda w, x: x / 2  # g_i = x_i: half of it is left
    >>> way, x = reduction.control_variate(h, jnp.array(1.5)), jnp.array([1.0, 2.0, 6.0])
    >>> print(f"{reduction.variance_ratio(way, loss, jnp.array(0.0), x).value:.2f}")
    0.25
    """
    control = _control(estimator, "variance_ratio")
    if control.coefficient is LEAVE_ONE_OUT:
        raise ValueError(
            "`variance_ratio`: needs a number as the coefficient; see `best_coefficient`"
        )
    g, _, difference = _deviations(control, loss, params, batch, {}, control.coefficient)
    whole = total_of(difference) / total_of(g)
    log_error = jackknife(jnp.log(whole), jnp.log(without_own(difference) / without_own(g)))
    lower, upper = on_log_scale(whole, quantile(len(g) - 1) * log_error)
    status = statuses.first_that_holds(
        (~jnp.isfinite(jnp.sum(g) + jnp.sum(difference)), "not finite"),
        (~_varies(g), "no variance to reduce"),
    )
    return Estimate(whole, whole * log_error, lower, upper, status)


def coefficients_without_own(control, loss, params, batch, options) -> jax.Array:
    """For each example of a batch, the best coefficient of the others, [B]."""
    g, h, difference = _deviations(control, loss, params, batch, options)
    return _best(g, h, difference, without_own)


def population_coefficient(estimator, loss, params, data, shares, options) -> jax.Array:
    """The best coefficient for a whole data set with shares q_i."""
    control = estimator.control
    both, shift, method = residual(control, loss, params, 1.0)
    how = {**options, "method": method}
    surrogate = control.surrogate(loss, params)
    found = (
        spread(loss, params, data, shares, **options),
        spread(surrogate, shift, data, shares, **how),
        spread(both, shift, data, shares, **how),
    )
    g, h, difference = (shares * x.sq_deviations for x in found)
    return _best(g, h, difference, total_of)


def residual(control: Control, loss: Loss, params: chex.ArrayTree, coefficient: Any) -> tuple:
    """`(loss, shift, method)` with gradients g_i - a h_i with respect to the shift, at zero.

    g_i(w) - g_i(w~) is no gradient at one point of the parameters, but that of
    loss(w + d, x) - loss(w~ + d, x) with respect to a shift d that both share.
    """
    first, second = _shifted(loss, params), control.surrogate(loss, params)
    return (
        lambda d, x: first(d, x) - coefficient * second(d, x),
        zeros_of(params),
        control.method,
    )


def zeros_of(params: chex.ArrayTree) -> chex.ArrayTree:
    """A shift of nothing; None where a leaf cannot be differentiated."""
    return jax.tree.map(jnp.zeros_like, differentiable(params, "estimate")[0])


def _shifted(loss, params):
    kept, join = differentiable(params, "estimate")
    return lambda d, x: loss(join(jax.tree.map(jnp.add, kept, d)), x)


def _linear(h, params):
    """A function of the shift whose gradient is h: their inner product."""
    kept, _ = differentiable(params, "control_variate")

    def f(d, x):
        found = h(params, x)
        same_structure(found, kept, "h(params, example)", "control_variate")
        return total(jax.tree.map(lambda a, b: jnp.sum((a * b).real), d, found))

    return f


def _controlled(control, sampling, setup, caller):
    sampling = plain() if sampling is None else sampling
    if not isinstance(sampling, Estimator) or sampling.control is not None:
        raise TypeError(
            f"`{caller}`: `sampling` must be `plain()`, `stratified(...)` or `importance(...)`"
        )
    own = control.coefficient
    if isinstance(own, str):
        if own != LEAVE_ONE_OUT:
            raise ValueError(
                f"`{caller}`: `coefficient` must be a number or LEAVE_ONE_OUT, got {own!r}"
            )
        if sampling.draw is not plain().draw:
            raise ValueError(
                f"`{caller}`: LEAVE_ONE_OUT needs plain sampling with replacement, in which the "
                "other examples are independent of each one; give a number as the coefficient"
            )
        control = control._replace(coefficient=LEAVE_ONE_OUT)
    elif jnp.ndim(own) != 0:
        raise ValueError(
            f"`{caller}`: `coefficient` must be one number, got shape {jnp.shape(own)}"
        )
    return sampling._replace(control=control, setup=sampling.setup + setup)


def _control(estimator, caller):
    if not isinstance(estimator, Estimator) or estimator.control is None:
        raise TypeError(f"`{caller}`: `estimator` must be made by `control_variate` or `svrg`")
    return estimator.control


def _deviations(
    control, loss, params, batch, options, coefficient=1.0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """|.|^2 of the deviations of g, h and g - a h from their means, each [B].

    Those of g and h are 0 where all of them are rounding: examples that are all the same.
    """
    unreadable(loss, "control_variate")
    size = size_of(batch, "control_variate")
    if size < 3:
        raise ValueError(
            "`control_variate`: the variance of what is left without one example needs at least 3 "
            f"examples, got {size}"
        )
    both, shift, method = residual(control, loss, params, coefficient)
    how = {**options, "method": method}
    surrogate = control.surrogate(loss, params)

    def deviations(f, at, options):
        stats = SquaredDeviations(), SquaredNorms()
        r, sq_norms = map(total, gradient_statistics(f, stats, **options)(at, batch)[1])
        floor = (ROUNDING_FACTOR * jnp.finfo(r.dtype).eps) ** 2 * jnp.sum(sq_norms)
        return r, jnp.where(jnp.sum(r) > floor, r, 0)

    g, h = deviations(loss, params, options)[1], deviations(surrogate, shift, how)[1]
    return g, h, jnp.asarray(deviations(both, shift, how)[0])


def total_of(r):
    """sum_i |x_i - mean|^2."""
    return jnp.sum(r)


def _best(g, h, difference, summed):
    """tr Cov(g, h)/tr Cov(h) by polarization; 0 where h does not vary, for then nothing is lost."""
    var_h = summed(h)
    varies = var_h > ROUNDING_FACTOR * jnp.finfo(h.dtype).eps * jnp.sum(h)
    covariance = (summed(g) + var_h - summed(difference)) / 2
    return jnp.where(varies, covariance / jnp.where(varies, var_h, 1), 0)


def _varies(r):
    return jnp.sum(r) > 0
