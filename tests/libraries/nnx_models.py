"""Models by Flax NNX, split into a graph and parameters and merged in the loss."""

import jax
import jax.numpy as jnp
from flax import nnx

import funcbackprop as fb

from .data import (
    CLASSES,
    FEATURES,
    HEADS,
    IMAGE,
    LAYERS,
    TOKENS,
    VOCABULARY,
    WIDTH,
    cross_entropy,
    images,
    texts,
    vectors,
)


def _split(model, batch):
    """The model takes a batch."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, batch):
        x, y = batch
        return cross_entropy(nnx.merge(graph, params, rest)(x), y)

    return fb.one_example(loss), params, batch


def mlp():
    class MLP(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(FEATURES, 2 * WIDTH, rngs=rngs)
            self.second = nnx.Linear(2 * WIDTH, WIDTH, rngs=rngs)
            self.out = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

        def __call__(self, x):
            return self.out(nnx.gelu(self.second(nnx.relu(self.first(x)))))

    return _split(MLP(nnx.Rngs(0)), vectors())


def convolutional():
    class Convolutional(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Conv(IMAGE[-1], 8, (3, 3), rngs=rngs)
            self.first_norm = nnx.GroupNorm(8, num_groups=4, rngs=rngs)
            self.second = nnx.Conv(8, WIDTH, (3, 3), strides=2, use_bias=False, rngs=rngs)
            self.second_norm = nnx.GroupNorm(WIDTH, num_groups=4, rngs=rngs)
            self.out = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

        def __call__(self, x):
            x = nnx.relu(self.first_norm(self.first(x)))
            x = nnx.max_pool(x, (2, 2), strides=(2, 2))
            x = nnx.relu(self.second_norm(self.second(x)))
            return self.out(x.mean((1, 2)))

    return _split(Convolutional(nnx.Rngs(0)), images())


def transformer():
    class Block(nnx.Module):
        def __init__(self, rngs):
            self.attention_norm = nnx.LayerNorm(WIDTH, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
            self.mlp_norm = nnx.LayerNorm(WIDTH, rngs=rngs)
            self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
            self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

        def __call__(self, x, mask):
            x = x + self.attention(self.attention_norm(x), mask=mask)
            return x + self.down(nnx.gelu(self.up(self.mlp_norm(x))))

    class Transformer(nnx.Module):
        def __init__(self, rngs):
            # An embedding computes in the dtype that its table has when it is made.
            dtype = jax.dtypes.canonicalize_dtype(float)
            self.embed = nnx.Embed(VOCABULARY, WIDTH, param_dtype=dtype, rngs=rngs)
            self.positions = nnx.Param(0.1 * jax.random.normal(rngs(), (TOKENS, WIDTH)))
            self.blocks = nnx.List([Block(rngs) for _ in range(LAYERS)])
            self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)

        def __call__(self, tokens):
            x = self.embed(tokens) + self.positions[jnp.arange(tokens.shape[-1])]
            mask = nnx.make_causal_mask(tokens)
            for block in self.blocks:
                x = block(x, mask)
            return self.embed.attend(self.norm(x))

    return _split(Transformer(nnx.Rngs(0)), texts())
