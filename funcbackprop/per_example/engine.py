"""`gradient_statistics`: statistics of the per-example gradients of any loss."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from ..contract import (
    Loss,
    prepared,
    scalar_loss,
    vary_like,
    zero_padding,
)
from .statistics import Mean, Statistic

METHODS = ("materialize",)

# Arrays of the size of one chunk's gradients that are alive at once: the gradients, their masked
# copy, and a square on its way into a sum.
_ALIVE = 3
_CPU_LIMIT = 2**30
_ACCELERATOR_SHARE = 0.25


def gradient_statistics(
    loss: Loss,
    stats: Any,
    *,
    has_aux: bool = False,
    method: str = "materialize",
    memory_limit: int | None = None,
) -> "Measure":
    """Statistics of the per-example gradients g_i = d loss(params, example_i) / d params.

    Args:
      loss: `loss(params, example) -> scalar` of one example; `(scalar, aux)` with `has_aux=True`.
      stats: any pytree whose leaves are statistics, such as `{"mean": fb.Mean()}`.
      has_aux: whether the loss returns `(scalar, aux)`.
      method: `"materialize"` writes the gradients out with `vmap(grad)`, chunk by chunk: the
        definition, exact and slow.
      memory_limit: bytes that the temporaries may take; it sets the chunk size. None is 1 GiB on
        CPU and a quarter of the free memory on an accelerator.

    Returns:
      `measure(params, batch, weights=None) -> (losses, results)`, a pure function that may be
      jitted, scanned and vmapped. `losses` is [B], unscaled, or `(losses, aux)` with
      `has_aux=True`; `results` has the structure of `stats`. `weights` [B] are relative
      importances; a row of weight 0 is padding: its results are 0, and NaN or inf in it never
      spreads.

    Raises:
      TypeError, ValueError: a leaf of `stats` is no statistic, `method` is unknown, or, when
        called, `params`, `batch`, `weights` or the loss's output have the wrong form.

    Cost: time of `vmap(grad)`; memory of at most `memory_limit` beside the results. A statistic
    that needs the mean first doubles the time unless the batch fits in one chunk.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> loss = lambda w, x: 0.5 * (w - x) ** 2  # g_i = w - x_i
    >>> measure = fb.gradient_statistics(loss, {"mean": fb.Mean(), "variance": fb.Variance()})
    >>> losses, g = measure(jnp.array(0.0), jnp.array([1.0, 2.0, 3.0]))
    >>> print(losses, g["mean"], g["variance"])
    [0.5 2.  4.5] -2.0 1.0
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(
        stats, is_leaf=lambda x: isinstance(x, Statistic)
    )
    for path, stat in leaves:
        if inspect.isclass(stat) or not isinstance(stat, Statistic):
            name = stat.__name__ if inspect.isclass(stat) else repr(stat)
            hint = f"; write {name}()" if inspect.isclass(stat) else ""
            raise TypeError(
                f"`gradient_statistics`: stats{jax.tree_util.keystr(path)} must be a statistic "
                f"such as funcbackprop.Mean(), got {name}{hint}"
            )
    if not callable(loss):
        raise TypeError(
            f"`gradient_statistics`: `loss` must be callable, got {type(loss).__name__}"
        )
    if method not in METHODS:
        raise ValueError(
            f"`gradient_statistics`: `method` must be one of {', '.join(map(repr, METHODS))}, "
            f"got {method!r}"
        )
    if memory_limit is not None and not memory_limit > 0:
        raise ValueError(
            f"`gradient_statistics`: `memory_limit` must be a positive number of bytes or None, "
            f"got {memory_limit!r}"
        )
    stats = tuple(stat for _, stat in leaves)
    return Measure(loss, stats, treedef, has_aux, memory_limit)


