"""Equations that only move, rename or scale the entries of a gradient on its way to its leaf."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from ..graph import Equation, bind


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("operands",),
    meta_fields=("equation", "position"),
)
@dataclasses.dataclass(frozen=True)
class Layout:
    """A linear map of one array, the same for every example.

    Attributes:
      operands: arrays that it needs beside the one that it maps; the same for every example.
      equation, position: the equation that it is, in this one of its inputs.
    """

    operands: tuple[Any, ...]
    equation: Equation
    position: int

    @property
    def permutes(self) -> bool:
        """Whether it moves every entry to a place of its own and leaves no other places, so that it
        commutes with elementwise functions and keeps norms."""
        return self._rule[1]

    def __call__(self, x: jax.Array) -> jax.Array:
        """The map of an array, or of several behind leading axes; in the dtype of the array."""
        return _under_axes(lambda x: self._rule[0](x, *self.operands), x, len(self._shape))

    def back(self, x: jax.Array) -> jax.Array:
        """The transpose of the map."""
        like = jax.ShapeDtypeStruct(self._shape, x.dtype)
        transposed = jax.linear_transpose(self, like)
        return _under_axes(lambda y: transposed(y)[0], x, jax.eval_shape(self, like).ndim)

    @property
    def _rule(self) -> tuple[Callable, bool]:
        return _LAYOUTS[self.equation.name](self.equation, self.position)

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.equation.inputs[self.position].shape


def _under_axes(f: Callable, x: Any, ndim: int) -> Any:
    """f of an array of `ndim` axes, or of several such arrays behind leading axes."""
    for _ in range(jnp.ndim(x) - ndim):
        f = jax.vmap(f)
    return f(x)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop around a product: its iterations are stacked, or added up."""

    stacks: bool
    permutes: ClassVar[bool] = True


def layout_of(equation: Equation, position: int, values: Sequence[Any] = ()) -> Layout | None:
    """The layout that an equation is in one of its inputs; None if it is none.

    Args:
      values: of all its inputs, if it needs some of them.
    """
    rule = _LAYOUTS.get(equation.name)
    if rule is None or (position != 0 and equation.name not in _ANY_POSITION):
        return None
    if rule(equation, position) is None:
        return None
    operands = tuple(values[k] for k in needed(equation, position)) if values else ()
    return Layout(operands, equation, position)


def zeros_needed(equation: Equation) -> tuple[int, ...]:
    """The inputs that must be zero for the map to be linear."""
    return _ZEROS.get(equation.name, ())


def needed(equation: Equation, position: int) -> tuple[int, ...]:
    """The inputs whose values the map depends on."""
    if equation.name in _AT:
        return _AT[equation.name]
    return (1 - position,) if equation.name in _WITH_OPERAND else ()


def _shaped(equation, position):
    """The same entries, in the same order, in another shape."""
    shape = equation.outputs[0].shape
    if equation.params.get("dimensions") is not None:
        return None
    return lambda x: lax.reshape(x, shape), True


def _broadcast(equation, position):
    """A broadcast that only adds axes of length 1."""
    out, x = equation.outputs[0], equation.inputs[0]
    if math.prod(out.shape) != math.prod(x.shape):
        return None
    return lambda x: lax.reshape(x, out.shape), True


def _cast(equation, position):
    """Between real dtypes, or between complex ones: statistics are taken in wider ones anyway."""
    kinds = {
        jnp.issubdtype(atom.dtype, jnp.complexfloating)
        for atom in (equation.inputs[0], equation.outputs[0])
        if jnp.issubdtype(atom.dtype, jnp.inexact)
    }
    both = all(
        jnp.issubdtype(atom.dtype, jnp.inexact)
        for atom in (equation.inputs[0], equation.outputs[0])
    )
    return (lambda x: x, True) if both and len(kinds) == 1 else None


def _pad(equation, position):
    config = equation.params["padding_config"]
    return lambda x: lax.pad(x, jnp.zeros((), x.dtype), config), False


