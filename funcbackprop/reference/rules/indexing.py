"""Gather, scatter and dynamic slices.

Gather and scatter move windows: each point of the indices gives the start of a window of the
operand. What both share is `_Windows`: the flat position in the operand of each element of each
window. With it, gather is a take and scatter-add a sum by position, each the transpose of the
other.
"""

import math

import numpy as np
from jax.lax import GatherScatterMode

from .kinds import general, linear


class _Windows:
    """Where windows lie in an operand.

    Args:
      shape: of the operand.
      indices: starts of the windows, [*points, component].
      sizes: of a window, for each axis of the operand.
      numbers: `GatherDimensionNumbers` or `ScatterDimensionNumbers`, whose fields correspond in
        this order: axes of the result (or the updates) that lie in a window, axes of the operand
        that have no such axis, axes that the components of the indices are for, batch axes of the
        operand and of the indices.
      clip: whether windows are moved inside; if not, those that reach outside are dropped.

    Attributes:
      positions: flat positions in the operand of the elements of all windows that are kept, window
        after window.
    """

    def __init__(self, shape, indices, sizes, numbers, clip):
        window, collapsed, _, batch, _ = numbers
        self._points = indices.shape[:-1]
        self._sizes = [n for k, n in enumerate(sizes) if k not in (*collapsed, *batch)]
        points = [k for k in range(len(self._points) + len(window)) if k not in window]
        self._order = [*points, *window]
        starts = _starts(shape, indices, numbers)
        last = np.array(shape, np.int64) - np.array(sizes, np.int64)
        if clip:
            starts = np.clip(starts, 0, last)
        self._kept = ((starts >= 0) & (starts <= last)).all(axis=-1).reshape(-1)
        first, offsets = _flat_positions(shape, starts, sizes)
        self.positions = np.add.outer(first[self._kept], offsets).reshape(-1)

    def flat(self, windows):
        """The elements at `positions` of an array of windows."""
        rows = windows.transpose(self._order).reshape(len(self._kept), math.prod(self._sizes))
        return rows[self._kept].reshape(-1)

    def windows(self, flat, fill=0):
        """The inverse of `flat`; windows that were dropped are full of `fill`."""
        rows = np.full((len(self._kept), math.prod(self._sizes)), fill, flat.dtype)
        rows[self._kept] = flat.reshape(-1, rows.shape[1]) if flat.size else 0
        return rows.reshape((*self._points, *self._sizes)).transpose(np.argsort(self._order))


def _starts(shape, indices, numbers):
    """Starts of the windows along every axis of the operand, [*points, axis]."""
    _, _, mapped, batch, batch_of_indices = numbers
    starts = np.zeros((*indices.shape[:-1], len(shape)), np.int64)
    # An unsigned index may be beyond what int64 holds.
    largest = min(np.iinfo(indices.dtype).max, 2**62)
    starts[..., list(mapped)] = np.minimum(indices, largest)
    numbering = np.indices(indices.shape[:-1], sparse=True)
    for axis, k in zip(batch, batch_of_indices, strict=True):
        starts[..., axis] = numbering[k]
    return starts


def _flat_positions(shape, starts, sizes):
    """(position of the first element of each window, offsets of its elements from there)."""
    strides = np.array([math.prod(shape[k + 1 :]) for k in range(len(shape))], np.int64)
    offsets = np.zeros((), np.int64)
    for stride, n in zip(strides, sizes, strict=True):
        offsets = np.add.outer(offsets, stride * np.arange(n))
    return (starts @ strides).reshape(-1), offsets.reshape(-1)


def _sum_at(positions, values, shape):
    """An array of this shape with the sums of the values by flat position."""
    if np.iscomplexobj(values):
        return _sum_at(positions, values.real, shape) + 1j * _sum_at(positions, values.imag, shape)
    # For no values, bincount returns integers.
    return np.bincount(positions, values, math.prod(shape)).astype(float).reshape(shape)


# --- gather ---------------------------------------------------------------------------------------


def _gather_windows(p, x, indices):
    clip = p["mode"] in (GatherScatterMode.CLIP, GatherScatterMode.PROMISE_IN_BOUNDS)
    return _Windows(x.shape, indices, p["slice_sizes"], p["dimension_numbers"], clip)


def _gather(p, x, indices):
    windows = _gather_windows(p, x, indices)
    fill = 0 if p["fill_value"] is None else p["fill_value"]
    return windows.windows(x.reshape(-1)[windows.positions], fill)


def _gather_pull(local, dys):
    windows = _gather_windows(local.p, *local.x)
    return [_sum_at(windows.positions, windows.flat(dys[0]), local.x[0].shape), None]


# --- scatter: set, add and subtract ---------------------------------------------------------------


def _scatter_windows(p, x, indices, updates):
    window, collapsed, _, batch, _ = p["dimension_numbers"]
    of_window = iter(window)
    sizes = [
        1 if k in (*collapsed, *batch) else updates.shape[next(of_window)] for k in range(x.ndim)
    ]
    clip = p["mode"] == GatherScatterMode.CLIP
    return _Windows(x.shape, indices, sizes, p["dimension_numbers"], clip)


