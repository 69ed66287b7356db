"""Gradients that stay factored: one pass over the batch, and a second one for clipping."""

import math
from collections.abc import Callable
from typing import Any

import jax

from ..contract import zero_padding
from . import costs
from .factors import DENSE
from .passes import Batch, Way, of_rows
from .statistics import SquaredNorms, total
from .walk import Task, measure


def take(stats, given: Batch, mean, numbers, note: Callable | None = None) -> tuple:
    """`(losses, aux, states)`; `note` is that of a `Task`."""
    numbers = of_rows(numbers)
    first = [k for k, s in enumerate(stats) if not s.needs_norms]
    second = [k for k, s in enumerate(stats) if s.needs_norms]
    once = [(stats[k], numbers[k]) for k in first]
    norms = [(SquaredNorms(), None)] if second else []
    losses, aux, states = _pass([*once, *norms], given, mean, note)
    if second:
        sq_norms = total(states.pop())
        # Without the barrier XLA would merge the two passes and keep all activations.
        params, sq_norms = jax.lax.optimization_barrier((given.params, sq_norms))
        again = [(stats[k], stats[k].numbers(sq_norms)) for k in second]
        states += _pass(again, given._replace(params=params), mean, note)[2]
    if given.padded:
        losses, aux = jax.tree.map(lambda x: zero_padding(x, given.weights), (losses, aux))
    found = dict(zip([*first, *second], states, strict=True))
    return losses, aux, [found[k] for k in range(len(stats))]


def _pass(stats, given: Batch, mean, note) -> tuple:
    everything = len(given.weights) * given.bytes_of_one
    task = Task(
        stats=[s for s, _ in stats],
        operands=[s.operands(given.params) for s, _ in stats],
        numbers=[n for _, n in stats],
        mean=mean,
        weights=given.weights,
        chunk_bytes=min(given.limit, costs.GROUP_BYTES, int(costs.SHARE * everything)),
        note=note,
    )
    losses, aux, parts = measure(given.capture, given.params, given.batch, task)
    pairs = zip(task.stats, parts, strict=True)
    return losses, aux, [s.collect(p, given.params, given.weights) for s, p in pairs]


def _chunk(stats, given: Batch) -> int:
    """All examples, unless gradients that must be written out would take too much memory."""
    size = len(given.weights)
    if size * given.bytes_of_one <= given.limit:
        return size
    written: dict[int, int] = {}

    def note(leaf: int, g: Any, times: int) -> Callable:
        if any(t.form is DENSE and t.equation is not None for t in g.terms):
            written[leaf] = times * math.prod(g.shape) * g.dtype.itemsize
        return lambda choices: None

    jax.eval_shape(lambda: take([SquaredNorms()], given, None, [None], note)[0])
    return max(1, min(size, given.limit // max(1, sum(written.values()))))


WAY = Way(take, _chunk)
