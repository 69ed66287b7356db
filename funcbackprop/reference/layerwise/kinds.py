"""The table: kind of layer -> forward, backward, and the parameters that it has."""

from collections.abc import Callable
from typing import NamedTuple

from . import images, sequences, vectors


class Kind(NamedTuple):
    """`forward(params, x, options) -> (y, saved)`, `backward(params, saved, dy) -> (dparams, dx)`.

    `leaves` are the paths of the parameters inside the layer's own tree.
    """

    forward: Callable
    backward: Callable
    leaves: tuple[tuple[str, ...], ...] = ()


_AFFINE = (("w",), ("b",))
_TABLE = (("table",),)
_ATTENTION = tuple((name, leaf) for name in ("q", "k", "v", "out") for leaf in ("w", "b"))

KINDS: dict[str, Kind] = {
    "activation": Kind(vectors.activation, vectors.activation_backward),
    "attention": Kind(sequences.attention, sequences.attention_backward, _ATTENTION),
    "avg_pool": Kind(images.avg_pool, images.avg_pool_backward),
    "conv2d": Kind(images.conv2d, images.conv2d_backward, _AFFINE),
    "dense": Kind(vectors.dense, vectors.dense_backward, _AFFINE),
    "dropout": Kind(vectors.dropout, vectors.dropout_backward),
    "embedding": Kind(sequences.embedding, sequences.embedding_backward, _TABLE),
    "flatten": Kind(vectors.flatten, vectors.flatten_backward),
    "global_mean": Kind(images.global_mean, images.global_mean_backward),
    "layer_norm": Kind(vectors.layer_norm, vectors.layer_norm_backward, (("gain",), ("bias",))),
    "lstm": Kind(sequences.lstm, sequences.lstm_backward, (("w_x",), ("w_h",), ("b",))),
    "max_pool": Kind(images.max_pool, images.max_pool_backward),
    "position_embedding": Kind(
        sequences.position_embedding, sequences.position_embedding_backward, _TABLE
    ),
    "tied_output": Kind(vectors.tied_output, vectors.tied_output_backward, _TABLE),
    "unembed": Kind(vectors.unembed, vectors.unembed_backward, (("w",),)),
}
