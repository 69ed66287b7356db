"""The trace and the density of eigenvalues against known spectra."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import quick
from hessians import dense, network, quadratic, quadratic_params, symmetric

from funcbackprop.curvature import sharpness, spectral_density, trace

EXACT = 1e-8
METHODS = ("hutchinson", "hutch++")


def of_matrix(function, A, key=None, **options):
    params, batch = quadratic_params(len(A)), jnp.asarray(A)[None]
    call = lambda p, b, key: function(quadratic, p, b, key=key, **options)  # noqa: E731
    return quick(call)(params, batch, jax.random.key(0) if key is None else key)


@pytest.mark.core
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_network_within_its_standard_error(x64, method, seed):
    loss, params, batch, w = network()
    key, options = jax.random.key(seed), {"samples": 48, "method": method}
    found = quick(lambda *x: trace(loss, *x, weights=w, key=key, **options))(params, batch)
    error = found.value - np.trace(dense(loss, params, batch, w))
    assert abs(error) < 4 * found.standard_error
    assert found.status == 0


@pytest.mark.parametrize("method", METHODS)
def test_unbiased(x64, method):
    """4000 runs; the mean of the squared standard errors is the variance of the runs."""
    A = jnp.asarray(symmetric(np.linspace(-1, 2, 12) ** 3))
    params = quadratic_params(12)
    call = lambda key: trace(quadratic, params, A[None], samples=9, method=method, key=key)  # noqa: E731
    found = quick(jax.vmap(call))(jax.random.split(jax.random.key(5), 4000))
    spread = np.std(found.value, ddof=1)
    assert abs(np.mean(found.value) - np.trace(A)) < 4 * spread / np.sqrt(4000)
    np.testing.assert_allclose(np.mean(found.standard_error**2), spread**2, rtol=0.1)


def test_chunks_give_the_same(x64):
    loss, params, batch, w = network()

    def all_of(params, batch, chunk):
        given = {"weights": w, "chunk_size": chunk}
        return (
            sharpness(loss, params, batch, steps=6, **given)._replace(vector=None),
            trace(loss, params, batch, samples=6, method="hutch++", **given),
            spectral_density(loss, params, batch, steps=4, samples=2, **given),
        )

    found, expected = (quick(all_of, static_argnums=2)(params, batch, c) for c in (5, None))
    chex.assert_trees_all_close(found, expected, rtol=EXACT, atol=EXACT)


def test_hutch_plus_plus_is_exact_for_low_rank(x64):
    A = symmetric([5.0, 3, -1, *np.zeros(27)])
    found = of_matrix(trace, A, samples=12, method="hutch++")
    np.testing.assert_allclose(found.value, 7, rtol=EXACT)
    assert found.standard_error < 1e-8
    assert of_matrix(trace, A, samples=12).standard_error > 0.1


def test_hutch_plus_plus_beyond_the_dimension(x64):
    found = of_matrix(trace, symmetric([1.0, 2, -4]), samples=30, method="hutch++")
    np.testing.assert_allclose(found.value, -1, rtol=EXACT)
    assert found.products == 30


def test_trace_in_float32_and_status():
    A = np.diag(np.float32([1, 2, 4]))
    found = of_matrix(trace, A, samples=1)
    assert found.value == 7
    assert found.to_dict()["status"] == "one sample"
    assert found.to_dict()["standard_error"] is None
    assert "take more samples" in found.explain()
    for method in METHODS:
        bad = of_matrix(trace, A * np.nan, samples=6, method=method)
        assert bad.status == 1
    assert "status: not finite" in str(bad)


@pytest.mark.parametrize("samples", [1, 5])
def test_moments_of_the_density(x64, samples):
    """Gauss quadrature is exact up to degree 2k - 1; the first moment is Hutchinson's trace/P."""
    A = symmetric(np.linspace(-1, 3, 30))
    found = of_matrix(spectral_density, A, steps=5, samples=samples)
    hutchinson = of_matrix(trace, A, samples=samples)
    np.testing.assert_allclose(found.moment(0), 1, rtol=EXACT)
    np.testing.assert_allclose(found.moment(1), hutchinson.value / 30, rtol=EXACT)
    np.testing.assert_allclose(np.trapezoid(found.density, found.grid), 1, rtol=1e-3)


def test_density_of_a_network(x64):
    loss, params, batch, w = network()
    options = {"weights": w, "steps": 32, "samples": 400}
    found = quick(lambda *x: spectral_density(loss, *x, **options))(params, batch)
    values = np.linalg.eigvalsh(dense(loss, params, batch, w))
    np.testing.assert_allclose(found.nodes[:, -1], values[-1], rtol=EXACT)
    large = found.nodes > values[-1] / 2
    share = np.mean(values > values[-1] / 2)
    np.testing.assert_allclose(np.sum(found.weights[large]), share, rtol=0.15)
    np.testing.assert_allclose(found.moment(2), np.mean(values**2), rtol=0.15)


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_density_of_equal_eigenvalues(x64, scale):
    found = of_matrix(spectral_density, scale * np.eye(6), steps=4, samples=2)
    np.testing.assert_allclose(found.nodes, scale, atol=1e-12)
    np.testing.assert_allclose(np.sum(found.weights, 1), 0.5, rtol=EXACT)
    np.testing.assert_allclose(np.trapezoid(found.density, found.grid), 1, rtol=1e-3)


def test_a_grid_and_width_of_ones_own():
    A = np.diag(np.float32([1, 2, 2, 4]))
    found = of_matrix(
        spectral_density, A, steps=4, samples=3, grid=jnp.linspace(0, 5, 101), width=0.1
    )
    assert found.grid.shape == found.density.shape == (101,)
    np.testing.assert_allclose(found.density[40], 0.5 / 0.1 / np.sqrt(2 * np.pi), rtol=1e-3)
    assert json.loads(json.dumps(found.to_dict()))["status"] == "ok"
    assert "nodes: 1, 2, 4, 4" in str(found)


@pytest.mark.parametrize("factor", [1, np.nan])
def test_plot(factor):
    found = of_matrix(spectral_density, factor * np.diag(np.float32([1, 2, 4])), steps=3)
    (ax,) = found.plot().axes
    assert ax.get_xlabel() == "eigenvalue (loss / parameter²)"
    assert len(ax.lines) == (factor == 1)
    assert found.status == (factor != 1)


def test_clear_errors():
    params, batch = quadratic_params(3), jnp.eye(3)[None]
    with pytest.raises(ValueError, match="`trace`: `method` expected one of hutchinson, hutch"):
        trace(quadratic, params, batch, method="exact")
    with pytest.raises(ValueError, match="`trace`: `samples` expected an integer of at least 3"):
        trace(quadratic, params, batch, method="hutch++", samples=2)
    with pytest.raises(ValueError, match="`spectral_density`: `grid` expected eigenvalues of"):
        spectral_density(quadratic, params, batch, grid=jnp.ones((2, 2)))
    with pytest.raises(TypeError, match="`trace`: gradients need real or complex"):
        trace(lambda p, x: x, jnp.int32(1), jnp.ones(1))
