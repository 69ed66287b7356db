"""The noise scale that knows the curvature, B_noise = tr(H Sigma)/(G'HG), and the optimal step."""

import functools
import operator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ... import tables
from ...contract import Loss, batch_size, checked_weights, wide
from ...curvature import hvp
from ...files import json_safe
from ...per_example import Mean, WeightedSum, gradient_statistics
from .. import status as statuses
from ..estimate import Estimate, around, student
from .ratio import covariance_of, ratio

_MIN_PARTS = 4  # three are left when one is left out
_HEADERS = ("", "estimate [95 % interval]")
_ESTIMATES = ("trace", "curvature", "sq_gradient_norm", "B_noise", "max_step")


class CurvatureNoiseScale(NamedTuple):
    """B_noise, the largest useful step, and what they are made of.

    Attributes:
      trace: tr(H Sigma). Loss times the squared gradient per squared parameter.
      curvature: G'HG, same units. Negative where the loss bends downwards along G.
      sq_gradient_norm: |G|^2, from pairs of parts. Squared gradient.
      B_noise: tr(H Sigma)/(G'HG), a number of examples.
      max_step: eps_max = |G|^2/(G'HG), the best step along the exact gradient; a learning rate.
      examples: the number of examples with positive weight.
      left_out: [parts, 3], (trace, curvature, |G|^2) without one part, less those of all.
    """

    trace: Estimate
    curvature: Estimate
    sq_gradient_norm: Estimate
    B_noise: Estimate
    max_step: Estimate
    examples: chex.Array
    left_out: chex.Array

    def optimal_step(self, batch_size: Any) -> Estimate:
        """The best learning rate for SGD with B = `batch_size` examples: eps_max/(1 + B_noise/B).

        It minimises the expected loss after one step, in the quadratic approximation:
        |G|^2/(G'HG + tr(H Sigma)/B).
        """
        trace, curvature = self.trace.value, self.curvature.value
        sq_norm: Any = self.sq_gradient_norm.value
        columns: Any = self.left_out.T
        moves = columns[1] + columns[0] / batch_size
        status = jnp.where(
            jnp.asarray(self.B_noise.status) == statuses.code("unbounded"), 0, self.B_noise.status
        )
        return _ratio(sq_norm, curvature + trace / batch_size, columns[2], moves, status)

    def explain(self) -> str:
        """What the statuses mean, as sentences, each once (on the host)."""
        return statuses.sentences(np.unique([getattr(self, n).status for n in _ESTIMATES]))

    def to_dict(self) -> dict:
        """JSON-safe."""
        found = {name: getattr(self, name).to_dict() for name in _ESTIMATES}
        return json_safe({**found, "examples": np.asarray(self.examples)})

    def __str__(self):
        try:
            np.asarray(self.B_noise.value)
        except jax.errors.TracerArrayConversionError:
            return "CurvatureNoiseScale(traced)"
        return tables.text([[name, str(getattr(self, name))] for name in _ESTIMATES], _HEADERS)


