"""The diagnosis: each rule on rows made by hand, each fault in a small run, rows and files."""

import copy
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcbackprop as fb
from funcbackprop import diagnosis
from funcbackprop.diagnosis.spots import places
from funcbackprop.training import Records, batches, fit, init_state, make_step, read_rows

# --- rules, on rows made by hand ---


def vitals_row(step, loss):
    """Two matrices and their biases, healthy."""
    names = ["w1", "b1", "w2", "b2"]
    parts = {
        "name": names,
        "order": [0.0, 1.0, 2.0, 3.0],
        "size": [100, 10, 100, 10],
        "rank": [2, 1, 2, 1],
        "dtype": ["float32"] * 4,
        "gradient": [1.0, 0.1, 1.0, 0.1],
        "weight": [5.0, 1.0, 5.0, 1.0],
        "update": [0.01] * 4,
        **{key: [0.0] * 4 for key in ("still", "lost")},
    }
    spots = [
        {"kind": kind, "source": f"model.py:{k}", "share": 0.05, "size": 1.0}
        for k, kind in enumerate(("relu", "tanh"))
    ]
    return {
        **{"kind": "vitals", "step": step, "loss": loss, "after": 0.96 * loss, "spread": 0.3},
        **{"other": loss, "other_after": 0.965 * loss, "first_order": -0.05 * loss},
        **{"S": 10.0, "G2": 1.0, "grad_norm": 1.5, "examples": 32.0},
        **{"parts": parts, "spots": spots, "state": {"not_finite": 0, "divisor": 1.0}},
    }


def trial(change, loss, **more):
    row = {"kind": "trial", "change": change, "start": 2.3, "loss": loss, "steps": 100, "step": 100}
    return {**row, "finite": True, **more}


def sound():
    """Rows of a healthy run."""
    data = {
        "inputs": {"rms": 1.0, "offset": 0.5, "ratio_of_scales": 2.0, "rows_not_finite": 0},
        "labels": {"classes": 10, "top": 0.1, "entropy": 2.3, "outputs": 1},
        "told": {"how": "", "agree": 0.9, "chance": 0.1, "z": 50.0, "contradicted": 0.005},
    }
    losses = {"none": 0.3, "rate / 4": 0.6, "rate x 4": 0.4, "batch x 4": 0.29}
    return [
        {"kind": "data", "step": 0, "examples": 1000, "batch": 32, "scale_free": False, **data},
        *(vitals_row(step, loss) for step, loss in ((0, 2.3), (1, 2.2), (10, 1.5), (100, 0.3))),
        *(trial(*item) for item in losses.items()),
    ]


def changed(change):
    rows = copy.deepcopy(sound())
    change(rows[0], [r for r in rows if r["kind"] == "vitals"], {r.get("change"): r for r in rows})
    return rows


def fill(**values):
    """Set entries of every row of vitals: `parts__update=(2, 0.0)` the third leaf's."""

    def change(data, vitals, trials):
        for row in vitals:
            for path, value in values.items():
                held = row
                *around, last = path.split("__")
                for key in around:
                    held = held[key]
                if isinstance(value, tuple):
                    held, last, value = held[last], *value
                held[last] = value

    return change


def outcome(**losses):
    """Set the losses of trials."""
    names = {"none": "none", "slow": "rate / 4", "fast": "rate x 4", "more": "batch x 4"}

    def change(data, vitals, trials):
        for name, loss in losses.items():
            trials[names[name]]["loss"] = loss

    return change


def both(*changes):
    return lambda *rows: [change(*rows) for change in changes]


def of_data(**values):
    def change(data, vitals, trials):
        for path, value in values.items():
            part, name = path.split("__")
            data[part][name] = value

    return change


def of_spot(k, **values):
    return lambda data, vitals, trials: [r["spots"][k].update(values) for r in vitals]


def summed(data, vitals, trials):
    vitals[0]["loss"], vitals[0]["spread"] = 32 * 2.4, 20.0


def late_units(data, vitals, trials):
    vitals[-1]["spots"][0]["share"] = 0.9
    trials["none"]["loss"], trials["rate / 4"]["loss"] = 2.4, 0.2
    for row in vitals:
        row["after"] = 3 * row["loss"]


def half(data, vitals, trials):
    for row in vitals:
        row["parts"]["dtype"] = ["bfloat16"] * 4
        row["parts"]["still"] = [0.8] * 4


def underflowing(data, vitals, trials):
    for row in vitals:
        row["parts"]["underflow"] = [0.5, 0, 0, 0]


