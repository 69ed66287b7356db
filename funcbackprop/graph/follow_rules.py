"""How a parameter passes each primitive: `rule(follow, equation, tags of its inputs) -> tags`."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from . import axes as ax
from .axes import Axis
from .follow import Product, Tag
from .program import Variable
from .wiring import wiring


def unknown(follow, equation, tags) -> list[Tag]:
    """An equation of which nothing is told but what it reads; or one with programs inside."""
    if equation.inner and (parts := wiring(equation)):
        return _enter(follow, equation, tags, parts)
    shapes = [v.shape for v in equation.outputs]
    parameters, rest = _split(tags)
    if not any(t.live for t in rest):
        return [_joined(tags, ax.nobody(shape)) for shape in shapes]
    value = follow.meets(equation, parameters, _joined(rest, ()), "other")
    return [value._replace(axes=ax.nobody(shape)) for shape in shapes]


def _split(tags: Sequence[Tag]) -> tuple[list[Tag], list[Tag]]:
    """Parameters, and the rest."""
    return [t for t in tags if t.is_parameter], [t for t in tags if not t.is_parameter]


def _joined(tags: Sequence[Tag], axes: tuple[Axis, ...]) -> Tag:
    """What depends on all of these."""
    parameters, _ = _split(tags)
    return Tag(
        axes,
        leaves=tuple(dict.fromkeys(k for t in parameters for k in t.leaves)),
        live=any(t.live for t in tags),
        reads=frozenset().union(*(t.reads for t in tags)),
        loop=next((t.loop for t in parameters if t.loop is not None), None),
    )


def _moves(axes_of: Callable) -> Callable:
    """An equation that moves, drops or repeats the entries of its first input."""

    def rule(follow, equation, tags):
        first, *rest = tags
        if any(t.live or t.leaves for t in rest):
            return unknown(follow, equation, tags)
        return [first._replace(axes=axes_of(equation, first.axes))]

    return rule


def _reshape(equation, axes):
    return ax.reshaped(axes, equation.outputs[0].shape)


def _transpose(equation, axes):
    return tuple(axes[k] for k in equation.params["permutation"])


def _broadcast(equation, axes):
    shape = equation.outputs[0].shape
    found = list(ax.nobody(shape))
    for axis, k in zip(axes, equation.params["broadcast_dimensions"], strict=True):
        if ax.length(axis) == shape[k]:
            found[k] = axis
    return tuple(found)


def _cut(equation, axes):
    """Axes of which a part is taken are nobody's."""
    pairs = zip(axes, ax.nobody(equation.outputs[0].shape), strict=True)
    return tuple(a if ax.length(a) == ax.length(b) else b for a, b in pairs)


def _same(follow, equation, tags):
    return list(tags)


def _elementwise(follow, equation, tags):
    shape = equation.outputs[0].shape
    parameters, rest = _split(tags)
    if parameters and not any(t.live for t in rest):  # the largest gives the axes
        first = max(parameters, key=lambda t: math.prod(a.size for a in ax.named(t.axes)))
        axes = first.axes if len(first.axes) == len(shape) else ax.nobody(shape)
        return [_joined([first, *parameters], axes)]
    value = _joined(rest, ax.agreed([t.axes for t in rest], shape))
    result = follow.meets(equation, parameters, value, "beside")
    if parameters and equation.name == "mul":
        (k, *_) = sorted(result.reads)
        (operand,) = (a for a, t in zip(equation.inputs, tags, strict=True) if not t.is_parameter)
        follow.products[equation.outputs[0]] = Product(k, parameters[0], value, operand)
    return [result]