def _scatter(p, x, indices, updates):
    windows, y = _scatter_windows(p, x, indices, updates), x.flatten()
    y[windows.positions] = windows.flat(updates)  # NumPy too lets the last one win.
    return y.reshape(x.shape)


def _scatter_pull(local, dys):
    (dy,), (x, indices, updates) = dys, local.x
    windows = _scatter_windows(local.p, x, indices, updates)
    numbers = np.arange(windows.positions.size)
    winner = np.full(x.size, -1)
    winner[windows.positions] = numbers
    dx = np.where(winner.reshape(x.shape) < 0, dy, 0)
    won = winner[windows.positions] == numbers
    du = windows.windows(np.where(won, dy.reshape(-1)[windows.positions], 0))
    return [dx, None, du]


def _adding(sign):
    """A rule for y = x + sign (sum of the updates)."""

    def forward(p, x, indices, updates):
        windows = _scatter_windows(p, x, indices, updates)
        return x + sign * _sum_at(windows.positions, windows.flat(updates), x.shape)

    def pull(local, dys):
        (dy,), windows = dys, _scatter_windows(local.p, *local.x)
        return [dy, None, windows.windows(sign * dy.reshape(-1)[windows.positions])]

    formula = f"dx = dy, d updates = {'-' if sign < 0 else ''}dy where they went"
    return linear(pull, formula=formula, forward=forward, convention=_DROPPED)


# --- scatter: multiply ----------------------------------------------------------------------------


def _multiply(p, x, indices, updates):
    windows, y = _scatter_windows(p, x, indices, updates), x.flatten()
    np.multiply.at(y, windows.positions, windows.flat(updates))
    return y.reshape(x.shape)


def _multiply_pull(local, dys):
    """dx = (product of the updates) dy, du = x (product of the other updates there) dy."""
    (dy,), (x, indices, updates) = dys, local.x
    windows = _scatter_windows(local.p, x, indices, updates)
    dx = dy * _multiply(local.p, np.ones_like(x), indices, updates)
    others = _products_of_others(windows.positions, windows.flat(updates))
    du = windows.windows((x * dy).reshape(-1)[windows.positions] * others)
    return [dx, None, du]


def _products_of_others(positions, values):
    """For each value, the product of all others at its position; no division, so zeros do no
    harm.

    >>> _products_of_others(np.array([1, 0, 1, 1]), np.array([2.0, 7.0, 0.0, 5.0]))
    array([ 0.,  1., 10.,  0.])
    """
    order = np.argsort(positions, kind="stable")
    groups, values = positions[order], values[order]
    before = _products_before(groups, values)
    after = _products_before(groups[::-1], values[::-1])[::-1]
    return (before * after)[np.argsort(order)]


def _products_before(groups, values):
    """The product of the values before each one in its group; groups are contiguous."""
    product = np.ones_like(values)
    product[1:] = np.where(groups[1:] == groups[:-1], values[:-1], 1)
    reach = 1  # of how many values before it, if the group has so many, each is the product of
    while np.any(same := groups[reach:] == groups[:-reach]):
        product[reach:] = product[reach:] * np.where(same, product[:-reach], 1)
        reach *= 2
    return product


# --- scatter: maximum and minimum -----------------------------------------------------------------


def _extreme(ufunc):
    """A rule for y = the largest (or smallest) of x and the updates."""

    def choose(p, x, indices, updates):
        """Shares of x and of the updates in y: 1 / (number of ties), or 0."""
        windows, y = _scatter_windows(p, x, indices, updates), x.flatten()
        positions, u = windows.positions, windows.flat(updates)
        ufunc.at(y, positions, u)
        alone = np.bincount(positions, minlength=x.size) == 0
        kept, won = alone | (y == x.reshape(-1)), y[positions] == u
        # NaN equals nothing: where a NaN wins there are no ties, and all shares are 0.
        ties = np.maximum(1, kept + np.bincount(positions, won, x.size))
        return (kept / ties).reshape(x.shape), windows.windows(won / ties[positions])

    return general(
        _extreme_pull,
        formula="dx = dy where x is kept, d updates = dy where they win, else 0",
        forward=_take_extreme,
        choose=choose,
        square=_extreme_square,
        convention=f"n tied values get dy / n each; {_DROPPED}",
    )


def _take_extreme(p, choice, x, indices, updates):
    windows = _scatter_windows(p, x, indices, updates)
    kept, won = choice[0].reshape(-1) > 0, windows.flat(choice[1]) > 0
    y = np.where(kept, x.reshape(-1), np.nan)
    placed = won & ~kept[windows.positions]
    y[windows.positions[placed]] = windows.flat(updates)[placed]
    return y.reshape(x.shape)


