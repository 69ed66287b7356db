"""What the report says of the next update and of the sharpness, on rows with known answers."""

import json

import jax.numpy as jnp
import optax
import pytest

import funcbackprop as fb
from funcbackprop import report
from funcbackprop.report import diagnosis, effect
from funcbackprop.report.run import read
from funcbackprop.training import Records, fit, init_state, make_step


def estimate(value, half=0.01):
    ends = {"lower": value - half, "upper": value + half}
    return {"value": value, "standard_error": half / 2, **ends, "status": "ok"}


def effect_row(step, first, bend, actual, half=0.01, seed=0):
    numbers = {"first_order": first, "curvature": bend, "predicted": first + bend}
    numbers |= {"actual": actual, "error": actual - first - bend, "share_helped": 0.5}
    layers = {"a": estimate(0.75 * first), "b": estimate(0.25 * first)}
    estimates = {name: estimate(value, half) for name, value in numbers.items()}
    row = {"kind": "update_effect", "seed": seed, "step": step, "data": "test"}
    return {**row, **estimates, "first_order_by_layer": layers}


def sharpness_row(step, value, threshold=100.0, status="ok"):
    row = {"kind": "sharpness", "seed": 0, "step": step, "value": value, "upper": value}
    return {**row, "threshold": threshold, "status": status, "preconditioned": False}


def noise_row(step, squares):
    layers = {name: {"sq_gradient_norm": x} for name, x in squares.items()}
    noise = {"total": {"sq_gradient_norm": sum(squares.values())}, "layers": layers}
    row = {"kind": "measurement", "seed": 0, "step": step, "metrics": {}}
    return {**row, "noise": noise}


@pytest.fixture
def run(tmp_path):
    def of(*rows, **summary):
        for name, content in {"config.json": {}, "summary.json": summary}.items():
            (tmp_path / name).write_text(json.dumps(content))
        lines = (json.dumps(row) + "\n" for row in rows)
        (tmp_path / "metrics.jsonl").write_text("".join(lines))
        return read(tmp_path)

    return of


def test_updates_are_counted_by_what_their_interval_says(run):
    rows = [
        effect_row(0, -0.5, 0.1, -0.38),
        effect_row(10, -0.1, 0.15, 0.05),
        effect_row(20, -0.01, 0.001, -0.009),
    ]
    text = " ".join(effect.effect(run(*rows)))
    assert "At step 0 the next update changes the test loss by -0.38 [-0.39, -0.37]" in text
    assert "second order predicts -0.4." in text
    assert (
        "Of 3 measured updates 1 lowered it and 1 raised it, beyond the error; for 1 these" in text
    )
    assert "off by at most 5.3 % of the change (step 0)" in text
    assert "takes back up to 150 % of the first-order fall (step 10)" in text
    assert "A step for which the prediction fails" not in text


def test_a_prediction_that_fails_is_said_to(run):
    text = " ".join(effect.effect(run(effect_row(0, -0.5, 0.1, -0.2))))
    assert "off by at most 100 % of the change" in text
    assert "is long for this loss" in text


def test_an_effect_that_is_not_finite_says_nothing_wrong(run):
    row = effect_row(0, -0.5, 0.1, -0.38)
    for name in ("first_order", "curvature", "predicted", "actual", "error"):
        row[name] = dict.fromkeys(row[name]) | {"status": "not finite"}
    text = " ".join(effect.effect(run(row)))
    assert "0 lowered it and 0 raised it, beyond the error; for 1 these examples cannot" in text


def test_sharpness_is_held_against_its_threshold(run):
    rows = [
        sharpness_row(0, None, status="preconditioner not positive"),
        sharpness_row(1, 150.0),
        sharpness_row(10, 25.0),
    ]
    text = " ".join(effect.sharpness(run(*rows)))
    assert "The sharpness was 150 at step 1 and 25 at step 10" in text
    assert "At the end it is 0.25 of the threshold, 100." in text
    assert "It lay above at step 1:" in text
    assert "At step 0 there is none: preconditioner not positive" in text
    unknown = " ".join(effect.sharpness(run(sharpness_row(0, 2.0, None))))
    assert "not known for this optimizer" in unknown