def stopped(data, vitals, trials):
    for row in trials.values():
        if row.get("kind") == "trial":
            row["finite"] = False
    data["kind"] = "not_finite"
    data["cause"] = "inf arises at model.py:3"


CASES = {
    "rate_too_large": (both(outcome(none=2.4, slow=0.3), fill(after=5.0)), "severe"),
    "rate_too_small": (outcome(none=2.29, fast=1.5), "severe"),
    "noise_dominated": (both(outcome(none=0.6, slow=0.5), fill(other_after=2.3)), "moderate"),
    "update_ratio": (fill(parts__update=(2, 5.0)), "severe"),
    "vanishing": (of_spot(1, size=1e-3), "severe"),
    "exploding": (fill(parts__gradient=(0, 1e3)), "severe"),
    "dead_units": (of_spot(0, share=0.9), "severe"),
    "saturated": (of_spot(1, share=0.9), "severe"),
    "never_changes": (fill(parts__update=(0, 0.0)), "moderate"),
    "loss_summed": (summed, "severe"),
    "labels_constant": (of_data(labels__top=1.0), "severe"),
    "labels_shuffled": (of_data(told__z=0.5, told__agree=0.1), "severe"),
    "inputs_unscaled": (of_data(inputs__rms=1000.0), "severe"),
    "underflow": (underflowing, "severe"),
    "update_lost": (half, "moderate"),
    "optimizer_state": (fill(state__divisor=1e3), "severe"),
    "not_finite": (stopped, "severe"),
}


def test_every_rule_has_a_case():
    assert set(CASES) == set(diagnosis.RULES)


@pytest.mark.parametrize("name", CASES)
def test_a_rule_finds_its_fault_first(name):
    change, grade = CASES[name]
    found = diagnosis.findings(changed(change))
    assert [x.name for x in found.findings][:1] == [name], str(found)
    assert found.findings[0].grade == grade
    assert diagnosis.RULES[name].remedy in str(found)


def test_a_healthy_run_has_no_finding():
    found = diagnosis.findings(sound())
    assert found.findings == ()
    assert found.unknown == ()
    assert str(found) == "Nothing was found."


@pytest.mark.parametrize(
    ("change", "order"),
    [
        (late_units, ["rate_too_large", "dead_units"]),
        (
            both(of_spot(0, share=0.9), outcome(none=2.29, fast=1.5)),
            ["dead_units", "rate_too_small"],
        ),
        (both(of_data(inputs__rms=1e3), of_spot(0, share=0.9)), ["inputs_unscaled", "dead_units"]),
    ],
)
def test_a_cause_stands_before_what_follows_from_it(change, order):
    found = diagnosis.findings(changed(change)).findings
    assert [x.name for x in found if x.name in order] == order
    assert next(x for x in found if x.name == order[1]).explained_by == order[0]


def test_what_is_the_same_in_effect_says_so():
    change = both(summed, outcome(none=2.4, slow=0.3), fill(after=500.0))
    found = {x.name: x for x in diagnosis.findings(changed(change)).findings}
    assert found["loss_summed"].same_as == ("rate_too_large",)
    assert "the same in effect: the learning rate is above" in str(found["loss_summed"])


def test_the_table_is_whole():
    for name, effects in diagnosis.EXPLAINS.items():
        assert {name, *effects} <= set(diagnosis.RULES)
    assert all(group <= set(diagnosis.RULES) for group in diagnosis.SAME)


def test_rows_survive_json_and_order_does_not_matter():
    rows = changed(late_units)
    found = diagnosis.findings(rows)
    again = diagnosis.findings(json.loads(json.dumps(rows[::-1])))
    assert again.findings == found.findings
    assert json.loads(json.dumps(found.to_dict()))["findings"][0]["anchor"].endswith("too-large")


def test_what_is_not_known_is_said():
    found = diagnosis.findings([{"kind": "step", "step": 1, "loss": 1.0}])
    assert found.findings == ()
    assert len(found.unknown) == 3
    assert "funcbackprop.diagnosis.hook" in str(found)


# --- faults in small runs ---

X = np.random.default_rng(0).normal(size=(160, 8)).astype(np.float32)
Y = (X[:, :4].argmax(1)).astype(np.int32)


def network(params, x):
    for w, b in zip(params["w"][:-1], params["b"][:-1], strict=True):
        x = jax.nn.relu(x @ w + b)
    return x @ params["w"][-1] + params["b"][-1]


loss = fb.example_loss(network, fb.losses.cross_entropy)


