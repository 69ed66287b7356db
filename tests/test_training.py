"""The step, the loop, records and checkpoints: micro-batches and interruptions change nothing."""

import json
import os

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcbackprop as fb
from funcbackprop.files import write_text
from funcbackprop.training import (
    Checkpoints,
    NonFiniteLoss,
    Records,
    TrainState,
    batches,
    device_mesh,
    fit,
    init_state,
    make_step,
    read_rows,
    replicate,
    shard_batches,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 3)).astype(np.float32)
Y = (X @ np.array([[1.0], [2.0], [-1.0]], np.float32)).astype(np.float32)
PARAMS = {"w": jnp.zeros((3, 1)), "b": jnp.zeros(1)}
OPTIMIZER = optax.adam(0.05)


def loss(p, example):
    x, y = example
    return jnp.sum((x @ p["w"] + p["b"] - y) ** 2)


def noisy_loss(p, example):
    (x, y), key = example
    return loss(p, (x * jax.random.bernoulli(key, 0.5, x.shape), y))


def one_step(loss=loss, batch=(X[:12], Y[:12]), weights=None, optimizer=OPTIMIZER, **options):
    step = make_step(loss, optimizer, **options)
    return step(init_state(PARAMS, optimizer, 0), batch, weights)


@pytest.mark.core
def test_step_is_value_and_grad_and_optax():
    def mean_loss(p):
        return jnp.mean(jax.vmap(loss, (None, 0))(p, (X[:12], Y[:12])))

    value, grads = jax.value_and_grad(mean_loss)(PARAMS)
    updates, opt_state = OPTIMIZER.update(grads, OPTIMIZER.init(PARAMS), PARAMS)
    state, metrics = one_step()
    chex.assert_trees_all_close(state.params, optax.apply_updates(PARAMS, updates), rtol=1e-5)
    chex.assert_trees_all_close(state.opt_state, opt_state, rtol=1e-5)
    chex.assert_trees_all_close(metrics, {"loss": value, "grad_norm": optax.tree.norm(grads)})
    assert int(state.step) == 1


WEIGHTS = np.array([1, 0, 2, 1, 0, 0, 0, 0, 1, 3, 0.5, 1], np.float32)


@pytest.mark.parametrize("micro_batches", [1, 2, 3, 12])
@pytest.mark.parametrize("stats", [None, {"v": fb.Variance(), "n": fb.SquaredNorms()}])
@pytest.mark.parametrize("options", ["plain", "weights", "rng", "jit=False"])
def test_results_do_not_depend_on_micro_batches(micro_batches, stats, options):
    """Weights with NaN in the padding, of which one micro-batch of 3 has nothing else."""
    arguments = {}
    if options == "weights":
        x = np.where(WEIGHTS[:, None] > 0, X[:12], np.nan)
        arguments = {"batch": (x, Y[:12]), "weights": WEIGHTS}
    if options == "rng":
        arguments = {"loss": noisy_loss, "rng": True}
    if options == "jit=False":
        arguments = {"jit": False, "donate": False}
    state, metrics = one_step(stats=stats, micro_batches=micro_batches, **arguments)
    expected, expected_metrics = one_step(stats=stats, **arguments)
    chex.assert_tree_all_finite(state.params)
    chex.assert_trees_all_close(state.params, expected.params, rtol=1e-4)
    chex.assert_trees_all_close(metrics, expected_metrics, rtol=1e-4)


def test_statistics_and_plain_gradients_take_the_same_step():
    plain, _ = one_step()
    measured, metrics = one_step(stats={"inner": fb.InnerWithMean(), "v": fb.Variance()})
    chex.assert_trees_all_close(plain.params, measured.params, rtol=1e-5)
    chex.assert_shape(metrics["statistics"]["inner"]["w"], (12,))


def test_aux_comes_back_per_example():
    def with_aux(p, example):
        return loss(p, example), {"x0": example[0][0]}

    for micro_batches in (1, 4):
        _, metrics = one_step(with_aux, has_aux=True, micro_batches=micro_batches)
        chex.assert_trees_all_equal(metrics["aux"]["x0"], X[:12, 0])


def test_random_keys_change_with_the_step_and_the_seed():
    step = make_step(noisy_loss, optax.sgd(0.0), rng=True, donate=False)
    first = init_state(PARAMS, optax.sgd(0.0), 0)
    second = first._replace(step=first.step + 1)
    other = init_state(PARAMS, optax.sgd(0.0), 1)
    batch = (X[:12], Y[:12])
    params = {"w": jnp.ones((3, 1)), "b": jnp.zeros(1)}
    losses = {
        float(step(s._replace(params=params), batch)[1]["loss"]) for s in (first, second, other)
    }
    assert len(losses) == 3


