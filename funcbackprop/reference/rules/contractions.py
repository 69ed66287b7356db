"""Sums of products: dot_general and ragged_dot_general; see also `convolutions`."""

import numpy as np

from .convolutions import CONVOLUTION, floating
from .kinds import linear, opaque


def _layout(p, x, y):
    """Axes of the two operands: batch, free and contracted, as tuples."""
    (cx, cy), (bx, by) = p["dimension_numbers"]
    fx = tuple(k for k in range(np.ndim(x)) if k not in (*cx, *bx))
    fy = tuple(k for k in range(np.ndim(y)) if k not in (*cy, *by))
    return (tuple(bx), fx, tuple(cx)), (tuple(by), fy, tuple(cy))


def _blocks(x, first, second, third):
    """x as [first axes, second axes, third axes], each flattened."""
    size = lambda axes: int(np.prod([x.shape[k] for k in axes], dtype=int))  # noqa: E731
    moved = x.transpose(*first, *second, *third)
    return moved.reshape(size(first), size(second), size(third))


def _unblocks(z, x, order):
    """The inverse of `_blocks` for an array like x whose axes were put in this order."""
    return z.reshape([x.shape[k] for k in order]).transpose(np.argsort(order))


def _result_shape(p, x, y):
    (bx, fx, _), (_, fy, _) = _layout(p, x, y)
    return tuple(x.shape[k] for k in (*bx, *fx)) + tuple(y.shape[k] for k in fy)


def _dot(p, x, y):
    """z[b, f, g] = x[b, f, c] y[b, c, g], over batch, free and contracted axes."""
    (bx, fx, cx), (by, fy, cy) = _layout(p, x, y)
    z = _blocks(x, bx, fx, cx) @ _blocks(floating(y), by, cy, fy)
    return z.reshape(_result_shape(p, x, y))


def _dot_dx(p, x, y, dz):
    """dx[b, f, c] = dz[b, f, g] y[b, c, g]."""
    (bx, fx, cx), (by, fy, cy) = _layout(p, x, y)
    dz = _result_blocks(dz, len(bx), len(fx))
    return _unblocks(dz @ _blocks(y, by, fy, cy), x, (*bx, *fx, *cx))


def _dot_dy(p, x, y, dz):
    """dy[b, c, g] = x[b, f, c] dz[b, f, g]."""
    (bx, fx, cx), (by, fy, cy) = _layout(p, x, y)
    dz = _result_blocks(dz, len(bx), len(fx))
    return _unblocks(_blocks(x, bx, cx, fx) @ dz, y, (*by, *cy, *fy))


def _result_blocks(dz, batch, free):
    axes = tuple(range(dz.ndim))
    return _blocks(dz, axes[:batch], axes[batch : batch + free], axes[batch + free :])


def _dot_pull(local, dys):
    p, (x, y), (dz,) = local.p, local.x, dys
    return [
        _dot_dx(p, x, y, dz) if local.active[0] else None,
        _dot_dy(p, x, y, dz) if local.active[1] else None,
    ]


# --- ragged: one axis of x is cut into groups, as long as `sizes` says ----------------------------


class _Ragged:
    """A ragged product as one `_dot` for each group, of what is left of x and y in it.

    The ragged axis of x is one of three kinds: free, and each group has a y of its own;
    contracted, and each group has a z of its own; or a batch axis, and the groups change nothing.
    """

    def __init__(self, p, x, y, sizes):
        numbers = p["ragged_dot_dimension_numbers"]
        (cx, cy), (bx, by) = map(_tuples, numbers.dot_dimension_numbers)
        (axis,), group_axes = numbers.lhs_ragged_dimensions, tuple(numbers.rhs_group_dimensions)
        for a in group_axes:
            cy, by = (tuple(k - (k > a) for k in axes) for axes in (cy, by))
        self.p, self.sizes = {"dimension_numbers": ((cx, cy), (bx, by))}, sizes
        self.batch, self.contracted = axis in bx, axis in cx
        self.y_group = (slice(None),) * group_axes[0] if group_axes else ()
        peers = cx if self.contracted else tuple(k for k in range(x.ndim) if k not in (*cx, *bx))
        # Sizes may differ along these axes of x, and of y where the same are contracted.
        before = () if self.batch else peers[: peers.index(axis)]
        self.x_axes = (*bx, *before, axis)
        self.y_axes = (*by, *(cy[cx.index(k)] for k in (*before, axis) if self.contracted))
        one_y = np.empty(np.delete(y.shape, group_axes))  # only its shape counts
        groups = sizes.shape[-1:] if self.contracted else ()
        self.shape = groups + _result_shape(self.p, x, one_y)

    def groups(self, x, y):
        """(mask of x, mask of y, index of y, index of z) for each group."""
        if self.batch:
            yield 1, 1, (), ()
            return
        ends = np.cumsum(self.sizes, axis=-1)
        for g in range(self.sizes.shape[-1]):
            start, end = (ends - self.sizes)[..., g, None], ends[..., g, None]
            place = np.arange(x.shape[self.x_axes[-1]])
            inside = (start <= place) & (place < end)
            if self.contracted:
                masks = _along(inside, x, self.x_axes), _along(inside, y, self.y_axes)
                yield *masks, (), (g,)
            else:
                yield _along(inside, x, self.x_axes), 1, (*self.y_group, g), ()


def _tuples(pair):
    return tuple(map(tuple, pair))


def _along(mask, x, axes):
    """A mask for these axes of x (or the last of them), shaped to broadcast against x."""
    axes = axes[len(axes) - mask.ndim :]
    mask = mask.transpose(np.argsort(axes))
    return mask.reshape([x.shape[k] if k in axes else 1 for k in range(x.ndim)])


def _ragged_forward(p, x, y, sizes):
    ragged = _Ragged(p, x, y, sizes)
    z = np.zeros(ragged.shape, np.result_type(x, floating(y)))
    for x_mask, y_mask, y_index, z_index in ragged.groups(x, y):
        z[z_index] += _dot(ragged.p, _masked(x, x_mask), _masked(y[y_index], y_mask))
    return z


def _masked(x, mask):
    return np.where(mask, x, 0)


def _ragged_pull(local, dys):
    (x, y, sizes), (dz,) = local.x, dys
    ragged = _Ragged(local.p, x, y, sizes)
    dx, dy = (np.zeros(v.shape, np.result_type(v, dz)) for v in (x, y))
    for x_mask, y_mask, y_index, z_index in ragged.groups(x, y):
        x_part, y_part, dz_part = _masked(x, x_mask), _masked(y[y_index], y_mask), dz[z_index]
        if local.active[0]:
            dx += _masked(_dot_dx(ragged.p, x_part, y_part, dz_part), x_mask)
        if local.active[1]:
            dy[y_index] += _masked(_dot_dy(ragged.p, x_part, y_part, dz_part), y_mask)
    return [dx, dy, None]


_WIDE = "accumulated in float64, whatever preferred_element_type says"

RULES = {
    "dot_general": linear(
        _dot_pull,
        formula="dx = dz y', dy = x' dz, over batch, free and contracted axes",
        forward=_dot,
        operands=(0, 1),
        convention=_WIDE,
    ),
    "ragged_dot_general": linear(
        _ragged_pull,
        formula="as dot_general, in each group",
        forward=_ragged_forward,
        operands=(0, 1),
        convention=f"{_WIDE}; what is in no group is 0",
    ),
    "scaled_dot": opaque("JAX has no derivative for it"),
    "conv_general_dilated": CONVOLUTION,
}