def start(sizes=(8, 16, 16, 4), scale=1.0, bias=0.0):
    rng = np.random.default_rng(1)
    pairs = list(itertools.pairwise(sizes))
    w = [jnp.asarray(scale * rng.normal(size=p) * (2 / p[0]) ** 0.5, jnp.float32) for p in pairs]
    return {"w": w, "b": [jnp.full(n, bias, jnp.float32) for _, n in pairs]}


def watched(params, optimizer, steps=2, loss=loss):
    """Rows of a plain loop: no trials, no data."""
    look, data = diagnosis.measure(loss, optimizer), batches((X, Y), 40)
    state, rows = optimizer.init(params), []
    for k in range(steps):
        (batch, _), (other, _) = data(k), data(k + 1)
        rows.append(look(params, state, batch, other, k))
        g = jax.grad(lambda p, batch=batch: jnp.mean(jax.vmap(loss, (None, 0))(p, batch)))(params)
        updates, state = optimizer.update(g, state, params)
        params = optax.apply_updates(params, updates)
    return rows


def frozen(params):
    labels = jax.tree.map(lambda x: "rest", params)
    labels["w"][1] = "still"
    parts = {"rest": optax.adam(1e-3), "still": optax.set_to_zero()}
    return optax.multi_transform(parts, labels)


def one_fast(params):
    labels = jax.tree.map(lambda x: "rest", params)
    labels["w"][1] = "fast"
    return optax.multi_transform({"rest": optax.adam(1e-3), "fast": optax.adam(0.3)}, labels)


def blown(params):
    adam = optax.adam(1e-3)

    def init(p):
        first, *rest = adam.init(p)
        return (first._replace(nu=jax.tree.map(lambda x: x + 1.0, first.nu)), *rest)

    return optax.GradientTransformation(init, adam.update)


def in_float16(params, example):
    half = lambda tree: jax.tree.map(  # noqa: E731
        lambda x: x.astype(jnp.float16) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )
    return (loss(half(params), half(example)) / 1000 / 1000).astype(jnp.float32)


def saturating(params, example):
    x, y = example
    hidden = jnp.tanh(x @ params["w"][0])
    return fb.losses.cross_entropy(hidden @ params["w"][1], y)


