"""The benchmark: that it runs, what it writes, what it refuses. No time is asserted."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcbackprop import cli
from funcbackprop.bench import variants
from funcbackprop.bench.config import WORKLOADS, BenchConfig
from funcbackprop.bench.measure import compiled, measure
from funcbackprop.bench.result import Report, Spread
from funcbackprop.bench.workloads import LIBRARY, QUICK, Workload, workload

OURS = ["Mean", "Mean + SquaredNorms", "Mean + Variance", "ClippedMean"]


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
    assert list(rows) == list(variants.VARIANTS)
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


def test_growth(capsys):
    options = ["--workloads", "problems:line", "--rounds", 1, "--batch", 20]
    bench("--growth", *options)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["8", "16", "20"]


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
    names = [variants.PLAIN, variants.DEFINITION, *OURS[:3]]
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
