"""Equations that XLA compiles badly, said in other words with the same result, bit for bit."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..graph import Equation


def rewritten(equation: Equation) -> Callable | None:
    """A function of the values of an equation that computes its outputs; None to leave it alone."""
    rule = _RULES.get(equation.name)
    return rule and rule(equation)


def _max_pool(equation) -> Callable | None:
    """The cotangent of a maximum over windows that do not overlap.

    XLA's CPU compiler makes a search for positions and a scatter of it. Here every place of a
    window is compared with the best before it, for all windows at once.
    """
    p = equation.params
    source = equation.inputs[0]
    window = p["window_dimensions"]
    disjoint = tuple(window) == tuple(p["window_strides"]) and not any(map(any, p["padding"]))
    better = _SELECT.get(p["select_prim"].name)
    if not disjoint or better is None or math.prod(window) > _LARGEST_WINDOW:
        return None
    places = list(itertools.product(*map(range, window)))

    def at(x, place):
        axes = zip(place, window, source.shape, strict=True)
        starts, strides = place, window
        limits = [k + (count - 1) * step + 1 for k, step, count in axes]
        return jax.lax.slice(x, starts, limits, strides)

    def run(cotangent, x):
        best, chosen = at(x, places[0]), jnp.zeros(source.shape, jnp.int32)
        for k, place in enumerate(places[1:], 1):
            here = at(x, place)
            keep = better(best, here)
            best, chosen = jnp.where(keep, best, here), jnp.where(keep, chosen, k)
        zero = jnp.zeros((), cotangent.dtype)
        values = [jnp.where(chosen == k, cotangent, zero) for k in range(len(places))]
        return [_interleaved(values, window, x.shape)]

    return run


def _interleaved(values, window, shape) -> Any:
    """The array whose windows have these values at their places, in order; zeros beyond them."""
    count = values[0].shape
    x = jnp.stack(values).reshape(*window, *count)
    ndim = len(window)
    x = jnp.transpose(x, [a for k in range(ndim) for a in (ndim + k, k)])
    x = x.reshape([n * size for n, size in zip(count, window, strict=True)])
    return jnp.pad(x, [(0, whole - n) for whole, n in zip(shape, x.shape, strict=True)])


_SELECT = {"ge": jnp.greater_equal, "le": jnp.less_equal}
_LARGEST_WINDOW = 16
_RULES = {"select_and_scatter_add": _max_pool}
