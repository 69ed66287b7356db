"""The benchmark: that it runs, what it writes, what it refuses. No time is asserted."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcbackprop import cli
from funcbackprop.bench import cases, clock, targets, tracking, tune, variants
from funcbackprop.bench.config import WORKLOADS, BenchConfig
from funcbackprop.bench.measure import compiled, measure
from funcbackprop.bench.plans import planned
from funcbackprop.bench.result import Measured, Report, Row, Spread, fits
from funcbackprop.bench.targets import TARGETS, Target
from funcbackprop.bench.workloads import LIBRARY, QUICK, Workload, workload
from funcbackprop.per_example import costs

OURS = ["Mean", "Mean + SquaredNorms", "Mean + Variance", "Mean + Variance(centred)", "ClippedMean"]


@pytest.fixture(autouse=True)
def _problems_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def bench(*arguments, status=0):
    assert cli.main(["bench", *map(str, arguments)]) == status


def positive(x):
    return isinstance(x, float) and 0 < x < math.inf


def test_the_table_and_the_json(tmp_path, capsys):
    path = tmp_path / "bench.json"
    bench("--quick", "--workloads", "mlp", "--rounds", 3, "--json", path)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 110
    assert f"jax {jax.__version__}" in out
    found = json.loads(path.read_text())
    assert set(found) == {"command", "config", "environment", "date", "measured"}
    assert found["config"]["rounds"] == 3
    assert found["environment"]["cores"] >= 1
    (one,) = found["measured"]
    assert (one["name"], one["examples"], one["parameters"]) == ("mlp", 8, 970)
    rows = {row["name"]: row for row in one["rows"]}
    assert list(rows) == list(variants.STANDARD)
    assert "target" not in out
    assert all(row["target"] is None for row in one["rows"])
    for name in [variants.PLAIN, variants.AGAIN, *OURS, variants.DEFINITION]:
        row = rows[name]
        assert name in out or name == variants.PLAIN
        assert row["note"] is None
        assert len(row["time"]["values"]) == 3
        assert row["time"]["lower"] <= row["time"]["median"] <= row["time"]["upper"]
        assert all(map(positive, [*row["time"]["values"], *row["seconds"]["values"]]))
        assert positive(row["memory"])
        assert positive(row["compile"])
    assert set(rows[variants.PLAIN]["time"]["values"]) == {1.0}
    assert [f.name for f in tmp_path.iterdir()] == ["bench.json"]


def test_growth(capsys, tmp_path):
    path = tmp_path / "growth.json"
    options = ["--workloads", "problems:line", "--rounds", 1, "--batch", 20, "--json", path]
    bench("--growth", *options)
    lines = capsys.readouterr().out.splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("---")) + 1
    assert [line.split()[0] for line in lines[start : start + 3]] == ["8", "16", "20"]
    assert [line.split(":")[0] for line in lines[start + 3 :]] == [
        *("plain", "norms", "variance", variants.DEFINITION),
        "all gradients of single examples",
    ]
    assert lines[-1].endswith(": 0.016 kB x B")  # 4 parameters of 4 bytes
    found = json.loads(path.read_text())["fits"]
    assert [fit["name"] for fit in found] == list(variants.GROWTH)


def row_of(name, time=1.0, memory=1.0, megabytes=5, compile=1.0, target=None):
    figures = {"memory": memory, "temporary_bytes": megabytes and int(megabytes * 1e6)}
    spread = time and Spread.of([time])
    rest = {"compile": compile, "compile_seconds": 1.0, "difference": None}
    return Row(name=name, time=spread, seconds=spread, **figures, **rest, target=target)


def measured_of(examples, *rows):
    return Measured("mlp", "MLP", examples, 1000, (row_of("plain"), *rows))


def test_the_line_of_the_temporaries():
    at = [measured_of(b, row_of("a", megabytes=3 + 0.002 * b)) for b in (8, 16, 512)]
    plain, line = fits(at)
    assert str(line) == "a: temporaries 3 MB + 2 kB x B"
    assert (plain.bytes, plain.bytes_per_example) == pytest.approx((5e6, 0), abs=1e-3)
    assert fits(at[:1]) == []
    assert fits(at[:1] * 2) == []
    unknown = [measured_of(b, row_of("a", megabytes=None)) for b in (8, 16)]
    assert [fit.name for fit in fits(unknown)] == ["plain"]


# name -> (figures, which of them are above the target)
ABOVE = {
    "at the target": ({"time": 1.2, "memory": 1.1, "compile": 2.0}, ()),
    "within the noise": ({"time": 1.24}, ()),
    "too slow": ({"time": 1.26}, ("time",)),
    "too large": ({"memory": 1.11}, ("memory",)),
    "too large, in MB": ({"megabytes": 8.1}, ("memory",)),
    "slow to compile": ({"compile": 2.1}, ("compile",)),
    "all of it": ({"time": 2.0, "memory": 2.0, "compile": 3.0}, ("time", "memory", "compile")),
    "not measured": ({"time": None, "memory": None, "megabytes": None, "compile": None}, ()),
}


@pytest.mark.parametrize("name", ABOVE)
def test_what_is_above_its_target(name):
    figures, above = ABOVE[name]
    row = row_of(name, **figures, target=Target(1.2, memory=1.1, megabytes=8))
    assert row.above == above
    assert row_of(name, **figures).above == ()


def test_targets_are_printed_and_marked():
    rows = [
        row_of("Mean", 1.5, compile=3.0, target=Target(1.00)),
        row_of("Mean + Variance", 1.4, memory=1.2, target=Target(1.45, memory=1.1)),
        row_of("Mean + Variance(centred)", 2.01, target=Target(2.0, megabytes=8)),
        row_of("optax micro_grad, 4 at a time", 123.4),
    ]
    config = {"growth": False, "dtype": "float32", "rounds": 1, "quick": False}
    where = {"versions": {"jax": "1"}, "cores": 2, "devices": ["cpu:0"]}
    report = Report(config, where, "2026-01-01", (measured_of(8, *rows),))
    assert "Targets are for 2 cores. Above: t, a time by more than 0.05" in report.head
    lines = str(report.measured[0]).splitlines()
    header = lines[2].split("  ")
    assert [x.strip() for x in header if x] == [
        *("variant", "time", "target", "quartiles", "memory", "MB", "memory target"),
        *("compile", "above"),
    ]
    assert max(map(len, lines)) <= 120
    assert max(map(len, report.head.splitlines())) <= 100
    users = Report({**config, "workloads": ("problems:line",)}, where, "2026-01-01", ())
    assert "Targets" not in users.head
    mean, variance, centred, other = lines[-4:]
    assert mean.endswith("t c")
    assert "1.1" in variance
    assert variance.endswith("m")
    assert "8 MB" in centred
    assert centred.split()[-1] == "1"
    assert other.split()[-1] == "1"
    assert report.to_dict()["measured"][0]["rows"][1]["target"]["time"] == 1.0


def test_targets_name_workloads_and_variants():
    assert set(TARGETS) == set(WORKLOADS)
    assert {name for rows in TARGETS.values() for name in rows} <= set(variants.OURS)
    assert targets.target("mlp", "Gram") == Target(compile=targets.COMPILE)


# Options that make the targets another's.
WITHOUT_TARGETS = [{"batch": 8}, {"quick": True}, {"growth": True}, {"dtype": "bfloat16"}]


@pytest.mark.parametrize("options", WITHOUT_TARGETS, ids=str)
def test_targets_are_for_the_workloads_as_they_are(options):
    assert not BenchConfig(**options).has_targets
    assert BenchConfig(seed=1, rounds=3, all=True).has_targets


def test_the_job_attaches_targets(monkeypatch, tmp_path, capsys):
    from funcbackprop.bench import job

    tiny = lambda *given: workload(given[0], quick=True)  # noqa: E731
    names = (variants.PLAIN, "Mean", "Mean + Variance", variants.DEFINITION)
    monkeypatch.setattr(job, "workload", tiny)
    monkeypatch.setattr(job, "STANDARD", names)
    path = tmp_path / "bench.json"
    bench("--workloads", "mlp", "--rounds", 1, "--json", path)
    out = capsys.readouterr().out
    assert "Targets are for 2 cores" in out
    (one,) = json.loads(path.read_text())["measured"]
    found = {row["name"]: row["target"] and row["target"]["time"] for row in one["rows"]}
    assert found == dict(zip(names, (None, 1.0, 1.45, None), strict=True))


def test_all_of_the_statistics():
    names = [variants.PLAIN, *variants.ON_REQUEST]
    found = measure(workload("mlp", quick=True), names, rounds=1)
    assert found.notes == []
    assert all(row.time is not None for row in found.rows)
    assert all(row.difference is None for row in found.rows[1:])


def test_a_projection_leaves_out_what_has_no_gradient():
    def loss(p, x):
        return p["step"] * jnp.sum(p["w"] * x)

    params, x = {"w": jnp.ones(2), "step": jnp.int32(3)}, jnp.ones((4, 2))
    _, found = variants.VARIANTS["Projection"].make(loss, 4)(params, x)
    np.testing.assert_allclose(found["projection"], 6)


def test_plans_measure_nothing(tmp_path, capsys, monkeypatch):
    from funcbackprop.bench import job

    monkeypatch.delattr(job, "measure")
    path = tmp_path / "plans.json"
    bench("--plan", "--quick", "--workloads", "convnet", "problems:line", "--json", path)
    out = capsys.readouterr().out
    assert "Nothing was measured" in out
    assert "convnet 3x3, 4-8, 8x8x3, B 8\nleaf" in out
    assert "What would have taken longer:\nleaf" in out
    assert "line, B 40" in out
    first, second = json.loads(path.read_text())["plans"]
    assert (first["name"], first["examples"], second["examples"]) == ("convnet", 8, 40)
    leaf = next(leaf for leaf in first["leaves"] if leaf["alternatives"])
    name, flops = leaf["alternatives"][0]
    assert name != leaf["algorithm"]
    assert flops > leaf["flops"]
    assert str(planned(workload("convnet", quick=True))) in out


def test_tune_prints_the_constants(tmp_path, capsys):
    before = {name: getattr(costs, name) for name in vars(costs) if name.isupper()}
    path = tmp_path / "tune.json"
    bench("--tune", "--quick", "--rounds", 2, "--json", path)
    out = capsys.readouterr().out
    assert "every constant keeps its value" in out
    assert max(map(len, out.splitlines())) <= 100
    assert {name: getattr(costs, name) for name in before} == before
    found = {c["name"]: c for c in json.loads(path.read_text())["constants"]}
    assert list(found) == [
        *("ENTRY", "AGAIN", "FUSED", "POSITIONS", "GROUP_BYTES", "GROUP_EXAMPLES", "GROUP_FUSED"),
        *("PATCH_BYTES", "SQUARES"),
    ]
    for name, constant in found.items():
        assert constant["in_use"] == before[name]
        assert all(map(positive, constant["milliseconds"].values()))
        assert f"\n{name}: {constant['how']}"[:60] in out


def test_what_tracking_costs(tmp_path, capsys):
    path = tmp_path / "tracking.json"
    options = ["--tracking", "--quick", "--workloads", "mlp", "--rounds", 2, "--json", path]
    bench(*options)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 110
    (found,) = json.loads(path.read_text())["tracking"]
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == list(tracking.WAYS)
    replicas = rows.pop("2 replicas in shard_map")
    assert replicas["time"] is None
    assert "JAX_NUM_CPU_DEVICES=2 simulates them" in replicas["note"]
    assert replicas["note"] in out
    for name, row in rows.items():
        assert name in out
        assert row["target"] == tracking.WAYS[name].target
        for ratios in ("time", "again", "seconds"):
            assert len(row[ratios]["values"]) == 2
            assert all(map(positive, row[ratios]["values"]))


def test_replicas_are_tracked_on_two_devices():
    """What the benchmark times is a tracker that sees both devices."""
    code = """
