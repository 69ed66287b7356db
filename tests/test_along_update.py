"""The loss along an update: against the definition, and where its minimum is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import quick
from updates import loss, problem

import funcbackprop as fb

SCALES = (0.5, 1.0, 4.0)


@pytest.mark.parametrize("weighted", [False, True])
def test_each_scale_is_the_effect_of_the_scaled_update(x64, weighted):
    params, updates, batch = problem()
    weights = np.array([1, 2, 0, 1, 0.5, 1, 3, 1, 1, 0, 1, 2]) if weighted else None
    if weighted:  # what stands in padding does not matter
        batch = batch[0].at[2].set(jnp.nan), batch[1].at[9].set(jnp.inf)
    along = quick(lambda *x: fb.along_update(loss, *x, weights, scales=SCALES))
    effect = quick(lambda *x: fb.update_effect(loss, *x, weights))
    found = along(params, updates, batch)
    for k, s in enumerate(SCALES):
        one = effect(params, jax.tree.map(lambda u, s=s: s * u, updates), batch)
        for name in ("predicted", "actual", "error"):
            mine = jax.tree.map(lambda x, k=k: x[k], getattr(found, name))
            for a, b in zip(mine, getattr(one, name), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_the_best_scale_of_a_quadratic_is_its_minimum(x64):
    """Least squares along its gradient, by the dense Hessian."""
    rng = np.random.default_rng(1)
    X, y = jnp.asarray(rng.normal(size=(40, 3))), jnp.asarray(rng.normal(size=40))
    squared = lambda w, e: 0.5 * (e[0] @ w - e[1]) ** 2  # noqa: E731
    mean = lambda w: jnp.mean(jax.vmap(squared, (None, 0))(w, (X, y)))  # noqa: E731
    w = jnp.ones(3)
    u = -0.01 * jax.grad(mean)(w)
    found = fb.along_update(squared, w, u, (X, y), scales=(1.0,))
    best = -jax.grad(mean)(w) @ u / (u @ jax.hessian(mean)(w) @ u)
    np.testing.assert_allclose(found.best_scale.value, best, rtol=1e-12)
    assert found.best_scale.lower < best < found.best_scale.upper
    for s in (0.9 * best, 1.1 * best):
        assert mean(w + s * u) > mean(w + best * u)


def test_the_interval_of_the_best_scale_covers(x64):
    """Over 400 batches of 30 examples: the true minimum is that of the law of the examples."""
    rng = np.random.default_rng(2)
    u, w = jnp.array([0.1, -0.05]), jnp.zeros(2)
    # x ~ N(0, diag(1, 4)), y = x'(1, -1) + noise: G = -diag(1, 4)(1, -1), H = diag(1, 4).
    best = -(-1 * 0.1 + 4 * -0.05) / (0.1**2 + 4 * 0.05**2)
    squared = lambda w, e: 0.5 * (e[0] @ w - e[1]) ** 2  # noqa: E731

    @jax.jit
    @jax.vmap
    def intervals(x, y):
        found = fb.along_update(squared, w, u, (x, y), scales=(1.0,)).best_scale
        return found.lower, found.upper

    x = rng.normal(size=(400, 30, 2)) * np.array([1.0, 2.0])
    y = x @ np.array([1.0, -1.0]) + rng.normal(size=(400, 30))
    lower, upper = intervals(jnp.asarray(x), jnp.asarray(y))
    share = np.mean((lower <= best) & (best <= upper))
    assert abs(share - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 400)


def test_without_curvature_there_is_no_best_scale():
    params, updates, batch = problem()
    linear = lambda p, e: jnp.sum(p["w"] @ e[0]) + jnp.sum(p["b"])  # noqa: E731
    found = fb.along_update(linear, params, updates, batch)
    assert np.isnan(found.best_scale.value)
    assert found.best_scale.to_dict()["status"] == "unbounded"
    assert "cannot be told from zero" in found.best_scale.explain()


def test_one_example_has_no_error():
    params, updates, batch = problem(1)
    found = fb.along_update(loss, params, updates, batch, scales=(1.0,))
    assert np.isfinite(found.actual.value).all()
    assert found.actual.to_dict()["status"] == ["one example"]
    assert np.isnan(found.actual.lower).all()


def test_bfloat16_and_integer_leaves():
    params, updates, batch = problem()
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, updates))
    with_count = tuple({**tree, "count": jnp.int32(3)} for tree in low)
    found = fb.along_update(loss, *with_count, batch, scales=(1.0,))
    assert np.isfinite(found.actual.value).all()


def test_scales_must_be_a_vector():
    params, updates, batch = problem()
    with pytest.raises(ValueError, match=r"`along_update`: `scales` expected.*update_effect"):
        fb.along_update(loss, params, updates, batch, scales=1.0)
    with pytest.raises(ValueError, match=r"`along_update`: `updates`"):
        fb.along_update(loss, params, {"w": updates["w"]}, batch)


def test_it_prints_and_draws_itself():
    params, updates, batch = problem()
    found = quick(lambda *x: fb.along_update(loss, *x))(params, updates, batch)
    assert "best scale" in str(found)
    assert len(str(found).splitlines()) == 2 + 13 + 2
    assert len(found.to_dict()["predicted"]["value"]) == 13
    figure = found.plot()
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "Change of the loss along the update",
        "Beyond second order",
    ]
    jax.jit(lambda *x: str(fb.along_update(loss, *x)) and x)(params, updates, batch)
