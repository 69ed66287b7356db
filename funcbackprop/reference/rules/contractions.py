"""Sums of products: dot_general, ragged_dot_general, convolutions."""

import numpy as np

from .kinds import linear


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


def _dot_forward(p, x, y):
    (bx, fx, cx), (by, fy, cy) = _layout(p, x, y)
    z = _blocks(x, bx, fx, cx) @ _blocks(y, by, cy, fy)
    shape = [x.shape[k] for k in (*bx, *fx)] + [y.shape[k] for k in fy]
    return z.reshape(shape)


def _dot_pull(local, dys):
    """dx[b, f, c] = dz[b, f, g] y[b, c, g], dy[b, c, g] = x[b, f, c] dz[b, f, g]."""
    (dz,), (x, y) = dys, local.x
    (bx, fx, cx), (by, fy, cy) = _layout(local.p, x, y)
    n, f, c = len(bx), len(fx), len(cx)
    axes = tuple(range(dz.ndim))
    dz = _blocks(dz, axes[:n], axes[n : n + f], axes[n + f :])
    dx = dy = None
    if local.active[0]:
        dx = _unblocks(dz @ _blocks(y, by, fy, cy), x, (*bx, *fx, *cx))
    if local.active[1]:
        dy = _unblocks(_blocks(x, bx, cx, fx) @ dz, y, (*by, *cy, *fy))
    return [dx, dy]


RULES = {
    "dot_general": linear(
        _dot_pull,
        formula="dx = dz y', dy = x' dz, over batch, free and contracted axes",
        forward=_dot_forward,
        operands=(0, 1),
        convention="accumulated in float64, whatever preferred_element_type says",
    ),
}
