"""The largest eigenvalue against dense Hessians, and how often its upper bound holds."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse.linalg
from compiled import quick
from hessians import dense, network, quadratic, quadratic_params, symmetric

from funcbackprop.curvature import preconditioner_of, sharpness, stability_threshold
from funcbackprop.curvature.lanczos import ritz, run
from funcbackprop.curvature.sharpness import _upper
from funcbackprop.curvature.vectors import space_of

EXACT = 1e-8


def of_matrix(A, **options):
    params = quadratic_params(len(A))
    return quick(lambda p, b: sharpness(quadratic, p, b, **options))(params, jnp.asarray(A)[None])


@pytest.mark.core
def test_network_with_padding(x64):
    loss, params, batch, w = network()
    found = quick(lambda *x: sharpness(loss, *x, weights=w, steps=32))(params, batch)
    H = dense(loss, params, batch, w)
    values = np.linalg.eigvalsh(H)
    arpack = scipy.sparse.linalg.eigsh(H, 1, which="LA", return_eigenvectors=False)
    np.testing.assert_allclose(found.value, arpack[0], rtol=EXACT)
    np.testing.assert_allclose([found.value, found.upper], values[-1], rtol=EXACT)
    np.testing.assert_allclose(found.smallest, values[0], rtol=EXACT, atol=EXACT)
    v, _ = jax.flatten_util.ravel_pytree(found.vector)
    np.testing.assert_allclose(H @ v, found.value * v, atol=1e-6)
    assert jax.tree.structure(found.vector) == jax.tree.structure(params)
    assert found.residual < 1e-6
    assert found.status == 0


@pytest.mark.parametrize("spectrum", [np.linspace(-9, -1, 20), np.linspace(-9, 2, 20)])
def test_largest_not_largest_in_size(x64, spectrum):
    found = of_matrix(symmetric(spectrum), steps=20)
    np.testing.assert_allclose([found.value, found.upper], spectrum[-1], rtol=EXACT)
    np.testing.assert_allclose(found.smallest, -9, rtol=EXACT)


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_bounds_before_convergence(x64, steps):
    A = symmetric(np.linspace(-1, 1, 60))
    found = of_matrix(A, steps=steps)
    assert found.value < 1 < found.upper
    assert found.smallest > -1
    v = np.concatenate([found.vector["a"], found.vector["b"]])
    np.testing.assert_allclose(np.linalg.norm(A @ v - found.value * v), found.residual, rtol=EXACT)
    assert np.min(np.abs(np.linspace(-1, 1, 60) - found.value)) <= found.residual


SPECTRA = {
    "indefinite": np.linspace(-2, 1, 40),
    "negative": np.linspace(-3, -1, 40),
    "one above": np.r_[np.linspace(0, 1, 39), 1.05],
    "outlier": np.r_[np.linspace(0, 1, 39), 10],
    "decay": 0.7 ** np.arange(40),
    "two": np.r_[np.zeros(39), 1],
}


@pytest.mark.parametrize("steps", [1, 4, 8])
@pytest.mark.parametrize("name", SPECTRA)
def test_coverage_of_the_upper_bound(x64, name, steps):
    """Of 2000 starts; with |c| exactly at its quantile 10 % would miss at steps=1 alone."""
    spectrum = jnp.asarray(SPECTRA[name])
    known = space_of(spectrum, "start", "test")

    def one(key):
        start = jax.random.normal(key, spectrum.shape)
        found = run(lambda v: [spectrum * v[0]], [start], steps, known)
        values = ritz(found)
        upper = _upper(found, values, known.size, 0.9)
        return values.values[found.steps_taken - 1], upper

    lower, upper = quick(jax.vmap(one))(jax.random.split(jax.random.key(3), 2000))
    top = spectrum.max()
    missed = np.mean(upper < top - 1e-12)
    assert missed <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 2000)
    assert np.all(lower <= top + 1e-12)
    assert np.all(upper >= lower)


def test_upper_bound_beats_the_rate_of_the_worst_case(x64):
    """Kuczynski and Wozniakowski's distance at P = 400, k = 30."""
    found = of_matrix(symmetric(np.linspace(0, 1, 400)), steps=30)
    worst = (np.log(1.648 * np.sqrt(400) / 0.05) / (2 * 30 - 1)) ** 2
    assert 1 <= found.upper < 1 + worst


