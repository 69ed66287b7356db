"""What can be wrong with the input of a layer: `(params, x, options) -> text`, "" if nothing.

Only shapes and dtypes are read, so this runs at trace time; `params` is None during `init`.
"""

from typing import Any

import jax
import jax.numpy as jnp

_BATCH = "`apply` takes one example; for a batch use jax.vmap(model.apply, in_axes=(None, 0))"


def fine(params: Any, x: jax.Array, options: dict) -> str:
    """Any input will do."""
    return ""


def features(params: Any, x: jax.Array, options: dict) -> str:
    """x [..., M] of a dense layer."""
    size = params["w"].shape[0] if params else options.get("inputs")
    if size is None or x.shape[-1] == size:
        return ""
    return f"expected {size} inputs, got {x.shape[-1]} (shape {x.shape}). {_BATCH}"


def image(params: Any, x: jax.Array, options: dict) -> str:
    """x [H, W, M] of a convolution."""
    if x.ndim != 3:
        return f"expected an image of shape [H, W, C], got shape {x.shape}. {_BATCH}"
    if params and x.shape[-1] != params["w"].shape[-2]:
        return f"expected {params['w'].shape[-2]} channels, got shape {x.shape}. {_BATCH}"
    if options["padding"] == "VALID":
        return _fits(x, options["kernel"], "a kernel", "padding='SAME' or a smaller kernel")
    return ""


def pooled(params: Any, x: jax.Array, options: dict) -> str:
    """x [H, W, M] of a pooling."""
    return _fits(x, options["size"], "a pooling window", "fewer blocks, a smaller pool or pool=1")


def _fits(x, side, what, cure):
    if min(x.shape[:2]) >= side:
        return ""
    return f"{what} of side {side} does not fit a feature map of shape {x.shape}; use {cure}"


def tokens(params: Any, x: jax.Array, options: dict) -> str:
    """Integer tokens [T]."""
    if x.ndim == 1 and x.shape[0] > 0 and jnp.issubdtype(x.dtype, jnp.integer):
        return ""
    return (
        f"expected integer tokens of shape [T], T >= 1, got {x.dtype} of shape {x.shape}. {_BATCH}"
    )


def length(params: Any, x: jax.Array, options: dict) -> str:
    """x [T, M], T at most the number of positions."""
    if x.shape[0] <= options["entries"]:
        return ""
    return (
        f"the sequence has {x.shape[0]} tokens, longer than max_length={options['entries']}; "
        "shorten it or build the model with a larger max_length"
    )