def _sum(follow, equation, tags):
    """A sum; of a parameter times a value, over axes of the parameter, it is a layer."""
    (tag,) = tags
    reduced = equation.params["axes"]
    product = follow.products.get(equation.inputs[0])
    if product is None or len(product.value.axes) != len(product.parameter.axes):
        return _reduce(follow, equation, tags)
    axes = product.parameter.axes
    leaf = ("leaf", product.parameter.leaves[0])
    if not ax.axes_of([axes[k] for k in reduced], leaf):
        return _reduce(follow, equation, tags)
    stays = [k for k in range(len(axes)) if k not in reduced]
    inner = [(k, k) for k in reduced]
    outer = [k for k in stays if ax.axes_of([axes[k]], leaf)]
    at, units = follow.layer(
        equation, "matrix", product.parameter, product.value, inner, outer, at=product.use
    )
    follow.remember(at, product.operand, product.value)
    return [tag._replace(axes=tuple(units(axes[k]) for k in stays))]


def _reduce(follow, equation, tags):
    (tag,) = tags
    if tag.is_parameter:
        return unknown(follow, equation, tags)
    reduced = equation.params["axes"]
    return [tag._replace(axes=tuple(a for k, a in enumerate(tag.axes) if k not in reduced))]


def _window(follow, equation, tags):
    """Pooling keeps the axes along which its window has length 1."""
    first, *rest = tags
    if first.is_parameter or any(t.live or t.leaves for t in rest):
        return unknown(follow, equation, tags)
    window = equation.params["window_dimensions"]
    shape = equation.outputs[0].shape
    pairs = zip(first.axes, ax.nobody(shape), window, strict=True)
    return [first._replace(axes=tuple(a if n == 1 else b for a, b, n in pairs))]


def _dot(follow, equation, tags):
    (contracted, batch), shape = equation.params["dimension_numbers"], equation.outputs[0].shape
    left, right = tags
    if left.is_parameter == right.is_parameter:
        if left.is_parameter or not (left.live or right.live):
            return [_joined(tags, ax.nobody(shape))]
        return unknown(follow, equation, tags)
    p = 0 if left.is_parameter else 1
    parameter, value = tags[p], tags[1 - p]
    inner = [*zip(contracted[p], contracted[1 - p], strict=True)]
    facing = [*inner, *zip(batch[p], batch[1 - p], strict=True)]
    free = [k for k in range(len(parameter.axes)) if k not in (*contracted[p], *batch[p])]
    outer = [*batch[p], *free]
    at, units = follow.layer(equation, "matrix", parameter, value, facing, outer)
    follow.remember(at, equation.inputs[1 - p], value)
    axes = [units(parameter.axes[k]) for k in outer]
    others = ax.nobody(shape)[len(batch[p]) : len(shape) - len(free)]
    if p == 0:
        axes = [*axes, *ax.nobody(shape)[len(axes) :]]
    else:
        axes = [*axes[: len(batch[p])], *others, *axes[len(batch[p]) :]]
    return [Tag(tuple(axes), live=True, reads=frozenset([at]))]


def _conv(follow, equation, tags):
    value, parameter = tags
    if value.is_parameter or not parameter.is_parameter:
        return unknown(follow, equation, tags)
    numbers, groups = equation.params["dimension_numbers"], equation.params["feature_group_count"]
    o, i, *_ = numbers.rhs_spec
    feature = numbers.lhs_spec[1]

    def arrange(grid):
        """[output channel, input channel of its group] -> the channel that it reads."""
        outputs, inputs = (ax.length(parameter.axes[k]) for k in (o, i))
        start = np.arange(outputs) // (outputs // groups) * inputs
        return grid.ravel()[start[:, None] + np.arange(inputs)]

    at, units = follow.layer(
        *(equation, "kernel", parameter, value, [(i, feature)], [o]),
        arrange=arrange if groups > 1 else None,
    )
    axes = list(ax.nobody(equation.outputs[0].shape))
    axes[numbers.out_spec[1]] = units(parameter.axes[o])
    return [Tag(tuple(axes), live=True, reads=frozenset([at]))]


