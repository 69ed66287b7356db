"""8 devices in one process, and 2 processes: results as on one device, and one writer of files."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from funcbackprop import cli
from funcbackprop.training import read_rows

HERE = Path(__file__).parent
# Threads for the devices to meet, on a machine with few cores.
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "NPROC": "32", "PYTHONPATH": str(HERE)}
TRAIN = ["train", "problems:line", "--batch-size", "10", "--track-noise"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Started:
    """A process; its output goes to files, since nobody reads while another is waited for."""

    def __init__(self, *command, devices):
        self.files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115 (closed by `end`)
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            env={**ENVIRONMENT, "JAX_NUM_CPU_DEVICES": str(devices)},
            stdout=self.files[0],
            stderr=self.files[1],
        )

    def output(self):
        """Status, standard output and standard error."""
        for file in self.files:
            file.seek(0)
        return (self.process.returncode, *(file.read() for file in self.files))

    def end(self):
        self.process.kill()
        self.process.wait()
        for file in self.files:
            file.close()


def ended(*runs, seconds=180):
    """What each has put out; none outlives the test."""
    try:
        for run in runs:
            run.process.wait(timeout=seconds)
        return [run.output() for run in runs]
    finally:
        for run in runs:
            run.end()


def command_line(*options, devices=2, processes=2, port=None):
    """The processes of one run, started."""
    port = port or free_port()
    joined = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", processes, "--wait", 60]
    return [
        Started("-m", "funcbackprop", *options, *joined, "--process-id", k, devices=devices)
        for k in range(processes)
    ]


def rows(folder):
    return list(read_rows(folder / "metrics.jsonl"))


def numbers(tree):
    if isinstance(tree, dict):
        return [x for value in tree.values() for x in numbers(value)]
    if isinstance(tree, list):
        return [x for value in tree for x in numbers(value)]
    return [tree] if isinstance(tree, int | float) else []


def assert_same_rows(found, expected, rtol):
    assert [(r["kind"], r["step"]) for r in found] == [(r["kind"], r["step"]) for r in expected]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(numbers(a), numbers(b), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.core)])
def test_statistics_training_and_tracking(processes):
    script = HERE / "on_devices.py"
    if processes == 1:
        runs = [Started(script, devices=8)]
    else:
        address = f"127.0.0.1:{free_port()}"
        runs = [Started(script, address, processes, k, devices=2) for k in range(processes)]
    (status, out, error), *others = ended(*runs)
    assert (status, *(x[0] for x in others)) == (0,) * processes, error
    answers = json.loads(out.splitlines()[-1])
    assert (answers["devices"], answers["processes"]) == (8 // processes, processes)
    for what, difference in answers["differences"].items():
        assert difference < 1e-6, what


@pytest.mark.parametrize(
    "only", [("products",), pytest.param((), marks=pytest.mark.full)], ids=["products", "all"]
)
def test_curvature(only):
    (run,) = ended(Started(HERE / "curvature_on_devices.py", *only, devices=8), seconds=400)
    assert run[0] == 0, run[2]
    answers = json.loads(run[1].splitlines()[-1])
    assert len(answers["differences"]) == (6 if only else 10)
    for what, difference in answers["differences"].items():
        assert difference < (1e-6 if "product" in what else 1e-5), what
    for what, found in answers["communication"].items():
        assert found["in the loop"] == [], what
        assert found["bytes"] < 2.5, what
    assert only or answers["parted"]


def test_train_on_eight_devices(tmp_path):
    """Ten examples on eight devices: six of weight 0 are added."""
    one = ["--steps", "12", "--out", str(tmp_path / "one")]
    assert cli.main([*TRAIN, *one]) == 0
    (run,) = ended(Started("-m", "funcbackprop", *TRAIN, *one[:3], tmp_path / "eight", devices=8))
    assert run[0] == 0, run[2]
    assert_same_rows(rows(tmp_path / "eight/line"), rows(tmp_path / "one/line"), rtol=1e-5)


def test_study_as_two_processes(tmp_path):
    options = ["study", "problems:stream", "--steps", "6", "--measurements", "3"]
    assert cli.main([*options, "--out", str(tmp_path / "one")]) == 0
    first, second = ended(*command_line(*options, "--out", tmp_path / "two"))
    assert (first[0], second[0]) == (0, 0), (first[2], second[2])
    assert "Report: " in first[1]
    assert "Report" not in second[1]  # gloo prints a line of its own
    one, two = tmp_path / "one/stream", tmp_path / "two/stream"
    names = lambda folder: sorted(p.name for p in folder.iterdir())  # noqa: E731
    assert names(two) == names(one)
    assert_same_rows(rows(two), rows(one), rtol=1e-5)
    assert len(json.loads((two / "metadata.json").read_text())["devices"]) == 4


def test_a_process_is_killed(tmp_path):
    """The other ends with a clear line in bounded time; the run resumes with the same bits."""
    options = [*TRAIN, "--steps", "400", "--out"]
    assert [run[0] for run in ended(*command_line(*options, tmp_path / "whole"))] == [0, 0]
    folder = tmp_path / "killed/line"

    status, error = survivor_of(1, 130, folder, command_line(*options, tmp_path / "killed"))
    assert status == 2
    last = error.strip().splitlines()[-1]
    assert last.startswith("funcbackprop: error: another process of the run has ended"), error
    assert "The same commands go on from the last checkpoint" in last

    # JAX itself ends the others where the process is gone in which they meet.
    status, error = survivor_of(0, 260, folder, command_line(*options, tmp_path / "killed"))
    assert status != 0
    assert "another task died" in error or "another process of the run has ended" in error

    assert [run[0] for run in ended(*command_line(*options, tmp_path / "killed"))] == [0, 0]
    assert rows(folder) == rows(tmp_path / "whole/line")


def survivor_of(victim, lines, folder, runs):
    """Status and standard error of the other process after one is killed.

    Mostly at once; where no message is under way, after JAX's heartbeat of 100 seconds.
    """
    metrics = folder / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < lines:
        assert runs[1 - victim].process.poll() is None
        time.sleep(0.01)
    runs[victim].process.send_signal(signal.SIGKILL)
    status, _, error = ended(*runs, seconds=150)[1 - victim]
    return status, error


def test_processes_with_other_options_are_refused(tmp_path):
    port = free_port()
    common = ["--out", tmp_path, "--coordinator", f"127.0.0.1:{port}", "--num-processes", 2]
    runs = [
        Started(
            "-m", "funcbackprop", *TRAIN, *common, "--steps", 3 + k, "--process-id", k, devices=1
        )
        for k in range(2)
    ]
    for status, _, error in ended(*runs):
        assert status == 2, error
        assert "process 1 was started with other options or other data than process 0" in error
    assert not (tmp_path / "line").exists()


def test_what_process_0_refuses_all_refuse(tmp_path):
    (tmp_path / "line").mkdir()
    (tmp_path / "line/letter.txt").write_text("not a run")
    first, second = ended(*command_line(*TRAIN, "--steps", "3", "--out", tmp_path))
    assert (first[0], second[0]) == (2, 2), (first[2], second[2])
    assert "is not empty and holds no run" in first[2]
    assert "process 0 refused the run; its message says why" in second[2]


def test_a_problem_that_all_refuse(tmp_path):
    for status, _, error in ended(*command_line("train", "problems:nothing", "--out", tmp_path)):
        assert status == 2, error
        assert error.strip().splitlines()[-1].startswith("funcbackprop: error: --model"), error


REFUSED = {
    "number without address": (
        ["--num-processes", "2"],
        "need --coordinator, the address host:port",
    ),
    "id without address": (["--process-id", "0"], "need --coordinator, the address host:port"),
    "no port": (["--coordinator", "here"], "must be host:port or auto, got 'here'"),
    "no processes": (
        ["--coordinator", "h:1", "--num-processes", "0"],
        "--num-processes must be at least 1, got 0",
    ),
    "id out of range": (
        ["--coordinator", "h:1", "--num-processes", "2", "--process-id", "2"],
        "--process-id must be 0 or more and below --num-processes 2, got 2",
    ),
    "no time": (["--coordinator", "h:1", "--wait", "0"], "--wait must be at least 1 second"),
    "one example": (["--track-noise", "--batch-size", "1"], "--track-noise needs a --batch-size"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, capsys, tmp_path):
    options, message = REFUSED[name]
    assert cli.main(["train", "problems:line", *options, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--coordinator", "auto"], "the processes could not be joined"),
        (
            ["--coordinator", "127.0.0.1:{port}", "--num-processes", "2", "--process-id", "1"],
            "the processes could not be joined",
        ),
    ],
    ids=["no cluster", "nobody there"],
)
def test_processes_that_cannot_be_joined(options, message, tmp_path):
    options = [x.format(port=free_port()) for x in options]
    run = Started("-m", "funcbackprop", *TRAIN, *options, "--wait", 2, "--out", tmp_path, devices=1)
    ((status, _, error),) = ended(run, seconds=60)
    assert status == 2, error
    assert message in error.strip().splitlines()[-1]
