"""Differences between the versions of JAX, and what is not public in any, all in this file."""

import os
from typing import Any

import chex
import jax
import jax.experimental
import numpy as np
from jax._src import source_info_util
from jax.extend import core

from .program import UNKNOWN, Source

try:
    from jax.experimental.shard_alike import shard_alike as _shard_alike
except ImportError:  # JAX 0.12
    _shard_alike = None

_lax: Any = jax.lax
_core: Any = getattr(jax, "core")  # noqa: B009
_experimental: Any = jax.experimental
_HERE = os.path.dirname(__file__)


def varying_axes(x: chex.Numeric) -> frozenset[str]:
    """The mesh axes over which `x` differs between devices inside `shard_map`; none outside."""
    kind: Any = jax.typeof(x)
    if hasattr(kind, "vma"):  # JAX 0.7
        return kind.vma
    axes = getattr(kind, "manual_axis_type", None)
    return frozenset() if axes is None else axes.varying


def to_varying(x: chex.Numeric, axes: tuple[str, ...]) -> chex.Array:
    """`x` typed as varying over `axes`, so that its gradient is not summed over the devices."""
    if hasattr(_lax, "pcast"):
        return _lax.pcast(x, axes, to="varying")
    return _lax.pvary(x, axes)  # JAX 0.7


def explicit_sharding(x: Any) -> Any:
    """The sharding in the type of an array, if its mesh has `Explicit` axes; else None."""
    sharding: Any = getattr(jax.typeof(x), "sharding", None) if isinstance(x, jax.Array) else None
    types = getattr(getattr(sharding, "mesh", None), "axis_types", None) or ()
    return sharding if jax.sharding.AxisType.Explicit in types else None


def explicit_rows(tree: chex.ArrayTree) -> Any:
    """The mesh axes of type `Explicit` along the first axis of the arrays, or None."""
    for sharding in map(explicit_sharding, jax.tree.leaves(tree)):
        if sharding is not None and sharding.spec and sharding.spec[0]:
            return sharding.spec[0]
    return None


def laid_out_like(x: jax.Array, like: jax.Array) -> jax.Array:
    """`x`, which XLA is asked to lay over devices as `like`; as it is where JAX cannot ask."""
    return x if _shard_alike is None else _shard_alike(x, like)[0]


def is_concrete(value: Any) -> bool:
    """Whether a value is an array of JAX whose entries are known now, to this process."""
    if not isinstance(value, jax.Array) or isinstance(value, _core.Tracer):
        return False
    return value.is_fully_addressable or value.is_fully_replicated


def enable_x64():
    """A context in which this thread computes in 64 bits."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return _experimental.enable_x64()  # JAX 0.7


def open_jaxpr(held: Any) -> tuple[Any, tuple]:
    """(jaxpr, constants) of a closed or open one; which of them a primitive holds varies."""
    if hasattr(held, "jaxpr"):
        return held.jaxpr, tuple(held.consts)
    return held, tuple(getattr(held, "consts", ()))


def is_variable(atom: Any) -> bool:
    return not isinstance(atom, core.Literal)


def dtype(aval: Any) -> Any:
    """The dtype of an array or of what a mutable array holds; None for tokens."""
    inner = getattr(aval, "inner_aval", aval)
    return getattr(inner, "dtype", None)


def parameters(eqn: Any) -> dict[str, Any]:
    """The parameters of an equation as JAX 0.7 to 0.10 have them, every program with constants."""
    params = dict(eqn.params)
    if eqn.primitive.name == "scan" and "ft_in" in params:  # JAX 0.11
        constants, carry, _ = params["ft_in"].unpack()
        params |= {"num_consts": len(constants.vals), "num_carry": len(carry.vals)}
    if eqn.primitive.name == "scatter" and params["update_jaxpr"] is not None:
        held, constants = params["update_jaxpr"], params["update_consts"]
        params["update_jaxpr"] = core.ClosedJaxpr(held, constants)
    return params


def is_mutable(value: Any) -> bool:
    """Whether a value is a mutable array (`jax.new_ref`)."""
    return hasattr(getattr(value, "aval", None), "inner_aval")


def has_programs(params: dict[str, Any]) -> bool:
    """Whether a parameter is a jaxpr, or a tuple or list with one in it."""

    def is_program(value):
        return isinstance(value, core.Jaxpr | core.ClosedJaxpr)

    return any(
        is_program(value)
        or (isinstance(value, tuple | list) and any(is_program(item) for item in value))
        for value in params.values()
    )


def source(eqn: Any) -> Source:
    """The innermost frame that is neither JAX's, the standard library's, nor of this room."""
    frame = source_info_util.user_frame(eqn.source_info.traceback)
    if frame is None or frame.file_name.startswith(_HERE):
        return UNKNOWN
    return Source(frame.file_name, frame.start_line, frame.function_name)


def function_name(jaxpr: Any, eqn: Any) -> tuple[str, bool]:
    """(name, whether it is JAX's own) of the function that was called."""
    info = getattr(jaxpr, "debug_info", None)
    text = getattr(info, "func_src_info", None) or ""
    name, _, place = text.partition(" at ")
    file = place.rpartition(":")[0]
    name = eqn.params.get("name") or name or "?"
    return str(name), bool(file) and not source_info_util.is_user_filename(file)


def is_kept_apart(eqn: Any) -> bool:
    """Whether a call recomputes on the way back what XLA must not merge with the way forward."""
    prevents = eqn.params.get("prevent_cse", False)
    return bool(eqn.params.get("differentiated")) and bool(np.any(prevents))


class Barrier:
    """What JAX puts before a recomputation: XLA does not look through it."""

    multiple_results = True

    def bind(self, *values: Any) -> tuple:
        return jax.lax.optimization_barrier(values)


class Whole:
    """An equation with programs inside that is evaluated as it stands, by JAX.

    Binding by hand would need `Primitive.get_bind_params`, whose result differs between versions.

    Args:
      eqn: the equation.
      body: a program inside; it lends the names that JAX wants a program to have.
    """

    multiple_results = True

    def __init__(self, eqn: Any, body: Any):
        self._places = {v: k for k, v in enumerate(eqn.invars) if is_variable(v)}
        self._jaxpr = open_jaxpr(body)[0].replace(
            constvars=[], invars=list(self._places), outvars=eqn.outvars, eqns=[eqn]
        )

    def bind(self, *values: Any, **params: Any) -> list[Any]:
        return _core.eval_jaxpr(self._jaxpr, (), *(values[k] for k in self._places.values()))
