"""Layers of sequences, forward and backward, on tokens [B, T] or x [B, T, N]; see `vectors.py`."""

import math

import numpy as np

from .smooth import dsigmoid, dtanh, sigmoid, softmax
from .terms import contract, scatter, total
from .vectors import dense, dense_backward


def embedding(params, tokens, options):
    """y_t = E[token_t]."""
    entries = len(params["table"])
    if not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"`layerwise`: tokens must be integers, got {tokens.dtype}")
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < entries:
        raise ValueError(
            f"`layerwise`: tokens must be in 0..{entries - 1}, got {tokens.min()}..{tokens.max()}"
        )
    return params["table"][tokens], tokens


def embedding_backward(params, tokens, dy):
    """dE[k] = sum of dy_t over token_t = k; tokens have no derivative."""
    return {"table": scatter(len(params["table"]), tokens, dy)}, None


def position_embedding(params, x, options):
    """y_t = x_t + E[t]."""
    return x + params["table"][: x.shape[1]], None


def position_embedding_backward(params, saved, dy):
    """dE[t] = sum_b dy_bt, 0 beyond the sequence; dx = dy."""
    positions = np.broadcast_to(np.arange(dy.shape[1]), dy.shape[:2])
    return {"table": scatter(len(params["table"]), positions, dy)}, dy


def attention(params, x, options):
    """y = concat_h(p v) W_o + b_o, p = softmax(q k' / sqrt(D)) over s <= t; H heads of size D."""
    heads = options["heads"]
    q, k, v = (_split(dense(params[name], x, options)[0], heads) for name in "qkv")
    scores = np.einsum("bhtd,bhsd->bhts", q, k) / math.sqrt(q.shape[-1])
    future = np.triu(np.ones(scores.shape[-2:], bool), 1)
    p = softmax(np.where(future, -np.inf, scores))
    mixed = _join(np.einsum("bhts,bhsd->bhtd", p, v))
    return dense(params["out"], mixed, options)[0], (x, q, k, v, p, mixed)


def attention_backward(params, saved, dy):
    """dv = p' dm, dp = dm v', ds = p (dp - sum_s p dp) / sqrt(D), dq = ds k, dk = ds' q.

    ds sums to zero over s, so the gradient of the key bias is zero by mathematics though not in
    floating point: the sizes of dq and dk are those of the two terms of ds.
    """
    x, q, k, v, p, mixed = saved
    heads, scale = q.shape[1], math.sqrt(q.shape[-1])
    dout, dmixed = dense_backward(params["out"], mixed, dy)
    dmixed = _split(dmixed, heads)
    dp = np.einsum("bhtd,bhsd->bhts", dmixed, v)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) / scale
    ds_size = p * (np.abs(dp) + (p * np.abs(dp)).sum(-1, keepdims=True)) / scale
    cotangents = {
        "q": contract("bhsd,bhts->bhtd", k, ds, ds_size),
        "k": contract("bhtd,bhts->bhsd", q, ds, ds_size),
        "v": contract("bhtd,bhts->bhsd", dmixed, p),
    }
    dparams, dx = {"out": dout}, np.zeros_like(x)
    for name, terms in cotangents.items():
        dparams[name], through = dense_backward(params[name], x, *map(_join, terms))
        dx += through
    return dparams, dx


def lstm(params, x, options):
    """From h = c = 0, a = x_t W_x + h W_h + b in parts i, f, g, o:
    c = sigma(f) c + sigma(i) tanh(g), h = sigma(o) tanh(c); y_t = h."""
    batch, positions, _ = x.shape
    width = params["w_h"].shape[0]
    h, c = np.zeros((positions + 1, batch, width)), np.zeros((positions + 1, batch, width))
    a = np.zeros((positions, batch, 4 * width))
    for t in range(positions):
        a[t] = x[:, t] @ params["w_x"] + h[t] @ params["w_h"] + params["b"]
        i, f, g, o = np.split(a[t], 4, axis=-1)
        c[t + 1] = sigmoid(f) * c[t] + sigmoid(i) * np.tanh(g)
        h[t + 1] = sigmoid(o) * np.tanh(c[t + 1])
    return h[1:].swapaxes(0, 1), (x, h, c, a)


def lstm_backward(params, saved, dy):
    """Back through time, with dh = dy_t + da_{t+1} W_h' and dc carried to c_{t-1} by sigma(f):

    do = dh tanh(c) sigma'(o), dc += dh sigma(o) tanh'(c), df = dc c_{t-1} sigma'(f),
    di = dc tanh(g) sigma'(i), dg = dc sigma(i) tanh'(g); dW_x = sum x_t (x) da_t,
    dW_h = sum h_{t-1} (x) da_t, db = sum da_t, dx_t = da_t W_x'.
    """
    x, h, c, a = saved
    da = np.zeros_like(a)
    from_after, dc = np.zeros_like(h[0]), np.zeros_like(h[0])
    for t in reversed(range(len(a))):
        i, f, g, o = np.split(a[t], 4, axis=-1)
        dh = dy[:, t] + from_after
        dc = dc + dh * sigmoid(o) * dtanh(c[t + 1])
        di, df = dc * np.tanh(g) * dsigmoid(i), dc * c[t] * dsigmoid(f)
        dg, do = dc * sigmoid(i) * dtanh(g), dh * np.tanh(c[t + 1]) * dsigmoid(o)
        da[t] = np.concatenate([di, df, dg, do], axis=-1)
        from_after, dc = da[t] @ params["w_h"].T, dc * sigmoid(f)
    dparams = {
        "w_x": contract("bti,tbg->ig", x, da),
        "w_h": contract("tbi,tbg->ig", h[:-1], da),
        "b": total(da),
    }
    return dparams, (da @ params["w_x"].T).swapaxes(0, 1)


def _split(x, heads):
    """[B, T, N] -> [B, H, T, D]."""
    batch, positions, _ = x.shape
    return x.reshape(batch, positions, heads, -1).swapaxes(1, 2)


def _join(x):
    """[B, H, T, D] -> [B, T, N]."""
    batch, heads, positions, size = x.shape
    return x.swapaxes(1, 2).reshape(batch, positions, heads * size)
