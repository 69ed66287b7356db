"""Hooks that measure on the way: the same numbers as measured by hand, and nothing else changed."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcbackprop as fb
from funcbackprop.training import (
    Measurement,
    Records,
    TrainState,
    batches,
    effect_of_next_update,
    fit,
    init_state,
    make_step,
    next_update,
    read_rows,
    sharpness_against_threshold,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype(np.float32)
Y = (X @ np.array([1.0, 2.0, -1.0], np.float32)).astype(np.float32)
TRAIN, OTHER = (X[:30], Y[:30]), (X[30:], Y[30:])
PARAMS = {"w": jnp.zeros(3), "b": jnp.zeros(())}


def loss(p, example):
    x, y = example
    return 0.5 * (x @ p["w"] + p["b"] - y) ** 2


def training(optimizer, hooks=(), steps=6, records=None, params=PARAMS):
    data = batches(TRAIN, 8, seed=0)
    step = make_step(loss, optimizer)
    given = [make(step, data) for make in hooks]
    state = init_state(params, optimizer, 0)
    return fit(step, state, data, steps=steps, hooks=given, records=records)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.adam(0.05)], ids=["sgd", "adam"])
def test_the_effect_is_that_of_the_update_that_comes(optimizer, tmp_path):
    """At each measured step: the parameters of the next step less those of this one."""
    records = Records(tmp_path / "metrics.jsonl")
    hook = lambda step, data: Measurement(  # noqa: E731
        "update_effect", 2, effect_of_next_update(step, data, loss, OTHER)
    )
    training(optimizer, [hook], records=records)
    rows = [r for r in read_rows(records.path) if r["kind"] == "update_effect"]
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    for row in rows:
        before, after = (
            training(optimizer, steps=k).params for k in (row["step"], row["step"] + 1)
        )
        updates = jax.tree.map(jnp.subtract, after, before)
        expected = fb.update_effect(loss, before, updates, OTHER).to_dict()
        for name in ("predicted", "actual"):
            np.testing.assert_allclose(row[name]["value"], expected[name]["value"], rtol=1e-4)
        assert "of_examples" not in row
        assert set(row["first_order_by_layer"]) == {"b", "w"}


def test_measuring_changes_nothing():
    """Not a bit of what is trained, though the step gives its state's memory away."""
    makers = [
        lambda s, d: Measurement("effect", 1, effect_of_next_update(s, d, loss, OTHER)),
        lambda s, d: Measurement("sharpness", [0, 3], sharpness_against_threshold(loss, TRAIN)),
    ]
    plain, measured = training(optax.adam(0.05)), training(optax.adam(0.05), makers)
    chex.assert_trees_all_equal(plain.params, measured.params)
    chex.assert_trees_all_equal(plain.opt_state, measured.opt_state)


def test_an_update_of_leaves_that_are_fixed_is_none():
    params = {**PARAMS, "count": jnp.int32(3), "key": jax.random.key(0)}
    free = lambda p, e: loss({k: p[k] for k in ("w", "b")}, e)  # noqa: E731
    kept = {k: v for k, v in params.items() if k in ("w", "b")}
    step = make_step(loss, optax.sgd(0.1))
    found = next_update(step, init_state(kept, optax.sgd(0.1), 0), TRAIN)
    G = jax.grad(lambda p: jnp.mean(jax.vmap(loss, (None, 0))(p, TRAIN)))(kept)
    chex.assert_trees_all_close(found, jax.tree.map(lambda g: -0.1 * g, G), rtol=1e-5)

    def own_step(state, batch, weights):  # of another library, with a count and a key in its params
        del weights
        moved = {k: state.params[k] - 0.1 * G[k] for k in G}
        return state._replace(params={**state.params, **moved, "count": jnp.int32(4)}), {}

    state = TrainState(params, (), jnp.int32(0), jax.random.key(0))
    found = next_update(own_step, state, TRAIN)
    assert found["count"] is None
    assert found["key"] is None
    effect = fb.update_effect(free, params, found, OTHER)
    assert float(effect.first_order.value) < 0


def test_sharpness_and_its_threshold():
    """Least squares: the Hessian is that of the inputs; for Adam it is preconditioned."""
    inputs = np.concatenate([np.ones((30, 1)), TRAIN[0]], 1)
    H = inputs.T @ inputs / 30
    state = training(optax.sgd(0.1))
    row = sharpness_against_threshold(loss, TRAIN, learning_rate=0.1, momentum=0.9)(state)
    np.testing.assert_allclose(row["value"], np.linalg.eigvalsh(H)[-1], rtol=1e-4)
    np.testing.assert_allclose(row["threshold"], 38)
    state = training(optax.adam(0.05))
    row = sharpness_against_threshold(loss, TRAIN, learning_rate=0.05, adam_b1=0.9)(state)
    D = fb.curvature.preconditioner_of(state.opt_state)
    root = np.sqrt(np.concatenate([np.ravel(D["b"]), D["w"]]))
    expected = np.linalg.eigvalsh(H / np.outer(root, root))[-1]
    np.testing.assert_allclose(row["value"], expected, rtol=1e-4)
    np.testing.assert_allclose(row["threshold"], 3.8 / (0.1 * 0.05), rtol=1e-6)
    assert row["preconditioned"] is True
    assert sharpness_against_threshold(loss, TRAIN)(state)["threshold"] is None


def test_when():
    hook = Measurement("m", [1, 4], lambda state: {"x": 1})
    state = init_state(PARAMS, optax.sgd(0.1), 0)
    assert [k for k in range(6) if hook(k, state, {}) is not None] == [1, 4]
    assert len(hook.seconds) == 2
    with pytest.raises(ValueError, match=r"`Measurement`: `when` expected a positive integer"):
        Measurement("m", 0, lambda state: {})
