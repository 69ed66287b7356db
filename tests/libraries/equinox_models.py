"""Models by Equinox, partitioned into arrays and the rest; they take one example."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .data import (
    CLASSES,
    FEATURES,
    HEADS,
    IMAGE,
    KEY,
    LAYERS,
    TOKENS,
    VOCABULARY,
    WIDTH,
    cross_entropy,
    images,
    texts,
    vectors,
)


def _partitioned(model, batch):
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params, example):
        x, y = example
        return cross_entropy(eqx.combine(params, static)(x), y)

    return loss, params, batch


class Convolutional(eqx.Module):
    layers: list
    out: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.layers = [
            eqx.nn.Conv2d(IMAGE[-1], 8, 3, padding=1, key=keys[0]),
            eqx.nn.GroupNorm(4, 8),
            jax.nn.relu,
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.Conv2d(8, WIDTH, 3, stride=2, padding=1, key=keys[1]),
            eqx.nn.GroupNorm(4, WIDTH),
            jax.nn.relu,
        ]
        self.out = eqx.nn.Linear(WIDTH, CLASSES, key=keys[2])

    def __call__(self, image):
        x = jnp.moveaxis(image, -1, 0)
        for layer in self.layers:
            x = layer(x)
        return self.out(x.mean((1, 2)))


class Block(eqx.Module):
    attention_norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    mlp_norm: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP

    def __init__(self, key):
        keys = jax.random.split(key)
        self.attention_norm = eqx.nn.LayerNorm(WIDTH)
        self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, key=keys[0])
        self.mlp_norm = eqx.nn.LayerNorm(WIDTH)
        self.mlp = eqx.nn.MLP(WIDTH, WIDTH, 4 * WIDTH, 1, jax.nn.gelu, key=keys[1])

    def __call__(self, x, mask):
        h = jax.vmap(self.attention_norm)(x)
        x = x + self.attention(h, h, h, mask)
        return x + jax.vmap(self.mlp)(jax.vmap(self.mlp_norm)(x))


class Transformer(eqx.Module):
    embed: eqx.nn.Embedding
    positions: jax.Array
    blocks: list
    norm: eqx.nn.LayerNorm
    out: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, LAYERS + 3)
        self.embed = eqx.nn.Embedding(VOCABULARY, WIDTH, key=keys[0])
        self.positions = 0.1 * jax.random.normal(keys[1], (TOKENS, WIDTH))
        self.blocks = [Block(key) for key in keys[3:]]
        self.norm = eqx.nn.LayerNorm(WIDTH)
        self.out = eqx.nn.Linear(WIDTH, VOCABULARY, key=keys[2])

    def __call__(self, tokens):
        x = jax.vmap(self.embed)(tokens) + self.positions
        mask = jnp.tri(TOKENS, dtype=bool)
        for block in self.blocks:
            x = block(x, mask)
        return jax.vmap(self.out)(jax.vmap(self.norm)(x))


def mlp():
    return _partitioned(eqx.nn.MLP(FEATURES, CLASSES, 2 * WIDTH, 2, key=KEY), vectors())


def convolutional():
    return _partitioned(Convolutional(KEY), images())


def transformer():
    return _partitioned(Transformer(KEY), texts())
