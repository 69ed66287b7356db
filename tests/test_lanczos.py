"""The Lanczos process against its definition, and where it ends early."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import quick
from hessians import symmetric

from funcbackprop.curvature import lanczos

EXACT = 1e-8


def run(matrix, start, steps):
    A = jnp.asarray(matrix)
    return quick(lambda v: lanczos(lambda v: A @ v, v, steps))(jnp.asarray(start))


def start(size, seed=0):
    return np.random.default_rng(seed).normal(size=size)


@pytest.mark.core
def test_three_term_recurrence(x64):
    A = symmetric(np.linspace(-3, 5, 30))
    found = run(A, start(30), 12)
    V, T = np.asarray(found.basis), np.diag(found.alphas)
    T += np.diag(found.betas[:-1], 1) + np.diag(found.betas[:-1], -1)
    np.testing.assert_allclose(V @ V.T, np.eye(12), atol=1e-13)
    np.testing.assert_allclose(V @ A @ V.T, T, atol=1e-12)
    rest = A @ V[-1] - T[-1] @ V
    np.testing.assert_allclose(np.linalg.norm(rest), found.betas[-1], rtol=EXACT)
    assert found.steps_taken == 12


def test_orthogonal_after_convergence(x64):
    """Without reorthogonalisation copies of the large eigenvalue appear."""
    A = symmetric([1e6, *np.linspace(0, 1, 59)])
    V = np.asarray(run(A, start(60), 40).basis)
    np.testing.assert_allclose(V @ V.T, np.eye(40), atol=1e-12)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize(
    ("spectrum", "taken"),
    [
        (np.ones(9), 1),
        ([7.0, *np.zeros(8)], 2),
        ([1.0, 1, 1, -2, -2, -2, 5, 5, 5], 3),
        (np.zeros(9), 1),
    ],
    ids=["identity", "rank one", "three eigenvalues", "zero"],
)
def test_breakdown(x64, spectrum, taken, scale):
    spectrum = scale * np.asarray(spectrum)
    found = run(symmetric(spectrum), start(9), 7)
    assert found.steps_taken == taken
    for rest in (found.alphas, found.betas, found.basis):
        np.testing.assert_array_equal(rest[taken:], 0)
    T = np.diag(found.alphas[:taken])
    T += np.diag(found.betas[: taken - 1], 1) + np.diag(found.betas[: taken - 1], -1)
    expected = np.unique(np.round(spectrum / scale, 6)) * scale
    np.testing.assert_allclose(np.linalg.eigvalsh(T), expected, atol=EXACT * scale)


def test_more_steps_than_dimensions():
    found = run(np.diag(np.float32([1, 2, 4])), np.float32([1, 1, 1]), 6)
    assert found.steps_taken == 3
    assert np.isfinite(found.basis).all()


def test_a_zero_start_takes_no_step():
    assert run(np.eye(3, dtype=np.float32), np.zeros(3, np.float32), 2).steps_taken == 0


def test_trees_of_mixed_dtypes():
    tree = {"a": jnp.ones((2, 2), jnp.bfloat16), "b": jnp.ones(3)}
    double = lambda v: jax.tree.map(lambda x: 2 * x, v)  # noqa: E731
    found = lanczos(double, tree, 2)
    assert {k: (v.shape, v.dtype) for k, v in found.basis.items()} == {
        "a": ((2, 2, 2), jnp.float32),
        "b": ((2, 3), jnp.float32),
    }
    np.testing.assert_allclose(found.alphas[0], 2, rtol=1e-2)


def test_text_and_json():
    found = run(np.diag(np.float32([1, 2, 4])), np.float32([1, 1, 1]), 2)
    assert "steps taken: 2" in str(found)
    assert "basis" not in found.to_dict()
    assert quick(lambda: str(lanczos(lambda v: v, jnp.ones(2), 1)) == "Lanczos(traced)" or 1 / 0)()


@pytest.mark.parametrize("steps", [0, 1.5, True, None])
def test_steps_must_be_a_count(steps):
    with pytest.raises(ValueError, match="`lanczos`: `steps` expected an integer of at least 1"):
        lanczos(lambda v: v, jnp.ones(2), steps)


def test_clear_errors():
    with pytest.raises(TypeError, match="`lanczos`: `start` expected real floating-point arrays"):
        lanczos(lambda v: v, jnp.ones(2, jnp.complex64), 2)
    with pytest.raises(ValueError, match="`lanczos`: `start` expected at least one number"):
        lanczos(lambda v: v, {}, 2)
    with pytest.raises(ValueError, match="`matvec` expected to return the structure and shapes"):
        lanczos(lambda v: v[:1], jnp.ones(2), 2)
