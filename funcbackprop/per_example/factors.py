"""Forms in which the gradients of all examples are kept: two small arrays each, not one large one.

A form is one function: the sum over examples of what an equation makes of its operands. It is
linear in the second operand, so that everything else follows from it: weighted sums by scaling that
operand, inner products by the transpose, single gradients by taking one example at a time.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax


class Form(NamedTuple):
    """A factor form.

    Attributes:
      name: in the plan.
      fits: `(flow, equation) -> bool`, whether an equation with this primitive has the form.
      factors: `(equation, inputs) -> (u, v)`, the two operands of one example.
      total: `(equation, u [n, ...], v [n, ...]) -> array`, the sum over n; linear in v.
      flops: `term -> int`, for one example of a term whose u and v have a leading axis.
    """

    name: str
    fits: Callable
    factors: Callable
    total: Callable
    flops: Callable


# --- outer products summed over positions: sum_t u_t (x) v_t --------------------------------------


def _product_fits(flow, equation):
    """Both operands depend on the example, or the product is larger than they are."""
    u, v = equation.inputs
    if all(x in flow.varies for x in (u, v)):
        return True
    return _entries(equation.outputs[0]) > _entries(u) + _entries(v)


def _product(equation, u, v):
    (cu, cv), (bu, bv) = equation.params["dimension_numbers"]
    up = lambda axes: tuple(a + 1 for a in axes)  # noqa: E731
    dimensions = ((0, *up(cu)), (0, *up(cv))), (up(bu), up(bv))
    return lax.dot_general(u, v, dimensions, precision=equation.params["precision"])


def _product_flops(term):
    """2 T M N: both operands have the T positions and the groups."""
    dimensions, shape = term.equation.params["dimension_numbers"], term.equation.inputs[0].shape
    shared = math.prod(shape[a] for axes in (dimensions[0][0], dimensions[1][0]) for a in axes)
    loops = _loops(term)
    return 2 * _per_example(term.u) * _per_example(term.v) // max(1, shared * loops)


def _loops(term):
    """Iterations of the loops around a product."""
    return _per_example(term.v) // max(1, _entries(term.equation.inputs[1]))


# --- the weight gradient of a convolution ---------------------------------------------------------


def _both_vary(flow, equation):
    return all(x in flow.varies for x in equation.inputs)


def _convolution(equation, u, v):
    """Examples stand beside the features that the convolution sums over."""
    params = equation.params
    numbers = params["dimension_numbers"]
    groups = params["feature_group_count"]
    u_feature, v_feature = numbers.lhs_spec[1], numbers.rhs_spec[1]
    return lax.conv_general_dilated(
        _beside(u, u_feature, groups),
        _beside(v, v_feature, 1),
        window_strides=params["window_strides"],
        padding=params["padding"],
        lhs_dilation=params["lhs_dilation"],
        rhs_dilation=params["rhs_dilation"],
        dimension_numbers=numbers,
        feature_group_count=groups,
        batch_group_count=params["batch_group_count"],
        precision=params["precision"],
    )


def _convolution_flops(term):
    """2 |W| / N for each entry of the cotangent [..., N]."""
    features = term.equation.inputs[1].shape[term.equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * _entries(term.equation.outputs[0]) * _per_example(term.v) // max(1, features)


def _beside(x, axis, groups):
    """[n, ..., groups f, ...] as [..., groups n f, ...]."""
    n, shape = x.shape[0], x.shape[1:]
    x = x.reshape(n, *shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
    x = jnp.moveaxis(x, 0, axis + 1)
    return x.reshape(*shape[:axis], n * shape[axis], *shape[axis + 1 :])


# --- rows that are added at indices: embeddings, gathers ------------------------------------------


def _onto_zeros(flow, equation):
    return flow.is_zero(equation.inputs[0])


def _scatter(equation, indices, updates):
    d = equation.params["dimension_numbers"]
    up = lambda axes: tuple(a + 1 for a in axes)  # noqa: E731
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=up(d.update_window_dims),
        inserted_window_dims=d.inserted_window_dims,
        scatter_dims_to_operand_dims=d.scatter_dims_to_operand_dims,
        operand_batching_dims=d.operand_batching_dims,
        scatter_indices_batching_dims=up(d.scatter_indices_batching_dims),
    )
    zeros, mode = jnp.zeros(equation.outputs[0].shape, updates.dtype), equation.params["mode"]
    if mode == lax.GatherScatterMode.PROMISE_IN_BOUNDS:
        # Rows out of range are left out all the same; the transpose would clamp their indices.
        mode = lax.GatherScatterMode.FILL_OR_DROP
    return lax.scatter_add(zeros, indices, updates, numbers, mode=mode)


def _block(equation, starts, blocks):
    """One block for each example, where it starts."""
    zeros = jnp.zeros(equation.outputs[0].shape, blocks.dtype)
    axes = tuple(range(zeros.ndim))
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=tuple(a + 1 for a in axes),
        inserted_window_dims=(),
        scatter_dims_to_operand_dims=axes,
    )
    return lax.scatter_add(zeros, starts, blocks, numbers, mode=lax.GatherScatterMode.CLIP)


# --- gradients that are as small as what they are made of -----------------------------------------


def _sum(equation, u, v):
    """As a matrix product: XLA's CPU sum over a leading axis is 10 times slower."""
    return jnp.tensordot(jnp.ones(len(v), v.dtype), v, 1, precision=lax.Precision.HIGHEST)


DENSE = Form(
    "entries",
    lambda flow, equation: True,
    lambda equation, x: (x[:0], x),
    _sum,
    lambda t: _per_example(t.v),
)

# primitive -> the form of a gradient that is born there.
FORMS = {
    "dot_general": Form(
        "outer products", _product_fits, lambda e, inputs: inputs, _product, _product_flops
    ),
    "conv_general_dilated": Form(
        "convolution", _both_vary, lambda e, inputs: inputs, _convolution, _convolution_flops
    ),
    "scatter-add": Form(
        "rows", _onto_zeros, lambda e, inputs: inputs[1:], _scatter, lambda t: _per_example(t.v)
    ),
    "dynamic_update_slice": Form(
        "rows",
        _onto_zeros,
        lambda e, inputs: (jnp.stack(inputs[2:]), inputs[1]),
        _block,
        lambda t: _per_example(t.v),
    ),
}


def _entries(atom: Any) -> int:
    return math.prod(atom.shape)


def _per_example(x: Any) -> int:
    return math.prod(x.shape[1:])
