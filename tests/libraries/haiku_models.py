"""Models by Haiku, transformed into pure functions; the recurrent one is unrolled over time."""

import haiku as hk
import jax
import jax.numpy as jnp

import funcbackprop as fb

from .data import CLASSES, KEY, VOCABULARY, WIDTH, cross_entropy, images, texts, vectors


def _transformed(forward, batch):
    """`forward` takes a batch."""
    model = hk.without_apply_rng(hk.transform(forward))

    def loss(params, batch):
        x, y = batch
        return cross_entropy(model.apply(params, x), y)

    return fb.one_example(loss), model.init(KEY, batch[0]), batch


def _mlp(x):
    return hk.nets.MLP([2 * WIDTH, WIDTH, CLASSES])(x)


def _convolutional(x):
    x = jax.nn.relu(hk.GroupNorm(4)(hk.Conv2D(8, 3)(x)))
    x = hk.max_pool(x, (2, 2), (2, 2), "SAME")
    x = jax.nn.relu(hk.GroupNorm(4)(hk.Conv2D(WIDTH, 3, stride=2, with_bias=False)(x)))
    return hk.Linear(CLASSES)(jnp.mean(x, axis=(1, 2)))


def _recurrent(tokens):
    x = hk.Embed(VOCABULARY, WIDTH)(tokens)
    core = hk.LSTM(WIDTH)
    x, _ = hk.dynamic_unroll(core, x, core.initial_state(len(x)), time_major=False)
    core = hk.GRU(WIDTH)
    x, _ = hk.dynamic_unroll(core, x, core.initial_state(len(x)), time_major=False)
    return hk.Linear(VOCABULARY)(x)


def mlp():
    return _transformed(_mlp, vectors())


def convolutional():
    return _transformed(_convolutional, images())


def recurrent():
    return _transformed(_recurrent, texts())