@pytest.mark.parametrize("scale", [0.0, 1e-12, 3.0])
def test_identity_ends_early(x64, scale):
    found = of_matrix(scale * np.eye(8), steps=5)
    np.testing.assert_allclose(
        [found.value, found.upper, found.smallest], scale, rtol=1e-5, atol=1e-9
    )
    assert (found.steps_taken, found.status) == (1, 0)


def test_float32():
    A = symmetric(np.r_[np.linspace(-1, 1, 49), 4]).astype(np.float32)
    found = of_matrix(A, steps=25)
    np.testing.assert_allclose([found.value, found.upper], 4, rtol=1e-4)


def test_one_parameter():
    found = sharpness(lambda w, x: -x * w**2, jnp.float32(1), jnp.float32([3]), steps=4)
    np.testing.assert_allclose([found.value, found.upper], -6, rtol=1e-4)


def test_integers_and_complex_parameters(x64):
    """|a z|^2/2 + ... of a complex z is 2 real coordinates; an integer is none."""
    params = {"n": jnp.int32(3), "z": jnp.array([1 + 2j, 0.5j]), "w": jnp.ones(2)}

    def loss(p, x):
        re, im = p["z"].real, p["z"].imag
        curved = x * (re[0] ** 2 + 3 * re[0] * im[0] + im[1] ** 2 - im[0] * p["w"][0])
        return curved + p["n"] * jnp.sum(p["w"] ** 2)

    def flat(f, x):
        return loss({"n": 3, "w": f[:2], "z": jax.lax.complex(f[2:4], f[4:])}, x)

    found = sharpness(loss, params, jnp.ones(2), steps=6)
    H = jax.hessian(flat)(jnp.ones(6), 1.0)
    np.testing.assert_allclose(found.value, np.linalg.eigvalsh(H)[-1], rtol=EXACT)
    assert found.vector["n"] is None
    assert found.vector["z"].dtype == jnp.complex128


def preconditioned(A, D):
    return np.linalg.eigvalsh(A / np.sqrt(D)[:, None] / np.sqrt(D)[None])


def test_preconditioner_as_a_tree(x64):
    A, D = symmetric(np.linspace(-1, 2, 10)), np.linspace(0.1, 3, 10)
    found = of_matrix(A, steps=10, preconditioner={"a": D[:2], "b": D[2:]})
    expected = preconditioned(A, D)
    np.testing.assert_allclose([found.value, found.smallest], expected[[-1, 0]], rtol=EXACT)


