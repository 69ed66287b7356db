"""Evaluation of one equation by JAX, on the CPU: in its own dtypes, or in float64."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from . import versions
from .program import Equation


def evaluate(equation: Equation, *values: Any) -> tuple[Any, ...]:
    """The outputs of an equation, in its own dtypes.

    Args:
      values: one array for each input. Random keys are JAX arrays, all else may be NumPy.

    Returns:
      NumPy arrays; JAX arrays where they are random keys.

    >>> import jax.numpy as jnp, numpy as np
    >>> from funcbackprop.graph import evaluate, trace
    >>> (equation,) = trace(jnp.tanh)(np.float32(0)).equations
    >>> evaluate(equation, np.float32(0.5))
    (array(0.46211717, dtype=float32),)
    """
    with jax.default_device(_cpu()):
        return _bind(equation, equation.params, values)


def evaluate_wide(equation: Equation, *values: Any) -> tuple[Any, ...]:
    """The outputs for float64 or complex128 inputs; dtypes among the parameters are widened.

    JAX's global flag is not touched: x64 is enabled for this thread, while this runs.

    >>> import jax.numpy as jnp, numpy as np
    >>> from funcbackprop.graph import evaluate_wide, trace
    >>> (equation,) = trace(jnp.tanh)(np.float32(0)).equations
    >>> evaluate_wide(equation, np.float64(0.5))
    (array(0.46211716),)
    """
    params = {name: _widened(value) for name, value in equation.params.items()}
    with versions.enable_x64(), jax.default_device(_cpu()):
        return _bind(equation, params, values)


def bind(equation: Equation, *values: Any) -> tuple[Any, ...]:
    """The outputs of an equation as JAX arrays: for use inside functions that JAX traces.

    >>> from funcbackprop.graph import trace
    >>> (equation,) = trace(jnp.sin)(np.float32(0)).equations
    >>> print(jax.vmap(lambda x: bind(equation, x)[0])(jnp.zeros(2)))
    [0. 0.]
    """
    out = equation.primitive.bind(*values, **equation.params)
    return tuple(out) if equation.primitive.multiple_results else (out,)


def recorded(f: Callable, *like: Any) -> tuple[Callable, Any]:
    """`(f, shapes of its output)` from one trace: what is returned repeats the equations of `f`.

    Args:
      like: arguments, or their shapes and dtypes.
    """
    closed, shapes = jax.make_jaxpr(f, return_shape=True)(*like)
    run = jaxpr_as_fun(closed)

    def repeat(*args):
        return jax.tree.unflatten(jax.tree.structure(shapes), run(*jax.tree.leaves(args)))

    return repeat, shapes


def local_vjp(
    equation: Equation,
    values: Sequence[Any],
    cotangents: Sequence[Any],
    compiled: bool = False,
) -> list[np.ndarray | None]:
    """What JAX makes of the cotangents of one equation, by the rule that it has for it.

    Args:
      values: one array for each input, in the equation's own dtypes.
      cotangents: one for each output, in any float dtype; None for zeros.
      compiled: whether to compile it, which pays off for an equation that is evaluated again.

    Returns:
      For each input an array, None where it is no float.

    >>> from funcbackprop.graph import trace
    >>> (equation,) = trace(jnp.tanh)(np.float32(0)).equations
    >>> local_vjp(equation, [np.float32(0)], [np.float32(2)])
    [array(2., dtype=float32)]
    """
    floats = tuple(k for k, v in enumerate(values) if wide_dtype(v.dtype) is not None)
    given = [
        None if c is None else np.asarray(c).astype(y.dtype)
        for c, y in zip(cotangents, equation.outputs, strict=True)
    ]
    pull = _compiled(equation, floats) if compiled else functools.partial(_vjp, equation, floats)
    with jax.default_device(_cpu()):
        found = pull(list(values), given)
    result: list[np.ndarray | None] = [None] * len(values)
    for k, value in zip(floats, found, strict=True):
        result[k] = np.asarray(value)
    return result


def _vjp(equation, floats, values, cotangents):
    def outputs(*moving):
        full = list(values)
        for k, value in zip(floats, moving, strict=True):
            full[k] = value
        return bind(equation, *full)

    out, pull = jax.vjp(outputs, *(jnp.asarray(values[k]) for k in floats))
    return pull(tuple(map(_cotangent, out, cotangents)))


@functools.lru_cache(maxsize=256)
def _compiled(equation, floats):
    return jax.jit(functools.partial(_vjp, equation, floats))


def _cotangent(output, given):
    if wide_dtype(output.dtype) is None:
        return np.zeros(output.shape, jax.dtypes.float0)
    return jnp.zeros_like(output) if given is None else jnp.asarray(given)


def widen(value: Any) -> Any:
    """Floating-point arrays as float64 or complex128; anything else as it is."""
    wide = wide_dtype(value.dtype)
    return value if wide is None else np.asarray(value).astype(wide, copy=False)


def wide_dtype(dtype: Any) -> np.dtype | None:
    """float64 for real floating-point dtypes, complex128 for complex ones, None for others."""
    if jnp.issubdtype(dtype, np.floating):
        return np.dtype(np.float64)
    if jnp.issubdtype(dtype, np.complexfloating):
        return np.dtype(np.complex128)
    return None


def where(condition: Any, x: Any, y: Any) -> Any:
    """`x` where the condition holds, else `y`: arrays, or random keys."""
    select = jnp.where if is_key(x) else np.where
    return select(condition, x, y)


def _bind(equation, params, values) -> tuple[Any, ...]:
    out = equation.primitive.bind(*values, **params)
    outputs = out if equation.primitive.multiple_results else (out,)
    return tuple(map(to_numpy, outputs))


def is_key(x: Any) -> bool:
    """Whether an array holds random keys (or anything else that NumPy cannot hold)."""
    return jnp.issubdtype(x.dtype, jax.dtypes.extended)


def to_numpy(x: Any, dtype: Any = None) -> Any:
    """A NumPy array, of this dtype if one is given; random keys stay JAX arrays."""
    if hasattr(x, "dtype") and is_key(x):
        return x
    return np.asarray(x) if dtype is None else np.asarray(x).astype(dtype, copy=False)


def stack(values: Sequence[Any]) -> Any:
    """Arrays, or random keys, along a new leading axis."""
    return jnp.stack(values) if is_key(values[0]) else np.stack(values)


def _widened(value):
    if isinstance(value, np.dtype) or (isinstance(value, type) and hasattr(value, "dtype")):
        wide = wide_dtype(np.dtype(value))
        return value if wide is None else wide
    return value


def _cpu():
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS excludes the CPU
        return jax.local_devices()[0]