@pytest.mark.parametrize("on_a_mesh", [False, True])
def test_one_trace_for_all_steps(on_a_mesh):
    """Also of one device: the first state must have the type of those that steps return."""
    chex.clear_trace_counter()
    counted = chex.assert_max_traces(lambda p, e: loss(p, e), n=1)
    step = make_step(counted, OPTIMIZER)
    state = init_state(PARAMS, OPTIMIZER, 0)
    feed = batches((X, Y), 10)
    if on_a_mesh:
        mesh = device_mesh()
        state, feed = replicate(state, mesh), shard_batches(feed, mesh)
    for number in range(3):
        state, _ = step(state, *feed(number))
    assert int(state.step) == 3


def test_the_callers_parameters_survive_donation():
    params = {"w": jnp.zeros((3, 1)), "b": jnp.zeros(1)}
    step = make_step(loss, OPTIMIZER)
    step(init_state(params, OPTIMIZER, 0), (X, Y))
    assert float(params["w"].sum()) == 0.0


def test_optimizers_that_want_the_loss_get_it():
    optimizer = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1))
    step = make_step(loss, optimizer)
    state, _ = step(init_state(PARAMS, optimizer, 0), (X, Y))
    assert int(state.step) == 1


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.lbfgs(),
        optax.lbfgs(0.1, linesearch=None),
        optax.contrib.prodigy(),
        optax.contrib.dog(1.0),
        optax.MultiSteps(optax.adam(0.1), 2),
        optax.contrib.schedule_free_adamw(0.1),
    ],
    ids=["lbfgs", "lbfgs, no line search", "prodigy", "dog", "MultiSteps", "schedule free"],
)
def test_unusual_optimizers(optimizer):
    step = make_step(loss, optimizer)
    state = init_state(PARAMS, optimizer, 0)
    for _ in range(4):
        state, metrics = step(state, (X, Y))
    assert np.isfinite(float(metrics["loss"]))


def test_aux_of_padding_is_zero_with_and_without_statistics():
    def with_aux(p, example):
        return loss(p, example), example[1][0] + 1

    for stats in (None, fb.Mean()):
        _, metrics = one_step(with_aux, weights=WEIGHTS, has_aux=True, stats=stats)
        np.testing.assert_array_equal(np.asarray(metrics["aux"]) == 0, WEIGHTS == 0)


def test_gradient_norm_of_float16_parameters_does_not_overflow():
    params = jnp.zeros(4, jnp.float16)
    step = make_step(lambda p, x: jnp.sum(p * x), optax.sgd(0.1))
    _, metrics = step(init_state(params, optax.sgd(0.1), 0), jnp.full((2, 4), 300.0, jnp.float16))
    assert float(metrics["grad_norm"]) == pytest.approx(600)


STEP_ERRORS = {
    "not divisible": (
        {"micro_batches": 5},
        ValueError,
        "micro_batches=5 must divide the batch, which has 12",
    ),
    "not positive": ({"micro_batches": 0}, ValueError, "`micro_batches` must be a positive"),
    "needs the mean": (
        {"micro_batches": 2, "stats": [fb.SquaredDeviations(), fb.Gram()]},
        ValueError,
        "SquaredDeviations, Gram must see the whole batch at once, which micro_batches=2",
    ),
    "not an optimizer": ({"jit": False, "optimizer": 3}, TypeError, "must be an optax transform"),
    "weights": ({"weights": np.ones(3)}, ValueError, r"`weights` must have shape \(12,\)"),
}


@pytest.mark.parametrize("name", STEP_ERRORS)
def test_step_errors(name):
    arguments, kind, message = STEP_ERRORS[name]
    with pytest.raises(kind, match=message):
        one_step(**arguments)


# --- fit -----------------------------------------------------------------------------------------


def run(folder, steps, hooks=(), every=4, seed=0):
    """30 examples in batches of 8: every epoch ends with a padded batch."""
    step = make_step(noisy_loss, OPTIMIZER, rng=True)
    records = Records(folder / "metrics.jsonl", tags={"seed": seed})
    checkpoint = Checkpoints(folder / "checkpoints", every=every)
    state = init_state(PARAMS, OPTIMIZER, seed)
    data = batches((X, Y), 8, seed=seed)
    return fit(
        *(step, state, data),
        steps=steps,
        hooks=hooks,
        checkpoint=checkpoint,
        records=records,
        in_flight=3,
    )


