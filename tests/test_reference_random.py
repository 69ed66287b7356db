"""Random numbers in the reference are those that the program draws, in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from primitive_cases.random import ALPHA, DRAWS, OF_ALPHA, X, dropout
from scipy import special

import funcbackprop as fb


def assert_as_in_jax(f, *args):
    """Values and gradients of a float32 function are those of JAX to 1e-5."""
    got, pullback = fb.reference.vjp(f, *args)
    want, pull = jax.vjp(f, *args)
    assert want.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    dy = np.random.default_rng(0).normal(size=want.shape).astype(np.float32)
    for a, b in zip(pullback(dy)[1:], pull(dy)[1:], strict=True):
        scale = max(1.0, float(np.max(np.abs(b), initial=0.0)))
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_those_of_the_program(name, key):
    x, y = np.float32(X), np.float32(X[::-1] + 0.5)
    assert_as_in_jax(DRAWS[name], key, x, y)


@pytest.mark.parametrize("name", OF_ALPHA)
def test_draws_with_a_gradient_are_those_of_the_program(name, key):
    assert_as_in_jax(OF_ALPHA[name], key, np.float32(ALPHA))


def test_dropout_drops_what_the_program_drops(key):
    x = np.ones((4, 5), np.float32)
    assert_as_in_jax(dropout, key, x)
    assert_as_in_jax(jax.jit(jax.vmap(dropout, in_axes=(None, 0))), key, x)


def test_a_gamma_draw_is_taken_over_and_not_noted_as_a_decision(key):
    a = np.float32([0.3, 2.0])
    y, pullback = fb.reference.vjp(random.gamma, key, a)
    np.testing.assert_array_equal(y, np.float64(random.gamma(key, a)))
    assert pullback.decisions == ()


def test_the_gradient_of_a_gamma_draw_keeps_its_quantile(key):
    """By differences of the quantile function of SciPy."""
    a, h = np.array([0.25, 1.0, 2.0, 40.0]), 1e-5
    y, pullback = fb.reference.vjp(random.gamma, key, np.float32(a))
    u = special.gammainc(a, y)
    slope = (special.gammaincinv(a + h, u) - special.gammaincinv(a - h, u)) / (2 * h)
    np.testing.assert_allclose(pullback(np.ones(4))[1], slope, rtol=1e-7)


def test_loggamma_of_alpha_so_small_that_the_draw_underflows(key):
    """log x = log(u Gamma(a + 1)) / a there, so d log x / da = -log(x) / a + psi(a + 1) / a."""
    a = np.float32([1e-4, 1e-5])
    y, pullback = fb.reference.vjp(random.loggamma, key, a)
    assert np.all(y < -700)
    wide = np.float64(a)
    want = (special.psi(wide + 1) - y) / wide
    np.testing.assert_allclose(pullback(np.ones(2))[1], want, rtol=1e-12)


def test_bits_of_a_float_that_draws_anew_are_refused():
    def f(x):
        return jax.lax.rng_uniform(x, x + 1, (3,))

    if not hasattr(jax.lax, "rng_uniform"):
        pytest.skip("JAX has no rng_uniform any more")
    y, pullback = fb.reference.vjp(f, np.float32(0.0))
    assert np.all((y >= 0) & (y < 1))
    with pytest.raises(fb.graph.UnsupportedPrimitive, match="draws anew"):
        pullback(np.ones(3))
