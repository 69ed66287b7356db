"""Layers of images, forward and backward, on batches x [B, H, W, M]; see `vectors.py`.

A convolution is a contraction with patches x_bhwmij: the input under kernel entry (i, j) at output
position (h, w).
"""

import numpy as np

from .terms import contract, total


def conv2d(params, x, options):
    """y_bhwn = sum_ijm x_bhwmij W_ijmn + b_n."""
    side, stride = options["kernel"], options["stride"]
    pads = [_padding(length, options) for length in x.shape[1:3]]
    padded = np.pad(x, [(0, 0), *pads, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))  # pyright: ignore
    patches = windows[:, ::stride, ::stride]
    y = np.einsum("bhwmij,ijmn->bhwn", patches, params["w"], optimize=True) + params["b"]
    return y, (patches, padded.shape, pads, stride)


def conv2d_backward(params, saved, dy):
    """dW_ijmn = sum_bhw x_bhwmij dy_bhwn, db = sum dy; dx adds dy_bhwn W_ijmn under each patch."""
    patches, shape, ((top, bottom), (left, right)), stride = saved
    dpatches = np.einsum("bhwn,ijmn->bhwmij", dy, params["w"], optimize=True)
    dx = np.zeros(shape)
    height, width = (stride * (length - 1) + 1 for length in dy.shape[1:3])
    for i, j in np.ndindex(params["w"].shape[:2]):
        dx[:, i : i + height : stride, j : j + width : stride] += dpatches[..., i, j]
    dx = dx[:, top : shape[1] - bottom, left : shape[2] - right]
    return {"w": contract("bhwmij,bhwn->ijmn", patches, dy), "b": total(dy)}, dx


def max_pool(params, x, options):
    """y = the maximum of each window; a remainder at the edge is dropped."""
    windows = _windows(x, options["size"])
    first = windows.argmax(-1)[..., None]
    return np.take_along_axis(windows, first, -1)[..., 0], (x.shape, options["size"], first)


def max_pool_backward(params, saved, dy):
    """dx = dy at the first maximum of each window in row-major order (as in XLA), else 0."""
    shape, size, first = saved
    dwindows = np.zeros((*dy.shape, size * size))
    np.put_along_axis(dwindows, first, dy[..., None], -1)
    return {}, _unwindow(dwindows, shape, size)


def avg_pool(params, x, options):
    """y = the mean of each window; a remainder at the edge is dropped."""
    return _windows(x, options["size"]).mean(-1), (x.shape, options["size"])


def avg_pool_backward(params, saved, dy):
    """dx = dy / size^2 in each window."""
    shape, size = saved
    dwindows = np.repeat(dy[..., None] / size**2, size * size, axis=-1)
    return {}, _unwindow(dwindows, shape, size)


def global_mean(params, x, options):
    """y = the mean over positions."""
    return x.mean((1, 2)), x.shape


def global_mean_backward(params, shape, dy):
    """dx = dy / (H W) at every position."""
    return {}, np.broadcast_to(dy[:, None, None] / (shape[1] * shape[2]), shape)


def _padding(length, options):
    """Zeros before and after, by the rule of XLA: SAME gives ceil(length / stride) outputs."""
    if options["padding"] == "VALID":
        return 0, 0
    side, stride = options["kernel"], options["stride"]
    outputs = -(-length // stride)
    needed = max((outputs - 1) * stride + side - length, 0)
    return needed // 2, needed - needed // 2


def _windows(x, size):
    """[B, H, W, M] -> [B, H', W', M, size^2], entries of a window in row-major order."""
    batch, height, width, channels = x.shape
    h, w = height // size, width // size
    blocks = x[:, : h * size, : w * size].reshape(batch, h, size, w, size, channels)
    return blocks.transpose(0, 1, 3, 5, 2, 4).reshape(batch, h, w, channels, size * size)


def _unwindow(dwindows, shape, size):
    """The transpose of `_windows`: back in place, zero in the remainder."""
    batch, h, w, channels, _ = dwindows.shape
    blocks = dwindows.reshape(batch, h, w, channels, size, size).transpose(0, 1, 4, 2, 5, 3)
    dx = np.zeros(shape)
    dx[:, : h * size, : w * size] = blocks.reshape(batch, h * size, w * size, channels)
    return dx
