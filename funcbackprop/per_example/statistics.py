"""Statistics of per-example gradients: frozen data plus four small pure functions.

A statistic is built up over chunks of examples and can be merged across chunks, micro-batches,
devices and hosts. All accumulators are weighted and centred, in float32 or wider.
"""

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import chex
import jax
import jax.numpy as jnp

from ..contract import wide

State = Any


@runtime_checkable
class Statistic(Protocol):
    """What a statistic provides. `grads` is a tree like `params` with a leading axis [C].

    Attributes:
      per_example: the state is a tree of arrays with a leading axis of examples, and `merge`
        concatenates; otherwise the state has a fixed shape.
      needs_mean: `add` wants the mean gradient of the whole batch, so the batch is gone through
        twice. Where that cannot be had (micro-batches), the statistic is refused by name.
    """

    per_example: ClassVar[bool]
    needs_mean: ClassVar[bool]

    def init(self, params: chex.ArrayTree) -> State:
        """The state of no examples."""
        ...

    def add(self, state: State, grads: chex.ArrayTree, weights: chex.Array, mean: Any) -> State:
        """The state with C more examples; rows of `grads` are zero where `weights` [C] is zero."""
        ...

    def merge(self, a: State, b: State) -> State:
        """The state of the examples of `a` followed by those of `b`."""
        ...

    def finalize(self, state: State, params: chex.ArrayTree) -> Any:
        """The result."""
        ...


def total(tree: chex.ArrayTree) -> chex.Array:
    """Sum over the leaves of a tree: per-leaf results [B] become one result [B].

    >>> import jax.numpy as jnp
    >>> print(total({"w": jnp.array([1.0, 2.0]), "b": jnp.array([3.0, 4.0])}))
    [4. 6.]
    """
    return functools.reduce(operator.add, jax.tree.leaves(tree), jnp.zeros(()))


@dataclass(frozen=True)
class Mean:
    """The weighted mean gradient G = sum_i w_i g_i / sum_i w_i, in the dtypes of `params`.

    NaN if all weights are zero: there is nothing to average.
    """

    per_example: ClassVar[bool] = False
    needs_mean: ClassVar[bool] = False

    def init(self, params):
        return {"weight": jnp.zeros(()), "mean": jax.tree.map(_accumulator, params)}

    def add(self, state, grads, weights, mean=None):
        return self.merge(state, _chunk_mean(grads, weights))

    def of(self, grads, weight):
        """The state of examples of total weight `weight` whose mean gradient is `grads`."""
        return {"weight": weight, "mean": jax.tree.map(wide, grads)}

    def merge(self, a, b):
        weight = a["weight"] + b["weight"]
        share = _ratio(b["weight"], weight)
        mean = jax.tree.map(
            lambda x, y: x + (y - x) * share.astype(_real(x.dtype)), a["mean"], b["mean"]
        )
        return {"weight": weight, "mean": mean}

    def finalize(self, state, params):
        return jax.tree.map(
            lambda m, p: _or_nan(state["weight"] > 0, m).astype(jnp.result_type(p)),
            state["mean"],
            params,
        )


@dataclass(frozen=True)
class SecondMoment:
    """The weighted elementwise second moment sum_i w_i |g_i|^2 / sum_i w_i; a tree like `params`.

    Units: squared gradient. NaN if all weights are zero.
    """

    per_example: ClassVar[bool] = False
    needs_mean: ClassVar[bool] = False

    def init(self, params):
        return Mean().init(jax.tree.map(lambda p: _accumulator(p).real, params))

    def add(self, state, grads, weights, mean=None):
        return Mean().add(state, jax.tree.map(_abs2, grads), weights)

    def merge(self, a, b):
        return Mean().merge(a, b)

    def finalize(self, state, params):
        return jax.tree.map(lambda m: _or_nan(state["weight"] > 0, m), state["mean"])


@dataclass(frozen=True)
class Variance:
    """The unbiased elementwise variance of the per-example gradients; a tree like `params`.

    sum_i w_i |g_i - G|^2 / (sum_i w_i - sum_i w_i^2 / sum_i w_i); with equal weights the
    divisor is n - 1. Chunks are centred on their own mean and merged by the formula of Chan, Golub
    and LeVeque (1983), so a mean far larger than the spread costs no digits. Summed over
    all parameters it is S = tr(Sigma). Units: squared gradient. NaN if fewer than two examples have
    positive weight.
    """

    per_example: ClassVar[bool] = False
    needs_mean: ClassVar[bool] = False

    def init(self, params):
        state = Mean().init(params)
        deviations = jax.tree.map(lambda p: _accumulator(p).real, params)
        return {**state, "share": jnp.zeros(()), "deviations": deviations}

    def add(self, state, grads, weights, mean=None):
        chunk = _chunk_mean(grads, weights)
        deviations = jax.tree.map(
            lambda g, m: _weighted_sum(_abs2(wide(g) - m[None]), weights), grads, chunk["mean"]
        )
        # sum w^2/sum w, which neither over- nor underflows, whatever the unit of the weights.
        share = jnp.sum(weights * _ratio(weights, chunk["weight"]))
        chunk = {**chunk, "share": share, "deviations": deviations}
        return self.merge(state, chunk)

    def merge(self, a, b):
        merged = Mean().merge(a, b)
        shared = a["weight"] * _ratio(b["weight"], merged["weight"])
        deviations = jax.tree.map(
            lambda x, y, ma, mb: x + y + _abs2(mb - ma) * shared.astype(x.dtype),
            *(a["deviations"], b["deviations"], a["mean"], b["mean"]),
        )
        part = _ratio(b["weight"], merged["weight"])
        share = a["share"] + (b["share"] - a["share"]) * part
        return {**merged, "share": share, "deviations": deviations}

    def finalize(self, state, params):
        weight = state["weight"]
        divisor = weight - state["share"]
        several = divisor > _SINGLE * weight
        return jax.tree.map(
            lambda d: _or_nan(several, d / jnp.where(several, divisor, 1).astype(d.dtype)),
            state["deviations"],
        )


