"""Batches for the models, and the sizes that belong to them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

EXAMPLES = 6
FEATURES, CLASSES = 12, 5
IMAGE = (8, 8, 3)
TOKENS, VOCABULARY = 10, 17
WIDTH, HEADS, LAYERS = 16, 4, 2


def _labels(rng):
    return jnp.asarray(rng.integers(0, CLASSES, EXAMPLES))


def vectors():
    """Vectors and classes."""
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(EXAMPLES, FEATURES)), jnp.float32), _labels(rng)


def images():
    """Images [B, height, width, channels] and classes."""
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.normal(size=(EXAMPLES, *IMAGE)), jnp.float32), _labels(rng)


def texts():
    """Tokens, and the same one step on."""
    tokens = np.random.default_rng(2).integers(0, VOCABULARY, (EXAMPLES, TOKENS + 1))
    return jnp.asarray(tokens[:, :-1]), jnp.asarray(tokens[:, 1:])


def cross_entropy(logits, labels):
    """The mean over whatever axes there are."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


KEY = jax.random.key(0)
