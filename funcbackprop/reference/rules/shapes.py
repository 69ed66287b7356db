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


def _reshape(p, x):
    return np.reshape(x, p["new_sizes"])


def _reshape_pull(local, dys):
    return [dys[0].reshape(np.shape(local.x[0]))]


RULES = {
    "broadcast_in_dim": linear(
        _broadcast_pull,
        formula="dx = sum of dy over the new axes",
        forward=_broadcast_forward,
        exact=True,
    ),
    "reshape": linear(_reshape_pull, formula="dx = reshape(dy)", forward=_reshape, exact=True),
    "squeeze": linear(
        _reshape_pull,
        formula="dx = reshape(dy)",
        forward=lambda p, x: np.squeeze(x, p["dimensions"]),
        exact=True,
    ),
    "transpose": linear(
        lambda local, dys: [dys[0].transpose(np.argsort(local.p["permutation"]))],
        formula="dx = transpose(dy), by the inverse permutation",
        forward=lambda p, x: np.transpose(x, p["permutation"]),
        exact=True,
    ),
    "iota": constant("0: no inputs"),
}
