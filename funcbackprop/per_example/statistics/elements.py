"""Statistics with a value for every parameter: means of functions of the gradients' entries."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ..numbers import abs2, ratio, real
from .protocol import Leafwise, Part, accumulator, or_nan, tree_of


class MeanOfElements(Leafwise):
    """The state is a total weight and a mean for each leaf."""

    def init(self, params):
        """The state of no examples."""
        return {"weight": jnp.zeros(()), "mean": jax.tree.map(accumulator, params)}

    def collect(self, parts, params, weights):
        means = tree_of(params, [self.of_part(part) for part in parts])
        return {"weight": jnp.sum(weights), "mean": means}

    def of_part(self, part):
        """The mean of one leaf."""
        return part.elements

    def merge(self, a, b):
        """The state of both: the means, averaged by total weight."""
        weight = a["weight"] + b["weight"]
        share = ratio(b["weight"], weight)
        mean = jax.tree.map(
            lambda x, y: x + (y - x) * share.astype(real(x.dtype)), a["mean"], b["mean"]
        )
        return {"weight": weight, "mean": mean}

    def finalize(self, state, params):
        """The means, NaN without weight."""
        return jax.tree.map(lambda m: or_nan(state["weight"] > 0, m), state["mean"])


class _MeanGradient(MeanOfElements):
    """In the dtypes of the parameters, as an optimizer expects it."""

    def finalize(self, state, params):
        means = super().finalize(state, params)
        return jax.tree.map(lambda m, p: m.astype(jnp.result_type(p)), means, params)


@dataclass(frozen=True)
class Mean(_MeanGradient):
    """The weighted mean gradient G = sum_i w_i g_i / sum_i w_i, in the dtypes of `params`.

    NaN if all weights are zero: there is nothing to average. Cost: that of the plain gradient.
    """

    def of(self, grads, weight):
        """The state of examples of total weight `weight` whose mean gradient is `grads`."""
        wide = jax.tree.map(lambda g: jnp.asarray(g).astype(accumulator(g).dtype), grads)
        return {"weight": weight, "mean": wide}

    def reduce(self, g, operands, numbers):
        return Part(elements=(yield g.own_mean))


@dataclass(frozen=True)
class SecondMoment(MeanOfElements):
    """The weighted elementwise second moment sum_i w_i |g_i|^2 / sum_i w_i; a tree like `params`.

    Units: squared gradient. NaN if all weights are zero.

    Cost: a few weight-gradient products where a weight is used at few positions in an example;
    otherwise the gradients of a few examples at a time are written out.
    """

    def init(self, params):
        return super().init(jax.tree.map(lambda p: accumulator(p).real, params))

    def reduce(self, g, operands, numbers):
        return Part(elements=(yield g.mean_of(abs2)))


@dataclass(frozen=True)
class MeanOf(MeanOfElements):
    """The weighted mean sum_i w_i f(g_i) / sum_i w_i of a function of entries; like `params`.

    `MeanOf(jnp.sign)` is the mean sign of each parameter's gradient. NaN if all weights are zero.

    Attributes:
      fn: maps an array to an array of the same shape, entry by entry, such as `jnp.sign`.

    Raises:
      TypeError: `fn` is no function. ValueError, when called: it does not keep the shape.

    Cost: the gradients of a few examples at a time are written out.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> loss = lambda w, x: w * x  # g_i = x_i
    >>> measure = fb.gradient_statistics(loss, fb.MeanOf(jnp.sign))
    >>> print(measure(jnp.array(1.0), jnp.array([1.0, 2.0, -3.0, 4.0]))[1])
    0.5
    """

    fn: Callable

    def __post_init__(self):
        if not callable(self.fn):
            raise TypeError(
                f"`MeanOf`: `fn` must be a function of arrays such as jnp.sign, got {self.fn!r}"
            )

    def init(self, params):
        return super().init(jax.tree.map(lambda p: self._of(accumulator(p)), params))

    def reduce(self, g, operands, numbers):
        return Part(elements=(yield g.mean_of(self._of)))

    def _of(self, x):
        out = jnp.asarray(self.fn(x))
        if out.shape != x.shape or not jnp.issubdtype(out.dtype, jnp.number):
            raise ValueError(
                f"`MeanOf`: `fn` must map an array of shape {x.shape} to numbers of the same "
                f"shape, got {out.dtype}{list(out.shape)}"
            )
        return out.astype(jnp.promote_types(out.dtype, real(x.dtype)))


@dataclass(frozen=True)
class Variance(Leafwise):
    """The unbiased elementwise variance of the per-example gradients; a tree like `params`.

    sum_i w_i |g_i - G|^2 / (sum_i w_i - sum_i w_i^2 / sum_i w_i); with equal weights the
    divisor is n - 1. A mean far larger than the spread costs no digits: chunks are centred on their
    own mean and merged by the formula of Chan, Golub and LeVeque (1983). Where a weight is used at
    few positions in an example, mean |g|^2 - |G|^2 comes without the entries of single gradients,
    and is taken if the spread is no small part of it. Summed over all parameters it is
    S = tr(Sigma). Units: squared gradient. NaN if fewer than two examples have positive weight.

    Attributes:
      centred: whether every leaf is centred before squaring, whatever its mean.
    """

    centred: bool = False

    def init(self, params):
        """The state of no examples."""
        variance = jax.tree.map(lambda p: accumulator(p).real, params)
        mean = jax.tree.map(accumulator, params)
        zero = jnp.zeros(())
        return {"weight": zero, "concentration": zero, "mean": mean, "variance": variance}

    def reduce(self, g, operands, numbers):
        scale = _unbiased(jnp.sum(g.shares**2))
        mean, variance = yield g.deviations(self.centred, scale)
        return Part(elements={"mean": mean, "variance": variance})

    def collect(self, parts, params, weights):
        weight = jnp.sum(weights)
        # sum w^2 / (sum w)^2 of shares: it neither over- nor underflows, whatever their unit.
        concentration = jnp.sum(ratio(weights, weight) ** 2)
        mean, variance = (
            tree_of(params, [part.elements[name] for part in parts])
            for name in ("mean", "variance")
        )
        return {
            "weight": weight,
            "concentration": concentration,
            "mean": mean,
            "variance": variance,
        }

    def merge(self, a, b):
        """By the deviations, which are the variance before it was made unbiased."""
        weight = a["weight"] + b["weight"]
        shares = [ratio(s["weight"], weight) for s in (a, b)]
        concentration = sum(
            share**2 * s["concentration"] for share, s in zip(shares, (a, b), strict=True)
        )
        scale = _unbiased(concentration)
        own = [
            scale * share * (1 - s["concentration"])
            for share, s in zip(shares, (a, b), strict=True)
        ]

        def mean(x, y):
            return x + (y - x) * shares[1].astype(real(x.dtype))

        def variance(x, y, v, w):
            between, v_own, w_own = (
                c.astype(v.dtype) for c in (scale * shares[0] * shares[1], *own)
            )
            return v_own * v + w_own * w + between * abs2(y - x)

        means, variances = ([s[name] for s in (a, b)] for name in ("mean", "variance"))
        return {
            "weight": weight,
            "concentration": concentration,
            "mean": jax.tree.map(mean, *means),
            "variance": jax.tree.map(variance, *means, *variances),
        }

    def finalize(self, state, params):
        """The variances, NaN for fewer than two examples."""
        several = (state["weight"] > 0) & (1 - state["concentration"] > _SINGLE)
        return jax.tree.map(lambda v: or_nan(several, v), state["variance"])


# Below this, 1 - 1/n_eff is rounding: one example, or one weight that dwarfs all others.
_SINGLE = 1e-6


def _unbiased(concentration):
    """What a mean of squared deviations is multiplied with: n/(n - 1) for equal weights; 0 for one
    example."""
    return ratio(1, 1 - concentration)


@dataclass(frozen=True)
class WeightedSum(Leafwise):
    """sum_i c_i g_i for given coefficients; a tree like `params`, for [K, B] with leaves [K, ...].

    Examples of weight 0 are left out; other weights do not matter.

    Attributes:
      coefficients: [B], or [K, B] for K sums at once. Any sign.

    Raises:
      ValueError: another shape, or, when called, another number of examples.

    Cost: that of the plain gradient; K sums take K weight-gradient products in each layer.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> loss = lambda w, x: w * x  # g_i = x_i
    >>> measure = fb.gradient_statistics(loss, fb.WeightedSum(jnp.array([1.0, -1.0, 0.5])))
    >>> print(measure(jnp.array(1.0), jnp.array([1.0, 2.0, 4.0]))[1])
    1.0
    """

    coefficients: Any

    def __post_init__(self):
        if jnp.ndim(self.coefficients) not in (1, 2):
            raise ValueError(
                "`WeightedSum`: `coefficients` must be [B] or [K, B], got shape "
                f"{jnp.shape(self.coefficients)}"
            )

    def numbers(self, sq_norms):
        return jnp.asarray(self.coefficients)

    def init(self, params):
        """The state of no examples."""
        lead = jnp.shape(self.coefficients)[:-1]
        return jax.tree.map(
            lambda p: jnp.zeros((*lead, *jnp.shape(p)), accumulator(p).dtype), params
        )

    def reduce(self, g, operands, numbers):
        if numbers.shape[-1] != g.size:
            raise ValueError(
                f"`WeightedSum`: `coefficients` must have one number for each of the {g.size} "
                f"examples, got shape {numbers.shape}"
            )
        kept = jnp.where(g.weights > 0, numbers, 0)
        return Part(elements=(yield g.weighted_sum(kept)))

    def collect(self, parts, params, weights):
        return tree_of(params, [part.elements for part in parts])

    def merge(self, a, b):
        """The sum over the examples of both."""
        return jax.tree.map(jnp.add, a, b)

    def finalize(self, state, params):
        """The sums."""
        return state


@dataclass(frozen=True)
class ClippedMean(_MeanGradient):
    """The weighted mean of gradients clipped to a norm: mean of g_i min(1, max_norm/|g_i|).

    |g_i| is the norm over all parameters. In the dtypes of `params`; NaN if all weights are zero.
    As in differentially private training, before noise is added (Abadi et al. 2016,
    arXiv 1607.00133); unlike there the divisor is the total weight.

    Attributes:
      max_norm: the largest norm, above 0 (ValueError for a Python number that is not).
        Units: those of the gradient.

    Cost: the norms, and a second, reweighted pass.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> loss = lambda w, x: w * x  # g_i = x_i
    >>> measure = fb.gradient_statistics(loss, fb.ClippedMean(2.0))
    >>> print(measure(jnp.array(1.0), jnp.array([1.0, -1.0, 9.0]))[1])
    0.6666667
    """

    needs_norms: ClassVar[bool] = True
    max_norm: float

    def __post_init__(self):
        if isinstance(self.max_norm, int | float) and not self.max_norm > 0:
            raise ValueError(f"`ClippedMean`: `max_norm` must be above 0, got {self.max_norm!r}")

    def numbers(self, sq_norms):
        norms = jnp.sqrt(jnp.asarray(sq_norms))
        return jnp.where(norms > self.max_norm, self.max_norm / jnp.where(norms > 0, norms, 1), 1)

    def reduce(self, g, operands, numbers):
        return Part(elements=(yield g.weighted_sum(g.shares * numbers)))