def test_shares_are_of_the_sum_of_absolute_values(run):
    found = run(noise_row(0, {"a": 3.0, "b": -1.0}), effect_row(0, -0.5, 0.1, -0.3))
    gradient, fall = effect.shares(found)
    assert gradient == {"a": {0: ([0], [0.75])}, "b": {0: ([0], [-0.25])}}
    assert fall == {"a": {0: ([0], [0.75])}, "b": {0: ([0], [0.25])}}
    text = " ".join(effect.by_layer(found))
    assert "a has 75 % of |G|²." in text
    assert "a has 75 % [73 %, 77 %] of the fall of the loss." in text  # ± 0.01 of 0.5
    rising = run(noise_row(0, {"a": 3.0, "b": 1.0}), effect_row(0, 0.5, 0, 0.5))
    raising = " ".join(effect.by_layer(rising))
    assert "raises the loss by what it changes in a, b" in raising


def test_costs_are_in_updates(run):
    of = {"times": 3, "seconds": 9.0, "seconds_of_one": 2.0, "updates_of_one": 20.0}
    found = run(cost={"seconds_of_update": 0.1, "measurements": {"update_effect": of}})
    rows, headers = effect.costs(found)
    assert rows == [["update effect", 3, 9.0, 2.0, 20.0]]
    assert headers[-1] == "updates of one"


def test_the_diagnosis_is_of_the_first_seed(tmp_path):
    """Rows as a watched run writes them: too long a step, seen by two seeds."""
    w, x = jnp.array([0.0, 0.0]), (jnp.ones((8, 2)), jnp.arange(8.0))
    loss = lambda w, e: 0.5 * (w @ e[0] - e[1]) ** 2  # noqa: E731
    step = make_step(loss, optax.sgd(3.0))
    watch = fb.diagnosis.hook(loss, optax.sgd(3.0), lambda number: (x, None), every=2)
    for seed in (3, 4):
        records = Records(tmp_path / "metrics.jsonl", tags={"seed": seed})
        state = init_state(w, optax.sgd(3.0), seed)
        fit(step, state, lambda number: (x, None), steps=6, hooks=[watch], records=records)
    (tmp_path / "config.json").write_text("{}")
    found = diagnosis.found(read(tmp_path))
    assert found.findings[0].name == "rate_too_large"
    assert all(row["seed"] == 3 for row in found.rows)
    assert "above the stability limit (severe)." in diagnosis.sentences(read(tmp_path))[0]
    _, rows, headers = diagnosis.table(read(tmp_path))
    assert rows[0][headers.index("what to do")].startswith("Divide the learning rate by 4")
    assert rows[0][headers.index("severity")] == "severe, 2"
    page = report.write(tmp_path).read_text()
    assert "What training suffers from" in page
    assert "first: the learning rate is above the stability limit" in page
    assert "<details open>" in page
    assert "Divide the learning rate by 4" in report.table(tmp_path)


def test_a_run_that_was_not_watched_says_how_to(run):
    found = run(sharpness_row(0, 2.0))
    assert "`--diagnose`" in diagnosis.no_diagnosis(found)
    assert diagnosis.found(found) is None
    assert diagnosis.sentences(found) == []


def test_of_several_seeds_the_sentences_say_whose_numbers_they_quote(run):
    first = [sharpness_row(1, 50.0), sharpness_row(9, 150.0)]
    second = [{**sharpness_row(9, 900.0), "seed": 1}]
    effects = [effect_row(0, -0.5, 0.1, -0.4), effect_row(0, -0.7, 0.1, -0.6, seed=1)]
    measured = [{**noise_row(0, {"a": 1.0}), "seed": seed} for seed in (0, 1)]
    found = run(*measured, *first, *second, *effects)
    text = " ".join(effect.sharpness(found))
    assert text.startswith("The sharpness of seed 0 was 50 at step 1 and 150 at step 9.")
    assert "At the end it is 1.5 of the threshold" in text
    assert "It lay above at step 9:" in text
    assert effect.effect(found)[0].startswith("At step 0 of seed 0 the next update changes the")
