"""Which operations a program has on which platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcbackprop as fb
from funcbackprop.per_example.entries import Group, all_at_once, one_by_one

# Functions of the entries of one example.
FUNCTIONS = {
    "one": lambda x: [jnp.sign(x)],
    "two": lambda x: [x - 0.5, jnp.abs(x) ** 2],
    "three": lambda x: [x, x**2, x**3],
}


@pytest.mark.core
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_sums_are_the_same_on_every_platform(name, dtype, x64):
    rng = np.random.default_rng(0)
    entries = rng.normal(size=(5, 3, 4)) + 1j * rng.normal(size=(5, 3, 4))
    x = jnp.asarray(entries if dtype == "complex64" else entries.real, dtype)
    c = jnp.asarray(rng.uniform(size=5), jnp.finfo(dtype).dtype)
    group, f = Group(x, list(x)), FUNCTIONS[name]
    expected = [np.tensordot(c, np.stack(y), 1) for y in zip(*map(f, x), strict=True)]
    for way in (one_by_one, all_at_once):
        found = way(f, group, c)
        assert [y.dtype for y in found] == [y.dtype for y in f(x[0])]
        for y, z in zip(found, expected, strict=True):
            np.testing.assert_allclose(y, z, rtol=0, atol=20 * jnp.finfo(dtype).eps)


@pytest.mark.core
@pytest.mark.parametrize(
    ("platform", "reduces"), [("cpu", False), ("cuda", True), ("rocm", True), ("tpu", True)]
)
def test_accelerators_reduce_a_group_at_once(platform, reduces):
    """256 examples, 16 positions, a weight [64, 32]: 8 examples are written at a time."""
    loss = lambda w, x: jnp.sum(jnp.tanh(x @ w) ** 2)  # noqa: E731
    measure = jax.jit(fb.gradient_statistics(loss, fb.Variance()))
    traced = measure.trace(jnp.ones((64, 32)), jnp.ones((256, 16, 64)))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "tensor<8x1x64x32xf32>" in text
    assert ("tensor<8x1x64x32xf32>, tensor<f32>) -> tensor<1x64x32xf32>" in text) == reduces
