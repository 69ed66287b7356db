"""The layers in JAX, for one example: one table, kind -> (init, apply, complaint).

    init(options, key, x) -> params         x carries the shape and dtype of the input
    apply(params, x, options, key) -> y     key is None where nothing is random
    complaint(params, x, options) -> str    what is wrong with the input: see `inputs.py`

To add a kind: one row in `KINDS`, one in `funcbackprop.reference.layerwise.kinds`, and a case in
`tests/model_cases.py`. Shapes: T positions, M and N sizes of input and output.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from . import inputs
from .spec import Layer, where

# gelu is the tanh approximation of GPT-2 (Hendrycks & Gimpel, 2016, arXiv:1606.08415).
ACTIVATIONS: dict[str, Callable] = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": jax.nn.gelu}

# Initialisation of a layer that an activation follows.
HIDDEN_INIT = {"relu": "he", "gelu": "he", "tanh": "glorot"}

# Added to the variance in layer normalisation, as in Ba et al. (2016) and GPT-2.
NORM_EPSILON = 1e-5


# Initialisation


def weights(init: str | float, key: chex.PRNGKey, shape: Sequence[int]) -> chex.Array:
    """Initial weights [..., M, N]: "he", "glorot", or a number, the standard deviation of a normal.

    He et al. (2015): normal with variance 2 / fan_in. Glorot & Bengio (2010): uniform on +-
    sqrt(6 / (fan_in + fan_out)). Leading axes are those of a convolution kernel.
    """
    dtype = jnp.result_type(float)
    positions = math.prod(shape[:-2])
    fan_in, fan_out = positions * shape[-2], positions * shape[-1]
    if init == "glorot":
        bound = math.sqrt(6 / (fan_in + fan_out))
        return jax.random.uniform(key, shape, dtype, -bound, bound)
    std = math.sqrt(2 / fan_in) if init == "he" else float(init)
    return std * jax.random.normal(key, shape, dtype)


def _zeros(*shape):
    return jnp.zeros(shape, jnp.result_type(float))


# Layers of vectors: x [..., M] -> y [..., N]


def _init_dense(options, key, x):
    sizes = x.shape[-1], options["outputs"]
    return {"w": weights(options["init"], key, sizes), "b": _zeros(sizes[1])}


def _dense(params, x, options, key):
    return _affine(params, x)


def _affine(params, x):
    return _add_last(x @ params["w"], params["b"])


def _add_last(x, b):
    """x [..., N] + b [N], with the broadcast written out (rank promotion may be set to raise)."""
    return x + jnp.expand_dims(b, range(x.ndim - 1))


def _init_unembed(options, key, x):
    return {"w": weights(options["init"], key, (x.shape[-1], options["outputs"]))}


def _unembed(params, x, options, key):
    return x @ params["w"]


def _tied_output(params, x, options, key):
    return x @ params["table"].T


def _activation(params, x, options, key):
    return ACTIVATIONS[options["name"]](x)


def _flatten(params, x, options, key):
    return x.reshape(-1)


def _dropout(params, x, options, key):
    """Srivastava et al. (2014), inverted: kept entries are scaled by 1 / (1 - rate)."""
    if key is None:
        return x
    keep = jax.random.bernoulli(key, 1 - options["rate"], x.shape)
    return jnp.where(keep, x / (1 - options["rate"]), 0)


def _init_layer_norm(options, key, x):
    return {"gain": _zeros(x.shape[-1]) + 1, "bias": _zeros(x.shape[-1])}


def _layer_norm(params, x, options, key):
    """gain (x - mean) / sqrt(var + epsilon) + bias over the last axis (Ba et al., 2016)."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(variance + NORM_EPSILON)
    return _add_last(normal * jnp.expand_dims(params["gain"], range(x.ndim - 1)), params["bias"])


# Layers of images: x [H, W, M] -> y [H', W', N]


def _init_conv2d(options, key, x):
    side, outputs = options["kernel"], options["outputs"]
    w = weights(options["init"], key, (side, side, x.shape[-1], outputs))
    return {"w": w, "b": _zeros(outputs)}


