"""Importance sampling: examples with large gradients are drawn more often, and weigh less."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from .sampling import Draw, Estimator, scaled_sq_distances, weighted
from .spread import spread


def importance(probabilities: Any, *, setup: int | None = None) -> Estimator:
    """Importance sampling: example i is drawn with probability p_i and weighs q_i/(B p_i).

    Without weights the estimate is (1/(N B)) sum_k g_(i_k)/p_(i_k). Its variance is
    (sum_i q_i^2 |g_i|^2/p_i - |G|^2)/B, smallest for p_i proportional to q_i |g_i| (Katharopoulos
    and Fleuret 2018, arXiv 1803.00942).

    Args:
      probabilities: p, [N], above 0; any scale, they are divided by their sum. See
        `norm_probabilities`. An example that is never drawn would make the estimate biased. A p
        that is not above 0 raises ValueError; traced, it makes the estimate NaN.
      setup: gradient evaluations that finding them took; None is N.

    Raises:
      ValueError: `probabilities` have the wrong form, or one is not above 0 and finite.

    Cost: B gradient evaluations.

    >>> import jax, jax.numpy as jnp
    >>> from funcbackprop.noise import reduction
    >>> loss = lambda w, x: w * x  # g_i = x_i
    >>> x = jnp.array([1.0, 2.0, 5.0])
    >>> best = reduction.importance(x)  # gradients of one sign: no variance is left
    >>> found = reduction.estimate(best, loss, jnp.array(1.0), x, jax.random.key(0), 1)
    >>> print(f"{found.gradient:.4f} {x.mean():.4f}")
    2.6667 2.6667
    """
    p = _checked(probabilities)
    size = len(p)

    def fitting(shares):
        if len(shares) != size:
            raise ValueError(
                f"`importance`: `probabilities` must hold one number for each of the {len(shares)} "
                f"examples of `data`, got {size}"
            )
        # What has no weight need not be drawn.
        useful = jnp.where(shares > 0, p, 0).astype(shares.dtype)
        return useful / jnp.sum(useful)

    def ratio(shares, useful):
        return jnp.where(shares > 0, shares / jnp.where(shares > 0, useful, 1), 0)

    def draw(key, shares, equal, batch_size):
        useful = fitting(shares)
        indices = weighted(key, useful[None], jnp.zeros(batch_size, int))
        return Draw(indices, ratio(shares, useful)[indices] / batch_size)

    def variance(loss, params, data, shares, batch_size, options):
        useful = fitting(shares)
        found = spread(loss, params, data, shares, **options)
        distances = scaled_sq_distances(found, ratio(shares, useful))
        return jnp.sum(useful * distances) / batch_size

    return Estimator(draw, variance, setup=size if setup is None else setup)


def norm_probabilities(norms: Any, mix: float = 0.1, weights: Any = None) -> chex.Array:
    """Sampling probabilities from gradient norms, mixed with uniform ones.

    p_i = (1 - mix) q_i |g_i|/sum_j q_j |g_j| + mix/N. The part `mix` bounds the coefficients
    q_i/p_i by N q_i/mix: without it, that of an example whose norm has grown since it was
    measured has no bound.

    Args:
      norms: |g_i|, [N], not squared, not negative; stale or approximate ones do.
        `jnp.sqrt(fb.total(sq_norms))` of `fb.SquaredNorms()`.
      mix: above 0 (unless all norms are positive), at most 1.
      weights: [N], relative importances of the examples; None if all are equal.

    Returns:
      [N], summing to 1. If all norms are 0 they are taken as equal; NaN if one is negative or not
      finite. Pure.

    Raises:
      ValueError: `norms` or `weights` are not [N], or `mix` is not from 0 to 1.

    >>> import jax.numpy as jnp
    >>> print(norm_probabilities(jnp.array([0.0, 1.0, 3.0]), mix=0.75))
    [0.25   0.3125 0.4375]
    """
    norms = jnp.asarray(norms)
    if norms.ndim != 1:
        raise ValueError(f"`norm_probabilities`: `norms` must have shape [N], got {norms.shape}")
    if not 0 <= mix <= 1:
        raise ValueError(f"`norm_probabilities`: `mix` must be from 0 to 1, got {mix!r}")
    w = jnp.ones(norms.shape) if weights is None else jnp.asarray(weights, float)
    if w.shape != norms.shape:
        raise ValueError(
            f"`norm_probabilities`: `weights` must have the shape {norms.shape} of `norms`, got "
            f"{w.shape}"
        )
    q = w / jnp.sum(w)
    norms = jnp.where((norms >= 0) & jnp.isfinite(norms), norms, jnp.nan)
    # Divided by the largest first, so that neither tiny nor huge norms leave the range of floats.
    largest = jnp.max(norms)
    size = q * jnp.where(largest == 0, 1, norms / jnp.where(largest == 0, 1, largest))
    return (1 - mix) * size / jnp.sum(size) + mix / len(norms)


def _checked(probabilities):
    """p [N]; under tracing, all NaN where one of them is not above 0 and finite."""
    p = jnp.asarray(probabilities, float)
    if p.ndim != 1 or len(p) == 0:
        raise ValueError(f"`importance`: `probabilities` must have shape [N], got {p.shape}")
    valid = (p > 0) & jnp.isfinite(p)
    try:
        wrong = np.flatnonzero(~np.asarray(valid))
    except jax.errors.TracerArrayConversionError:
        return jnp.where(jnp.all(valid), p, jnp.nan)
    if len(wrong):
        raise ValueError(
            "`importance`: `probabilities` must be above 0 and finite, or some examples would "
            "never be drawn and the estimate would be biased; example "
            f"{wrong[0]} has {p[wrong[0]]} "
            f"({len(wrong)} such). Mix them with uniform ones: norm_probabilities(norms, mix=0.1)"
        )
    return p
