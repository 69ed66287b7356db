"""Statistics of a batch at once, or of a few examples at a time where memory asks for that."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from ..contract import vary_like
from .loops import even, scanned
from .statistics import Leafwise, Mean, PerExample, Projection


class Batch(NamedTuple):
    """What is measured.

    Attributes:
      loss: `(params, example) -> (scalar, aux)`.
      capture: `(params, example) -> (program, flow)` of its gradient, traced once.
      params, batch, weights: checked; rows of weight 0 hold another example.
      padded: whether there may be such rows.
      limit: bytes that gradients which are written out may take at a time.
    """

    loss: Callable
    capture: Callable
    params: chex.ArrayTree
    batch: chex.ArrayTree
    weights: Any
    padded: bool
    limit: int

    @property
    def bytes_of_one(self) -> int:
        """Of the gradient of one example."""
        leaves = jax.tree.leaves(self.params)
        return sum(jnp.size(p) * jnp.result_type(p).itemsize for p in leaves)


class Way(NamedTuple):
    """A way to the gradients of examples.

    Attributes:
      take: `(stats, given, mean, numbers) -> (losses, aux, states)`. `mean` is the mean gradient of
        the batch if `given` is some of its examples; `numbers` are those of `rows_of`.
      chunk: `(stats, given) -> int`, how many examples memory has room for.
    """

    take: Callable
    chunk: Callable


def measure(way: Way, stats: Sequence[Any], given: Batch) -> tuple:
    """`(losses [B], aux, states)`."""
    size = len(given.weights)
    chunk = even(size, way.chunk(stats, given))
    if chunk == size:
        return way.take(stats, given, None, rows_of(stats))
    kinds = [_kind(s) for s in stats]
    of_kind = {k: [s for s in stats if _kind(s) == k] for k in ("once", "mean", "pairs")}

    def folded(some, mean):
        def measure_chunk(batch, weights, numbers):
            part = given._replace(batch=batch, weights=weights)
            return way.take(some, part, mean, numbers)

        data = given.batch, given.weights, rows_of(some)
        return fold(some, measure_chunk, given.params, data, chunk)

    losses, aux, states = folded([*of_kind["once"], Mean()], None)
    mean = states.pop()["mean"]
    found = {"once": iter(states), "mean": iter(())}
    if of_kind["mean"]:
        found["mean"] = iter(folded(of_kind["mean"], mean)[2])
    found["pairs"] = (_pairs(way, s, given, chunk) for s in of_kind["pairs"])
    return losses, aux, [next(found[k]) for k in kinds]


def _kind(stat) -> str:
    if getattr(stat, "whole_batch", False):
        return "pairs"
    return "mean" if stat.needs_mean else "once"


def _pairs(way, gram, given, chunk):
    """The Gram matrix, some columns at a time: projections on the gradients of a chunk."""

    def columns(data):
        batch, weights = data
        part = given._replace(batch=batch, weights=weights)
        _, _, (grads,) = way.take([PerExample()], part, None, [None])
        _, _, (products,) = measure(way, [Projection(grads, gram.per_leaf)], given)
        return jax.tree.map(jnp.transpose, products)

    _, found = scanned(lambda _, data: ((), columns(data)), (), (given.batch, given.weights), chunk)
    return found


def rows_of(stats: Sequence[Any]) -> list:
    """The numbers of each statistic that come from no gradient, examples first; or None."""
    numbers = (
        s.numbers(None) if isinstance(s, Leafwise) and not s.needs_norms else None for s in stats
    )
    return [None if n is None else jnp.moveaxis(n, -1, 0) for n in numbers]


def of_rows(numbers: Sequence[Any]) -> list:
    """The reverse: examples last, as `reduce` takes them."""
    return [None if n is None else jnp.moveaxis(n, 0, -1) for n in numbers]


def fold(stats: Sequence[Any], measure_chunk: Callable, params, data, size: int) -> tuple:
    """Measure a batch in chunks of `size` examples, under `lax.scan`, and merge the states.

    Args:
      measure_chunk: `(*data) -> (losses, aux, states)` for one chunk of `data`.
      data: arrays with a leading axis of examples.
      size: examples in a chunk; the remainder is measured once after the scan.
    """

    def body(carry, chunk):
        losses, aux, states = measure_chunk(*chunk)
        carry = [
            () if stat.per_example else stat.merge(old, new)
            for stat, old, new in zip(stats, carry, states, strict=True)
        ]
        per_example = [
            new if stat.per_example else () for stat, new in zip(stats, states, strict=True)
        ]
        return carry, (losses, aux, per_example)

    start = [() if stat.per_example else stat.init(params) for stat in stats]
    merged, (losses, aux, rows) = scanned(body, vary_like(start, params), data, size)
    pairs = zip(stats, rows, merged, strict=True)
    return losses, aux, [own if stat.per_example else state for stat, own, state in pairs]
