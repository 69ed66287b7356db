"""Differences between the versions of JAX, all in this file."""

from typing import Any

import chex
import jax

_lax: Any = jax.lax


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
