"""Reductions along axes, and cumulative ones."""

import numpy as np

from .kinds import constant, linear


def _spread(reduced, like, axes):
    """What was reduced over `axes`, broadcast back to the shape of `like`."""
    return np.broadcast_to(np.expand_dims(reduced, tuple(axes)), np.shape(like))


def _sum_pull(local, dys):
    return [_spread(dys[0], local.x[0], local.p["axes"])]


RULES = {
    "reduce_sum": linear(
        _sum_pull,
        formula="dx = dy, broadcast over the reduced axes",
        forward=lambda p, x: np.sum(x, axis=tuple(p["axes"])),
    ),
    "argmax": constant("0: an index"),
    "argmin": constant("0: an index"),
    "reduce_and": constant("0: integers"),
    "reduce_or": constant("0: integers"),
    "reduce_xor": constant("0: integers"),
}
