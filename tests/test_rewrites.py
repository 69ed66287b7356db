"""Equations that are said in other words give the same bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from funcbackprop.graph import bind, trace
from funcbackprop.per_example.rewrites import rewritten

POOLS = {
    "2x2": ((4, 4, 3), (2, 2, 1), lax.max, -jnp.inf),
    "a rest that no window covers": ((5, 7, 2), (2, 3, 1), lax.max, -jnp.inf),
    "minimum, one axis": ((9,), (3,), lax.min, jnp.inf),
    "over channels": ((4, 4, 2), (2, 2, 2), lax.max, -jnp.inf),
    "windows of one": ((5, 6), (1, 1), lax.max, -jnp.inf),
}


def cotangent_of_pool(x, window, strides, padding, reduce=lax.max, start=-jnp.inf):
    """(the equation, its inputs)."""

    def pool(x):
        return lax.reduce_window(x, start, reduce, window, strides, padding)

    c = np.random.default_rng(1).normal(size=jax.eval_shape(pool, x).shape).astype(np.float32)
    program = trace(lambda x, c: jax.vjp(pool, x)[1](c)[0])(x, c)
    (equation,) = (e for e in program.equations if e.name == "select_and_scatter_add")
    return equation, (jnp.asarray(c), jnp.asarray(x))


@pytest.mark.parametrize("name", POOLS)
def test_cotangent_of_a_pool_bit_for_bit(name):
    shape, window, reduce, start = POOLS[name]
    x = np.random.default_rng(0).integers(0, 3, shape).astype(np.float32)  # ties
    x.flat[::5], x.flat[1::7] = np.nan, np.inf
    equation, values = cotangent_of_pool(x, window, window, "VALID", reduce, start)
    found, expected = rewritten(equation)(*values), bind(equation, *values)
    np.testing.assert_array_equal(np.asarray(found[0]), np.asarray(expected[0]))


@pytest.mark.parametrize(("strides", "padding"), [((1, 1), "VALID"), ((2, 2), ((1, 1), (0, 0)))])
def test_windows_that_overlap_or_reach_over_the_edge_are_left_alone(strides, padding):
    x = np.zeros((6, 6), np.float32)
    equation, _ = cotangent_of_pool(x, (2, 2), strides, padding)
    assert rewritten(equation) is None
