"""Moments of the gradient noise: S = tr(Sigma), the unbiased |G|^2, and the noise scale S/|G|^2."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ..contract import checked_weights, same_structure
from ..files import json_safe
from ..per_example import total
from ..per_example.numbers import abs2
from . import status as statuses

# S is rounding when it is below this many unit roundoffs of the mean squared norm.
ROUNDING_FACTOR = 16
# Effective examples beyond the first that are rounding: one example, or a weight that dwarfs all.
SINGLE = 1e-5


class Moments(NamedTuple):
    """Moments of the per-example gradients, in total or (in `per_leaf`) for one leaf.

    Attributes:
      S: unbiased tr(Sigma), the variance of one example's gradient summed over parameters. The
        variance of the gradient of B examples drawn with replacement is S/B. Squared gradient.
      sq_gradient_norm: unbiased |G|^2. It may be negative, and is not clipped. Squared gradient.
      noise_scale: S/|G|^2 in examples (McCandlish, Kaplan and Amodei 2018, arXiv 1812.06162);
        inf where |G|^2 is not above zero.
      signal_to_noise: |G|^2/S, of one example; B times that for a mini-batch of B.
      examples: the effective number (sum w)^2/sum w^2.
      status: int32, a code of `funcbackprop.noise.STATUS`.
      per_leaf: a tree like `params` with one `Moments` for each leaf, or None.
    """

    S: chex.Array
    sq_gradient_norm: chex.Array
    noise_scale: chex.Array
    signal_to_noise: chex.Array
    examples: chex.Array
    status: chex.Array
    per_leaf: Any = None

    def explain(self) -> str:
        """What the status means, as a sentence (on the host); one line for each if vmapped."""
        return statuses.sentences(self.status)

    def to_dict(self) -> dict:
        """JSON-safe: numbers that are not finite are None, the status is its name."""
        numbers = {name: np.asarray(getattr(self, name)) for name in _NUMBERS}
        return json_safe({**numbers, "status": statuses.names(self.status)})

    def __str__(self):
        try:
            values = {name: np.asarray(getattr(self, name)) for name in _NUMBERS}
        except jax.errors.TracerArrayConversionError:
            return "Moments(traced)"
        show: Any = {"float_kind": "{:.4g}".format}
        text = "  ".join(f"{k} {np.array2string(v, formatter=show)}" for k, v in values.items())
        return f"{text}  status: {statuses.names(self.status)}"


_NUMBERS = ("S", "sq_gradient_norm", "noise_scale", "signal_to_noise", "examples")


def moments(
    mean: chex.ArrayTree,
    sq_norms: chex.ArrayTree | None = None,
    *,
    sq_deviations: chex.ArrayTree | None = None,
    variance: chex.ArrayTree | None = None,
    weights: chex.Array | None = None,
) -> Moments:
    """S = tr(Sigma), unbiased |G|^2 and the noise scale from statistics of one batch.

    With squared norms s_i = |g_i|^2, n examples and their mean gradient gbar,

        S = n/(n-1) (mean s_i - |gbar|^2),    |G|^2 = (n |gbar|^2 - mean s_i)/(n-1),

    and with weights S = (sum w s - sum w |gbar|^2)/(sum w - sum w^2/sum w) and
    |G|^2 = (|sum w g|^2 - sum w^2 s)/((sum w)^2 - sum w^2). Both are unbiased if the examples are
    independent draws. With `sq_deviations` or `variance`, S comes without cancellation and
    |G|^2 = |gbar|^2 - S sum w^2/(sum w)^2.

    Args:
      mean: the mean gradient, from `funcbackprop.Mean()`.
      sq_norms: from `funcbackprop.SquaredNorms()`: a tree like `mean` with leaves [B], or one array
        [B] of total squared norms. It also tells the number of examples.
      sq_deviations: from `funcbackprop.SquaredDeviations()`, same forms; exact where the mean
        dominates the spread.
      variance: from `funcbackprop.Variance()`; needs `weights` (or `sq_norms`), which tell the
        number of examples.
      weights: [B], those that the statistics were measured with.

    Returns:
      `Moments`, with `per_leaf` where the statistic was given per leaf. Pure; works under `jit`.

    Raises:
      ValueError: no statistic of the spread was given, or shapes disagree.

    >>> import jax.numpy as jnp
    >>> g = jnp.array([1.0, 3.0, 2.0])  # three examples, one parameter
    >>> m = moments(g.mean(), g**2)
    >>> print(m.S, m.sq_gradient_norm)  # |G|^2 is 4 - S/3
    1.0 3.6666667
    """
    given = {"sq_deviations": sq_deviations, "variance": variance, "sq_norms": sq_norms}
    given = {name: tree for name, tree in given.items() if tree is not None}
    if not given:
        raise ValueError(
            "`moments`: the spread of the gradients is needed: pass `sq_norms`, `sq_deviations` or "
            "`variance`, measured with funcbackprop.gradient_statistics"
        )
    weights = _weights(given, mean, weights)
    name, spread = next(iter(given.items()))
    rule = _RULES[name]
    sq_mean = jax.tree.map(sq_norm, mean)
    if name == "variance":
        spread = jax.tree.map(jnp.sum, spread)
    eps = jax.tree.map(lambda m: float(jnp.finfo(jnp.result_type(m)).eps), mean)
    whole = _moments(
        rule, total(sq_mean), total(spread), weights, max(jax.tree.leaves(eps), default=0.0)
    )
    if jax.tree.structure(spread) != jax.tree.structure(mean):
        return whole
    leaves = jax.tree.map(lambda m, x, e: _moments(rule, m, x, weights, e), sq_mean, spread, eps)
    return whole._replace(per_leaf=leaves)


def _from_norms(sq_mean, sq_norms, w):
    weight, sq_weight = jnp.sum(w), jnp.sum(w**2)
    S = (jnp.sum(w * sq_norms) - weight * sq_mean) / (weight - sq_weight / weight)
    cross_terms = weight**2 * sq_mean - jnp.sum(w**2 * sq_norms)
    return S, cross_terms / (weight**2 - sq_weight), jnp.sum(w * sq_norms) / weight


def _from_deviations(sq_mean, sq_deviations, w):
    weight, sq_weight = jnp.sum(w), jnp.sum(w**2)
    variance = jnp.sum(w * sq_deviations) / (weight - sq_weight / weight)
    return _from_variance(sq_mean, variance, w)


def _from_variance(sq_mean, variance, w):
    return variance, sq_mean - variance * jnp.sum(w**2) / jnp.sum(w) ** 2, 0.0


# Best first: name of the statistic -> (sq_mean, spread, weights) -> (S, |G|^2, cancelled), where
# S is a difference of two terms of the size of `cancelled`.
_RULES = {
    "sq_deviations": _from_deviations,
    "variance": _from_variance,
    "sq_norms": _from_norms,
}


@functools.partial(jax.jit, static_argnames=("rule", "eps"))
def _moments(rule, sq_mean, spread, weights, eps):
    """`eps`: the unit roundoff of the mean gradient; its squared norm may be in a finer dtype."""
    w = scaled(weights).astype(spread.dtype)
    examples = jnp.sum(w) ** 2 / jnp.sum(w**2)
    several = examples > 1 + SINGLE
    S, sq_gradient_norm, cancelled = rule(sq_mean, spread, w)
    rounding = ROUNDING_FACTOR * max(eps, float(jnp.finfo(S.dtype).eps)) * cancelled
    S, sq_gradient_norm = (jnp.where(several, x, jnp.nan) for x in (S, sq_gradient_norm))
    positive = sq_gradient_norm > 0
    unbounded = jnp.where(S > 0, jnp.inf, jnp.nan)
    noise_scale = jnp.where(positive, S / jnp.where(positive, sq_gradient_norm, 1), unbounded)
    status = statuses.first_that_holds(
        (~several, "one example"),
        (~jnp.isfinite(S + sq_gradient_norm), "not finite"),
        (rounding > S, "below rounding"),
        (~positive, "gradient not above zero"),
    )
    return Moments(
        S=S,
        sq_gradient_norm=sq_gradient_norm,
        noise_scale=noise_scale,
        signal_to_noise=sq_gradient_norm / S,
        examples=examples,
        status=status,
    )


def _weights(given, mean, weights):
    """The weights [B]; ValueError where the statistics do not fit `mean` or each other."""
    structure = jax.tree.structure(mean)
    sizes = set() if weights is None else {len(weights)}
    for name, tree in given.items():
        if name == "variance":
            same_structure(tree, mean, name, "moments")
            continue
        if jax.tree.structure(tree) != structure and not jax.tree_util.all_leaves([tree]):
            raise ValueError(
                f"`moments`: `{name}` must be a tree like `mean` with leaves [B], or one array [B]"
            )
        shapes = {jnp.shape(leaf) for leaf in jax.tree.leaves(tree)}
        if any(len(shape) != 1 for shape in shapes):
            raise ValueError(
                f"`moments`: `{name}` must have leaves of shape [B], got {sorted(shapes)}"
            )
        sizes |= {shape[0] for shape in shapes}
    if len(sizes) != 1:
        raise ValueError(
            f"`moments`: the number of examples B must be the same everywhere, got {sorted(sizes)}"
            if sizes
            else "`moments`: `variance` does not tell the number of examples; pass `weights` too"
        )
    return checked_weights(weights, sizes.pop(), "moments")


def scaled(weights: Any) -> jax.Array:
    """Weights whose largest is 1, so that their squares neither over- nor underflow."""
    weights = jnp.asarray(weights)
    return weights / jnp.maximum(jnp.max(weights), jnp.finfo(weights.dtype).tiny)


def sq_norm(x: Any) -> jax.Array:
    """|x|^2 of one array, in float32 or wider."""
    return jnp.sum(abs2(x))
