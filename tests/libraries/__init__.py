"""Models by other libraries, built with their public API alone: name -> row.

A new model joins by one row, and a function without arguments that returns `(loss, params, batch)`.
"""

import importlib
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Row(NamedTuple):
    """Where a model is written: `make` in the module `file`, with the library `library`."""

    library: str
    file: str
    make: str


MODELS = {
    "nnx mlp": Row("flax.nnx", "nnx_models", "mlp"),
    "nnx convolutional": Row("flax.nnx", "nnx_models", "convolutional"),
    "nnx transformer": Row("flax.nnx", "nnx_models", "transformer"),
    "linen mlp": Row("flax.linen", "linen_models", "mlp"),
    "linen convolutional": Row("flax.linen", "linen_models", "convolutional"),
    "linen transformer, scan and remat": Row("flax.linen", "linen_models", "transformer"),
    "equinox mlp": Row("equinox", "equinox_models", "mlp"),
    "equinox convolutional": Row("equinox", "equinox_models", "convolutional"),
    "equinox transformer": Row("equinox", "equinox_models", "transformer"),
    "haiku mlp": Row("haiku", "haiku_models", "mlp"),
    "haiku convolutional": Row("haiku", "haiku_models", "convolutional"),
    "haiku recurrent": Row("haiku", "haiku_models", "recurrent"),
}


def build(name, dtype):
    """`(loss, params, batch)` of a model, floating-point arrays in `dtype`.

    ImportError if its library is missing, or does not import with this version of JAX.
    """
    row = MODELS[name]
    try:
        importlib.import_module(row.library)
    except Exception as error:  # whatever an old library stumbles over in a new JAX
        raise ImportError(f"{row.library} does not import: {error!r}") from error
    models = importlib.import_module(f"{__name__}.{row.file}")
    loss, params, batch = getattr(models, row.make)()

    def cast(x):
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return loss, jax.tree.map(cast, params), jax.tree.map(cast, batch)