SGD = lambda params: optax.sgd(0.1)  # noqa: E731
PLANTED = {
    "dead_units": (start(bias=-20.0), SGD, loss),
    "saturated": (start((8, 16, 4), scale=30.0), SGD, saturating),
    "vanishing": (start((8, *[16] * 6, 4), scale=0.2), SGD, loss),
    "exploding": (start((8, *[16] * 6, 4), scale=4.0), lambda p: optax.sgd(1e-9), loss),
    "never_changes": (start(), frozen, loss),
    "update_ratio": (start(), one_fast, loss),
    "optimizer_state": (start(), blown, loss),
    "underflow": (start(), lambda p: optax.adam(1e-3), in_float16),
    "update_lost": (jax.tree.map(lambda x: x.astype(jnp.bfloat16), start()), SGD, loss),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_fault_in_a_plain_loop_is_found(name):
    params, optimizer, of = PLANTED[name]
    rows = watched(params, optimizer(params), loss=of)
    json.dumps(rows, allow_nan=False)
    found = diagnosis.findings(rows)
    assert found.findings[0].name == name, str(found)


def problem(x=X, y=Y, loss=loss, **more):
    return fb.Problem(loss, start(), (x, y), "small", **more)


def broken():
    x = X.copy()
    x[5, 2] = np.nan
    return problem(x)


DIAGNOSED = {
    "rate_too_large": (lambda: problem(), 30.0, 32),
    "rate_too_small": (lambda: problem(), 1e-4, 32),
    "noise_dominated": (lambda: problem(), 0.15, 1),
    "loss_summed": (lambda: problem(loss=lambda p, e: 32 * loss(p, e)), 0.3, 32),
    "labels_constant": (lambda: problem(y=0 * Y), 0.3, 32),
    "labels_shuffled": (lambda: problem(y=np.random.default_rng(0).permutation(Y)), 0.3, 32),
    "inputs_unscaled": (lambda: problem(500 * X), 0.3, 32),
    "not_finite": (broken, 0.3, 32),
}


@pytest.mark.parametrize("name", DIAGNOSED)
def test_a_fault_of_a_problem_is_found(name):
    make, rate, size = DIAGNOSED[name]
    found = fb.diagnose(make(), optimizer=optax.sgd(rate), batch_size=size, steps=30)
    assert found.findings[0].name == name, str(found)
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_cause_of_what_is_not_finite():
    def masked(params, example):
        x, y = example
        each = loss(params, (x, jnp.maximum(y, 0)))
        valid = y >= 0
        return jnp.where(valid, each, 0) / jnp.sum(valid)  # 0/0 where nothing is valid

    found = fb.diagnose(
        problem(y=np.where(np.arange(160) == 7, -1, Y), loss=masked),
        optimizer=optax.sgd(0.3),
        batch_size=32,
        steps=10,
    )
    assert found.findings[0].name == "not_finite"
    said = found.findings[0].evidence
    assert said["examples"] == 1
    assert "NaN arises at `div`" in said["cause"]
    assert "test_diagnosis.py" in said["cause"]
    found = fb.diagnose(broken(), optimizer=optax.sgd(0.3), batch_size=32, steps=10)
    assert "the input of an example is not finite" in str(found)


def test_a_healthy_problem_has_no_severe_finding():
    found = fb.diagnose(problem(), optimizer=optax.sgd(0.3), batch_size=32, steps=60)
    assert found.severe == ()
    assert found.unknown == ()


def test_a_stream_with_keys_and_auxiliary_output():
    def stream(seed, epoch, step):
        rows = np.random.default_rng((seed, step)).integers(0, len(X), 16)
        return X[rows], Y[rows]

    def noisy(params, example):
        (x, y), key = example
        keep = jax.random.bernoulli(key, 0.9, x.shape)
        return loss(params, (x * keep, y)), {"x": x}

    made = fb.Problem(noisy, lambda key: start(), stream, "stream", rng=True, has_aux=True)
    found = fb.diagnose(made, optimizer=optax.sgd(0.3), steps=10)
    assert {r["change"] for r in found.rows if r["kind"] == "trial"} >= {"none", "batch x 4"}


# --- what is measured, against its definition ---


def test_vitals_are_what_they_say():
    params, optimizer = start(bias=-0.5), optax.sgd(0.5)
    batch, other = (X[:40], Y[:40]), (X[40:80], Y[40:80])
    row = diagnosis.measure(loss, optimizer)(params, optimizer.init(params), batch, other, 7)
    mean = lambda p, b: jnp.mean(jax.vmap(loss, (None, 0))(p, b))  # noqa: E731
    g = jax.grad(mean)(params, batch)
    after = jax.tree.map(lambda p, d: p - 0.5 * d, params, g)
    squares = sum(jnp.sum(d * d) for d in jax.tree.leaves(g))
    wanted = {
        "loss": mean(params, batch),
        "after": mean(after, batch),
        "other": mean(params, other),
        "other_after": mean(after, other),
        "first_order": -0.5 * squares,
        "grad_norm": jnp.sqrt(squares),
    }
    for name, value in wanted.items():
        assert row[name] == pytest.approx(float(value), rel=1e-5), name
    assert row["step"] == 7
    assert row["parts"]["order"] == [1, 3, 5, 0, 2, 4]
    hidden = np.maximum(X[:64] @ np.asarray(params["w"][0]) - 0.5, 0)
    assert row["spots"][0]["share"] == pytest.approx(np.mean(~(hidden > 0).any(0)))
    assert "test_diagnosis.py" in row["spots"][0]["source"]


def test_padding_is_not_seen():
    """Rows of weight 0 that hold NaN, in the batch that makes the update and in the other."""
    params, optimizer = start(), optax.sgd(0.5)
    look = diagnosis.measure(loss, optimizer)
    state = optimizer.init(params)
    plain = look(params, state, (X[:40], Y[:40]), (X[40:80], Y[40:80]), 0)
    weights = np.r_[np.ones(40), np.zeros(8)].astype(np.float32)
    padded = [
        (
            np.r_[X[k : k + 40], np.full((8, X.shape[1]), np.nan, X.dtype)],
            np.r_[Y[k : k + 40], Y[:8]],
        )
        for k in (0, 40)
    ]
    found = diagnosis.measure(loss, optimizer)(params, state, *padded, 0, weights, weights)
    for name in ("loss", "after", "other", "other_after", "first_order", "grad_norm", "S", "G2"):
        assert found[name] == pytest.approx(plain[name], rel=1e-4), name
    assert np.isfinite([spot["size"] for spot in found["spots"]]).all()


def test_padding_of_a_problem_is_not_seen():
    """Rows of weight 0 that hold NaN: the same findings, of finite losses, as without them."""
    bad = np.full((40, X.shape[1]), np.nan, X.dtype)
    data = (np.r_[X, bad], np.r_[Y, Y[:40]])
    weights = np.r_[np.ones(len(X)), np.zeros(40)].astype(np.float32)
    padded = fb.Problem(loss, start(), data, "padded", weights=weights)
    found = fb.diagnose(padded, optimizer=optax.sgd(0.1), batch_size=40, steps=10)
    trial = next(row for row in found.rows if row.get("change") == "none")
    assert trial["finite"]
    assert np.isfinite(trial["loss"])
    assert "not_finite" not in {x.name for x in found.findings}


def test_layers_of_a_loop_are_seen_one_by_one():
    def stacked(params, x):
        turn = lambda h, w: (jax.nn.relu(h @ w), None)  # noqa: E731
        return jnp.sum(jax.lax.scan(turn, x, params["w"])[0])

    w = jnp.stack([jnp.eye(3), -jnp.eye(3)])
    x = jnp.abs(jnp.asarray(X[:40, :3]))
    optimizer = optax.sgd(0.1)
    row = diagnosis.measure(stacked, optimizer)({"w": w}, optimizer.init({"w": w}), x, x, 0)
    assert row["parts"]["name"] == ["params['w'][0]", "params['w'][1]"]
    assert [spot["share"] for spot in row["spots"]] == [0.0, 1.0]
    assert [spot["source"][-7:] for spot in row["spots"]] == ["layer 0", "layer 1"]


def test_parameters_that_are_cast_first_are_in_the_order_of_their_layers():
    def cast(params, example):
        halves = jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)
        return loss(halves, example)

    example = (X[0], Y[0])
    plain, mixed = (places(f, start(), example) for f in (loss, cast))
    assert plain.order == mixed.order == (1, 3, 5, 0, 2, 4)


