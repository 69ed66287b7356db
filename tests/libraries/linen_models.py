"""Models by Flax Linen; the transformer scans over its layers and recomputes each."""

from flax import linen as nn

import funcbackprop as fb

from .data import (
    CLASSES,
    HEADS,
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


def _applied(model, batch):
    """The model takes a batch."""
    variables = model.init(KEY, batch[0])

    def loss(params, batch):
        x, y = batch
        return cross_entropy(model.apply({"params": params}, x), y)

    return fb.one_example(loss), variables["params"], batch


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        for width in (2 * WIDTH, WIDTH):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(CLASSES)(x)


class Convolutional(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.GroupNorm(num_groups=4)(nn.Conv(8, (3, 3))(x)))
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.GroupNorm(num_groups=4)(nn.Conv(WIDTH, (3, 3), strides=2)(x)))
        return nn.Dense(CLASSES)(x.reshape(len(x), -1))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=HEADS)(h, mask=mask)
        h = nn.gelu(nn.Dense(4 * WIDTH)(nn.LayerNorm()(x)))
        return x + nn.Dense(WIDTH)(h), None


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        positions = self.param("positions", nn.initializers.normal(0.1), (TOKENS, WIDTH))
        x = nn.Embed(VOCABULARY, WIDTH)(tokens) + positions[None]
        layers = nn.scan(
            nn.remat(Block, prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=LAYERS,
        )
        x, _ = layers()(x, nn.make_causal_mask(tokens))
        return nn.Dense(VOCABULARY)(nn.LayerNorm()(x))


def mlp():
    return _applied(MLP(), vectors())


def convolutional():
    return _applied(Convolutional(), images())


def transformer():
    return _applied(Transformer(), texts())