import jax
from funcbackprop.bench import tracking
from funcbackprop.bench.workloads import workload
from funcbackprop.noise import tracked_noise
for name in tracking.WAYS:
    loop = tracking.WAYS[name].loop(workload("mlp", quick=True), True)
    state = loop.state
    for _ in range(2 * loop.calls):
        state = loop.step(state, *loop.data)
    noise = tracked_noise(getattr(state, "opt_state", state))
    assert noise.steps == 2 and noise.skipped == 0, name
    # Micro-batches are copies of one batch: S = 0. Examples and replicas differ.
    assert (float(noise.S.value) > 1e-6) == (name[0] in "n2"), name
"""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "NPROC": "32"}
    run = [sys.executable, "-c", code]
    done = subprocess.run(
        run, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_constants_are_put_back():
    before = costs.ENTRY, costs.SQUARES

    def fails():
        with cases.changed(ENTRY=1, SQUARES=2):
            raise KeyError(costs.ENTRY, costs.SQUARES)

    with pytest.raises(KeyError, match="1, 2"):
        fails()
    assert before == (costs.ENTRY, costs.SQUARES)
    with pytest.raises(AttributeError), cases.changed(ENTRY=1, ENTRIES=1):
        pass
    assert before == (costs.ENTRY, costs.SQUARES)


def test_every_candidate_makes_another_program():
    """So many examples at a time, or bytes of patches, as the constants say."""
    product, images = cases.Product(16, 2, 4, 4), cases.Convolution(16, 32, 28, 32)

    def scanned(case, answer, **constants):
        return case.program(answer, **constants).func.as_text().count("while(")

    looped = [scanned(product.case(), cases.variance, GROUP_EXAMPLES=c) for c in (8, 16)]
    assert looped[0] > looped[1]
    looped = [
        scanned(images.case(), cases.contraction, PATCH_BYTES=n * 2**20, GROUP_EXAMPLES=16)
        for n in (8, 64)
    ]
    assert looped[0] > looped[1]


def test_the_formulas_of_the_constants():
    """ENTRY: the entries of one example cost as much as the product if they take twice its time."""
    times = {
        "product, contraction": np.array([1.0, 2.0, 4.0]),
        "product, mean and variance by entries": np.array([2.0, 4.0, 8.0]),
        "product, and norms": np.array([2.5, 5.0, 10.0]),
        "product, norms by products of positions": np.array([1.0, 2.0, 4.0]),
        "one, contraction": np.array([1.0, 1.0, 1.0]),
        "one, centred squares by entries": np.array([4.0, 4.0, 4.0]),
    }
    found = {k: tune._of_ratio(k, r, tune.SIZES, times).here for k, r in tune._RATIOS.items()}
    assert found["ENTRY"] == 2 * 128
    assert found["AGAIN"] == 128
    assert found["FUSED"] == 6
    assert found["POSITIONS"] == 256 * 1024 / (128 * 1280)


# times of 1, 2, ... at a time -> the choice
CHOICES = {
    "the least": ([9, 8, 5, 7, 9], 4),
    "the one in use, if it is as good": ([9, 8, 6.8, 7, 9], 8),
    "the one in use": ([9, 8, 8, 7, 9], 8),
}


@pytest.mark.parametrize("name", CHOICES)
def test_the_candidate_with_the_least_time(name):
    milliseconds, value = CHOICES[name]
    own = zip((1, 2, 4, 8, 16), milliseconds, strict=True)
    times = {f"GROUP_EXAMPLES, {c} at a time": np.full(3, x) for c, x in own}
    choice = tune._CHOICES["GROUP_EXAMPLES"]
    with cases.changed(GROUP_EXAMPLES=8):
        assert tune._of_choice("GROUP_EXAMPLES", choice, tune.SIZES, times).here == value


def test_the_most_positions_at_which_products_are_faster():
    ways = {"by products": lambda t: t**2, "by entries": lambda t: 20}
    times = {
        f"SQUARES, T {t} {way}": np.full(3, x(t))
        for t in (1, 2, 4, 8, 16)
        for way, x in ways.items()
    }
    assert tune._of_squares(tune.SIZES, times).here == 4


def test_a_round_times_everything_once():
    called = []
    calls = {name: (lambda name=name: called.append(name), 2) for name in "ab"}
    times = clock.interleaved(calls, rounds=3, seed=1)
    assert {name: len(x) for name, x in times.items()} == {"a": 3, "b": 3}
    assert sorted(called) == ["a"] * 6 + ["b"] * 6


def test_growth_is_of_the_mlp_by_default():
    config = BenchConfig(growth=True)
    assert config.names == ("mlp",)
    assert config.batches == (8, 16, 32, 64, 128, 256, 512)


@pytest.mark.parametrize("name", ["line", "stream"])
def test_a_users_problem(name, capsys):
    """Fixed arrays; a stream of data with randomness and auxiliary output."""
    bench(f"problems:{name}", "--rounds", 1)
    out = capsys.readouterr().out
    assert f"{name}, B {40 if name == 'line' else 64}, 4 parameters" in out
    assert all(variant in out for variant in OURS)
    assert "Error" not in out


# Nothing but the MLP in the ordinary run: the tests of the statistics hold them to bounds.
FULL = [("convnet", "float32"), ("transformer-remat", "float32"), ("lstm", "bfloat16")]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("mlp", "float32"), *(pytest.param(*case, marks=pytest.mark.full) for case in FULL)],
)
def test_the_variants_agree(name, dtype):
    """Means with the plain gradient and norms with the definition; nothing fails or is left out."""
    names = [variants.PLAIN, variants.DEFINITION, *OURS[:4]]
    found = measure(workload(name, dtype=dtype, quick=True), names, rounds=1)
    assert found.notes == []
    assert all(row.difference is not None for row in found.rows)


def test_a_wrong_result_is_noted(monkeypatch):
    def make(loss, examples):
        return lambda params, batch: jax.tree.map(lambda p: p + 1, params)

    wrong = variants.Variant(make, lambda out: variants.Found(out))
    monkeypatch.setitem(variants.VARIANTS, "wrong", wrong)
    found = measure(workload("mlp", quick=True), [variants.PLAIN, "wrong"], rounds=1)
    assert "wrong: its result differs from the reference by" in str(found)


def test_a_variant_that_fails_or_is_missing_does_not_stop_the_others(monkeypatch):
    def fails(loss, examples):
        raise KeyError("no rule")

    variant = variants.Variant(fails, lambda out: variants.Found())
    monkeypatch.setitem(variants.VARIANTS, "failing", variant)
    monkeypatch.delattr(optax, "microbatching")
    names = [variants.PLAIN, "failing", "optax micro_grad", "Mean"]
    found = measure(workload("mlp", quick=True), names, rounds=2)
    assert found.rows[-1].time is not None
    assert "failing: KeyError: 'no rule'" in found.notes
    assert any("left out: optax" in note for note in found.notes)


def test_what_does_not_fit_in_memory_is_not_run(monkeypatch):
    from funcbackprop.bench import measure as module

    work = Workload(
        "", "", lambda w, x: jnp.sum((x @ w) ** 2), jnp.ones((64, 64)), jnp.ones((8, 64))
    )
    monkeypatch.setattr(module, "_memory", lambda: 64 * 64 * 4 * 4)
    found = measure(work, [variants.PLAIN, variants.DEFINITION], rounds=1)
    assert found.rows[1].time is None
    assert positive(found.rows[1].memory)
    assert "not run: it needs" in found.notes[0]


def test_temporaries_of_norms_do_not_grow_with_the_gradients_of_all_examples():
    """All of them are 4 B P bytes; the factors of an MLP are activations. Nothing is run."""

    def temporaries(name, work):
        f = variants.VARIANTS[name].make(work.loss, work.examples)
        return compiled(f, work.params, work.batch).temporary

    for size in (64, 256):
        work = workload("mlp", size)
        plain, norms = (temporaries(name, work) for name in (variants.PLAIN, OURS[1]))
        if plain is None or norms is None:
            pytest.skip("XLA gives no memory analysis here")
        assert norms < 2 * plain
        assert norms < 4 * size * work.parameters / 50


def test_the_names_of_the_workloads():
    assert set(WORKLOADS) == set(LIBRARY) == set(QUICK)
    assert len({make().title for _, make in LIBRARY.values()}) == len(WORKLOADS)


def test_the_same_seed_gives_the_same_workload():
    a, b, c = (workload("mlp", 2, seed, quick=True) for seed in (3, 3, 4))
    equal = jax.tree.map(np.array_equal, (a.params, a.batch), (b.params, b.batch))
    assert all(jax.tree.leaves(equal))
    assert not np.array_equal(a.batch[0], c.batch[0])


def test_spread():
    assert Spread.of([]) is None
    assert Spread.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0, (4.0, 1.0, 3.0, 2.0, 5.0))


def test_a_report_is_a_library_result():
    report = Report(
        {"growth": False, "dtype": "float32", "rounds": 1, "quick": True},
        {"versions": {"jax": "1"}, "cores": 2, "devices": ["cpu:0"]},
        "2026-01-01",
        (),
    )
    assert report.to_dict()["measured"] == ()
    assert "2 cores, cpu:0, 2026-01-01" in str(report)


# name -> (options, what the one line on standard error says)
REFUSALS = {
    "unknown workload": (["--workloads", "resnet"], "unknown 'resnet'; expected some of mlp"),
    "equal workloads": (["--workloads", "mlp", "mlp"], "--workloads must differ"),
    "growth of two": (["--growth", "--workloads", "mlp", "lstm"], "--growth takes one workload"),
    "growth of all statistics": (["--growth", "--all"], "--growth expects no --all, got both"),
    "plan and growth": (["--plan", "--growth"], "--plan expects no --growth, got both: leave one"),
    "plan of all statistics": (["--plan", "--all"], "--plan expects no --all, got both"),
    "tune and plan": (["--tune", "--plan"], "--tune expects no --plan, got both"),
    "tune and growth": (["--tune", "--growth"], "--tune expects no --growth, got both"),
    "tune and all": (["--tune", "--all"], "--tune expects no --all, got both"),
    "tracking and growth": (["--tracking", "--growth"], "--tracking expects no --growth"),
    "tune of a workload": (["--tune", "--workloads", "mlp"], "--tune expects no --workloads"),
    "tune at a size": (["--tune", "--batch", "8"], "--tune expects no --batch, got both"),
    "tune in bfloat16": (["--tune", "--dtype", "bfloat16"], "got --dtype bfloat16: leave --dtype"),
    "no rounds": (["--rounds", "0"], "--rounds must be at least 1, got 0"),
    "negative seed": (["--seed", "-1"], "--seed must not be negative"),
    "no examples": (["--batch", "0"], "--batch must be at least 1, got 0"),
    "unknown dtype": (["--dtype", "float8"], "unknown 'float8'; expected one of float32"),
    "no folder": (["--json", "nowhere/x.json"], "nowhere/x.json: its folder does not exist"),
    "no such module": (["nowhere:problem"], "--workloads nowhere:problem: cannot import"),
    "no such problem": (["problems:nothing"], "named 'nothing' in problems"),
    "not a problem": (["problems:not_a_problem"], "got int"),
    "a function that needs arguments": (["json:dumps"], "cannot call it"),
    "larger than the data": (["problems:line", "--batch", "99"], "--batch 99 is larger"),
    "data that are no arrays": (
        ["problems:no_arrays"],
        "`Problem`: every leaf",
    ),
    "loss that does not fit the data": (["problems:misfit"], "problems:misfit: "),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name, capsys, tmp_path, monkeypatch):
    options, message = REFUSALS[name]
    monkeypatch.chdir(tmp_path)
    bench(*options, status=2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("funcbackprop: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
