"""Loops over groups of examples, written once; and what the loops of a program stack."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..contract import vary_like
from ..graph import varying_axes


def even(size: int, chunk: int) -> int:
    """The largest divisor of `size` up to `chunk`, unless that is less than half of `chunk`.

    Without a remainder the program of a chunk is compiled once, not twice.

    >>> [even(512, 95), even(64, 100), even(7, 3)]
    [64, 64, 3]
    """
    chunk = max(1, min(size, chunk))
    divisor = next(c for c in range(chunk, 0, -1) if size % c == 0)
    return divisor if 2 * divisor >= chunk else chunk


def scanned(step: Callable, start: Any, data: Any, size: int) -> tuple[Any, Any]:
    """`step(state, rows of data) -> (state, rows)` over `size` rows of `data` at a time.

    Args:
      start: the first state.
      data: arrays with a leading axis; the remainder of its rows is taken last.

    Returns:
      `(last state, rows)`: what `step` returned for all rows, concatenated along the first axis.
    """
    length = len(jax.tree.leaves(data)[0])
    count = length // size
    if count * size == length and count == 1:
        return step(start, data)
    head = jax.tree.map(lambda x: x[: count * size].reshape(count, size, *x.shape[1:]), data)
    state, stacked = jax.lax.scan(step, vary_like(start, data), head)
    rows = jax.tree.map(lambda x: x.reshape(count * size, *x.shape[2:]), stacked)
    if count * size == length:
        return state, rows
    state, last = step(state, jax.tree.map(lambda x: x[count * size :], data))
    return state, jax.tree.map(lambda x, y: jnp.concatenate([x, y]), rows, last)


def lanes(rows: jax.Array) -> int:
    """Parts of a batch that are worked through side by side: one for each device.

    Over how many devices a batch is sharded is not known while it is traced. Their number divides
    B and, but for odd meshes, the number of all devices: so many parts are whole on every device.
    """
    return 1 if varying_axes(rows) else math.gcd(len(rows), jax.device_count())


def in_lanes(lane: Callable, join: Callable, data: Any, count: int) -> tuple[Any, Any]:
    """`lane(rows) -> (state, rows)` for `count` equal parts of `data`, and one state of all.

    On a sharded batch every device works through its own part, and states are joined once at the
    end.

    Args:
      join: states behind a leading axis -> one state.
    """
    if count == 1:
        return lane(data)
    parts = jax.tree.map(lambda x: x.reshape(count, len(x) // count, *x.shape[1:]), data)
    states, rows = jax.vmap(lane)(parts)
    return join(states), jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)


class Shared:
    """What a loop stacks: an array that several products have in common is stacked once, and one
    that the loop reads is there already."""

    def apart(self, out: Any, xs: Sequence[Any]) -> list:
        """The arrays of `out` that are no other and none of `xs`."""
        leaves, self.treedef = jax.tree.flatten(out)
        places = {id(x): (False, k) for k, x in reversed(list(enumerate(xs)))}
        kept: list[Any] = []
        for leaf in leaves:
            if id(leaf) not in places:
                places[id(leaf)] = (True, len(kept))
                kept.append(leaf)
        self.places = [places[id(leaf)] for leaf in leaves]
        return kept

    def together(self, stacked: Sequence[Any], xs: Sequence[Any]) -> Any:
        """The tree that `out` was, of what a loop has stacked and what it read."""
        leaves = [stacked[k] if new else xs[k] for new, k in self.places]
        return jax.tree.unflatten(self.treedef, leaves)