def _cleared(equation, position):
    """Zeros put at places that are the same for every example."""
    p, updates = equation.params, equation.inputs[2]

    def apply(x, indices):
        kept, zeros = (jnp.ones(x.shape, x.dtype), jnp.zeros(updates.shape, x.dtype))
        return x * lax.scatter(kept, indices, zeros, p["dimension_numbers"], mode=p["mode"])

    return apply, False


def _product(equation, position):
    out = equation.outputs[0].shape
    if equation.inputs[position].shape != out:
        return None
    return lambda x, y: x * jnp.asarray(y).astype(_as(x, y)), False


def _quotient(equation, position):
    if position != 0 or equation.inputs[0].shape != equation.outputs[0].shape:
        return None
    return lambda x, y: x / jnp.asarray(y).astype(_as(x, y)), False


def _contraction(equation, position):
    """A product with an array that is the same for every example."""

    def apply(x, other):
        other = jnp.asarray(other).astype(_as(x, other))
        pair = (x, other) if position == 0 else (other, x)
        return lax.dot_general(
            *pair, equation.params["dimension_numbers"], precision=equation.params["precision"]
        )

    return apply, False


def _as(x, other):
    """The dtype for an operand: that of x, complex where the operand is."""
    return jnp.promote_types(x.dtype, other.dtype) if jnp.iscomplexobj(other) else x.dtype


def _piece(equation, position):
    """One of several arrays that are put side by side."""
    axis = equation.params["dimension"]
    sizes = [a.shape[axis] for a in equation.inputs]
    config = [(0, 0, 0)] * len(equation.inputs[0].shape)
    config[axis] = (sum(sizes[:position]), sum(sizes[position + 1 :]), 0)
    return lambda x: lax.pad(x, jnp.zeros((), x.dtype), config), False


def _case(equation, position):
    """One of several arrays to choose from, by a choice that is the same for every example."""
    if position == 0:
        return None
    return lambda x, which: jnp.where(which.astype(int) == position - 1, x, 0), False


def _slice(equation, position):
    p = equation.params
    return lambda x: lax.slice(x, p["start_indices"], p["limit_indices"], p["strides"]), False


def _summed(equation, position):
    return lambda x: jnp.sum(x, axis=equation.params["axes"]), False


# primitive -> (equation, position of the array) -> (apply, permutes), or None.
_LAYOUTS: dict[str, Callable] = {
    "transpose": lambda e, k: (lambda x: lax.transpose(x, e.params["permutation"]), True),
    "reshape": _shaped,
    "squeeze": _shaped,
    "expand_dims": _shaped,
    "broadcast_in_dim": _broadcast,
    "rev": lambda e, k: (lambda x: lax.rev(x, e.params["dimensions"]), True),
    "copy": lambda e, k: (lambda x: x, True),
    "copy_p": lambda e, k: (lambda x: x, True),
    "convert_element_type": _cast,
    "name": lambda e, k: (lambda x: x, True),
    # Also of a result: the compiler then adds it up over devices, and does not gather its factors.
    "sharding_constraint": lambda e, k: (lambda x: bind(e, x)[0], True),
    "neg": lambda e, k: (lambda x: -x, False),
    "pad": _pad,
    "scatter": _cleared,
    "slice": _slice,
    "reduce_sum": _summed,
    "concatenate": _piece,
    "select_n": _case,
    "mul": _product,
    "div": _quotient,
    "dot_general": _contraction,
}
# What puts several arrays together.
JOINS = ("concatenate", "select_n")
_ANY_POSITION = ("mul", "dot_general", "concatenate", "select_n")
# The inputs that a map depends on, where it is not the other one of two.
_AT = {"select_n": (0,), "scatter": (1,)}
_ZEROS = {"pad": (1,), "scatter": (2,)}
_WITH_OPERAND = ("mul", "div", "dot_general")
