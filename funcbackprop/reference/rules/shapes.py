"""Shape operations: values move, nothing is computed; the cotangent moves back."""

import numpy as np

from .kinds import constant, linear, unbroadcast


def _broadcast_forward(p, x, *dynamic):
    shape, axes = p["shape"], p["broadcast_dimensions"]
    full = [1] * len(shape)
    for axis, n in zip(axes, np.shape(x), strict=True):
        full[axis] = n
    return np.broadcast_to(np.reshape(x, full), shape)


def _broadcast_pull(local, dys):
    (dy,), x, axes = dys, local.x[0], local.p["broadcast_dimensions"]
    full = [1] * dy.ndim
    for axis, n in zip(axes, np.shape(x), strict=True):
        full[axis] = n
    return [unbroadcast(dy, tuple(full)).reshape(np.shape(x))]


# --- one array in, one array out ------------------------------------------------------------------


def _reshape(p, x):
    """`dimensions`, where given, is the order in which the axes of x are read."""
    order = p.get("dimensions")
    return np.reshape(x if order is None else np.transpose(x, order), p["new_sizes"])


def _reshape_pull(local, dys):
    (dy,), (x,), order = dys, local.x, local.p.get("dimensions")
    if order is None:
        return [dy.reshape(np.shape(x))]
    return [dy.reshape([x.shape[k] for k in order]).transpose(np.argsort(order))]


def _squeeze_pull(local, dys):
    return [dys[0].reshape(np.shape(local.x[0]))]


def _tile_pull(local, dys):
    """dy with an axis of copies before each axis, summed over the copies."""
    (dy,), shape, copies = dys, np.shape(local.x[0]), local.p["reps"]
    split = [n for pair in zip(copies, shape, strict=True) for n in pair]
    return [dy.reshape(split).sum(axis=tuple(range(0, len(split), 2)))]


def _slice_index(p):
    starts, limits = p["start_indices"], p["limit_indices"]
    strides = p["strides"] or (1,) * len(starts)
    return tuple(map(slice, starts, limits, strides))


def _slice_pull(local, dys):
    dx = np.zeros_like(local.x[0])
    dx[_slice_index(local.p)] = dys[0]
    return [dx]


# --- pad: between the elements, and before and after them, where it may also cut ------------------


def _padded(p, shape):
    """(shape of the result, index of what is kept of x, index of where it goes)."""
    axes = [_padded_axis(n, *config) for n, config in zip(shape, p["padding_config"], strict=True)]
    return tuple(tuple(parts) for parts in zip(*axes, strict=True)) if axes else ((), (), ())


def _padded_axis(n, low, high, interior):
    """Element k goes to low + k step, and is kept if that is within the result."""
    step = interior + 1
    length = low + high + max(0, (n - 1) * step + 1)
    first = max(0, -(low // step))
    end = max(first, min(n, -((low - length) // step)))
    start = low + first * step
    return length, slice(first, end), slice(start, start + (end - first) * step, step)


def _pad(p, x, value):
    shape, kept, place = _padded(p, x.shape)
    y = np.full(shape, value, x.dtype)
    y[place] = x[kept]
    return y


def _pad_pull(local, dys):
    (dy,), x = dys, local.x[0]
    _, kept, place = _padded(local.p, x.shape)
    dx, padding = np.zeros(x.shape, dy.dtype), np.array(dy)
    dx[kept] = dy[place]
    padding[place] = 0
    return [dx, np.sum(padding)]


# --- several arrays in, or out --------------------------------------------------------------------


def _cuts(sizes):
    return np.cumsum(sizes, dtype=int)[:-1]


def _split(p, x):
    return tuple(np.split(x, _cuts(p["sizes"]), p["axis"]))


def _concatenate_pull(local, dys):
    axis = local.p["dimension"]
    return np.split(dys[0], _cuts([x.shape[axis] for x in local.x]), axis)


def _unstack(x, axis):
    return tuple(np.moveaxis(x, axis, 0))


# --- what passes unchanged ------------------------------------------------------------------------


def _identity(convention=""):
    return linear(
        lambda local, dys: list(dys),
        formula="dx = dy",
        forward=lambda p, *x: x,
        exact=True,
        convention=convention,
    )


_PLACE = "where a value is stored does not change it"

RULES = {
    "broadcast_in_dim": linear(
        _broadcast_pull,
        formula="dx = sum of dy over the new axes",
        forward=_broadcast_forward,
        exact=True,
    ),
    "tile": linear(
        _tile_pull,
        formula="dx = sum of dy over the copies",
        forward=lambda p, x: np.tile(x, p["reps"]),
        exact=True,
    ),
    "reshape": linear(_reshape_pull, formula="dx = reshape(dy)", forward=_reshape, exact=True),
    "squeeze": linear(
        _squeeze_pull,
        formula="dx = reshape(dy)",
        forward=lambda p, x: np.squeeze(x, tuple(p["dimensions"])),
        exact=True,
    ),
    "transpose": linear(
        lambda local, dys: [dys[0].transpose(np.argsort(local.p["permutation"]))],
        formula="dx = transpose(dy), by the inverse permutation",
        forward=lambda p, x: np.transpose(x, p["permutation"]),
        exact=True,
    ),
    "rev": linear(
        lambda local, dys: [np.flip(dys[0], local.p["dimensions"])],
        formula="dx = reversed dy",
        forward=lambda p, x: np.flip(x, p["dimensions"]),
        exact=True,
    ),
    "slice": linear(
        _slice_pull,
        formula="dx = dy in the slice, 0 elsewhere",
        forward=lambda p, x: x[_slice_index(p)],
        exact=True,
    ),
    "pad": linear(
        _pad_pull,
        formula="dx = dy where x went; d padding value = sum of dy elsewhere",
        forward=_pad,
        exact=True,
        convention="what negative padding cuts away gets 0",
    ),
    "concatenate": linear(
        _concatenate_pull,
        formula="dx_k = its part of dy",
        forward=lambda p, *x: np.concatenate(x, p["dimension"]),
        exact=True,
    ),
    "split": linear(
        lambda local, dys: [np.concatenate(dys, local.p["axis"])],
        formula="dx = concatenate(dy_k)",
        forward=_split,
        exact=True,
    ),
    "stack": linear(
        lambda local, dys: list(_unstack(dys[0], local.p["axis"])),
        formula="dx_k = dy[k] along the new axis",
        forward=lambda p, *x: np.stack(x, p["axis"]),
        exact=True,
    ),
    "unstack": linear(
        lambda local, dys: [np.stack(dys, local.p["axis"])],
        formula="dx = stack(dy_k)",
        forward=lambda p, x: _unstack(x, p["axis"]),
        exact=True,
    ),
    "iota": constant("0: no inputs"),
    "empty": constant("0: no inputs", convention="zeros, as on the CPU"),
    # What passes unchanged.
    "device_put": _identity(_PLACE),
    "layout_constraint": _identity(_PLACE),
    "name": _identity(),
    "optimization_barrier": _identity(),
    "reshard": _identity(_PLACE),
    "shard_alike": _identity(_PLACE),
    "relayout": _identity(_PLACE),
    "sharding_constraint": _identity(_PLACE),
    "tie": linear(
        lambda local, dys: [None, dys[0]],
        formula="dx = 0, dy = dz",
        forward=lambda p, x, y: y,
        exact=True,
    ),
    "with_memory_space_constraint": _identity(_PLACE),
    "xla_metadata_value": _identity(),
}
