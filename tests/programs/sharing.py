"""One parameter, used several times."""

import jax.numpy as jnp
from cases import Case
from jax import lax

from .random import integers, normal


def _twice(rng):
    def loss(p, x):
        return jnp.sum(jnp.sin(jnp.tanh(x @ p) @ p))

    return loss, normal(rng, 3, 3), lambda n: normal(rng, n, 2, 3)


def _siamese(rng):
    def loss(p, pair):
        a, b = (jnp.tanh(x @ p) for x in pair)
        return jnp.sum((a - b) ** 2)

    return loss, normal(rng, 3, 2), lambda n: (normal(rng, n, 2, 3), normal(rng, n, 2, 3))


def _tied_auto_encoder(rng):
    params = {"w": normal(rng, 4, 2), "b": normal(rng, 2)}

    def loss(p, x):
        return jnp.sum((jnp.tanh(x @ p["w"] + p["b"][None]) @ p["w"].T - x) ** 2)

    return loss, params, lambda n: normal(rng, n, 3, 4)


def _inside_and_outside(rng):
    """The weight of a loop's body is used once more after the loop."""

    def loss(p, x):
        h, _ = lax.scan(lambda h, x_t: (jnp.tanh(h @ p + x_t), None), x[0], x)
        return jnp.sum(jnp.sin(h @ p))

    return loss, normal(rng, 3, 3), lambda n: normal(rng, n, 4, 3)


def _stack_and_one_layer(rng):
    """Stacked layers, scanned, of which one is used once more."""

    def loss(p, x):
        h, _ = lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p)
        return jnp.sum(jnp.sin(h @ p[1]))

    return loss, normal(rng, 3, 3, 3), lambda n: normal(rng, n, 2, 3)


def _rows_and_product(rng):
    """The tied embedding of a tagger: rows, and a product with other activations."""

    def loss(p, example):
        tokens, x = example
        return jnp.sum(jnp.sin(p["table"][tokens] + x)) + jnp.sum(jnp.tanh(x @ p["table"].T))

    batch = lambda n: (integers(rng, 6, n, 4), normal(rng, n, 4, 3))  # noqa: E731
    return loss, {"table": normal(rng, 6, 3)}, batch


def _kernel_and_matrix(rng):
    """A kernel of a convolution that is also a matrix, after a reshape."""

    def loss(p, x):
        y = lax.conv_general_dilated(
            x[None], p, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )[0]
        return jnp.sum(jnp.sin(y[:, :2] @ p.reshape(2, -1)))

    return loss, normal(rng, 2, 2, 2), lambda n: normal(rng, n, 4, 2)


CASES = {
    "same weight twice": Case(_twice),
    "siamese": Case(_siamese),
    "tied auto-encoder": Case(_tied_auto_encoder),
    "inside and outside a scan": Case(_inside_and_outside),
    "stack, and one of its layers": Case(_stack_and_one_layer),
    "rows and product": Case(_rows_and_product),
    "kernel and matrix": Case(_kernel_and_matrix),
}
