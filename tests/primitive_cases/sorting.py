"""Cases for funcbackprop.reference.rules.sorting."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .case import Case, cplx, distinct, normal

AXES = {"first axis": 0, "middle axis": 1, "last axis": 2}
TIES = np.array([3.0, 1.0, 3.0, 2.0, 1.0, 1.0])
ODD = np.array([0.0, np.nan, -np.inf, -0.0, 2.0, np.inf, 0.0, np.nan, -0.0, -3.0])
MANY_TIES = np.tile(TIES, 7)
COMPLEX_TIES = np.array([1 + 2j, 1 - 1j, 0.5 + 9j, 1 + 2j, 1 + 0j])


def _sort(*x, keys=1, axis=-1, stable=True):
    return lax.sort(x, dimension=axis, num_keys=keys, is_stable=stable)


def _by_integers(n, x, z):
    return lax.sort((n, x, z), num_keys=1)


def _by_two_keys(x, y, z):
    return lax.sort((x, y, z), num_keys=2)


def _top(k, **axis):
    return lambda x: lax.top_k(x, k, **axis)


CASES = {
    "sort of a vector": Case(jnp.sort, (distinct(5),)),
    # JAX 0.7 cannot differentiate these.
    **{
        f"sort of an empty array, axis {axis}": Case(
            lambda x, axis=axis: jnp.sort(x, axis),
            (normal(0, 3),),
            jax=False,
            expect=lambda x, dy: (dy,),
        )
        for axis in (0, 1)
    },
    "top_k of an empty array": Case(
        lambda x: lax.top_k(x, 1)[0], (normal(0, 3),), jax=False, expect=lambda x, dy: (0 * x,)
    ),
    **{
        f"sort, {kind}": Case(lambda x, axis=axis: jnp.sort(x, axis), (distinct(2, 3, 4),))
        for kind, axis in AXES.items()
    },
    "sort, rank 4": Case(lambda x: jnp.sort(x, 2), (distinct(2, 1, 3, 2),)),
    "sort, descending": Case(lambda x: jnp.sort(x, descending=True), (distinct(2, 4),)),
    "sort of all": Case(lambda x: jnp.sort(x, axis=None), (distinct(2, 3),)),
    "sort, ties": Case(lambda x: jnp.sort(x), (TIES,)),
    "sort, NaN, infinities and signed zeros": Case(lambda x: jnp.sort(x), (ODD,)),
    "sort, not stable": Case(lambda x: jnp.sort(x, stable=False), (distinct(20),)),
    "sort, not stable, ties": Case(lambda x: jnp.sort(x, stable=False), (MANY_TIES,)),
    "sort, not stable, ties and values": Case(
        lambda x, y: _sort(x, y, axis=0, stable=False),
        (np.stack([MANY_TIES, -MANY_TIES], 1), normal(42, 2)),
    ),
    "sort, complex": Case(lambda z: jnp.sort(z), (cplx(6),)),
    "sort, complex, ties": Case(lambda z: jnp.sort(z), (COMPLEX_TIES,)),
    "sort with values": Case(_sort, (distinct(2, 5), normal(2, 5), cplx(2, 5))),
    "sort with values, ties": Case(_sort, (TIES, normal(6))),
    "sort with values, signed zeros": Case(_sort, (ODD, normal(10))),
    "sort by integers": Case(_by_integers, (np.array([3, 1, 3, 0]), normal(4), cplx(4))),
    "sort by a bool": Case(lambda x, y: _sort(x > 0, y), (normal(5), normal(5, seed=1))),
    "sort by two keys": Case(_by_two_keys, (TIES, normal(6), normal(6, seed=1))),
    "sort by two keys, both tied": Case(_by_two_keys, (TIES, TIES[::-1].copy(), normal(6))),
    "sort by complex keys": Case(_by_two_keys, (COMPLEX_TIES, normal(5), normal(5, seed=1))),
    "sort under vmap": Case(jax.vmap(_sort, (1, None)), (distinct(4, 2), normal(4))),
    "sort in a gradient": Case(
        jax.grad(lambda x: jnp.sum(jnp.sort(x * x) * jnp.arange(5))), (normal(5),)
    ),
    "argsort": Case(lambda x: x[jnp.argsort(x)] * x, (distinct(5),)),
    "argsort of ties, descending": Case(
        lambda x, y: y[jnp.argsort(x, descending=True)], (TIES, normal(6))
    ),
    "argsort, not stable": Case(
        lambda x, y: y[jnp.argsort(x, stable=False)], (MANY_TIES, normal(42))
    ),
    "lexsort": Case(lambda x, y: y[jnp.lexsort((x, y))] * x, (TIES, normal(6))),
    "median": Case(jnp.median, (distinct(5),)),
    "median of an even number, by axis": Case(lambda x: jnp.median(x, 0), (distinct(4, 3),)),
    "quantile": Case(lambda x: jnp.quantile(x, jnp.array([0.1, 0.5])), (distinct(6),)),
    "quantile, nearest": Case(
        lambda x: jnp.quantile(x, 0.3, axis=0, method="nearest"), (distinct(4, 2),)
    ),
    "nanquantile": Case(
        lambda x: jnp.nanquantile(x, 0.3), (np.array([1.0, np.nan, 3.0, 0.5, 7.0]),)
    ),
    "percentile": Case(lambda x: jnp.percentile(x, 80, axis=1), (distinct(2, 5),)),
    "partition": Case(lambda x: jnp.partition(x, 2), (distinct(6),)),
    **{f"top_k, k = {k}": Case(_top(k), (distinct(2, 4),)) for k in (0, 1, 3, 4)},
    "top_k, ties": Case(_top(4), (TIES,)),
    "top_k, NaN, infinities and signed zeros": Case(_top(8), (ODD,)),
    "top_k of integers": Case(
        lambda n, x: x[lax.top_k(n, 2)[1]] * lax.top_k(n, 2)[0],
        (np.array([3, -1, 3, 7]), normal(4)),
    ),
    "top_k of unsigned integers": Case(
        lambda n, x: x[lax.top_k(n, 3)[1]], (np.array([3, 0, 250, 3], np.uint8), normal(4))
    ),
    "top_k under vmap": Case(jax.vmap(_top(2), 1, 1), (distinct(4, 3),)),
    "top_k in a gradient": Case(
        jax.grad(lambda x: jnp.sum(lax.top_k(jnp.sin(x), 2)[0] ** 2)), (normal(5),)
    ),
    "approx_top_k": Case(lambda x: lax.approx_max_k(x, 3), (distinct(2, 6),)),
    "approx_top_k, smallest, first axis": Case(
        lambda x: lax.approx_min_k(x, 2, reduction_dimension=0), (distinct(5, 2),)
    ),
    "approx_top_k, not aggregated": Case(
        lambda x: lax.approx_max_k(x, 2, recall_target=0.5, aggregate_to_topk=False),
        (distinct(300),),
    ),
    # In float32, XLA orders ties by another algorithm.
    "approx_top_k, ties": Case(lambda x: lax.approx_max_k(x, 9), (MANY_TIES,), narrow=False),
    "approx_top_k under vmap": Case(jax.vmap(lambda x: lax.approx_min_k(x, 2)), (distinct(2, 5),)),
}
if "axis" in inspect.signature(lax.top_k).parameters:
    CASES["top_k along an axis"] = Case(_top(2, axis=1), (distinct(2, 4, 3),))
    CASES["top_k along an axis, under vmap"] = Case(
        jax.vmap(_top(2, axis=0), 1), (distinct(4, 2, 3),)
    )
