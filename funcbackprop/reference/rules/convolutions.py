"""Convolutions: a product of matrices for each position in the kernel.

Whatever the layout, the operands are brought into the form

    x [group, batch, space..., in], w [position, group, in, out], y [group, batch, space..., out]

where groups do not meet: groups of features, each with kernels of its own, or groups of the batch,
which become features of the output.
"""

import math

import numpy as np

from .kinds import linear
from .windows import Windows


class _Convolution:
    """The geometry of one equation and the moves between JAX's layouts and the common one."""

    def __init__(self, p, x, w):
        self.specs = p["dimension_numbers"]
        self.features, self.batches = p["feature_group_count"], p["batch_group_count"]
        self.groups = self.features * self.batches
        self.kernel = tuple(w.shape[k] for k in self.specs[1][2:])
        self.x_shape = tuple(x.shape[k] for k in self.specs[0])
        self.w_shape = tuple(w.shape[k] for k in self.specs[1])
        window = {
            "window_dimensions": (1, 1, *self.kernel, 1),
            "window_strides": (1, 1, *p["window_strides"], 1),
            "padding": ((0, 0), (0, 0), *p["padding"], (0, 0)),
            "base_dilation": (1, 1, *p["lhs_dilation"], 1),
            "window_dilation": (1, 1, *p["rhs_dilation"], 1),
        }
        batch, channels, *space = self.x_shape
        shape = (self.groups, batch // self.batches, *space, channels // self.features)
        self.windows = Windows(window, shape)
        self.out = self.w_shape[0] // self.groups

    def x_in(self, x):
        """[batch, in, space...] -> [group, batch, space..., in]; one of the group counts is 1."""
        (batch, channels, *space), x = self.x_shape, x.transpose(self.specs[0])
        split = (self.batches, batch // self.batches, self.features, channels // self.features)
        x = np.moveaxis(x.reshape(*split, *space), 2, 1)
        return np.moveaxis(x.reshape(self.groups, split[1], split[3], *space), 2, -1)

    def x_back(self, dx):
        """The inverse of `x_in`."""
        (batch, channels, *space), dx = self.x_shape, np.moveaxis(dx, -1, 2)
        dx = dx.reshape(
            *(self.batches, self.features, batch // self.batches, channels // self.features),
            *space,
        )
        dx = np.moveaxis(dx, 1, 2).reshape(self.x_shape)
        return dx.transpose(np.argsort(self.specs[0]))

    def w_in(self, w):
        """[out, in, kernel...] -> [position in the kernel, group, in, out]."""
        shape = (self.groups, self.out, self.w_shape[1], math.prod(self.kernel))
        return w.transpose(self.specs[1]).reshape(shape).transpose(3, 0, 2, 1)

    def w_back(self, dw):
        """The inverse of `w_in`."""
        dw = dw.transpose(1, 3, 2, 0).reshape(self.w_shape)
        return dw.transpose(np.argsort(self.specs[1]))

    def y_in(self, dy):
        """[batch, out, space...] -> [group, positions in batch and space, out]."""
        dy = dy.transpose(self.specs[2])
        batch, _, *space = dy.shape
        dy = dy.reshape(batch, self.groups, self.out, math.prod(space))
        return dy.transpose(1, 0, 3, 2).reshape(self.groups, batch * math.prod(space), self.out)

    def y_back(self, y):
        """The inverse of `y_in`."""
        _, batch, *space, _ = self.windows.counts
        y = y.reshape(self.groups, batch, math.prod(space), self.out).transpose(1, 0, 3, 2)
        y = y.reshape(batch, self.groups * self.out, *space)
        return y.transpose(np.argsort(self.specs[2]))

    def rows(self, view):
        """What the kernel meets at one of its positions, as [group, rows, in]."""
        return view.reshape(self.groups, math.prod(view.shape[1:-1]), view.shape[-1])


def floating(x):
    """x, integers in float64: a floating-point sum of their products may be asked."""
    return x if x.dtype.kind in "fc" else x.astype(float)


def _forward(p, x, w):
    conv = _Convolution(p, x, w)
    rows = math.prod(conv.windows.counts[1:-1])
    x, w = conv.x_in(x), floating(conv.w_in(w))
    y = np.zeros((conv.groups, rows, conv.out), np.result_type(x, w))
    for view, kernel in zip(conv.windows.views(x, 0), w, strict=True):
        y += conv.rows(view) @ kernel
    return conv.y_back(y)


def _pull(local, dys):
    """dx at position k = dy w_k', dw_k = (x at position k)' dy."""
    (dy,), (x, w) = dys, local.x
    conv = _Convolution(local.p, x, w)
    dy, w, dx, dw = conv.y_in(dy), conv.w_in(w), None, None
    if local.active[0]:
        parts = ((dy @ k.swapaxes(1, 2)).reshape(conv.windows.counts) for k in w)
        dx = conv.x_back(conv.windows.scatter(parts, np.result_type(dy, w)))
    if local.active[1]:
        dw = np.zeros(w.shape, np.result_type(dy, x))
        for k, view in enumerate(conv.windows.views(conv.x_in(x), 0)):
            dw[k] = conv.rows(view).swapaxes(1, 2) @ dy
        dw = conv.w_back(dw)
    return [dx, dw]


CONVOLUTION = linear(
    _pull,
    formula="dx = sum over the kernel of dy w', dw = x' dy, at each position in it",
    forward=_forward,
    operands=(0, 1),
    convention="accumulated in float64, whatever preferred_element_type says",
)