# Below this, 1 - 1/n_eff is rounding: one example, or one weight that dwarfs all others.
_SINGLE = 1e-6


class _Rows:
    """Statistics with a result for each example: chunks are concatenated."""

    per_example: ClassVar[bool] = True
    needs_mean: ClassVar[bool] = False
    of_leaf: ClassVar[Callable]

    def init(self, params):
        one = jax.tree.map(lambda p: jnp.zeros((1, *jnp.shape(p)), jnp.result_type(p)), params)
        return jax.tree.map(lambda x: x[:0], self._of(one, jnp.zeros(1), params))

    def add(self, state, grads, weights, mean=None):
        return self.merge(state, self._of(grads, weights, mean))

    def merge(self, a, b):
        return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), a, b)

    def finalize(self, state, params):
        return state

    def _of(self, grads, weights, mean):
        if self.needs_mean:
            return jax.tree.map(lambda g, m: type(self).of_leaf(g, weights, m), grads, mean)
        return jax.tree.map(lambda g: type(self).of_leaf(g, weights, None), grads)


@dataclass(frozen=True)
class SquaredNorms(_Rows):
    """|g_i|^2 of each example and leaf: a tree like `params` with leaves [B].

    `funcbackprop.total` sums over the leaves. Units: squared gradient; unscaled by the weights, and
    0 where w_i = 0.
    """

    @staticmethod
    def of_leaf(g, weights, mean):
        return _sum_per_row(_abs2(g))


@dataclass(frozen=True)
class PerExample(_Rows):
    """The gradients g_i themselves, materialised: a tree like `params` with leaves [B, ...].

    Cost: B times the memory of the parameters.
    """

    @staticmethod
    def of_leaf(g, weights, mean):
        return g


@dataclass(frozen=True)
class InnerWithMean(_Rows):
    """<g_i, G> of each example and leaf (real part), G the weighted mean: leaves [B].

    The mean over i, weighted, is |G|^2. Two passes over the batch unless it fits in one chunk.
    """

    needs_mean: ClassVar[bool] = True

    @staticmethod
    def of_leaf(g, weights, mean):
        return _sum_per_row((wide(g) * jnp.conj(wide(mean))[None]).real)


@dataclass(frozen=True)
class SquaredDeviations(_Rows):
    """|g_i - G|^2 of each example and leaf, centred before squaring: leaves [B].

    Keeps its digits where |g_i|^2 - |G|^2 would cancel. 0 where w_i = 0. Two passes over the batch
    unless it fits in one chunk.
    """

    needs_mean: ClassVar[bool] = True

    @staticmethod
    def of_leaf(g, weights, mean):
        deviations = _sum_per_row(_abs2(wide(g) - wide(mean)[None]))
        return jnp.where(weights > 0, deviations, 0)


def _chunk_mean(grads, weights):
    weight = jnp.sum(weights)
    divisor = jnp.where(weight > 0, weight, 1)

    def mean_of(g):
        total = _weighted_sum(wide(g), weights)
        return total / divisor.astype(_real(total.dtype))

    mean = jax.tree.map(mean_of, grads)
    return {"weight": weight, "mean": mean}


def _weighted_sum(x, weights):
    """sum_i w_i x_i as a matrix product: XLA's CPU sum over a leading axis is 10 times slower."""
    return jnp.tensordot(weights.astype(x.dtype), x, 1, precision=jax.lax.Precision.HIGHEST)


def _sum_per_row(x):
    return jnp.sum(x.reshape(x.shape[0], -1), axis=1) if x.size else jnp.zeros(x.shape[:1], x.dtype)


def _abs2(x):
    x = wide(x)
    return (x * jnp.conj(x)).real if jnp.iscomplexobj(x) else x * x


def _accumulator(p):
    return jnp.zeros(jnp.shape(p), jnp.promote_types(jnp.result_type(p), jnp.float32))


def _real(dtype):
    return jnp.finfo(dtype).dtype


def _ratio(a, b):
    """a/b, and 0 where b = 0; b is a scalar."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)


def _or_nan(valid, x):
    return jnp.where(valid, x, jnp.nan)
