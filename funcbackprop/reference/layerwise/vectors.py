"""Layers of vectors, forward and backward, on batches x [B, ..., M].

    forward(params, x, options) -> (y, saved)
    backward(params, saved, dy) -> (dparams, dx)

`dparams` has the structure of `params` with `Terms` for leaves; dx is None where the input is not
differentiable. Shapes: B examples, M and N sizes of input and output.
"""

import numpy as np

from . import smooth
from .terms import contract, total

# Added to the variance, as in Ba et al. (2016) and GPT-2.
_EPSILON = 1e-5

# name -> (function, derivative)
_ACTIVATIONS = {
    "gelu": (smooth.gelu, smooth.dgelu),
    "relu": (smooth.relu, smooth.drelu),
    "tanh": (np.tanh, smooth.dtanh),
}


def dense(params, x, options):
    """y = x W + b."""
    return x @ params["w"] + params["b"], x


def dense_backward(params, x, dy, dy_size=None):
    """dW = sum x (x) dy, db = sum dy, dx = dy W'."""
    dparams, dx = unembed_backward(params, x, dy, dy_size)
    return dparams | {"b": total(dy, dy_size)}, dx


def unembed(params, x, options):
    """y = x W."""
    return x @ params["w"], x


def unembed_backward(params, x, dy, dy_size=None):
    """dW = sum x (x) dy, dx = dy W'."""
    dy_size = np.abs(dy) if dy_size is None else dy_size
    return {"w": contract("bi,bo->io", _rows(x), _rows(dy), _rows(dy_size))}, dy @ params["w"].T


def tied_output(params, x, options):
    """y = x E', with the embedding E [V, N]; its gradient adds to that of the embedding."""
    return x @ params["table"].T, x


def tied_output_backward(params, x, dy):
    """dE = sum dy (x) x, dx = dy E."""
    return {"table": contract("bn,bv->vn", _rows(x), _rows(dy))}, dy @ params["table"]


def activation(params, x, options):
    """y = a(x), entry by entry."""
    return _ACTIVATIONS[options["name"]][0](x), (options["name"], x)


def activation_backward(params, saved, dy):
    """dx = a'(x) dy."""
    name, x = saved
    return {}, _ACTIVATIONS[name][1](x) * dy


def flatten(params, x, options):
    """y = x as one vector for each example, in row-major order."""
    return x.reshape(len(x), -1), x.shape


def flatten_backward(params, shape, dy):
    """dx = dy in the shape of x."""
    return {}, dy.reshape(shape)


def dropout(params, x, options):
    """y = x: `walk` accepts dropout at rate 0 only."""
    return x, None


def dropout_backward(params, saved, dy):
    """dx = dy."""
    return {}, dy


def layer_norm(params, x, options):
    """y = g n + b with n = (x - mean) / s, s = sqrt(var + 1e-5), over the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    s = np.sqrt((centred**2).mean(-1, keepdims=True) + _EPSILON)
    n = centred / s
    return params["gain"] * n + params["bias"], (n, s)


def layer_norm_backward(params, saved, dy):
    """dg = sum dy n, db = sum dy, dx = (dn - mean(dn) - n mean(n dn)) / s with dn = g dy."""
    n, s = saved
    dn = params["gain"] * dy
    dx = (dn - dn.mean(-1, keepdims=True) - n * (n * dn).mean(-1, keepdims=True)) / s
    return {"gain": total(dy * n), "bias": total(dy)}, dx


def _rows(x):
    """[B, ..., N] as [rows, N]."""
    return x.reshape(-1, x.shape[-1])
