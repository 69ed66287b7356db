"""The routes by which statistics can be measured: name -> (loss, stats) -> measure."""

import jax
import jax.numpy as jnp

import funcbackprop as fb


def _eager(loss, stats):
    return fb.gradient_statistics(loss, stats)


def _chunked(loss, stats):
    """One example at a time, the smallest chunk there is."""
    return fb.gradient_statistics(loss, stats, memory_limit=1)


def _pairs(loss, stats):
    """Two examples at a time, with a remainder where the number is odd."""

    def measure(params, batch, weights=None):
        size = sum(p.size * p.dtype.itemsize for p in jax.tree.leaves(params))
        limit = 2 * 3 * size
        return fb.gradient_statistics(loss, stats, memory_limit=limit)(params, batch, weights)

    return measure


def _jitted(loss, stats):
    return jax.jit(fb.gradient_statistics(loss, stats))


def _jitted_chunks(loss, stats):
    return jax.jit(_pairs(loss, stats))


def _vmapped(loss, stats):
    """Under `vmap` over two copies of the parameters; the second copy must not matter."""

    def measure(params, batch, weights=None):
        two = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), params)
        out = jax.vmap(fb.gradient_statistics(loss, stats), (0, None, None))(two, batch, weights)
        return jax.tree.map(lambda x: x[0], out)

    return measure


ROUTES = {
    "eager": _eager,
    "chunks of 1": _chunked,
    "chunks of 2": _pairs,
    "jit": _jitted,
    "jit, chunks of 2": _jitted_chunks,
    "vmap": _vmapped,
}