def test_units_of_one_line_are_numbered():
    def net(weights, x):
        for w in weights:
            x = jax.nn.relu(x @ w)
        return jnp.sum(x)

    found = places(net, [jnp.eye(3)] * 2, jnp.ones(3))
    assert [spot.source[-8:] for spot in found.spots] == [", 1 of 2", ", 2 of 2"]


def test_few_examples_say_nothing_of_dead_units():
    optimizer = optax.sgd(0.1)
    batch = (X[:4], Y[:4])
    look = diagnosis.measure(loss, optimizer)
    row = look(start(), optimizer.init(start()), batch, batch, 0)
    assert {spot["share"] for spot in row["spots"]} == {None}


# --- hook and folder ---


def test_the_hook_writes_rows_that_a_folder_is_diagnosed_from(tmp_path):
    optimizer, data = optax.sgd(0.1), batches((X, Y), 40)
    watch = diagnosis.hook(loss, optimizer, data, every=4)
    state = init_state(start(bias=-20.0), optimizer, 0)
    records = Records(tmp_path / "metrics.jsonl")
    fit(make_step(loss, optimizer), state, data, steps=8, hooks=[watch], records=records)
    rows = [r for r in read_rows(tmp_path / "metrics.jsonl") if r["kind"] == "vitals"]
    assert [r["step"] for r in rows] == [0, 4, 8]
    found = fb.diagnose(tmp_path)
    assert found.findings[0].name == "dead_units"
    assert [text.split(":")[0] for text in found.unknown] == [
        "whether another learning rate or batch size would do better",
        "whether inputs and labels are sound",
    ]


def test_of_several_seeds_the_first_is_read(tmp_path):
    rows = [
        {"kind": "step", "step": 1, "loss": loss, "seed": k} for k, loss in ((3, 1.0), (4, None))
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert fb.diagnose(tmp_path).findings == ()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: fb.diagnose(3), TypeError, "`diagnose`: `problem` expected a funcbackprop"),
        (lambda: fb.diagnose("nowhere"), FileNotFoundError, "`diagnose`: there is no nowhere"),
        (lambda: fb.diagnose(problem(), steps=1), ValueError, "`steps` expected at least 2, got 1"),
        (lambda: fb.diagnose(problem(), batch_size=999), ValueError, "expected 1 to 160"),
        (
            lambda: diagnosis.hook(loss, optax.sgd(0.1), iter([])),
            TypeError,
            "`hook`: `data` expected a function of the step",
        ),
        (
            lambda: diagnosis.hook(loss, optax.sgd(0.1), batches((X, Y), 8), every=0),
            ValueError,
            "`hook`: `every` expected a positive integer, got 0",
        ),
    ],
)
def test_errors_say_what_to_do(call, error, text):
    with pytest.raises(error, match=text.replace("(", r"\(")):
        call()
