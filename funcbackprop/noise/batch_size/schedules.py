"""Batch sizes, learning rates and stopping from the moments: CABS, AdaScale, early stopping."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from ...contract import same_structure
from ...per_example.numbers import abs2
from .. import status as statuses
from ..estimate import Estimate, student
from ..leave_one_out import (
    Rows,
    above_zero,
    common_weights,
    delete_one,
    estimate,
    left_out,
    per_example,
    positive,
    rows,
    spread_status,
)
from ..moments import SINGLE


def cabs(
    mean: chex.ArrayTree,
    sq_norms: chex.ArrayTree | None = None,
    inner: chex.ArrayTree | None = None,
    *,
    losses: chex.Array,
    learning_rate: Any,
    optimum: Any = 0.0,
    sq_deviations: chex.ArrayTree | None = None,
    variance: chex.ArrayTree | None = None,
    weights: chex.Array | None = None,
) -> Estimate:
    """CABS, the coupled adaptive batch size: eta S/(F - F*), F the mean loss.

    A larger step and a smaller loss ask for less noise. It is a number of examples only for plain
    SGD, in the units of a quadratic with unit curvature; with another optimizer it means nothing.

    Args:
      mean, sq_norms, inner, sq_deviations, variance, weights: as in `norm_test`.
      losses: [B], as `funcbackprop.gradient_statistics` returns them.
      learning_rate: eta.
      optimum: F*, the smallest mean loss that can be reached.

    Returns:
      `Estimate`, in examples: a ratio, with a jackknife interval on the log scale, O(B). NaN, with
      a status, where the mean loss is not above `optimum`.

    Raises:
      ValueError: forms disagree, or `learning_rate` is not positive.

    Balles, Romero and Hennig 2017, arXiv 1612.05086 (who take F* = 0).

    >>> import jax.numpy as jnp
    >>> g = jnp.array([1.0, 3.0, 2.0])  # S = 1
    >>> print(cabs(g.mean(), g**2, losses=g / 4, learning_rate=2.0).value)
    4.0
    """
    spread: Any = {"sq_norms": sq_norms, "sq_deviations": sq_deviations, "variance": variance}
    above_zero("cabs", learning_rate=learning_rate)
    losses = per_example("cabs", "losses", losses, None)
    weights = common_weights("cabs", {"losses": losses}, weights)
    r = rows("cabs", mean, inner=inner, weights=weights, **spread)
    return cabs_of(r, losses, learning_rate, optimum)


@jax.jit
def cabs_of(r: Rows, losses, learning_rate, optimum):
    w, excess = r.weights, jnp.where(r.kept, losses - optimum, 0)
    summed = jnp.sum(w * excess)
    loss = summed / jnp.sum(w)
    value = learning_rate * r.moments.S / jnp.where(loss > 0, loss, jnp.nan)
    out = left_out(r)
    values = None
    if out is not None:
        loss_left = (summed - w * excess) / (jnp.sum(w) - w)
        values = learning_rate * out.S / jnp.where(loss_left > 0, loss_left, jnp.nan)
    status = statuses.first_problem(
        spread_status(r.moments),
        (~jnp.isfinite(loss), "not finite"),
        (loss <= 0, "loss not above its optimum"),
    )
    return positive(value, values, r.kept, status)


def adascale_gain(
    mean: chex.ArrayTree,
    sq_norms: chex.ArrayTree | None = None,
    inner: chex.ArrayTree | None = None,
    *,
    replicas: Any,
    base_batch_size: Any,
    sq_deviations: chex.ArrayTree | None = None,
    variance: chex.ArrayTree | None = None,
    weights: chex.Array | None = None,
) -> Estimate:
    """AdaScale's gain: how many steps of base batch B0 one step of k such batches is worth.

        r = (S/B0 + |G|^2)/(S/(k B0) + |G|^2),

    between 1 (no noise) and k (only noise). The learning rate is multiplied by it.

    Args:
      mean, sq_norms, inner, sq_deviations, variance, weights: as in `norm_test`, of any number of
        examples: S and |G|^2 do not depend on it.
      replicas: k.
      base_batch_size: B0, in examples.

    Returns:
      `Estimate`. The value comes from the unbiased |G|^2 and is not clipped: outside [1, k] it has
      the status `gain out of range`. The interval is that of |G|^2/S (jackknife), through the gain,
      which falls with it; its limits are kept in [1, k]. O(B).

    Raises:
      ValueError: forms disagree, or `replicas` or `base_batch_size` is not positive.

    Johnson, Agrawal, Gu and Guestrin 2020, arXiv 2007.05105, who average S and |G|^2 over steps.

    >>> import jax.numpy as jnp
    >>> g = jnp.array([1.0, 3.0, 2.0])  # S = 1, |G|^2 = 4 - 1/3
    >>> gain = adascale_gain(g.mean(), g**2, replicas=4, base_batch_size=1)
    >>> print(f"{gain.value:.4f}")
    1.1915
    """
    above_zero("adascale_gain", replicas=replicas, base_batch_size=base_batch_size)
    spread: Any = {"sq_norms": sq_norms, "sq_deviations": sq_deviations, "variance": variance}
    r = rows("adascale_gain", mean, inner=inner, weights=weights, **spread)
    return _gain(r, replicas, base_batch_size)


@jax.jit
def _gain(r, k, base):
    m, out = r.moments, left_out(r)

    def gain(signal):
        return (1 / base + signal) / (1 / (k * base) + signal)

    signal = m.sq_gradient_norm / m.S
    error = jnp.full_like(signal, jnp.nan)
    if out is not None:
        error = delete_one(signal, out.sq_gradient_norm / out.S, r.kept)
    half = student(jnp.sum(r.kept) - 1) * error
    # Beyond signal = 0, where the gain is k, it has a pole; the truth cannot be there.
    lower, upper = (gain(jnp.maximum(signal + x, 0)) for x in (half, -half))
    value = gain(signal)
    slope = (1 / base) * (1 - 1 / k) / (1 / (k * base) + signal) ** 2
    status = statuses.first_problem(
        spread_status(m),
        ((m.S == 0), "no spread"),
        ((value < 1) | (value > k), "gain out of range"),
    )
    return estimate(value, slope * error, lower, upper, status)


class EarlyStopping(NamedTuple):
    """Whether the gradient can still be told from noise.

    Attributes:
      stop: whether `evidence` is above 0.
      evidence: 1 - mean over coordinates of B gbar_k^2/V_k. Below 0 while there is signal.
      skipped: coordinates without gradient and spread (0/0), which do not count.
      status: int32, a code of `funcbackprop.noise.STATUS`.
    """

    stop: chex.Array
    evidence: Estimate
    skipped: chex.Array
    status: chex.Array

    def explain(self) -> str:
        """What the status means, as a sentence (on the host)."""
        return statuses.sentences(self.status)

    def to_dict(self) -> dict:
        """JSON-safe: numbers that are not finite are None, the status is its name."""
        return statuses.to_dict(self)

    def __str__(self):
        return statuses.text(self)


def early_stopping(
    mean: chex.ArrayTree, variance: chex.ArrayTree, *, weights: chex.Array
) -> EarlyStopping:
    """Evidence-based early stopping: is the mean gradient no larger than its own noise?

        evidence = 1 - (B/P) sum_k gbar_k^2/V_k;  stop if it is above 0,

    over the P coordinates that are not 0/0.

    For Gaussian gradients without signal each term has the mean (B - 1)/(B - 3), so that evidence
    is -2/(B - 3) on average: not quite 0 in small batches.

    Args:
      mean, variance: from `funcbackprop.Mean()` and `funcbackprop.Variance()`.
      weights: [B], those that they were measured with; ones if the examples count alike. B in the
        formula is the effective number (sum w)^2/sum w^2.

    Returns:
      `EarlyStopping`. The standard error is NaN: it depends on the correlation of the coordinates,
      which neither argument knows. O(P).

    Raises:
      ValueError: the trees disagree, or `weights` are no [B] numbers of 0 or more.

    Mahsereci, Balles, Lassner and Hennig 2017, arXiv 1703.09580.

    >>> import jax.numpy as jnp
    >>> print(early_stopping(jnp.array([0.1, 0.0]), jnp.array([1.0, 0.0]), weights=jnp.ones(50)))
    stop: yes
    evidence: 0.5 (error not known)
    skipped: 1
    status: ok
    """
    same_structure(variance, mean, "variance", "early_stopping")
    return _early_stopping(mean, variance, common_weights("early_stopping", {}, weights))


@jax.jit
def _early_stopping(mean, variance, weights):
    examples = jnp.sum(weights) ** 2 / jnp.sum(weights**2)
    ratios, empty = [], []
    pairs_of_leaves = zip(jax.tree.leaves(mean), jax.tree.leaves(variance), strict=True)
    for m, v in pairs_of_leaves:
        square = abs2(m)
        none = (square == 0) & (v == 0)
        empty.append(jnp.sum(none))
        ratios.append((jnp.sum(jnp.where(none, 0, square / jnp.where(none, 1, v))), m.size))
    skipped = sum(empty, jnp.zeros((), int))
    used = sum(size for _, size in ratios) - skipped
    evidence = 1 - examples * sum((x for x, _ in ratios), jnp.zeros(())) / used
    status = statuses.first_that_holds(
        (examples < 1 + SINGLE, "one example"),
        (used == 0, "no spread"),
        (jnp.isnan(evidence), "not finite"),
        (jnp.isinf(evidence), "coordinate without spread"),
    )
    nan = jnp.full_like(evidence, jnp.nan)
    return EarlyStopping(evidence > 0, estimate(evidence, nan, nan, nan, status), skipped, status)