def _conv2d(params, x, options, key):
    dtype = jnp.promote_types(x.dtype, params["w"].dtype)
    y = jax.lax.conv_general_dilated(
        x[None].astype(dtype),
        params["w"].astype(dtype),
        window_strides=(options["stride"],) * 2,
        padding=options["padding"],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[0]
    return _add_last(y, params["b"])


def _windows(x, size, start, reduce):
    window = (size, size, 1)
    # A NumPy scalar: JAX differentiates the maximum only if it can read that the start is -inf.
    start = np.array(start, x.dtype)
    return jax.lax.reduce_window(x, start, reduce, window, window, "VALID")


def _max_pool(params, x, options, key):
    return _windows(x, options["size"], -jnp.inf, jax.lax.max)


def _avg_pool(params, x, options, key):
    return _windows(x, options["size"], 0, jax.lax.add) / options["size"] ** 2


def _global_mean(params, x, options, key):
    return jnp.mean(x, axis=(0, 1))


# Layers of sequences: tokens [T] or x [T, M]


def _init_embedding(options, key, x):
    return {"table": weights(options["init"], key, (options["entries"], options["width"]))}


def _embedding(params, x, options, key):
    # A token outside 0..V-1 becomes NaN: clamping or wrapping would be a silent wrong number.
    table = jnp.asarray(params["table"])
    return table.at[x].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _init_position_embedding(options, key, x):
    return {"table": weights(options["init"], key, (options["entries"], x.shape[-1]))}


def _position_embedding(params, x, options, key):
    return x + params["table"][: x.shape[0]]


def _init_attention(options, key, x):
    inits = {name: options["init"] for name in "qkv"} | {"out": options["out_init"]}
    keys = jax.random.split(key, len(inits))
    size = x.shape[-1]
    return {
        name: {"w": weights(init, key, (size, size)), "b": _zeros(size)}
        for (name, init), key in zip(inits.items(), keys, strict=True)
    }


def _attention(params, x, options, key):
    """Causal attention in H heads of size D: softmax(q k' / sqrt(D)) v (Vaswani et al., 2017)."""
    positions, size = x.shape
    heads = options["heads"]

    def split(name):  # [T, N] -> [H, T, D]
        return jnp.swapaxes(_affine(params[name], x).reshape(positions, heads, -1), 0, 1)

    scores = jnp.einsum("htd,hsd->hts", split("q"), split("k")) / math.sqrt(size // heads)
    causal = jnp.tril(jnp.ones((positions, positions), bool))[None]
    p = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1)
    mixed = jnp.einsum("hts,hsd->htd", p, split("v"))
    return _affine(params["out"], jnp.swapaxes(mixed, 0, 1).reshape(positions, size))


def _init_lstm(options, key, x):
    width = options["width"]
    keys = jax.random.split(key, 8)

    def gates(keys, rows):  # Glorot for each gate: one fan-out of N, not of 4N
        return jnp.concatenate([weights("glorot", k, (rows, width)) for k in keys], axis=1)

    b = _zeros(4 * width).at[width : 2 * width].set(1)  # Jozefowicz et al. (2015)
    return {"w_x": gates(keys[:4], x.shape[-1]), "w_h": gates(keys[4:], width), "b": b}


def _lstm(params, x, options, key):
    from_x = _add_last(x @ params["w_x"], params["b"])

    def step(carry, from_x):
        h, c = carry
        i, f, g, o = jnp.split(from_x + h @ params["w_h"], 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    start = jnp.zeros(options["width"], from_x.dtype)
    return jax.lax.scan(step, (start, start), from_x)[1]


# Layers made of layers


def _init_residual(layer, key, x, caller):
    return init_layers(layer.layers, key, x, caller)[0]


def _residual(layer, params, x, key, caller):
    return x + run_layers(layer.layers, params, x, key, caller)


def _init_repeat(layer, key, x, caller):
    keys = jax.random.split(key, dict(layer.options)["depth"])
    return jax.vmap(lambda key: init_layers(layer.layers, key, x, caller)[0])(keys)


def _repeat(layer, params, x, key, caller):
    """The layers `depth` times by `lax.scan`, over parameters stacked [L, ...]."""
    options = dict(layer.options)
    keys = None if key is None else jax.random.split(key, options["depth"])

    def body(x, at_depth):
        params, key = at_depth
        return run_layers(layer.layers, params, x, key, caller), None

    if options["remat"]:
        # The scan already keeps XLA from merging the recomputation with the forward pass.
        body = jax.checkpoint(body, prevent_cse=False)
    return jax.lax.scan(body, x, (params, keys), length=options["depth"])[0]


class Kind(NamedTuple):
    """One kind of layer; `init` is None where there are no parameters of its own."""

    init: Callable | None
    apply: Callable
    complaint: Callable = inputs.fine


KINDS: dict[str, Kind] = {
    "activation": Kind(None, _activation),
    "attention": Kind(_init_attention, _attention),
    "avg_pool": Kind(None, _avg_pool, inputs.pooled),
    "conv2d": Kind(_init_conv2d, _conv2d, inputs.image),
    "dense": Kind(_init_dense, _dense, inputs.features),
    "dropout": Kind(None, _dropout),
    "embedding": Kind(_init_embedding, _embedding, inputs.tokens),
    "flatten": Kind(None, _flatten),
    "global_mean": Kind(None, _global_mean),
    "layer_norm": Kind(_init_layer_norm, _layer_norm),
    "lstm": Kind(_init_lstm, _lstm),
    "max_pool": Kind(None, _max_pool, inputs.pooled),
    "position_embedding": Kind(_init_position_embedding, _position_embedding, inputs.length),
    "tied_output": Kind(None, _tied_output),
    "unembed": Kind(_init_unembed, _unembed),
}

# Layers made of layers see the layer itself and pass `caller` on: (init, apply).
COMPOSITES: dict[str, tuple[Callable, Callable]] = {
    "residual": (_init_residual, _residual),
    "repeat": (_init_repeat, _repeat),
}


# The walk through a list of layers


def init_layers(
    layers: Sequence[Layer], key: chex.PRNGKey, x: Any, caller: str
) -> tuple[dict, Any]:
    """Parameters of the layers in one tree, and the shape and dtype of the output."""
    params: dict = {}
    for i, layer in enumerate(layers):
        layer_key = jax.random.fold_in(key, i)
        if layer.kind in COMPOSITES:
            _place(params, layer.at, COMPOSITES[layer.kind][0](layer, layer_key, x, caller))
        else:
            kind, options = KINDS[layer.kind], dict(layer.options)
            _complain(kind.complaint(None, x, options), layer, caller)
            if kind.init is not None:
                _place(params, layer.at, kind.init(options, layer_key, x))
        x = jax.eval_shape(lambda p, x, one=layer: run_layers([one], p, x, None, caller), params, x)
    return params, x


def run_layers(
    layers: Sequence[Layer],
    params: chex.ArrayTree,
    x: chex.Array,
    key: chex.PRNGKey | None,
    caller: str,
) -> chex.Array:
    """The layers, one after the other."""
    for i, layer in enumerate(layers):
        layer_key = None if key is None else jax.random.fold_in(key, i)
        own = _subtree(params, layer.at, caller)
        if layer.kind in COMPOSITES:
            x = COMPOSITES[layer.kind][1](layer, own, x, layer_key, caller)
        else:
            kind, options = KINDS[layer.kind], dict(layer.options)
            _complain(kind.complaint(own, x, options), layer, caller)
            x = kind.apply(own, x, options, layer_key)
    return x


def _place(params, at, value):
    """Put a layer's parameters where they live; a path is (), (name,) or (name, index)."""
    if not at:
        params.update(value)
    elif len(at) == 1:
        params[at[0]] = value
    else:
        params.setdefault(at[0], []).append(value)


def _subtree(params, at, caller):
    try:
        for key in at:
            params = params[key]
    except (KeyError, IndexError, TypeError):
        raise ValueError(
            f"`{caller}`: `params` has no {where(at)}; pass parameters made by this model's `init`"
        ) from None
    return params


def _complain(complaint, layer, caller):
    if complaint:
        place = f" ({layer.kind} at {where(layer.at)})" if layer.at else f" ({layer.kind})"
        raise ValueError(f"`{caller}`{place}: {complaint}")
