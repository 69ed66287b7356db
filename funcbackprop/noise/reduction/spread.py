"""How the gradients of a data set spread about their mean, chunk by chunk and without cancellation.

Each chunk is centred about its own mean m first. With the mean G of all examples,
|g_i - G|^2 = |g_i - m|^2 + 2 <g_i - m, m - G> + |m - G|^2, and no term is larger than what it is
about, also where the mean gradient is far larger than the spread.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ...contract import Loss, batch_size, checked_weights, rows, wide
from ...per_example import (
    InnerWithMean,
    Mean,
    Projection,
    SquaredDeviations,
    SquaredNorms,
    gradient_statistics,
    total,
)

# Examples whose activations are in memory together.
CHUNK = 1024


class Spread(NamedTuple):
    """Per-example statistics of a data set with mean gradient G.

    Attributes:
      mean: G, a tree like `params`, in float32 or wider.
      sq_deviations: |g_i - G|^2, [N].
      along_mean: <g_i - G, G>, [N].
      sq_mean: |G|^2.
    """

    mean: chex.ArrayTree
    sq_deviations: jax.Array
    along_mean: jax.Array
    sq_mean: jax.Array


def shares_of(data, weights, caller: str) -> jax.Array:
    """q_i = w_i/sum w, [N]; NaN if all weights are zero."""
    weights = jnp.asarray(checked_weights(weights, batch_size(data, caller), caller))
    return weights / jnp.sum(weights)


def mean_gradient(
    loss: Loss, params: chex.ArrayTree, data: chex.ArrayTree, shares: jax.Array, **options
) -> chex.ArrayTree:
    """The mean gradient of a data set, in float32 or wider, `CHUNK` examples at a time."""
    measure = gradient_statistics(loss, Mean(), **options)
    index, valid = _chunks(len(shares))

    def add(carry, chunk):
        states = measure.states(params, *_rows(data, shares, *chunk))[2]
        return measure.merge(carry, states), None

    first, rest = (index[0], valid[0]), (index[1:], valid[1:])
    states = measure.states(params, *_rows(data, shares, *first))[2]
    if len(index) > 1:
        states, _ = jax.lax.scan(add, states, rest)
    return states[0]["mean"]


def spread(
    loss: Loss, params: chex.ArrayTree, data: chex.ArrayTree, shares: jax.Array, **options
) -> Spread:
    """`Spread` of a data set with shares q_i [N]; rows of share 0 give 0. Pure.

    Cost: one pass over the data set, four if it has more than `CHUNK` examples.
    """
    if len(shares) <= CHUNK:
        return _at_once(loss, params, data, shares, options)
    mean = mean_gradient(loss, params, data, shares, **options)
    measure_mean = gradient_statistics(loss, Mean(), **options)

    def of_chunk(chunk):
        part = _rows(data, shares, *chunk)
        (state,) = measure_mean.states(params, *part)[2]
        # A chunk of padding has no mean of its own: any will do, for its rows give 0.
        own = jax.tree.map(lambda m, g: jnp.where(state["weight"] > 0, m, g), state["mean"], mean)
        off = jax.tree.map(jnp.subtract, own, mean)
        stats = {"own": SquaredDeviations(), "off": Projection(off), "along": Projection(mean)}
        found = gradient_statistics(loss, stats, **options)(params, *part)[1]
        kept = part[1] > 0
        shift = 2 * (found["off"] - inner(own, off)) + inner(off, off)
        along = found["along"] - inner(mean, mean)
        return total(found["own"]) + jnp.where(kept, shift, 0), jnp.where(kept, along, 0)

    sq_deviations, along = jax.lax.map(of_chunk, _chunks(len(shares)))
    # An example whose gradient is the mean has 0, and not a little less.
    sq_deviations = jnp.maximum(sq_deviations.ravel()[: len(shares)], 0)
    return Spread(mean, sq_deviations, along.ravel()[: len(shares)], inner(mean, mean))


def _at_once(loss, params, data, shares, options):
    stats = [Mean(), SquaredDeviations(), InnerWithMean()]
    measure = gradient_statistics(loss, stats, **options)
    states = measure.states(params, data, shares)[2]
    _, sq_deviations, products = measure.finalize(states, params)
    # From the state: the result is rounded to the dtypes of `params`.
    mean = states[0]["mean"]
    sq_mean = inner(mean, mean)
    along = jnp.where(shares > 0, total(products) - sq_mean, 0)
    return Spread(mean, jnp.asarray(total(sq_deviations)), along, sq_mean)


def sq_norms_of(
    loss: Loss, params: chex.ArrayTree, data: chex.ArrayTree, shares: jax.Array, **options
) -> jax.Array:
    """|g_i|^2, [N]; 0 in rows of share 0. Pure."""
    measure = gradient_statistics(loss, SquaredNorms(), **options)

    def of_chunk(chunk):
        return total(measure(params, *_rows(data, shares, *chunk))[1])

    return jax.lax.map(of_chunk, _chunks(len(shares))).ravel()[: len(shares)]


def sq_deviations_within(
    loss: Loss,
    params: chex.ArrayTree,
    data: chex.ArrayTree,
    shares: jax.Array,
    members: np.ndarray,
    valid: np.ndarray,
    **options,
) -> jax.Array:
    """|g_i - mean of its stratum|^2, [N].

    Args:
      members, valid: [H, n_max], the rows of each stratum, padded, and which of them are no
        padding.
    """

    def of_stratum(stratum):
        index, kept = stratum
        part, share = _rows(data, shares, index, kept)
        return spread(loss, params, part, share, **options).sq_deviations

    found = jax.lax.map(of_stratum, (jnp.asarray(members), jnp.asarray(valid)))
    return jnp.zeros(len(shares), found.dtype).at[members[valid]].set(found[valid])


def without_own(r: jax.Array) -> jax.Array:
    """For each i the sum of squared deviations of the others, from their own mean, [n]."""
    n = len(r)
    return jnp.sum(r) - r * n / (n - 1)


def inner(a: chex.ArrayTree, b: chex.ArrayTree) -> jax.Array:
    """<a, b>, real part, in float32 or wider."""
    products = jax.tree.map(lambda x, y: jnp.sum((wide(x) * jnp.conj(wide(y))).real), a, b)
    return jnp.asarray(total(products))


def _chunks(size):
    """Rows [K, C] in order, the last ones padded with row 0, and which of them are no padding."""
    count = -(-size // CHUNK)
    chunk = -(-size // count)
    place = np.arange(count * chunk).reshape(count, chunk)
    return jnp.asarray(np.where(place < size, place, 0)), jnp.asarray(place < size)


def _rows(data, shares, index, valid):
    """`(rows of data, their shares)`, 0 where not `valid`."""
    part = jax.tree.map(lambda x: jnp.asarray(x)[index], data)
    share = shares[index]
    return part, jnp.where(rows(valid, share), share, 0)