def curvature_noise_scale(
    loss: Loss,
    params: chex.ArrayTree,
    batch: chex.ArrayTree,
    key: chex.PRNGKey,
    *,
    weights: Any = None,
    parts: int = 5,
    probes: int = 2,
) -> CurvatureNoiseScale:
    """B_noise = tr(H Sigma)/(G'HG) and eps_max = |G|^2/(G'HG), with intervals.

    The batch is divided at random into parts. A Hessian and the gradients that it is multiplied
    with never come from the same part, so that numerator and denominator are unbiased:

        G'HG = mean over distinct parts j, k, l of gbar_j' H_l gbar_k,
        tr(H Sigma) = mean over distinct parts k, l of z_k' H_l z_k,
        z_k = sum_i r_i (g_i - gbar_k)/sqrt(n_k - 1),  r_i = -1 or 1 at random,

    for E z z' is the sample covariance. With weights r_i becomes r_i sqrt(w_i) and n_k - 1 becomes
    sum w - sum w^2/sum w. Standard errors by the jackknife over parts, intervals by Fieller's
    theorem, with Student's quantile for `parts - 1` degrees of freedom.

    Args:
      loss: `loss(params, example) -> scalar` of one example, differentiable twice.
      params: a tree, the point at which H and the gradients are taken.
      batch: a tree with a leading axis [n] of examples; independent, in any order.
      key: random key, for the parts and the r_i.
      weights: [n], relative importances.
      parts: at least 4; more give surer standard errors and cost more.
      probes: vectors z for each part.

    Returns:
      `CurvatureNoiseScale`. Pure; works under `jit` and `vmap`.

    Raises:
      ValueError: too few parts or probes, or fewer than two examples for each part.

    Cost: (parts - 1)(1 + probes) Hessian-vector products with the whole batch, and its gradients;
    memory of parts (1 + probes) gradients.

    Source: McCandlish, Kaplan and Amodei 2018 (arXiv 1812.06162), sections 2.1 and 2.2; the
    estimators are ours.

    >>> import jax, jax.numpy as jnp
    >>> h = jnp.array([1.0, 4.0])
    >>> loss = lambda w, x: 0.5 * jnp.sum(h * w**2) + jnp.dot(w, x)  # g_i = h w + x_i
    >>> x = jax.random.normal(jax.random.key(0), (5000, 2))
    >>> b = curvature_noise_scale(loss, jnp.ones(2), x, jax.random.key(1))
    >>> truth = (1 + 4) / (1 * 1**2 + 4 * 4**2)
    >>> print(bool(b.B_noise.lower < truth < b.B_noise.upper))
    True
    """
    n = batch_size(batch, "curvature_noise_scale")
    _check(n, parts, probes)
    weights = checked_weights(weights, n, "curvature_noise_scale")
    # Compiled as a whole: one by one, its many small operations cost several times as much.
    return jax.jit(lambda *x: _estimated(loss, parts, probes, *x))(params, batch, weights, key)


def _estimated(loss, parts, probes, params, batch, weights, key):
    key_parts, key_signs = jax.random.split(key)
    batches, w = _divided(batch, weights, parts, key_parts)
    signs = jax.random.rademacher(key_signs, (parts, probes, w.shape[1]), w.dtype)
    means, noises = jax.lax.map(lambda x: _vectors(loss, params, *x), (batches, w, signs))
    traces, curvatures = _products(loss, params, batches, w, means, noises)
    inner = _inner_all(means, means)
    masks = jnp.concatenate([jnp.ones((1, parts)), 1 - jnp.eye(parts)])
    found = jax.vmap(lambda m: _averages(m.astype(inner.dtype), traces, curvatures, inner))(masks)
    return _result(found[0], found[1:] - found[:1], jnp.sum(weights > 0), w)


def _check(n, parts, probes):
    if parts < _MIN_PARTS or probes < 1:
        raise ValueError(
            f"`curvature_noise_scale`: `parts` must be at least {_MIN_PARTS} and `probes` at least "
            f"1, got {parts} and {probes}"
        )
    if n < 2 * parts:
        raise ValueError(
            f"`curvature_noise_scale`: {parts} parts need at least {2 * parts} examples, two for "
            f"each, got {n}; pass a larger batch or fewer `parts`"
        )


