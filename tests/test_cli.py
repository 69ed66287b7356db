"""The command line: runs, resumes, refusals."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from funcbackprop import cli
from funcbackprop.training import Records, read_rows

FILES = {"config.json", "metadata.json", "metrics.jsonl", "summary.json", "report.html"}
QUICK = ["--steps", "4", "--batch-size", "8", "--measure-examples", "8", "--measurements", "2"]
QUICK += ["--sharpness-examples", "8"]
TRAIN = ["--steps", "4", "--batch-size", "8"]


@pytest.fixture(autouse=True)
def _problems_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def run(*arguments, status=0):
    assert cli.main([str(a) for a in arguments]) == status


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_help_is_fast_and_loads_no_jax():
    code = (
        "import sys\nfrom funcbackprop import cli\n"
        "try: cli.main(['study', '--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "assert not {'jax', 'optax', 'matplotlib'} & set(sys.modules)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--learning-rate" in done.stdout
    assert (
        time.perf_counter() - start < 5
    )  # 0.3 s on an idle machine; the assertion above is the test


MODELS = {
    "mlp": ["--model", "mlp"],
    "convnet": ["--model", "convnet"],
    "lstm": ["--model", "lstm", "--data", "text", "--length", "8"],
    "transformer": ["--model", "transformer", "--length", "8"],
}


@pytest.fixture
def small_text(tmp_path):
    path = tmp_path / "small.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    return path


def test_train_the_convnet(tmp_path):
    run("train", *MODELS["convnet"], *TRAIN, "--out", tmp_path, "--name", "x")
    rows = list(read_rows(tmp_path / "x/metrics.jsonl"))
    assert [r["step"] for r in rows if r["kind"] == "step"] == [1, 2, 3, 4]
    assert summary(tmp_path / "x")["outcome"] == "completed"


@pytest.mark.parametrize("model", [name for name in MODELS if name != "convnet"])
def test_study_of_models(model, tmp_path, small_text, capsys):
    options = [small_text if x == "text" else x for x in MODELS[model]]
    if model == "transformer":
        options += ["--data", small_text]
    run("study", *options, *QUICK, "--out", tmp_path / "runs", "--name", "x")
    folder = tmp_path / "runs/x"
    assert {f.name for f in folder.iterdir()} == FILES | {"plots", "checkpoints"}
    rows = list(read_rows(folder / "metrics.jsonl"))
    assert [r["step"] for r in rows if r["kind"] == "step"] == [1, 2, 3, 4]
    assert [r["step"] for r in rows if r["kind"] == "measurement"] == [0, 1, 4]
    checks = [r for r in rows if r["kind"] == "gradient_check"]
    assert [r["step"] for r in checks] == [0, 2, 4]
    assert all(r["ok"] for r in checks), checks
    for row in rows:
        if row["kind"] == "measurement":
            total = row["noise"]["total"]
            layers = row["noise"]["layers"].values()
            assert total["S"] == pytest.approx(sum(x["S"] for x in layers), rel=1e-4)
            assert total["batch_variance"] == pytest.approx(total["S"] / 8)
            assert set(row["metrics"]) == set(row["standard_errors"]) == {"train", "test"}
            for entry in (total, *row["noise"]["layers"].values()):
                for key in ("S", "sq_gradient_norm"):
                    low, high = entry["limits"][key]
                    assert low < entry[key] < high
    sizes = [r for r in rows if r["kind"] == "batch_variance"]
    assert [r["step"] for r in sizes] == [0, 1, 4]
    assert [x["batch_size"] for x in sizes[0]["sizes"]] == [1, 2]
    effects = [r for r in rows if r["kind"] == "update_effect"]
    assert [r["step"] for r in effects] == [0, 1, 4]
    for row in effects:
        layers = [x["value"] for x in row["first_order_by_layer"].values()]
        assert row["first_order"]["value"] == pytest.approx(sum(layers), rel=1e-3, abs=1e-6)
        assert abs(row["error"]["value"]) < 0.5 * abs(row["first_order"]["value"])
    sharp = [r for r in rows if r["kind"] == "sharpness"]
    assert [r["status"] == "ok" for r in sharp] == [False, True, True]  # Adam has taken no step
    assert all(r["threshold"] == pytest.approx(38 / 1e-3) for r in sharp)
    assert summary(folder)["outcome"] == "completed"
    cost = summary(folder)["cost"]
    assert cost["seconds_of_update"] > 0
    assert cost["measurements"]["sharpness"]["times"] == 3
    assert str(folder / "report.html") in capsys.readouterr().out


# What the gradient of a user's problem is held against, beside the chain rule.
REFERENCES = {"line": "gradient_by_hand and chain_rule"}


@pytest.mark.parametrize("name", ["line", "bare", "stream"])
def test_study_of_a_users_problem(name, tmp_path):
    run("study", f"problems:{name}", *QUICK, "--out", tmp_path)
    rows = list(read_rows(tmp_path / name / "metrics.jsonl"))
    checks = [r for r in rows if r["kind"] == "gradient_check"]
    measured = [r for r in rows if r["kind"] == "measurement"]
    assert all(r["ok"] for r in checks)
    assert {r["reference"] for r in checks} == {REFERENCES.get(name, "chain_rule")}
    if name == "line":
        assert list(measured[0]["noise"]["layers"]) == ["all"]
        assert set(measured[0]["metrics"]["test"]) == {"loss", "absolute error"}


def test_several_seeds(tmp_path):
    run("study", "problems:line", *QUICK, "--out", tmp_path, "--seeds", 3, 4)
    final = summary(tmp_path / "line")["final"]["train loss"]
    assert final["mean"] == pytest.approx(np.mean(final["per_seed"]))
    assert final["spread"] == pytest.approx(np.std(final["per_seed"], ddof=1))
    assert {r["seed"] for r in read_rows(tmp_path / "line/metrics.jsonl")} == {3, 4}


def test_the_same_command_ends_with_the_same_files(tmp_path):
    for place in ("a", "b"):
        run("study", "problems:line", *QUICK, "--out", tmp_path / place)
    rows = [(tmp_path / place / "line/metrics.jsonl").read_text() for place in ("a", "b")]
    assert rows[0] == rows[1]
    before = (tmp_path / "a/line/summary.json").stat().st_mtime_ns
    run("study", "problems:line", *QUICK, "--out", tmp_path / "a")
    assert (tmp_path / "a/line/summary.json").stat().st_mtime_ns == before


def test_another_configuration_is_refused_until_overwritten(tmp_path, capsys):
    base = ["train", "problems:line", "--batch-size", 8, "--out", tmp_path]
    run(*base, "--steps", 3)
    run(*base, "--steps", 5, "--seed", 2, status=2)
    error = capsys.readouterr().err
    assert "steps: 3 there, 5 now" in error
    assert "seeds: [0] there, [2] now" in error
    assert "--overwrite" in error
    run(*base, "--steps", 5, "--overwrite")
    assert summary(tmp_path / "line")["steps"] == 5


def test_overwrite_never_removes_a_folder_that_is_no_run(tmp_path, capsys):
    (tmp_path / "line").mkdir()
    (tmp_path / "line/thesis.tex").write_text("years of work")
    run("train", "problems:line", *TRAIN, "--out", tmp_path, "--overwrite", status=2)
    assert "holds no run" in capsys.readouterr().err
    assert (tmp_path / "line/thesis.tex").read_text() == "years of work"


def test_changed_data_are_refused(tmp_path, capsys, small_text):
    base = ["train", "--model", "lstm", "--data", small_text, "--length", 8, *TRAIN]
    run(*base, "--out", tmp_path / "runs")
    (tmp_path / "runs/small-lstm/summary.json").unlink()
    small_text.write_text(small_text.read_text().replace("fox", "cat"))
    run(*base, "--out", tmp_path / "runs", status=2)
    assert "the data: its hash is not that of metadata.json" in capsys.readouterr().err


DAMAGE = {
    "truncated config": ("config.json", '{"model"', "config.json is damaged"),
    "config is a list": ("config.json", "[]", "config.json is damaged"),
    "truncated metadata": ("metadata.json", "{", "metadata.json is damaged"),
    "truncated summary": ("summary.json", "{", "summary.json is damaged"),
    "no rows": ("metrics.jsonl", None, "does not hold the rows of every step"),
    "half of the rows": ("metrics.jsonl", 0.5, "does not hold the rows of every step"),
    "garbage in the rows": ("metrics.jsonl", "{{\n", "metrics.jsonl is damaged"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_runs(name, tmp_path, capsys):
    """A damaged file is named; nothing is computed over it, and --overwrite cures it."""
    file, content, message = DAMAGE[name]
    command = ["train", "problems:line", *TRAIN, "--out", tmp_path]
    run(*command)
    capsys.readouterr()
    path = tmp_path / "line" / file
    if content is None:
        path.unlink()
    elif isinstance(content, float):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[: len(lines) // 2]))
    else:
        path.write_text(content)
    if file == "metrics.jsonl":
        (tmp_path / "line/summary.json").unlink()
    run(*command, status=2)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    run(*command, "--overwrite")


def test_two_processes_never_share_a_folder(tmp_path, capsys):
    fcntl = pytest.importorskip("fcntl")
    run("train", "problems:line", *TRAIN, "--out", tmp_path)
    handle = os.open(tmp_path / "line", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    run("train", "problems:line", *TRAIN, "--out", tmp_path, "--overwrite", status=2)
    assert "another process is running in" in capsys.readouterr().err
    os.close(handle)
    run("train", "problems:line", *TRAIN, "--out", tmp_path, "--overwrite")


def test_weights_of_zero_keep_bad_rows_out_of_a_study(tmp_path):
    run("study", "problems:padded", *QUICK, "--out", tmp_path)
    rows = list(read_rows(tmp_path / "padded/metrics.jsonl"))
    assert all(r["ok"] for r in rows if r["kind"] == "gradient_check")
    measured = [r for r in rows if r["kind"] == "measurement"]
    assert all(np.isfinite(r["metrics"]["train"]["loss"]) for r in measured)
    assert all(r["noise"]["total"]["status"] == "ok" for r in measured)


def test_plots_that_were_deleted_come_back(tmp_path):
    command = ["train", "problems:line", *TRAIN, "--out", tmp_path]
    run(*command)
    shutil.rmtree(tmp_path / "line/plots")
    run(*command)
    assert list((tmp_path / "line/plots").glob("*.png"))


def test_interrupt(tmp_path, capsys, monkeypatch):
    from funcbackprop.study import job

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "run", interrupted)
    run("train", "problems:line", *TRAIN, "--out", tmp_path, status=130)
    assert "the same command goes on" in capsys.readouterr().err


def test_loss_that_becomes_nan(tmp_path, capsys):
    options = ["--optimizer", "sgd", "--learning-rate", "1e18", "--steps", 30]
    run("study", *options, "--measure-examples", 8, "--out", tmp_path, status=2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "at step" in error
    assert "lower --learning-rate" in error
    folder = tmp_path / "digits-mlp"
    assert summary(folder)["outcome"].startswith("stopped: the loss is")
    rows = list(read_rows(folder / "metrics.jsonl"))
    assert rows[-1]["loss"] is None
    assert (folder / "report.html").read_text().rstrip().endswith("</html>")


def arrays(**changes):
    rng = np.random.default_rng(0)
    good = {"x": rng.normal(size=(20, 4)), "y": np.arange(20) % 3}
    return {k: v for k, v in {**good, **changes}.items() if v is not None}


def truncated(path):
    np.savez(path, **arrays())
    path.write_bytes(path.read_bytes()[:200])


# name -> (what to write to data.npz, options, what the one line on standard error says)
REFUSALS = {
    "unknown model": (None, ["--model", "resnet"], "unknown 'resnet'; expected one of mlp"),
    "unknown optimizer": (None, ["--optimizer", "adamm"], "unknown 'adamm'; expected one of"),
    "unknown data": (None, ["--data", "mnist"], "unknown data 'mnist'"),
    "learning rate": (None, ["--learning-rate", "0"], "--learning-rate must be a positive number"),
    "learning rate NaN": (None, ["--learning-rate", "nan"], "--learning-rate must be a positive"),
    "no steps": (None, ["--steps", "0"], "--steps must be at least 1, got 0"),
    "negative seed": (None, ["--seed", "-1"], "seeds must not be negative"),
    "equal seeds": (None, ["--seeds", "1", "1"], "--seeds must differ"),
    "name with a slash": (None, ["--name", "a/b"], "--name must be a plain folder name"),
    "missing file": (None, ["--data", "nowhere.npz"], "nowhere.npz"),
    "truncated": (truncated, [], "data.npz"),
    "pickled": (arrays(x=np.array([{}] * 20, object)), [], "data.npz"),
    "NaN": (arrays(x=np.full((20, 4), np.nan)), [], "NaN"),
    "inf": (arrays(x=np.full((20, 4), np.inf)), [], "inf"),
    "strings": (arrays(x=np.full((20, 4), "a")), [], "data.npz"),
    "unequal lengths": (arrays(y=np.arange(19) % 3), [], "19"),
    "negative labels": (arrays(y=np.arange(20) % 3 - 1), [], "negative"),
    "no labels": (arrays(y=None), [], "data.npz"),
    "batch larger than data": (arrays(), ["--batch-size", "99"], "--batch-size 99 is larger"),
    "convnet without images": (arrays(), ["--model", "convnet"], "needs images"),
    "text for a convnet": (None, ["--model", "convnet", "--data", "text"], "does not fit"),
    "digits for an lstm": (None, ["--model", "lstm", "--data", "digits"], "does not fit"),
    "unwritable": (None, ["--out", "blocked/runs"], "cannot write to blocked/runs"),
    "no such module": (None, ["--model", "nowhere:problem"], "cannot import"),
    "no such problem": (None, ["--model", "problems:nothing"], "named 'nothing' in problems"),
    "not a problem": (None, ["--model", "problems:not_a_problem"], "got int"),
    "problem and data": (None, ["--model", "problems:line", "--data", "digits"], "own data"),
    "seeds of fixed parameters": (
        None,
        ["--model", "problems:bare", "--seeds", "0", "1"],
        "several seeds need `Problem.params` to be a function",
    ),
    "a function that needs arguments": (None, ["--model", "json:dumps"], "cannot call it"),
    "data that are no arrays": (None, ["--model", "problems:no_arrays"], "`data`|`batch`"),
    "weights of another length": (
        None,
        ["--model", "problems:bad_weights", "--batch-size", "8"],
        "`weights` must have shape (40,)",
    ),
    "metric that is no scalar": (
        None,
        ["--model", "problems:bad_metric", "--batch-size", "8"],
        "metric 'x' must return a scalar, got shape (3,)",
    ),
    "loss that does not fit the data": (
        None,
        ["--model", "problems:misfit", "--batch-size", "8"],
        "problems:misfit: ",
    ),
}


@pytest.mark.parametrize("command", ["study", "train"])
@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name, command, tmp_path, monkeypatch, capsys):
    data, options, message = REFUSALS[name]
    monkeypatch.chdir(tmp_path)
    Path("blocked").write_text("a file where a folder should be")
    if callable(data):
        data(Path("data.npz"))
    elif data is not None:
        np.savez("data.npz", **data)
    if data is not None:
        options = [*options, "--data", "data.npz"]
    before = sorted(os.listdir())
    run(command, *options, status=2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("funcbackprop: error: ")
    assert captured.err.count("\n") == 1
    assert any(part in captured.err for part in message.split("|")), captured.err
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("kills", [2, pytest.param(8, marks=pytest.mark.full)])
def test_killed_at_any_moment_and_started_again(kills, tmp_path):
    """SIGKILL after random numbers of steps; the end is bit-identical to an undisturbed run."""
    options = ["--steps", "300", "--batch-size", "8", "--measurements", "4"]
    script = [sys.executable, "-m", "funcbackprop.cli", "study", "problems:line", *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}

    def start(place):
        return subprocess.Popen(
            [*script, "--out", str(tmp_path / place)],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
        )

    def lines_written(place):
        metrics = tmp_path / place / "line/metrics.jsonl"
        return metrics.read_text().count("\n") if metrics.exists() else 0

    assert start("whole").wait(timeout=120) == 0
    for lines in sorted(np.random.default_rng(0).integers(0, 290, kills)):
        process = start("killed")
        while lines_written("killed") < lines:
            assert process.poll() is None, f"ended before it had written {lines} lines"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL
    assert start("killed").wait(timeout=120) == 0
    whole, again = tmp_path / "whole/line", tmp_path / "killed/line"
    assert (whole / "metrics.jsonl").read_text() == (again / "metrics.jsonl").read_text()
    assert final_parameters(whole) == final_parameters(again)
    assert not [f for f in again.rglob("*") if f.name.startswith(".") or "tmp" in f.name]


def test_a_full_disk(tmp_path, monkeypatch, capfd):
    """One line; the checkpoint of before is whole, and the run goes on from it."""
    options = ["train", "problems:line", "--steps", "300", "--batch-size", "8", "--out"]
    run(*options, tmp_path / "whole")
    capfd.readouterr()
    folder = tmp_path / "full/line"

    def usage(path):
        return SimpleNamespace(free=0 if (folder / "checkpoints/seed-0/60").exists() else 2**30)

    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", usage)
        run(*options, tmp_path / "full", status=2)
    line = f"funcbackprop: error: --out: cannot write to {folder}: No space left on device\n"
    assert capfd.readouterr().err == line
    assert sorted(p.name for p in (folder / "checkpoints/seed-0").iterdir()) == ["30", "60"]
    run(*options, tmp_path / "full")
    whole = tmp_path / "whole/line"
    assert (whole / "metrics.jsonl").read_text() == (folder / "metrics.jsonl").read_text()
    assert final_parameters(whole) == final_parameters(folder)


def test_a_row_that_cannot_be_written(tmp_path, monkeypatch, capfd):
    options = ["train", "problems:line", "--steps", "20", "--batch-size", "8", "--out", tmp_path]
    write = Records.append

    def append(self, row):
        if row["step"] == 11:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        write(self, row)

    with monkeypatch.context() as patched:
        patched.setattr(Records, "append", append)
        run(*options, status=2)
    folder = tmp_path / "line"
    line = f"funcbackprop: error: --out: cannot write to {folder}: Read-only file system\n"
    assert capfd.readouterr().err == line
    run(*options)
    steps = [row["step"] for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "step"]
    assert steps == list(range(1, 21))


def final_parameters(folder):
    import jax
    import optax
    import problems

    from funcbackprop.training import Checkpoints, init_state

    like = init_state(problems.init(jax.random.key(0)), optax.sgd(0.1), 0)
    checkpoint = Checkpoints(folder / "checkpoints/seed-0")
    state = checkpoint.restore(like)
    checkpoint.close()
    assert int(state.step) == 300
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(state.params)]


def test_check_of_a_library_model(tmp_path, capsys):
    run("check", "--examples", "4", "--html", tmp_path / "graph.html")
    assert "Every leaf agrees" in capsys.readouterr().out
    assert "dot_general" in (tmp_path / "graph.html").read_text()


def test_check_of_a_problem_exits_with_1_on_a_finding(capsys):
    run("check", "problems:line")
    run("check", "problems:doubled", status=1)
    out = capsys.readouterr().out
    assert "wrong rule" in out
    assert "`twice` at" in out
    run("check", "problems:doubled", "--intended", "twice")


def test_check_refuses_what_it_cannot_do(capsys):
    run("check", "--examples", "0", status=2)
    assert "--examples must be at least 1, got 0" in capsys.readouterr().err
    run("check", "problems:nothing", status=2)
    assert "expected a funcbackprop.Problem" in capsys.readouterr().err


def test_tracked_noise_is_recorded(tmp_path):
    """A row for every step, with the interval in the report."""
    options = ["problems:line", "--steps", "20", "--batch-size", "8", "--track-noise"]
    run("train", *options, "--out", tmp_path / "whole")
    rows = list(read_rows(tmp_path / "whole/line/metrics.jsonl"))
    tracked = [r for r in rows if r["kind"] == "tracked_noise"]
    assert [r["step"] for r in tracked] == list(range(1, 21))
    assert [r["steps"] for r in tracked] == list(range(1, 21))
    assert tracked[-1]["S"]["value"] > 0
    page = (tmp_path / "whole/line/report.html").read_text()
    assert "Noise scale at every step" in page
    assert (tmp_path / "whole/line/plots/tracked_noise.png").exists()


def test_a_watched_run_says_what_it_suffers_from(tmp_path, capsys):
    """Too large a rate, until NaN; keys and auxiliary output, and the tracker before the rule."""
    options = ["problems:stream", "--steps", "100", "--optimizer", "sgd", "--learning-rate", "1e6"]
    options += ["--track-noise", "--diagnose"]
    run("train", *options, "--out", tmp_path, status=2)
    assert "at step" in capsys.readouterr().err
    first = summary(tmp_path / "stream")["diagnosis"]["findings"][0]
    assert first["name"] == "rate_too_large"
    assert first["grade"] == "severe"
    page = (tmp_path / "stream/report.html").read_text()
    assert "What training suffers from" in page
    assert first["remedy"] in page
    assert "the data were not seen" not in page


def test_without_tracking_the_report_says_how(tmp_path):
    run("train", "problems:line", *TRAIN, "--out", tmp_path)
    assert "--track-noise" in (tmp_path / "line/report.html").read_text()