def _gather(follow, equation, tags):
    """Rows of a table, by data; by constants it is a slice."""
    table, index = tags
    if not table.is_parameter or index.is_parameter:
        return unknown(follow, equation, tags)
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    gone = {*numbers.collapsed_slice_dims, *getattr(numbers, "operand_batching_dims", ())}
    kept = [k for k in range(len(table.axes)) if k not in gone]
    axes = list(ax.nobody(equation.outputs[0].shape))
    full = lambda k: sizes[k] == ax.length(table.axes[k])  # noqa: E731
    if not index.live:
        for k, place in zip(kept, numbers.offset_dims, strict=True):
            if full(k):
                axes[place] = table.axes[k]
        return [table._replace(axes=tuple(axes))]
    at, units = follow.layer(equation, "lookup", table, index, [], [k for k in kept if full(k)])
    for k, place in zip(kept, numbers.offset_dims, strict=True):
        if full(k):
            axes[place] = units(table.axes[k])
    return [Tag(tuple(axes), live=True, reads=frozenset([at]))]


def _enter(follow, equation, tags, parts) -> list[Tag]:
    """The programs inside; a loop twice, for what comes round."""
    known = {a: t for a, t in zip(equation.inputs, tags, strict=True) if isinstance(a, Variable)}
    found: dict[Variable, Tag] = {}
    loop = equation.name in ("scan", "while")
    for _ in range(1 + loop):
        for part in parts:
            if part.program is None:
                continue
            given = []
            for atom, role, inside in zip(
                part.inputs, part.roles, part.program.inputs, strict=True
            ):
                tag = known.get(atom, Tag(ax.nobody(atom.shape)))
                if role.startswith("x "):
                    tag = tag._replace(axes=tag.axes[1:], loop=equation if tag.leaves else None)
                elif role.startswith("carry "):
                    tag = _carried(follow, equation, int(role.split()[1]), tag, found)
                given.append(tag._replace(axes=tag.axes or ax.nobody(inside.shape)))
            results = follow.run(part.program, given)
            for variable, role, tag in zip(part.outputs, part.results, results, strict=True):
                if variable is None:
                    continue
                if role.startswith("y "):
                    tag = tag._replace(axes=(*ax.nobody(variable.shape[:1]), *tag.axes))
                old = found.get(variable)
                found[variable] = tag if old is None else _alternative(follow, equation, old, tag)
    return [found.get(v, Tag(ax.nobody(v.shape), live=True)) for v in equation.outputs]


def _carried(follow, equation, k: int, start: Tag, found: dict[Variable, Tag]) -> Tag:
    """What a loop carries: its start, which may be a parameter, and what comes round."""
    if start.is_parameter:
        start = follow.meets(equation, [start], Tag(start.axes), "other")
    tag = start._replace(leaves=(), live=True)
    again = found.get(equation.outputs[k])
    return tag if again is None else _alternative(follow, equation, tag, again)


def _alternative(follow, equation, first: Tag, second: Tag) -> Tag:
    """One or the other: of two branches, or of the rounds of a loop."""
    shape = [max(map(ax.length, pair)) for pair in zip(first.axes, second.axes, strict=False)]
    return _joined([first, second], ax.agreed([first.axes, second.axes], shape))


# Where entries stay where they are: inputs of one shape, or scalars, or of length 1 along an axis.
_ELEMENTWISE = """
abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp clz complex conj
convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge
gt imag integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter not or
polygamma population_count pow real reduce_precision regularized_incomplete_beta_p rem round rsqrt
select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square
stop_gradient sub tan tanh xor
"""
_WINDOWS = ("min", "max", "sum")

RULES = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **{f"reduce_window_{name}": _window for name in _WINDOWS},
    **dict.fromkeys(("reduce_max", "reduce_min", "reduce_and", "reduce_or"), _reduce),
    **dict.fromkeys(("name", "optimization_barrier", "sharding_constraint"), _same),
    "broadcast_in_dim": _moves(_broadcast),
    "conv_general_dilated": _conv,
    "dot_general": _dot,
    "dynamic_slice": _moves(_cut),
    "expand_dims": _moves(_reshape),
    "gather": _gather,
    "pad": _moves(_cut),
    "reduce_sum": _sum,
    "reduce_window": _window,
    "reshape": _moves(_reshape),
    "slice": _moves(_cut),
    "squeeze": _moves(_reshape),
    "transpose": _moves(_transpose),
}
