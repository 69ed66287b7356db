"""Rows, slices and entries of a parameter."""

import jax
import jax.numpy as jnp
from cases import Case
from jax import lax

from .random import integers, normal


def _table(read, index, shape=(6, 3)):
    """sum sin(read(table, example)) for a table [*shape]; `index(rng, n)` are the examples."""

    def make(rng):
        def loss(p, example):
            return jnp.sum(jnp.sin(read(p["table"], example)))

        return loss, {"table": normal(rng, *shape)}, lambda n: index(rng, n)

    return make


def _outside(rng, n):
    return rng.integers(-9, 9, size=(n, 4))


def _tokens(rng, n):
    return integers(rng, 6, n, 4)


def _row(rng, n):
    return integers(rng, 6, n)


def _pairs(rng, n):
    return integers(rng, 3, n, 2, 4)


def _window(table, start):
    return lax.dynamic_slice(table, (start, jnp.ones_like(start)), (2, 2))


def _rows_by_slices(table, starts):
    """As Equinox's embedding: a slice for each token."""
    return jax.vmap(lambda i: lax.dynamic_index_in_dim(table, i, 0, keepdims=False))(starts)


def _rows_with_starts(table, starts):
    """Whole rows, with a start along each of them too: any but 0 is out of range."""
    numbers = lax.GatherDimensionNumbers((1,), collapsed_slice_dims=(0,), start_index_map=(0, 1))
    mode = lax.GatherScatterMode.FILL_OR_DROP
    return lax.gather(table, starts.T, numbers, (1, table.shape[1]), mode=mode, fill_value=0.5)


def _starts(rng, n):
    return jnp.stack([_tokens(rng, n), integers(rng, 2, n, 4)], axis=1)


def _vocabulary(rng):
    """Token and position embeddings, summed; the logits have a table of their own."""
    params = {"token": normal(rng, 6, 3), "position": normal(rng, 7, 3), "out": normal(rng, 3, 6)}

    def loss(p, tokens):
        h = jnp.tanh(p["token"][tokens] + p["position"][:4])
        logits = jax.nn.log_softmax(h @ p["out"])
        return -jnp.mean(jnp.take_along_axis(logits, tokens[:, None], 1))

    return loss, params, lambda n: integers(rng, 6, n, 4)


def _row_without_gradient(rng):
    """Row 0 is padding: it is set to zero before it is read."""

    def loss(p, tokens):
        return jnp.sum(jnp.sin(p.at[0].set(0.0)[tokens]))

    return loss, normal(rng, 6, 3), lambda n: integers(rng, 6, n, 4)


def _weight_of_layer(rng):
    """A Python loop over stacked layers."""

    def loss(p, x):
        for layer in range(3):
            x = jnp.tanh(x @ p["w"][layer] + p["b"][layer][None])
        return jnp.sum(x**2)

    params = {"w": normal(rng, 3, 3, 3), "b": normal(rng, 3, 3)}
    return loss, params, lambda n: normal(rng, n, 2, 3)


def _weight_of_domain(rng):
    """A whole matrix is picked by the example."""

    def loss(p, example):
        x, domain = example
        w = lax.dynamic_index_in_dim(p, domain, 0, keepdims=False)
        return jnp.sum(jnp.sin(x @ w))

    batch = lambda n: (normal(rng, n, 2, 3), integers(rng, 3, n))  # noqa: E731
    return loss, normal(rng, 3, 3, 2), batch


def _updated_by_the_example(rng):
    """The example is added to rows of the parameter, whose product is taken with it."""

    def loss(p, example):
        x, rows = example
        memory = p.at[rows].add(x)
        return jnp.sum(jnp.sin(memory @ x.T))

    return loss, normal(rng, 5, 3), lambda n: (normal(rng, n, 2, 3), integers(rng, 5, n, 2))


def _embedding_bag(rng):
    def loss(p, tokens):
        mean = jnp.mean(p["table"][tokens], axis=0)
        return jnp.sum(jnp.sin(mean @ p["w"]))

    params = {"table": normal(rng, 6, 3), "w": normal(rng, 3, 2)}
    return loss, params, lambda n: integers(rng, 6, n, 4)


def _block_update(rng):
    """A parameter is written into a buffer where the example says."""

    def loss(p, example):
        x, start = example
        buffer = lax.dynamic_update_slice(jnp.zeros((6,), x.dtype), p, (start,))
        return jnp.sum(jnp.sin(buffer * x))

    return loss, normal(rng, 3), lambda n: (normal(rng, n, 6), integers(rng, 5, n))


def _one_hot(table, tokens):
    return jax.nn.one_hot(tokens, 6, dtype=table.dtype) @ table


CASES = {
    "embedding": Case(_vocabulary),
    "embedding bag": Case(_embedding_bag),
    "one-hot embedding": Case(_table(_one_hot, _tokens)),
    "row without gradient": Case(_row_without_gradient),
    "take, clipped": Case(_table(lambda t, i: jnp.take(t, i, 0, mode="clip"), _outside)),
    "take, filled": Case(
        _table(lambda t, i: jnp.take(t, i, 0, mode="fill", fill_value=0.5), _outside)
    ),
    "take, wrapped": Case(_table(lambda t, i: jnp.take(t, i, 0, mode="wrap"), _outside)),
    "index out of range": Case(_table(lambda t, i: t[i], _outside)),
    "columns": Case(_table(lambda t, i: t[:, i], _tokens, (3, 6))),
    "two index axes": Case(_table(lambda t, i: t[i[0], i[1]], _pairs, (3, 3, 2))),
    "outer index axes": Case(_table(lambda t, i: t[i[0], :, i[1]], _pairs, (3, 2, 3))),
    "take_along_axis": Case(
        _table(lambda t, i: jnp.take_along_axis(t, i[:, None], 1), _tokens, (4, 6))
    ),
    "rows by slices": Case(_table(_rows_by_slices, _outside)),
    "rows with starts": Case(_table(_rows_with_starts, _starts)),
    "one row": Case(_table(lambda t, i: t[i], _row)),
    "dynamic_index": Case(
        _table(lambda t, i: lax.dynamic_index_in_dim(t, i, 1, keepdims=False), _row, (3, 6))
    ),
    "dynamic_slice": Case(_table(_window, lambda rng, n: rng.integers(0, 7, size=n))),
    "dynamic_update_slice": Case(_block_update),
    "stacked layers in a Python loop": Case(_weight_of_layer),
    "weight picked by the example": Case(_weight_of_domain),
    "rows updated by the example": Case(_updated_by_the_example),
}
