"""The transformer of the benchmark as other libraries write it, for the table of variants.

    funcbackprop bench --workloads experiments.library_transformers:linen_transformer \
        experiments.library_transformers:equinox_transformer

Width 256, depth 4, 4 heads, T 128, vocabulary 1000, B 16. The layers are a Python loop, so each has
weights of its own; Linen's model takes a batch, Equinox's one example.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from flax import linen

import funcbackprop as fb

WIDTH, DEPTH, HEADS, LENGTH, VOCABULARY, EXAMPLES = 256, 4, 4, 128, 1000, 16


def tokens():
    sequence = jax.random.randint(jax.random.key(0), (EXAMPLES, LENGTH + 1), 0, VOCABULARY)
    return sequence[:, :-1], sequence[:, 1:]


def next_token(logits, following):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, following))


class LinenTransformer(linen.Module):
    @linen.compact
    def __call__(self, x):
        mask = linen.make_causal_mask(x)
        positions = self.param("positions", linen.initializers.normal(0.02), (LENGTH, WIDTH))
        x = linen.Embed(VOCABULARY, WIDTH)(x) + positions
        for _ in range(DEPTH):
            attention = linen.MultiHeadDotProductAttention(num_heads=HEADS)
            x = x + attention(linen.LayerNorm()(x), mask=mask)
            hidden = linen.gelu(linen.Dense(4 * WIDTH)(linen.LayerNorm()(x)))
            x = x + linen.Dense(WIDTH)(hidden)
        return linen.Dense(VOCABULARY)(linen.LayerNorm()(x))


class EquinoxBlock(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP
    norms: list

    def __init__(self, key):
        for_attention, for_mlp = jax.random.split(key)
        self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, key=for_attention)
        self.mlp = eqx.nn.MLP(WIDTH, WIDTH, 4 * WIDTH, 1, jax.nn.gelu, key=for_mlp)
        self.norms = [eqx.nn.LayerNorm(WIDTH), eqx.nn.LayerNorm(WIDTH)]

    def __call__(self, x):
        h = jax.vmap(self.norms[0])(x)
        x = x + self.attention(h, h, h, jnp.tri(LENGTH, dtype=bool))
        return x + jax.vmap(self.mlp)(jax.vmap(self.norms[1])(x))


class EquinoxTransformer(eqx.Module):
    embed: eqx.nn.Embedding
    positions: jax.Array
    blocks: list
    norm: eqx.nn.LayerNorm
    out: eqx.nn.Linear

    def __init__(self, key):
        for_embed, for_positions, for_out, *rest = jax.random.split(key, 3 + DEPTH)
        self.embed = eqx.nn.Embedding(VOCABULARY, WIDTH, key=for_embed)
        self.positions = 0.02 * jax.random.normal(for_positions, (LENGTH, WIDTH))
        self.blocks = [EquinoxBlock(key) for key in rest]
        self.norm = eqx.nn.LayerNorm(WIDTH)
        self.out = eqx.nn.Linear(WIDTH, VOCABULARY, key=for_out)

    def __call__(self, x):
        x = jax.vmap(self.embed)(x) + self.positions
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.out)(jax.vmap(self.norm)(x))


def _linen():
    model, data = LinenTransformer(), tokens()
    params = model.init(jax.random.key(1), data[0])["params"]

    def loss(params, batch):
        return next_token(model.apply({"params": params}, batch[0]), batch[1])

    return fb.Problem(fb.one_example(loss), params, data, "transformer by Flax Linen")


def _equinox():
    model = EquinoxTransformer(jax.random.key(1))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params, example):
        return next_token(eqx.combine(params, static)(example[0]), example[1])

    return fb.Problem(loss, params, tokens(), "transformer by Equinox")


linen_transformer, equinox_transformer = _linen(), _equinox()
