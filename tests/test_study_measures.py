"""What a study measures beside the noise: across mini-batches of several sizes; errors of means."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcbackprop as fb
from funcbackprop.report import sizes
from funcbackprop.report.run import Run
from funcbackprop.study.batch_variance import batch_variance
from funcbackprop.study.measure import Evaluation
from funcbackprop.training import device_mesh, init_state

X = (5 + np.random.default_rng(0).normal(size=(96, 3))).astype(np.float32)
W = jnp.zeros(3)


def loss(w, x):
    """Its gradient is w - x."""
    return 0.5 * jnp.sum((w - x) ** 2)


def state():
    return init_state(W, optax.sgd(0.1), 0)


def test_the_variance_across_mini_batches_against_numpy():
    """96 examples in random order: 32 mini-batches of 3, 16 of 6, 8 of 12, 4 of 24."""
    row = batch_variance(fb.Problem(loss, W, X, "q"), 7, 512)(state())
    kept = np.sort(np.random.default_rng(0).permutation(96)[:512])
    order = np.random.default_rng(7).permutation(96)
    shuffled = X[kept][order].astype(np.float64)
    assert row["examples"] == 96
    assert [x["batch_size"] for x in row["sizes"]] == [3, 6, 12, 24]
    for x in row["sizes"]:
        means = shuffled.reshape(-1, x["batch_size"], 3).mean(1)
        assert x["mini_batches"] == len(means)
        assert x["value"] == pytest.approx(means.var(0, ddof=1).sum(), rel=1e-4)
        assert x["lower"] < x["value"] < x["upper"]


@pytest.mark.parametrize(
    ("examples", "weights"), [(3, None), (96, np.linspace(1, 2, 96, dtype=np.float32))]
)
def test_where_the_law_does_not_hold_nothing_is_measured(examples, weights):
    assert batch_variance(fb.Problem(loss, W, X, "q", weights=weights), 0, examples) is None


def test_padding_is_left_out():
    padded = np.concatenate([X, np.full((32, 3), np.nan, np.float32)])
    weights = np.repeat([1.0, 0.0], [96, 32]).astype(np.float32)
    row = batch_variance(fb.Problem(loss, W, padded, "q", weights=weights), 0, 512)(state())
    assert row["examples"] == 96
    assert all(np.isfinite(x["value"]) for x in row["sizes"])


def test_what_is_not_finite_is_no_number_and_no_warning():
    large = np.full((8, 3), 3e38, np.float32)  # its squares are not finite in float32
    problem = fb.Problem(loss, W, large, "q")
    found = Evaluation(problem, 0, device_mesh())(W)
    assert found["metrics"]["train"]["loss"] == np.inf
    assert found["standard_errors"]["train"]["loss"] is None
    uneven = fb.Problem(loss, W, large * (np.arange(8, dtype=np.float32)[:, None] / 8), "q")
    row = batch_variance(uneven, 0, 8)(state())
    assert [x["value"] for x in row["sizes"]] == [None] * len(row["sizes"])


def test_seen_is_held_against_predicted(tmp_path):
    ends = {"value": 2.0, "lower": 1.5, "upper": 2.5}
    row = {"seed": 0, "step": 0, "sizes": [{"batch_size": 4, "mini_batches": 8, **ends}]}
    noise = {"total": {"S": 6.4, "limits": {"S": [6.0, 6.8]}}}
    measured = {"seed": 0, "step": 0, "noise": noise}
    nothing = {key: [] for key in Run._fields[4:]}
    run = Run(tmp_path, {}, {}, {}, **{**nothing, "measurements": [measured], "sizes": [row]})
    (text,) = sizes.findings(run)
    assert "1.2 to 1.2 times S/B" in text  # 2 over 6.4/4
    assert "1 of 1 intervals hold the prediction" in text
    _, rows, headers = sizes.table(run)
    assert rows == [[0, 4, 8, "1.6 [1.5, 1.7]", "2 [1.5, 2.5]", 1.25]]
    assert len(headers) == len(rows[0])


def test_standard_errors_of_the_metrics():
    found = Evaluation(fb.Problem(loss, W, X, "q", test_data=X[:1]), 0, device_mesh())(W)
    losses = 0.5 * (X.astype(np.float64) ** 2).sum(1)
    assert found["metrics"]["train"]["loss"] == pytest.approx(losses.mean(), rel=1e-6)
    error = losses.std(ddof=1) / np.sqrt(96)
    assert found["standard_errors"]["train"]["loss"] == pytest.approx(error, rel=1e-5)
    assert found["standard_errors"]["test"]["loss"] is None


def test_a_model_without_mistakes_may_still_make_some():
    right = {"accuracy": lambda w, x: jnp.float32(1), "constant": lambda w, x: jnp.float32(7)}
    problem = fb.Problem(loss, W, X, "q", metrics=right)
    errors = Evaluation(problem, 0, device_mesh())(W)["standard_errors"]["train"]
    guess = 98 / 100  # 96 of 96, and two of each kind
    assert errors["accuracy"] == pytest.approx(np.sqrt(guess * (1 - guess) / 100), rel=1e-6)
    assert errors["constant"] == 0