def stop_at(number):
    def hook(step, state, metrics):
        if step == number:
            raise KeyboardInterrupt

    return hook


def measure(step, state, metrics):
    return {"kind": "measurement", "w": float(state.params["w"].sum())} if step % 5 == 0 else None


@pytest.mark.core
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = run(tmp_path / "a", 14, [measure])
    for stop in (2, 6, 13):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "b", 14, [measure, stop_at(stop)])
        with (tmp_path / "b/metrics.jsonl").open("a") as file:
            file.write('{"kind": "step", "st')  # a line torn by a kill
    resumed = run(tmp_path / "b", 14, [measure])
    chex.assert_trees_all_equal(whole.params, resumed.params)
    chex.assert_trees_all_equal(whole.opt_state, resumed.opt_state)
    assert (tmp_path / "a/metrics.jsonl").read_text() == (tmp_path / "b/metrics.jsonl").read_text()
    rows = list(read_rows(tmp_path / "b/metrics.jsonl"))
    assert [r["step"] for r in rows if r["kind"] == "step"] == list(range(1, 15))
    assert [r["step"] for r in rows if r["kind"] == "measurement"] == [0, 5, 10]
    assert [r["step"] for r in rows] == sorted(r["step"] for r in rows)


def test_rows_of_other_runs_in_the_file_stay(tmp_path):
    run(tmp_path, 4, seed=0)
    (tmp_path / "checkpoints").rename(tmp_path / "checkpoints-0")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 4, [stop_at(2)], seed=1)
    run(tmp_path, 4, seed=1)
    rows = list(read_rows(tmp_path / "metrics.jsonl"))
    assert [(r["seed"], r["step"]) for r in rows] == [(s, i) for s in (0, 1) for i in range(1, 5)]


def test_resume_continues_to_a_later_step(tmp_path):
    run(tmp_path, 5)
    state = run(tmp_path, 9)
    assert isinstance(state, TrainState)
    assert int(state.step) == 9
    chex.assert_trees_all_equal(state.key, jax.random.key(0))
    assert len(list(read_rows(tmp_path / "metrics.jsonl"))) == 9


def test_loss_that_is_not_finite_stops_at_its_first_step(tmp_path):
    def data(number):
        x = X[:4] * (np.nan if number == 5 else 1)
        return (x, Y[:4]), None

    step = make_step(loss, OPTIMIZER)
    records = Records(tmp_path / "metrics.jsonl")
    with pytest.raises(NonFiniteLoss, match=r"the loss is nan at step 6\. Lower") as error:
        fit(step, init_state(PARAMS, OPTIMIZER, 0), data, steps=50, records=records)
    assert error.value.step == 6
    rows = list(read_rows(tmp_path / "metrics.jsonl"))
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["loss"] is None


def test_an_iterable_is_followed_to_its_end():
    step = make_step(loss, OPTIMIZER)
    data = (((X[:4], Y[:4]), None) for _ in range(3))
    state = fit(step, init_state(PARAMS, OPTIMIZER, 0), data, steps=10)
    assert int(state.step) == 3


def test_iterable_with_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`data` must be a function of the step"):
        fit(None, None, [], steps=1, checkpoint=Checkpoints(tmp_path))


def test_data_of_the_wrong_form():
    step = make_step(loss, OPTIMIZER)
    wrong = {
        "must give pairs .*got ndarray at step 0": lambda number: X,
        r"of shape \(30, 1\) in place of the weights": lambda number: (X, Y),
    }
    for message, data in wrong.items():
        with pytest.raises(TypeError, match=message):
            fit(step, init_state(PARAMS, OPTIMIZER, 0), data, steps=1)


def test_a_stop_iteration_inside_a_data_function_is_not_the_end():
    def data(number):
        raise StopIteration

    with pytest.raises(StopIteration):
        fit(make_step(loss, OPTIMIZER), init_state(PARAMS, OPTIMIZER, 0), data, steps=1)


