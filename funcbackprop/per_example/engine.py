"""`gradient_statistics`: statistics of the per-example gradients of any loss."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import chex
import jax
from jax.sharding import PartitionSpec

from ..contract import Loss, differentiable, prepared, scalar_loss
from ..graph import explicit_rows
from . import definition, factored, passes
from .passes import Batch
from .statistics import Leafwise, Statistic
from .walk import captured

METHODS = ("factored", "materialize")
_CPU_LIMIT = 2**30
_ACCELERATOR_SHARE = 0.25


def gradient_statistics(
    loss: Loss,
    stats: Any,
    *,
    has_aux: bool = False,
    method: str = "factored",
    memory_limit: int | None = None,
) -> "Measure":
    """Statistics of the per-example gradients g_i = d loss(params, example_i) / d params.

    Args:
      loss: `loss(params, example) -> scalar` of one example; `(scalar, aux)` with `has_aux=True`.
      stats: any pytree whose leaves are statistics, such as `{"mean": fb.Mean()}`.
      has_aux: whether the loss returns `(scalar, aux)`.
      method: `"factored"` keeps the gradients as products of small arrays, wherever they are born
        as such; see `funcbackprop.plan`. `"materialize"` writes them out with `vmap(grad)`, chunk
        by chunk: the definition, exact and slow.
      memory_limit: bytes that gradients which are written out may take at a time. None is 1 GiB
        on CPU and a quarter of the free memory on an accelerator.

    Returns:
      `measure(params, batch, weights=None) -> (losses, results)`, a pure function that may be
      jitted, scanned and vmapped. `losses` is [B], unscaled, or `(losses, aux)` with
      `has_aux=True`; `results` has the structure of `stats`. `weights` [B] are relative
      importances; a row of weight 0 is padding: its loss and its rows of results are 0, and NaN or
      inf in it never spreads. Integers, booleans and keys among `params` are no variables: results
      like `params` have None in their place.

    Raises:
      TypeError, ValueError: a leaf of `stats` is no statistic, `method` is unknown, or, when
        called, `params`, `batch`, `weights` or the loss's output have the wrong form.

    Cost: by factors, about that of the plain gradient of the batch, in time and memory, and what
    the statistic adds. Written out, the time of `vmap(grad)`, and memory of at most
    `memory_limit` beside the results; a statistic that needs the mean first doubles the time
    unless the batch fits in one chunk.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> loss = lambda w, x: 0.5 * (w - x) ** 2  # g_i = w - x_i
    >>> measure = fb.gradient_statistics(loss, {"mean": fb.Mean(), "variance": fb.Variance()})
    >>> losses, g = measure(jnp.array(0.0), jnp.array([1.0, 3.0]))
    >>> print(losses, g["mean"], g["variance"])
    [0.5 4.5] -2.0 2.0
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
    return Measure(loss, stats, treedef, has_aux, method, memory_limit)


@dataclasses.dataclass(frozen=True, eq=False)
class Measure:
    """What `gradient_statistics` returns: call it with `(params, batch, weights=None)`.

    `states`, `fold`, `merge` and `finalize` are the same computation taken apart, for callers that
    merge several batches.

    Attributes:
      loss, has_aux, method, memory_limit: as given to `gradient_statistics`.
      stats: the statistics, as a tuple.
      treedef: the structure in which they were given.
    """

    loss: Loss
    stats: tuple[Statistic, ...]
    treedef: Any
    has_aux: bool
    method: str
    memory_limit: int | None

    def __call__(self, params: chex.ArrayTree, batch: chex.ArrayTree, weights=None):
        losses, aux, states = self.states(params, batch, weights)
        return (losses, aux) if self.has_aux else losses, self.finalize(states, params)

    def states(self, params: chex.ArrayTree, batch: chex.ArrayTree, weights=None) -> tuple:
        """`(losses [B], aux, states)`: one state for each statistic, not finalized.

        On a mesh with `Explicit` axes, what has a row for every example lies as the batch does, and
        all else is whole on every device.
        """
        axes = explicit_rows(jax.tree.leaves((batch, weights)))
        if axes is None:
            return self._states(params, batch, weights)
        rows, whole = PartitionSpec(axes), PartitionSpec()
        of_states = [rows if stat.per_example else whole for stat in self.stats]
        out: Any = rows, rows if self.has_aux else whole, of_states
        run: Any = jax.sharding.auto_axes(self._states, out_sharding=out)
        return run(params, batch, weights)

    def _states(self, params, batch, weights) -> tuple:
        given = self.given(params, batch, weights)
        by_factors = [self.method == "factored" and isinstance(s, Leafwise) for s in self.stats]
        found, losses, aux = {}, None, None
        for own in sorted({*by_factors} or {True}):
            stats = [s for s, chosen in zip(self.stats, by_factors, strict=True) if chosen == own]
            way = factored.WAY if own else definition.WAY
            losses, aux, states = passes.measure(way, stats, given)
            found[own] = iter(states)
        return losses, aux, [next(found[own]) for own in by_factors]

    def given(self, params: chex.ArrayTree, batch: chex.ArrayTree, weights: Any) -> Batch:
        """The arguments, checked; the loss closes over parameters that cannot be differentiated."""
        params, join = differentiable(params, "gradient_statistics")
        checked = scalar_loss(self.loss, self.has_aux, "gradient_statistics")
        limit = self.memory_limit if self.memory_limit is not None else default_memory_limit()
        params, batch, weights, padded = prepared(params, batch, weights, "gradient_statistics")
        loss = lambda p, example: checked(join(p), example)  # noqa: E731
        return Batch(loss, captured(loss), params, batch, weights, padded, int(limit))

    def fold(self, measure_chunk: Callable, params, data, size: int) -> tuple:
        """Measure a batch in chunks of `size` examples, under `lax.scan`, and merge the states.

        Args:
          measure_chunk: `(*data) -> (losses, aux, states)` for one chunk of `data`.
          data: arrays with a leading axis of examples.
          size: examples in a chunk; the remainder is measured once after the scan.

        Returns:
          `(losses, aux, states)` of all of them.
        """
        params, _ = differentiable(params, "gradient_statistics")
        return passes.fold(self.stats, measure_chunk, params, data, size)

    def merge(self, a, b):
        """The states of the examples of `a` followed by those of `b`."""
        return [s.merge(x, y) for s, x, y in zip(self.stats, a, b, strict=True)]

    def finalize(self, states, params: chex.ArrayTree):
        """The results, with the structure of `stats`."""
        params, _ = differentiable(params, "gradient_statistics")
        return self.treedef.unflatten(
            s.finalize(x, params) for s, x in zip(self.stats, states, strict=True)
        )


def default_memory_limit() -> int:
    """Bytes of temporaries: 1 GiB on CPU, a quarter of the free memory on an accelerator."""
    device = jax.local_devices()[0]
    usage = None if device.platform == "cpu" else device.memory_stats()
    if not usage or "bytes_limit" not in usage:
        return _CPU_LIMIT
    return int(_ACCELERATOR_SHARE * (usage["bytes_limit"] - usage.get("bytes_in_use", 0)))
