"""Functions of JAX that are followed as one step, and those of the user that are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import funcbackprop as fb
from funcbackprop.reference.rules import library


@jax.custom_jvp
def relu(x):
    """Named like JAX's, with a rule that is wrong."""
    return jnp.where(x > 0, x, 0.0)


relu.defjvps(lambda dx, y, x: 7 * dx)


def gradient(f, *args):
    y, pullback = fb.reference.vjp(f, *args)
    return pullback(np.ones_like(y))


@pytest.mark.core
@pytest.mark.parametrize("through", [lambda f: f, jax.jit, jax.vmap], ids=["plain", "jit", "vmap"])
def test_a_function_of_the_user_named_like_one_of_jax_is_entered(through):
    x = np.array([-1.0, 0.0, 2.0], np.float32)
    (dx,) = gradient(through(relu), x)
    np.testing.assert_array_equal(dx, [0, 0, 1])
    np.testing.assert_array_equal(jax.grad(lambda x: relu(x).sum())(x), [7, 7, 7])


@pytest.mark.core
def test_relu_of_jax_is_one_step():
    program = fb.graph.trace(jax.nn.relu, keep=["relu"])(np.zeros(2, np.float32))
    assert [equation.name for equation in program.equations] == ["jax:relu"]
    program = fb.graph.trace(relu, keep=["relu"])(np.zeros(2, np.float32))
    assert "jax:relu" not in [equation.name for equation in program.equations]


def test_the_kink_is_decided_in_the_precision_of_the_program():
    """1 + 1e-9 - 1 is 0 in float32, at the kink, and positive in float64."""

    def f(x):
        return jax.nn.relu(x * x - jnp.float32(1.0))

    x = np.float32(1.0) + np.float32(6e-8)
    y, pullback = fb.reference.vjp(f, np.asarray(x))
    own = np.float32(x) * np.float32(x) - np.float32(1)
    assert pullback(np.ones_like(y))[0] == pytest.approx(2 * float(x) if own > 0 else 0.0)


def test_decisions_in_the_body_are_noted():
    """(x / 3) 3 - x may round to 0 in float32, where float64 sees another sign, and back."""
    x = np.linspace(0.1, 1.0, 50, dtype=np.float32)
    _, pullback = fb.reference.vjp(lambda x: jax.nn.relu((x / 3) * 3 - x), x)
    assert {decision.primitive for decision in pullback.decisions} == {"max"}


@pytest.mark.skipif(jax.__version_info__ >= (0, 12), reason="an opaque primitive since JAX 0.12")
def test_the_mantissa_of_frexp_is_in_float64():
    def f(x):
        return jnp.frexp(x / 3)[0]

    y, _ = fb.reference.vjp(f, np.float32(1.0))
    assert y == pytest.approx(2 / 3, rel=1e-15)


def test_a_custom_root_is_refused():
    def root(x):
        def solve(f, guess):
            return jax.lax.fori_loop(0, 30, lambda i, y: y - f(y) / (2 * y), guess)

        return jax.lax.custom_root(
            lambda y: y * y - x, jnp.ones_like(x), solve, lambda g, y: y / g(jnp.ones_like(y))
        )

    y, pullback = fb.reference.vjp(root, np.float32(2.0))
    assert y == pytest.approx(np.sqrt(2), rel=1e-6)
    with pytest.raises(fb.graph.UnsupportedPrimitive, match="cannot follow"):
        pullback(np.float64(1.0))


def test_the_second_derivative_of_sinc_at_0_is_refused():
    f = jax.grad(jnp.sinc)
    _, pullback = fb.reference.vjp(f, np.float32(0.0))
    names = {e.name for e in fb.graph.trace(f, keep=["_sinc_maclaurin"])(np.float32(0)).equations}
    if "jax:_sinc_maclaurin" not in names:
        pytest.skip("this version of JAX has no rule of its own for it")
    with pytest.raises(fb.graph.UnsupportedPrimitive, match="sinc"):
        pullback(np.float64(1.0))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 60, 500])
@pytest.mark.parametrize("error", [-1e-7, 0.0, 1e-7])
def test_the_order_of_expn_is_found_from_its_value(n, error):
    x = np.logspace(-30, 2.8, 200)
    y = special.expn(n, x) * (1 + error)
    np.testing.assert_array_equal(library._expn_order(x, y), n)


def test_slopes_of_the_faddeeva_function_agree_where_series_and_formula_meet():
    angle = np.linspace(-np.pi, np.pi, 40)
    inside, outside = 7.999999 * np.exp(1j * angle), 8.000001 * np.exp(1j * angle)
    a, b = library.wofz_slope(inside), library.wofz_slope(outside)
    np.testing.assert_allclose(a, b, rtol=1e-3)
    want = 2j / np.sqrt(np.pi) - 2 * outside * special.wofz(outside)
    np.testing.assert_allclose(b, want, rtol=1e-11)
