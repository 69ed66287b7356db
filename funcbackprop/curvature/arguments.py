"""What the functions of this room are given: counts, keys, and arrays that lie on a mesh."""

import numbers
from collections.abc import Callable
from typing import Any

import chex
import jax
from jax.sharding import NamedSharding, PartitionSpec

from ..graph import explicit_sharding


def checked_count(value: Any, name: str, caller: str, at_least: int = 1) -> int:
    """`value` as an int, if it is one."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < at_least:
        raise ValueError(
            f"`{caller}`: `{name}` expected an integer of at least {at_least}, got {value!r}; it "
            "must be known before the program runs"
        )
    return int(value)


def seeded(key: Any) -> Any:
    """`key`, or the default one."""
    return jax.random.key(0) if key is None else key


# Where a result lies on a mesh with `Explicit` axes: whole on every device.
WHOLE: Any = PartitionSpec()


def specs(tree: chex.ArrayTree) -> Any:
    """How the arrays of a tree lie on the `Explicit` axes of their mesh."""
    found = lambda x: getattr(explicit_sharding(x), "spec", WHOLE)  # noqa: E731
    return jax.tree.map(found, tree)


def on_mesh(f: Callable, out: Any, *args: Any) -> Any:
    """`f(*args)`; where `args` lie on `Explicit` axes these are `Auto` inside, and the result lies
    as `out` says, a tree of specs."""
    shardings = [s for s in map(explicit_sharding, jax.tree.leaves(args)) if s is not None]
    parted = [s for s in shardings if any(axis is not None for axis in s.spec)]
    if not parted:
        return f(*args)
    is_spec = lambda x: isinstance(x, PartitionSpec)  # noqa: E731
    out = jax.tree.map(lambda spec: NamedSharding(parted[0].mesh, spec), out, is_leaf=is_spec)
    run: Any = jax.sharding.auto_axes(f, out_sharding=out)
    return run(*args)