def test_rows_are_never_repeated_without_a_checkpoint(tmp_path):
    path = tmp_path / "m.jsonl"
    data = batches((X, Y), 10)
    step = make_step(loss, OPTIMIZER)
    state = fit(*(step, init_state(PARAMS, OPTIMIZER, 0), data), steps=2, records=Records(path))
    path.write_text(path.read_text() + '{"kind": "st')  # a line torn by a kill
    fit(step, state, data, steps=4, records=Records(path))
    assert [row["step"] for row in read_rows(path)] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="already has rows up to step 4"):
        fit(step, init_state(PARAMS, OPTIMIZER, 0), data, steps=2, records=Records(path))


def test_checkpoint_of_another_optimizer(tmp_path):
    checkpoint = Checkpoints(tmp_path)
    checkpoint.save(1, init_state(PARAMS, optax.adam(0.1), 0))
    with pytest.raises(ValueError, match="does not fit this training state"):
        checkpoint.restore(init_state(PARAMS, optax.sgd(0.1), 0))
    checkpoint.close()


@pytest.mark.parametrize("options", [{"steps": -1}, {"steps": 1, "in_flight": 0}])
def test_fit_arguments(options):
    with pytest.raises(ValueError, match="`steps` must not be negative and `in_flight`"):
        fit(None, None, [], **options)


def test_checkpoint_arguments(tmp_path):
    with pytest.raises(ValueError, match="`every` must be a positive integer, got 0"):
        Checkpoints(tmp_path, every=0)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lion", "adafactor", "lamb"])
def test_optimizer_states_and_typed_keys_come_back(tmp_path, optimizer):
    optimizer = getattr(optax, optimizer)(1e-2)
    params = {"a": [jnp.ones((2, 3), jnp.bfloat16)], "b": jnp.float32(2), "c": jnp.ones((0, 3))}
    state = init_state(params, optimizer, 7)
    checkpoint = Checkpoints(tmp_path)
    assert checkpoint.restore(state) is None
    checkpoint.save(3, state)
    restored = checkpoint.restore(init_state(params, optimizer, 8))
    checkpoint.close()
    chex.assert_trees_all_equal(restored, state)
    chex.assert_trees_all_equal_dtypes(restored, state)


# --- records -------------------------------------------------------------------------------------


def test_rows_are_strict_json(tmp_path):
    with Records(tmp_path / "m.jsonl") as records:
        records.append(
            {"step": 1, "loss": float("nan"), "x": jnp.array([1.0, np.inf]), "n": np.int64(3)}
        )
    assert json.loads((tmp_path / "m.jsonl").read_text()) == {
        "step": 1,
        "loss": None,
        "x": [1.0, None],
        "n": 3,
    }


def test_tensorboard_events(tmp_path):
    with Records(tmp_path / "m.jsonl", tensorboard=tmp_path / "events") as records:
        records.append({"kind": "step", "step": 1, "loss": 0.5, "noise": {"S": 2.0}})
    events = [f for f in os.listdir(tmp_path / "events") if "tfevents" in f]
    assert len(events) == 1
    content = (tmp_path / "events" / events[0]).read_bytes()
    assert b"noise/S" in content
    assert b"loss" in content


def test_write_text_leaves_the_old_file_when_it_fails(tmp_path):
    write_text(tmp_path / "a.json", "old")
    with pytest.raises(TypeError):
        write_text(tmp_path / "a.json", None)
    assert os.listdir(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("padded", [False, True])
def test_statistics_reach_the_optimizer(micro_batches, padded):
    """The tracker finds what it finds when it is given the norms by hand."""
    loss = lambda w, x: 0.5 * jnp.sum((w - x) ** 2)  # noqa: E731
    optimizer = optax.chain(fb.noise.track(), optax.sgd(0.1))
    step = make_step(
        loss,
        optimizer,
        update_with={"sq_norms": fb.SquaredNorms()},
        micro_batches=micro_batches,
    )
    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    weights = np.repeat(np.float32([1, 0]), [9, 3]) if padded else None
    state, _ = step(init_state(jnp.ones(3), optimizer, 0), x, weights)
    found = fb.noise.tracked_noise(state.opt_state).recent
    S = x[:9].var(0, ddof=1).sum() if padded else x.var(0, ddof=1).sum()
    assert float(found.S) == pytest.approx(S, rel=1e-5)


def test_statistics_for_the_optimizer_need_the_whole_batch():
    with pytest.raises(ValueError, match="InnerWithMean must see the whole batch"):
        make_step(
            lambda w, x: jnp.sum(w * x),
            optax.sgd(0.1),
            update_with={"inner": fb.InnerWithMean()},
            micro_batches=2,
        )