OPTIMIZERS = {
    "adam": (
        optax.adam(0.1),
        {},
        lambda g: np.sqrt((g[0] ** 2 * 0.999 + g[1] ** 2) * 0.001 / (1 - 0.999**2)) + 1e-8,
    ),
    "adam in a chain": (
        optax.chain(optax.clip_by_global_norm(1e9), optax.adam(0.1, b2=0.9, eps=1e-3)),
        {"b2": 0.9, "eps": 1e-3},
        lambda g: np.sqrt((g[0] ** 2 * 0.9 + g[1] ** 2) * 0.1 / (1 - 0.81)) + 1e-3,
    ),
    "rmsprop": (
        optax.rmsprop(0.1),
        {},
        lambda g: np.sqrt((g[0] ** 2 * 0.9 + g[1] ** 2) * 0.1 + 1e-8),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_preconditioner_of_an_optimizer(x64, name):
    optimizer, options, expected = OPTIMIZERS[name]
    A = symmetric(np.linspace(-1, 2, 10))
    params = quadratic_params(10)
    state = optimizer.init(params)
    gradients = np.random.default_rng(4).normal(size=(2, 10))
    for g in gradients:
        _, state = optimizer.update({"a": jnp.asarray(g[:2]), "b": jnp.asarray(g[2:])}, state)
    D = expected(gradients)
    read = preconditioner_of(state, **options)
    np.testing.assert_allclose(np.concatenate([read["a"], read["b"]]), D, rtol=1e-12)
    found = of_matrix(A, steps=10, preconditioner=read if options else state)
    np.testing.assert_allclose(found.value, preconditioned(A, D)[-1], rtol=EXACT)


def test_statuses():
    params = quadratic_params(3)
    fresh = optax.adam(0.1).init(params)
    found = sharpness(quadratic, params, jnp.eye(3)[None], preconditioner=fresh)
    assert "take a step first" in found.explain()
    assert found.to_dict()["value"] is None
    found = sharpness(quadratic, params, jnp.eye(3)[None] * jnp.nan)
    assert found.to_dict()["status"] == "not finite"
    assert np.isnan(found.upper)
    found = sharpness(quadratic, params, jnp.eye(3)[None], weights=jnp.zeros(1))
    assert found.status == 1


def test_text_and_json():
    found = of_matrix(np.diag(np.float32([3, 2, 1])), steps=3)
    assert "upper: 3" in str(found)
    assert "status: ok" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["steps_taken"] == 3


def test_clear_errors():
    params, batch = quadratic_params(3), jnp.eye(3)[None]
    call = lambda **options: sharpness(quadratic, params, batch, **options)  # noqa: E731
    with pytest.raises(ValueError, match="`sharpness`: `confidence` expected a number between"):
        call(confidence=95)
    with pytest.raises(ValueError, match="`sharpness`: `steps` expected an integer"):
        call(steps=-1)
    with pytest.raises(ValueError, match=r"`sharpness`: `preconditioner` must have the structure"):
        call(preconditioner=jnp.ones(3))
    with pytest.raises(TypeError, match="`preconditioner` expected real numbers above zero"):
        call(preconditioner={"a": jnp.ones(2), "b": jnp.ones(1, jnp.complex64)})
    with pytest.raises(ValueError, match="`sharpness`: `weights` must have shape"):
        call(weights=jnp.ones(2))
    with pytest.raises(ValueError, match="`sharpness`: `params` expected at least one number"):
        sharpness(lambda p, x: x, {}, jnp.ones(1))
    with pytest.raises(ValueError, match="`preconditioner_of`: `opt_state` must hold"):
        preconditioner_of(optax.sgd(0.1).init(params))


STEPS = {
    "descent": ({}, optax.sgd(0.1)),
    "momentum": ({"momentum": 0.9}, optax.sgd(0.1, momentum=0.9)),
    "nesterov": ({"momentum": 0.9, "nesterov": True}, optax.sgd(0.1, momentum=0.9, nesterov=True)),
    "averaged": (
        {"adam_b1": 0.9},
        optax.chain(optax.ema(0.9, debias=False), optax.scale(-0.1)),
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_diverge_above_the_threshold(x64, name):
    options, optimizer = STEPS[name]
    threshold = stability_threshold(0.1, **options)
    sharp = jnp.array([0.98, 1.02]) * threshold

    def step(carry, _):
        w, state = carry
        updates, state = optimizer.update(sharp * w, state)
        return (w + updates, state), None

    w = jnp.ones(2)
    (w, _), _ = quick(lambda c: jax.lax.scan(step, c, length=3000))((w, optimizer.init(w)))
    assert abs(w[0]) < 1e-3
    assert abs(w[1]) > 1e3


def test_threshold_arguments():
    eta = jnp.array([0.1, 0.2])
    found = jax.jit(lambda eta: stability_threshold(eta, adam_b1=0.9))(eta)
    np.testing.assert_allclose(found, [380, 190], rtol=1e-5)
    with pytest.raises(ValueError, match="`learning_rate` expected a number above zero, got 0"):
        stability_threshold(0)
    with pytest.raises(ValueError, match="`momentum` expected a number of at least 0 and below 1"):
        stability_threshold(0.1, momentum=1.0)
    with pytest.raises(ValueError, match="expected `momentum` or `adam_b1`, got both"):
        stability_threshold(0.1, momentum=0.9, adam_b1=0.9)
    with pytest.raises(ValueError, match="`nesterov` expected with `momentum`"):
        stability_threshold(0.1, nesterov=True)