@dataclasses.dataclass(frozen=True)
class Measure:
    """What `gradient_statistics` returns: call it with `(params, batch, weights=None)`.

    `states`, `fold` and `finalize` are the same computation taken apart, for callers that merge
    several batches.
    """

    loss: Loss
    stats: tuple[Statistic, ...]
    treedef: Any
    has_aux: bool
    memory_limit: int | None

    def __call__(self, params: chex.ArrayTree, batch: chex.ArrayTree, weights=None):
        losses, aux, states = self.states(params, batch, weights)
        return (losses, aux) if self.has_aux else losses, self.finalize(states, params)

    def states(self, params: chex.ArrayTree, batch: chex.ArrayTree, weights=None) -> tuple:
        """`(losses [B], aux, states)`: one state for each statistic, not finalized."""
        params, batch, weights, padded = prepared(params, batch, weights, "gradient_statistics")
        size = len(weights)
        chunk = _even(size, self._chunk_size(params))
        if chunk == size:
            return self._one_chunk(params, batch, weights, padded)
        return self._two_passes(params, batch, weights, padded, chunk)

    def fold(self, measure_chunk: Callable, params, batch, weights, size: int) -> tuple:
        """Measure a batch in chunks of `size` examples, under `lax.scan`, and merge the states.

        Args:
          measure_chunk: `(batch, weights) -> (losses, aux, states)` for one chunk.
          size: examples in a chunk; the remainder is measured once after the scan.
        """
        count = len(weights) // size
        data = (batch, weights)
        head = jax.tree.map(lambda x: x[: count * size].reshape(count, size, *x.shape[1:]), data)

        def body(carry, chunk):
            losses, aux, states = measure_chunk(*chunk)
            carry = [
                old if stat.per_example else stat.merge(old, new)
                for stat, old, new in zip(self.stats, carry, states, strict=True)
            ]
            per_example = [
                new if stat.per_example else ()
                for stat, new in zip(self.stats, states, strict=True)
            ]
            return carry, (losses, aux, per_example)

        empty = [() if stat.per_example else stat.init(params) for stat in self.stats]
        start: Any = vary_like(empty, (params, data))
        carry, stacked = jax.lax.scan(body, start, head)
        losses, aux, per_example = jax.tree.map(
            lambda x: x.reshape(count * size, *x.shape[2:]), stacked
        )
        states = [
            one if stat.per_example else merged
            for stat, one, merged in zip(self.stats, per_example, carry, strict=True)
        ]
        if count * size == len(weights):
            return losses, aux, states
        rest = measure_chunk(*jax.tree.map(lambda x: x[count * size :], data))
        losses, aux = jax.tree.map(
            lambda x, y: jnp.concatenate([x, y]), (losses, aux), (rest[0], rest[1])
        )
        return losses, aux, self.merge(states, rest[2])

    def merge(self, a, b):
        """The states of the examples of `a` followed by those of `b`."""
        return [s.merge(x, y) for s, x, y in zip(self.stats, a, b, strict=True)]

    def finalize(self, states, params: chex.ArrayTree):
        """The results, with the structure of `stats`."""
        return self.treedef.unflatten(
            s.finalize(x, params) for s, x in zip(self.stats, states, strict=True)
        )

    def _one_chunk(self, params, batch, weights, padded):
        losses, aux, grads = self._materialize(params, batch, weights, padded)
        mean = None
        if any(stat.needs_mean for stat in self.stats):
            mean = Mean().add(Mean().init(params), grads, weights)["mean"]
        return losses, aux, self._add(params, grads, weights, mean)

    def _two_passes(self, params, batch, weights, padded, chunk):
        """First the statistics of one pass and the mean, then those that need the mean."""
        first = dataclasses.replace(
            self, stats=(*(s for s in self.stats if not s.needs_mean), Mean())
        )
        second = dataclasses.replace(self, stats=tuple(s for s in self.stats if s.needs_mean))

        def with_mean(measure, mean):
            def measure_chunk(batch, weights):
                losses, aux, grads = measure._materialize(params, batch, weights, padded)
                return losses, aux, measure._add(params, grads, weights, mean)

            return measure_chunk

        losses, aux, states = first.fold(with_mean(first, None), params, batch, weights, chunk)
        mean = states.pop()["mean"]
        centred = []
        if second.stats:
            measure_chunk = with_mean(second, mean)
            _, _, centred = second.fold(measure_chunk, params, batch, weights, chunk)
        one_pass, two_pass = iter(states), iter(centred)
        return losses, aux, [next(two_pass if s.needs_mean else one_pass) for s in self.stats]

    def _add(self, params, grads, weights, mean):
        return [s.add(s.init(params), grads, weights, mean) for s in self.stats]

    def _materialize(self, params, batch, weights, padded):
        """`(losses [C], aux, grads [C, ...])` by `vmap(grad)`: the definition."""
        loss = scalar_loss(self.loss, self.has_aux, "gradient_statistics")
        value_and_grad = jax.value_and_grad(loss, has_aux=True)
        (losses, aux), grads = jax.vmap(value_and_grad, in_axes=(None, 0))(params, batch)
        if padded:
            losses, aux, grads = jax.tree.map(
                lambda x: zero_padding(x, weights), (losses, aux, grads)
            )
        return losses, aux, grads

    def _chunk_size(self, params) -> int:
        sizes = [jnp.size(p) * jnp.result_type(p).itemsize for p in jax.tree.leaves(params)]
        limit = self.memory_limit if self.memory_limit is not None else default_memory_limit()
        return max(1, int(limit) // max(1, _ALIVE * sum(sizes)))


def _even(size: int, chunk: int) -> int:
    """The largest divisor of `size` up to `chunk`, unless that is less than half of `chunk`.

    Without a remainder the program of a chunk is compiled once, not twice.

    >>> [_even(512, 95), _even(64, 100), _even(7, 3)]
    [64, 64, 3]
    """
    chunk = min(size, chunk)
    divisor = next(c for c in range(chunk, 0, -1) if size % c == 0)
    return divisor if 2 * divisor >= chunk else chunk


def default_memory_limit() -> int:
    """Bytes of temporaries: 1 GiB on CPU, a quarter of the free memory on an accelerator."""
    device = jax.local_devices()[0]
    usage = None if device.platform == "cpu" else device.memory_stats()
    if not usage or "bytes_limit" not in usage:
        return _CPU_LIMIT
    return int(_ACCELERATOR_SHARE * (usage["bytes_limit"] - usage.get("bytes_in_use", 0)))
