"""Terms as sums over positions of outer products: the form that the fast kernels take.

B examples, G groups, T positions at which a weight [G, M, N] is used:
g_i = sum_t u_it (x) v_it in every group, with u [B, G, T, M] and v [B, G, T, N].
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from . import costs
from .layouts import Loop

# Where an axis comes from.
_GROUPS, _ROWS, _COLUMNS = "groups", "rows", "columns"
# Steps that keep the entries in order.
_SAME_ORDER = ("reshape", "squeeze", "expand_dims", "broadcast_in_dim", "copy", "copy_p")
_SAME_ORDER += ("convert_element_type",)


class Unfolding(NamedTuple):
    """A term in this form.

    Attributes:
      groups, positions, rows, columns: G, T, M, N.
      factors: `(u, v) -> (u [C, G, T, M], v [C, G, T, N])` of some examples of the term.
      place: `[..., G, M, N] -> [..., *shape]`, entries to where they belong in the leaf.
      permutes: whether `place` gives every entry a place of its own and leaves no others.
      copies: whether `factors` makes larger arrays of them.
      precision: of the products.
    """

    groups: int
    positions: int
    rows: int
    columns: int
    factors: Callable
    place: Callable
    permutes: bool
    copies: bool
    precision: Any

    @property
    def flops(self) -> int:
        """To write the gradient of one example out."""
        return 2 * self.groups * self.positions * self.rows * self.columns

    @property
    def entries(self) -> int:
        return self.groups * self.rows * self.columns

    def at_a_time(self, most: int) -> int:
        """Examples whose factors are made at a time."""
        one = 4 * self.groups * self.positions * max(self.rows, self.columns)
        return max(1, min(most, costs.PATCH_BYTES // max(1, one))) if self.copies else most

    @property
    def shape(self) -> tuple[int, int, int]:
        """G, M, N."""
        return self.groups, self.rows, self.columns


def unfolding(term: Any) -> Unfolding | None:
    """A term unfolded; None if its form or its size does not allow it."""
    rule = _RULES.get(term.form.name)
    core = rule and rule(term.equation)
    if core is None:
        return None
    # Axes that loops have put in front, outermost first: those that stack are groups, those that
    # add up are positions.
    stacks = [step.stacks for step in term.steps if isinstance(step, Loop)][::-1]
    lengths = term.v.shape[1 : 1 + len(stacks)]
    order = _order(core.axes, term.steps, lengths[::-1])
    swap = bool(order) and order[-1][0] == _ROWS
    factors = functools.partial(_factors, core.factors, stacks, swap)
    u, v = jax.eval_shape(factors, term.u, term.v)
    ranks = {_GROUPS: 0, _ROWS: 1 + swap, _COLUMNS: 2 - swap}
    if order is not None and order == sorted(order, key=lambda f: (ranks[f[0]], f[1])):
        place = lambda x: x.reshape(*x.shape[: x.ndim - 3], *term.shape)  # noqa: E731
    else:
        stacked = [n for n, s in zip(lengths, stacks, strict=True) if s]
        place = functools.partial(_placed, core, term.steps, stacked, swap)

    _, groups, positions, rows = u.shape
    return Unfolding(
        groups=groups,
        positions=positions,
        rows=rows,
        columns=v.shape[-1],
        factors=factors,
        place=place,
        permutes=all(step.permutes for step in term.steps),
        copies=core.copies,
        precision=term.equation.params["precision"],
    )


class _Core(NamedTuple):
    """An equation of one example, unfolded: as `Unfolding`, without the loops around it.

    Attributes:
      axes: of each axis of its output, the factors that it is made of: (size, origin, number).
    """

    factors: Callable
    place: Callable
    copies: bool
    axes: list[list[tuple]]


def _factors(core, stacks, swap, u, v):
    loops = len(stacks)
    stacked = [1 + k for k, s in enumerate(stacks) if s]
    summed = [1 + k for k, s in enumerate(stacks) if not s]
    flat = (x.reshape(math.prod(x.shape[: 1 + loops]), *x.shape[1 + loops :]) for x in (u, v))

    def arranged(x):
        x = x.reshape(*u.shape[: 1 + loops], *x.shape[1:])
        group, position, last = range(x.ndim - 3, x.ndim)
        x = jnp.transpose(x, (0, *stacked, group, *summed, position, last))
        groups = math.prod(x.shape[1 : 2 + len(stacked)])
        positions = math.prod(x.shape[2 + len(stacked) : -1])
        return x.reshape(x.shape[0], groups, positions, x.shape[-1])

    found = core(*flat)
    found = tuple(map(arranged, found)) if loops else found
    return found[::-1] if swap else found


def _placed(core, steps, stacked, swap, x):
    lead = x.shape[: x.ndim - 3]
    x = jnp.swapaxes(x, -1, -2) if swap else x
    x = core.place(x.reshape(*lead, *stacked, -1, *x.shape[-2:]))
    layouts = (step for step in steps if not isinstance(step, Loop))
    return functools.reduce(lambda y, layout: layout(y), layouts, x)


def _order(axes, steps, lengths) -> list | None:
    """Where the entries of the leaf come from: origin and number of each axis, in its order.

    Axes are followed through transposes and reshapes, as lists of factors (size, origin, number).
    None if there are other steps.

    Args:
      lengths: of the loops, in the order of the steps.
    """
    dims: Any = axes
    left = list(lengths)
    for number, step in enumerate(steps, 1):
        if isinstance(step, Loop):
            length = left.pop(0)
            dims = [[(length, _GROUPS, (-number,))], *dims] if step.stacks else dims
            continue
        name, out = step.equation.name, step.equation.outputs[0].shape
        if name == "transpose":
            dims = [dims[a] for a in step.equation.params["permutation"]]
        elif name in _SAME_ORDER and step.permutes:
            dims = _regrouped([f for d in dims for f in d], out)
        else:
            return None
        if dims is None:
            return None
    return [(origin, number) for d in dims for size, origin, number in d if size != 1]


def _regrouped(factors, shape) -> list | None:
    """The factors of the axes of another shape; None if an axis cannot be split as it asks."""
    left, dims = list(factors), []
    for length in shape:
        own = []
        while length > 1:
            if not left:
                return None
            size, origin, number = left.pop(0)
            if length % size == 0:
                own.append((size, origin, number))
                length //= size
            elif size % length == 0:
                own.append((length, origin, (*number, 0)))
                left.insert(0, (size // length, origin, (*number, 1)))
                length = 1
            else:
                return None
        dims.append(own)
    return dims


# --- products ------------------------------------------------------------------------------------


def _product(equation) -> _Core:
    contracted, batch = equation.params["dimension_numbers"]
    shape = equation.outputs[0].shape

    def factors(u, v):
        return tuple(_four_axes(x, batch[k], contracted[k]) for k, x in enumerate((u, v)))

    def place(x):
        return x.reshape(*x.shape[: x.ndim - 3], *shape)

    origins = [_GROUPS] * len(batch[0])
    for k, name in enumerate((_ROWS, _COLUMNS)):
        free = len(equation.inputs[k].shape) - len(batch[k]) - len(contracted[k])
        origins += [name] * free
    axes = [[(shape[k], origin, (k,))] for k, origin in enumerate(origins)]
    return _Core(factors, place, copies=False, axes=axes)


def _four_axes(x, batch, contracted):
    groups, positions = ([a + 1 for a in axes] for axes in (batch, contracted))
    free = [a for a in range(1, x.ndim) if a not in (*groups, *positions)]
    x = jnp.transpose(x, (0, *groups, *positions, *free))
    g, t = len(groups), len(positions)
    cuts = (x.shape[1 : 1 + g], x.shape[1 + g : 1 + g + t], x.shape[1 + g + t :])
    return x.reshape(len(x), *map(math.prod, cuts))


# --- convolutions: the places of a window are rows, what they see are columns of patches ----------


def _convolution(equation) -> _Core | None:
    """out[b, f, o] = sum_{c, p} u[b, c, o stride + p dilation] v[f, c, p], in groups of b or of c.

    Positions are (c, p), rows are (o, b), columns are f.
    """
    p, out = equation.params, equation.outputs[0].shape
    numbers = p["dimension_numbers"]
    window = [out[a] for a in numbers.out_spec[2:]]
    if math.prod(window) > costs.WINDOW:
        return None
    groups, batch_groups = p["feature_group_count"], p["batch_group_count"]
    g = groups * batch_groups

    def factors(u, v):
        b, c, *space = (a + 1 for a in numbers.lhs_spec)
        u = _patches(jnp.transpose(u, (0, c, *space, b)), window, v, p)  # [n, c, *p, O, b]
        f, c, *space = (a + 1 for a in numbers.rhs_spec)
        v = jnp.transpose(v, (0, c, *space, f))  # [n, c, *p, f]
        n, channels, *positions = v.shape[:-1]
        u = u.reshape(n, groups, channels, *positions, u.shape[-2], batch_groups, -1)
        u = jnp.moveaxis(u, -2, 1)
        v = jnp.moveaxis(v.reshape(*v.shape[:-1], g, -1), -2, 1)
        shape = n, g, channels * math.prod(positions), -1
        return u.reshape(shape), v.reshape(shape)

    def place(x):
        lead = x.ndim - 3
        x = x.reshape(*x.shape[:lead], x.shape[lead], *window, -1, x.shape[-1])
        x = jnp.moveaxis(x, lead, -2)  # [..., *O, b, g, f]
        x = x.reshape(*x.shape[:-2], -1)
        ends = (*numbers.out_spec[2:], *numbers.out_spec[:2])
        return jnp.moveaxis(x, range(lead, x.ndim), [lead + a for a in ends])

    features = [(out[numbers.out_spec[1]] // g, _COLUMNS, (0,))]
    axes = [[(size, _ROWS, (k,))] for k, size in enumerate(out)]
    axes[numbers.out_spec[0]] = [(out[numbers.out_spec[0]], _ROWS, (len(out),))]
    axes[numbers.out_spec[1]] = [(g, _GROUPS, (0,)), *features]
    return _Core(factors, place, copies=True, axes=axes)


def _patches(u, window, v, p):
    """What each place o of a window sees: [n, c, *p, O, b] of u [n, c, *space, b]."""
    space = [v.shape[a + 1] for a in p["dimension_numbers"].rhs_spec[2:]]
    sides = zip(p["padding"], p["lhs_dilation"], strict=True)
    inside = [(low, high, dilation - 1) for (low, high), dilation in sides]
    edge = (0, 0, 0)
    u = lax.pad(u, jnp.zeros((), u.dtype), [edge, edge, *inside, edge])
    steps = p["rhs_dilation"]
    seen = []
    for place in itertools.product(*map(range, window)):
        start = [o * s for o, s in zip(place, p["window_strides"], strict=True)]
        end = [a + (k - 1) * d + 1 for a, k, d in zip(start, space, steps, strict=True)]
        whole = u.shape[:2], u.shape[-1:]
        limits = (*whole[0], *end, *whole[1])
        seen.append(lax.slice(u, (0, 0, *start, 0), limits, (1, 1, *steps, 1)))
    return jnp.stack(seen, axis=-2)


# Name of a form -> equation -> its core.
_RULES = {"outer products": _product, "convolution": _convolution}