def _divided(batch, weights, parts, key):
    """`batch` as [parts, size, ...] and weights [parts, size], in a random order.

    Example i of that order goes to part i modulo `parts`, so their sizes differ by at most one;
    what fills up has weight 0.
    """
    n = len(weights)
    size = -(-n // parts)
    order = jnp.resize(jax.random.permutation(key, n), size * parts)
    filled = jnp.where(jnp.arange(size * parts) < n, weights[order], 0)

    def divide(x):
        x = jnp.asarray(x)[order]
        return jnp.swapaxes(x.reshape(size, parts, *x.shape[1:]), 0, 1)

    return jax.tree.map(divide, batch), jnp.swapaxes(filled.reshape(size, parts), 0, 1)


def _vectors(loss, params, batch, w, signs):
    """The mean gradient of a part, and its vectors z [probes, ...]."""
    W = jnp.sum(w)
    coefficients = signs * jnp.sqrt(w / (W - jnp.sum(w**2) / W))[None]
    # Less their mean: z is then a sum of deviations, whatever the mean gradient.
    coefficients -= (w / W)[None] * jnp.sum(coefficients, axis=1, keepdims=True)
    stats = {"mean": Mean(), "noise": WeightedSum(coefficients)}
    _, found = gradient_statistics(loss, stats)(params, batch, w)
    return found["mean"], found["noise"]


def _products(loss, params, batches, w, means, noises):
    """(z_k' H_l z_k averaged over probes [k, l], gbar_j' H_l gbar_k [j, k, l]); 0 where k = l."""
    parts = len(w)
    pairs = np.array([(k, each) for k in range(parts) for each in range(parts) if k != each])

    def of(tree, k):
        return jax.tree.map(lambda x: x[k], tree)

    def of_pair(pair):
        k, each = pair
        times = lambda v: hvp(loss, params, of(batches, each), v, weights=w[each])  # noqa: E731
        probes = jax.lax.map(lambda z: _inner(z, times(z)), of(noises, k))
        return jnp.mean(probes), _inner_with_rows(means, times(of(means, k)))

    traces, curvatures = jax.lax.map(of_pair, jnp.asarray(pairs))
    k, each = pairs.T
    square = jnp.zeros((parts, parts), traces.dtype).at[k, each].set(traces)
    cube = jnp.zeros((parts, parts, parts), curvatures.dtype).at[:, k, each].set(curvatures.T)
    return square, cube


def _averages(mask, traces, curvatures, inner):
    """(tr(H Sigma), G'HG, |G|^2) from the parts where `mask` [parts] is 1."""
    apart = 1 - jnp.eye(len(mask), dtype=mask.dtype)
    pairs = mask[:, None] * mask[None] * apart
    distinct = apart[:, :, None] * apart[:, None, :] * apart[None]
    triples = mask[:, None, None] * pairs[None] * distinct
    weighted = ((pairs, traces), (triples, curvatures), (pairs, inner))
    return jnp.stack([jnp.sum(m * x) / jnp.sum(m) for m, x in weighted])


def _result(found, moves, examples, w):
    trace, curvature, sq_norm = found
    status = statuses.first_that_holds(
        (jnp.any(jnp.sum(w > 0, axis=1) < 2), "one example"),
        (~jnp.isfinite(jnp.sum(found)), "not finite"),
    )
    found = jnp.where(status == 0, found, jnp.nan)
    parts = len(moves)
    q = student(parts - 1).astype(found.dtype)
    # The norm of moves over their size: squares of small gradients underflow.
    size = jnp.maximum(jnp.max(jnp.abs(moves), axis=0), jnp.finfo(moves.dtype).tiny)
    errors = size * jnp.sqrt(jnp.sum((moves / size[None]) ** 2, axis=0) * (1 - 1 / parts))
    ready = [around(x, e, q, status) for x, e in zip(found, errors, strict=True)]
    columns = moves.T
    return CurvatureNoiseScale(
        *ready,
        B_noise=_ratio(trace, curvature, columns[0], columns[1], status),
        max_step=_ratio(sq_norm, curvature, columns[2], columns[1], status),
        examples=examples,
        left_out=moves,
    )


def _ratio(n, d, n_moves, d_moves, status):
    parts = len(n_moves)
    known = covariance_of(n, d, n_moves, d_moves, 1 - 1 / parts)
    return ratio(n, d, known, student(parts - 1).astype(known.both.dtype), status)


def _inner(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    products = (jnp.sum((jnp.conj(wide(x)) * wide(y)).real) for x, y in pairs)
    return functools.reduce(operator.add, products, jnp.zeros(()))


def _inner_with_rows(many, one):
    return jax.vmap(lambda v: _inner(v, one))(many)


def _inner_all(a, b):
    return jax.vmap(lambda v: _inner_with_rows(a, v))(b)
