"""The noise scale as a preconditioned optimizer sees it: for updates -eta P g with diagonal P."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from ...contract import Loss, checked_weights, differentiable, same_structure, wide
from ...per_example.numbers import abs2
from .. import status as statuses
from ..design import of_examples
from ..estimate import around
from ..moments import SINGLE
from .ratio import positive_ratio, unknown_covariance
from .result import NoiseScale

# What H is taken as -> the weight a_k of coordinate k, in sum a V/sum a G^2, from P_k.
METRICS = {
    "inverse": lambda p: p,  # H = P^-1: tr(P Sigma)/(G'PG)
    "identity": lambda p: p**2,  # H = 1: tr(P Sigma P)/|PG|^2
}


def preconditioned_noise_scale(
    mean: chex.ArrayTree,
    variance: chex.ArrayTree,
    preconditioner: chex.ArrayTree,
    *,
    examples: Any = None,
    weights: Any = None,
    metric: str = "inverse",
) -> NoiseScale:
    """The noise scale of updates -eta P g: sum_k a_k V_k / sum_k a_k (gbar_k^2 - V_k share).

    V is the variance of a single example, and share = sum w^2/(sum w)^2, or 1/n. With H taken as
    P^-1, a = P and it is tr(P Sigma)/(G'PG); with H taken as the identity, a = P^2 and it is
    tr(P Sigma P)/|PG|^2. Numerator and denominator are unbiased if P does not depend on these
    examples: take it from the optimizer's state before the step.

    Args:
      mean, variance: from `funcbackprop.Mean()` and `funcbackprop.Variance()`.
      preconditioner: P, a tree like `params`, such as `preconditioner(opt_state)`; not negative.
      examples: n, or `weights` [n], those that the statistics were measured with.
      metric: what H is taken as: "inverse" (of P, the default: what Adam supposes) or "identity".

    Returns:
      `NoiseScale`: in `S` and `sq_gradient_norm` numerator and denominator, in the units of a times
      squared gradient; B_simple in examples. There are no standard errors, for variances do not
      tell how sure they are: `noise_scale` of `preconditioned_loss` gives the same with intervals.

    Raises:
      ValueError: the trees disagree, `metric` is unknown, or the number of examples is not told.

    Cost: one pass over the parameters.

    Source: McCandlish, Kaplan and Amodei 2018 (arXiv 1812.06162), appendix C, for the idea.

    >>> import jax.numpy as jnp
    >>> mean, variance = jnp.array([1.0, 1.0]), jnp.array([1.0, 100.0])
    >>> P = 1 / jnp.sqrt(variance)
    >>> b = preconditioned_noise_scale(mean, variance, P, examples=1e6)
    >>> print(f"{b.B_simple.value:.1f}")  # (1 + 10)/(1 + 0.1)
    10.0
    """
    caller = "preconditioned_noise_scale"
    if metric not in METRICS:
        raise ValueError(
            f"`{caller}`: `metric` must be one of {', '.join(map(repr, METRICS))}, got {metric!r}"
        )
    if (examples is None) == (weights is None):
        raise ValueError(f"`{caller}`: pass the number of `examples` or their `weights`, not both")
    for name, tree in (("variance", variance), ("preconditioner", preconditioner)):
        same_structure(tree, mean, name, caller)
    if weights is None:
        share = 1 / jnp.asarray(examples, jnp.result_type(float))
        several = share < 1 / (1 + SINGLE)
    else:
        design = of_examples(checked_weights(weights, len(weights), caller))
        share, several = design.share, design.several
    a = jax.tree.map(lambda p: METRICS[metric](wide(p)), preconditioner)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(a)] or [True]))
    of = lambda m, v, a: _scale(wide(m), wide(v), a, share, several, finite)  # noqa: E731
    whole = of(_flat(mean), _flat(variance), _flat(a))
    return whole._replace(per_leaf=jax.tree.map(of, mean, variance, a))


def preconditioned_loss(
    loss: Loss, params: chex.ArrayTree, preconditioner: chex.ArrayTree, *, metric: str = "inverse"
) -> tuple[Loss, chex.ArrayTree]:
    """`(loss, zeros)`: the loss as a function of u, at params + sqrt(a) u.

    Its gradient at u = 0 is sqrt(a) g, so its noise scale is the preconditioned one: all that
    `funcbackprop.noise` measures of gradients can be had for preconditioned ones, with intervals.

    Args:
      loss: `loss(params, example) -> scalar` of one example.
      params: a tree, where u = 0.
      preconditioner, metric: as in `preconditioned_noise_scale`, which says what a is.

    Returns:
      `loss(u, example)`, and zeros like `params`, the u at which to measure.

    Raises:
      ValueError: the trees disagree, or `metric` is unknown.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> loss = lambda w, x: jnp.dot(w, x)  # g_i = x_i
    >>> scaled, at = preconditioned_loss(loss, jnp.ones(2), jnp.array([4.0, 1.0]))
    >>> print(fb.gradient_statistics(scaled, fb.Mean())(at, jnp.ones((3, 2)))[1])
    [2. 1.]
    """
    if metric not in METRICS:
        raise ValueError(
            "`preconditioned_loss`: `metric` must be one of "
            f"{', '.join(map(repr, METRICS))}, got {metric!r}"
        )
    kept, join = differentiable(params, "preconditioned_loss")
    same_structure(preconditioner, kept, "preconditioner", "preconditioned_loss")
    root = jax.tree.map(
        lambda p, x: jnp.sqrt(METRICS[metric](wide(p))).astype(x.dtype), preconditioner, kept
    )

    def scaled(u, example):
        return loss(join(jax.tree.map(lambda p, r, x: p + r * x, kept, root, u)), example)

    return scaled, jax.tree.map(jnp.zeros_like, kept)


@jax.jit
def _scale(mean, variance, a, share, several, finite):
    skip = a == 0  # 0 times an infinite variance is 0: the coordinate does not move
    S = jnp.sum(jnp.where(skip, 0, a * variance))
    sq_mean = jnp.sum(jnp.where(skip, 0, a * abs2(mean)))
    S = jnp.where(several, S, jnp.nan)
    sq_norm = sq_mean - share.astype(S.dtype) * S
    wrong = (
        (~several, "one example"),
        (~finite, "no step taken"),
        (~jnp.isfinite(S + sq_norm), "not finite"),
    )
    no_error = (True, "no spread of single examples")
    status = statuses.first_that_holds(*wrong, no_error)
    of_ratio = statuses.first_that_holds(
        *wrong, (sq_norm <= 0, "gradient not above zero"), no_error
    )
    nan = jnp.full_like(S, jnp.nan)
    return NoiseScale(
        S=around(S, nan, 1.0, status),
        sq_gradient_norm=around(sq_norm, nan, 1.0, status),
        B_simple=positive_ratio(S, sq_norm, unknown_covariance(S, sq_norm), 1.0, share, of_ratio),
        examples=1 / share,
    )


def _flat(tree):
    leaves = [wide(x).reshape(-1) for x in jax.tree.leaves(tree)]
    return jnp.concatenate(leaves) if leaves else jnp.zeros(0)