def _extreme_pull(local, dys):
    (dy,), (of_x, of_updates) = dys, local.choice
    windows = _scatter_windows(local.p, *local.x)
    return [of_x * dy, None, of_updates * windows.windows(dy.reshape(-1)[windows.positions])]


def _extreme_square(local, dys):
    of_x, of_updates = local.choice
    return _extreme_pull(local._replace(choice=(of_x**2, of_updates**2)), dys)


# --- scatter by a function of the user: x.at[i].apply(f) ------------------------------------------


def scatter(tape, equation, inputs):
    """The updates set; or, with a function, the function applied to what is there."""
    if "update_jaxpr" not in equation.programs:
        return tape.apply(equation, _SET, inputs)
    x, indices, updates = inputs
    windows = _scatter_windows(equation.params, x.own, indices.own, updates.own)
    times = np.bincount(windows.positions, minlength=x.own.size)
    for number in range(max(times, default=0)):
        x = _applied(tape, equation, x, tape.constant(np.flatnonzero(times > number)))
    return [x]


def _applied(tape, equation, x, positions):
    """x with the function applied once to the elements at these flat positions."""
    (old,) = tape.part(equation, TAKE, [x, positions])
    # The function has a second argument, the update, and ignores it.
    (new,) = tape.run(equation.programs["update_jaxpr"], [old, old])
    return tape.part(equation, _PUT, [x, positions, new])[0]


def _take_pull(local, dys):
    x, positions = local.x
    return [_sum_at(positions.reshape(-1), dys[0].reshape(-1), x.shape), None]


def _put(p, x, positions, new):
    y = x.flatten()
    y[positions] = new
    return y.reshape(x.shape)


def _put_pull(local, dys):
    (dy,), (_, positions, new) = dys, local.x
    return [_put(local.p, dy, positions, np.zeros_like(new)), None, dy.reshape(-1)[positions]]


# --- dynamic slices -------------------------------------------------------------------------------


def _box(shape, starts, sizes):
    """The index of a box, moved inside."""
    inside = (min(max(int(i), 0), m - n) for m, i, n in zip(shape, starts, sizes, strict=True))
    return tuple(slice(i, i + n) for i, n in zip(inside, sizes, strict=True))


def _dynamic_slice(p, x, *starts):
    return x[_box(x.shape, starts, p["slice_sizes"])]


def _dynamic_slice_pull(local, dys):
    x, *starts = local.x
    dx = np.zeros_like(x)
    dx[_box(x.shape, starts, local.p["slice_sizes"])] = dys[0]
    return [dx, *(None for _ in starts)]


def _dynamic_update_slice(p, x, update, *starts):
    y = np.array(x)
    y[_box(x.shape, starts, update.shape)] = update
    return y


def _dynamic_update_slice_pull(local, dys):
    (dy,), (x, update, *starts) = dys, local.x
    box, dx = _box(x.shape, starts, update.shape), np.array(dy)
    dx[box] = 0
    return [dx, dy[box], *(None for _ in starts)]


_DROPPED = "0 where an update was dropped"
_MOVED = "a slice that reaches outside is moved inside"

_SET = linear(
    _scatter_pull,
    formula="dx = dy where nothing was set, du = dy where it was",
    forward=_scatter,
    exact=True,
)
# Elements by their flat positions, an array of any shape.
TAKE = linear(
    _take_pull,
    formula="dx = dy where it was taken",
    forward=lambda p, x, at: x.reshape(-1)[at],
    exact=True,
)
_PUT = linear(_put_pull, formula="dx = dy elsewhere, du = dy there", forward=_put, exact=True)

RULES = {
    "gather": linear(
        _gather_pull,
        formula="dx = sum of dy over the places an element went to",
        forward=_gather,
        exact=True,
        convention="windows that reach outside are moved inside, or in mode `fill` give 0",
    ),
    "scatter-add": _adding(1),
    "scatter-sub": _adding(-1),
    "scatter-mul": linear(
        _multiply_pull,
        formula="dx = (product of the updates) dy, d update = x (product of the others) dy",
        forward=_multiply,
        operands=(0, 2),
        convention=f"also for repeated indices, where JAX has no rule; {_DROPPED}",
    ),
    "scatter-max": _extreme(np.maximum),
    "scatter-min": _extreme(np.minimum),
    "dynamic_slice": linear(
        _dynamic_slice_pull,
        formula="dx = dy in the slice, 0 elsewhere",
        forward=_dynamic_slice,
        exact=True,
        convention=_MOVED,
    ),
    "dynamic_update_slice": linear(
        _dynamic_update_slice_pull,
        formula="dx = dy outside the slice, d update = dy in it",
        forward=_dynamic_update_slice,
        exact=True,
        convention=_MOVED,
    ),
}

# primitive -> run(tape, equation, inputs) -> outputs
STRUCTURED = {"scatter": scatter}

# What the coverage page says of them.
FORMULAS = {
    "scatter": "dx = dy where nothing was set, d updates = dy where they were set; of repeated "
    "indices the last one wins. With a function, the derivative of each application"
}
