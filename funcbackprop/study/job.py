"""The job of `funcbackprop study` and `train`: a run folder, started or resumed, and its report."""

import json
import os
import platform
import shutil
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from .. import __version__, report
from ..contract import Problem, scalar_loss
from ..files import json_safe, write_json
from ..training import (
    Checkpoints,
    NonFiniteLoss,
    Records,
    batches,
    fit,
    from_function,
    init_state,
    make_step,
    read_rows,
)
from . import measure
from .config import StudyConfig, TrainConfig, UsageError
from .problems import Task, initial_params, optimizer, task

_VERSIONS = ("jax", "jaxlib", "optax", "numpy")
_CHECK_EXAMPLES = 64


def run(config: TrainConfig, command: str) -> Path:
    """Run or resume what `config` asks for; returns the run's folder.

    Args:
      config: what to run.
      command: the command line, for metadata.json.

    Raises:
      UsageError: the configuration cannot be run; nothing has been written.
      NonFiniteLoss: the loss became NaN or infinite. The rows up to that step, the report, and a
        summary that says so are whole.
    """
    config.check()
    what = task(config)
    _try_once(config, what.problem)
    folder = _prepare(config, what, command)
    if _is_complete(folder):
        return folder
    started = time.perf_counter()
    failure = None
    try:
        for seed in config.all_seeds:
            _train(config, what, seed, folder)
    except NonFiniteLoss as error:
        failure = error
    summary = _summary(config, folder, failure, time.perf_counter() - started)
    write_json(folder / "summary.json", summary)
    report.write(folder)
    if failure is not None:
        raise failure
    return folder


def _try_once(config: TrainConfig, problem: Problem) -> None:
    """Trace the loss on one example, so that a misfit shows before anything is written."""
    try:
        params = jax.eval_shape(lambda: initial_params(problem, 0))
        data = problem.data(0, 0, 0) if callable(problem.data) else problem.data
        example = jax.tree.map(lambda x: x[0], data)
        if problem.rng:
            example = (example, jax.random.key(0))
        loss = scalar_loss(problem.loss, problem.has_aux, "Problem")
        jax.eval_shape(loss, params, example)
    except (TypeError, ValueError) as error:
        raise UsageError(f"--model {config.model}: {error}") from error


def _prepare(config: TrainConfig, what: Task, command: str) -> Path:
    """The run's folder with config.json and metadata.json; refused if it holds another run."""
    name = config.name or what.problem.name
    folder = Path(config.out) / name
    wanted = config.to_dict(name, what.data_name)
    try:
        _make_folder(folder, wanted, what, config.overwrite)
        if not (folder / "config.json").exists():
            write_json(folder / "config.json", wanted)
        if not (folder / "metadata.json").exists():
            write_json(folder / "metadata.json", _metadata(config, what, command))
    except OSError as error:
        raise UsageError(f"--out: cannot write to {folder}: {error.strerror or error}") from error
    return folder


def _make_folder(folder: Path, wanted: Mapping, what: Task, overwrite: bool) -> None:
    is_run = (folder / "config.json").exists()
    if folder.is_dir() and not is_run and any(not _is_temporary(x) for x in folder.iterdir()):
        raise UsageError(f"--out: {folder} is not empty and holds no run; choose another --name")
    if is_run and overwrite:
        shutil.rmtree(folder)
    elif is_run:
        _refuse_other_run(folder, wanted, what)
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in (*folder.glob(".*"), *folder.glob("plots/.*")):  # of a run that was killed
        leftover.unlink()


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.is_file()


def _refuse_other_run(folder: Path, wanted: Mapping, what: Task) -> None:
    found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    wanted = json_safe(wanted)
    differing = [
        f"{key}: {found.get(key)!r} there, {wanted.get(key)!r} now"
        for key in dict.fromkeys([*found, *wanted])
        if found.get(key) != wanted.get(key)
    ]
    if not differing and (folder / "metadata.json").exists():
        metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        if metadata["data"]["hash"] != what.description["hash"]:
            differing = ["the data: its hash is not that of metadata.json"]
    if differing:
        raise UsageError(
            f"{folder} holds a run of another configuration ({'; '.join(differing)}); choose "
            "another --name, or --overwrite it"
        )


def _metadata(config: TrainConfig, what: Task, command: str) -> dict[str, Any]:
    params = jax.eval_shape(lambda: initial_params(what.problem, 0))
    return {
        "command": command,
        "versions": {
            "funcbackprop": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _VERSIONS},
        },
        "platform": platform.platform(),
        "devices": [str(device) for device in jax.devices()],
        "cores": os.cpu_count(),
        "seeds": list(config.all_seeds),
        "data": what.description,
        "parameters": sum(int(np.prod(p.shape)) for p in jax.tree.leaves(params)),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _train(config: TrainConfig, what: Task, seed: int, folder: Path) -> None:
    """One seed, from its newest checkpoint on."""
    problem = what.problem
    update = optimizer(problem, config)
    state = init_state(initial_params(problem, seed), update, seed)
    step = make_step(problem.loss, update, rng=problem.rng, has_aux=problem.has_aux)
    checkpoint = Checkpoints(
        folder / "checkpoints" / f"seed-{seed}", every=max(1, config.steps // 10)
    )
    events = folder / "tensorboard" / f"seed-{seed}" if config.tensorboard else None
    records = Records(folder / "metrics.jsonl", tags={"seed": seed}, tensorboard=events)
    bar = tqdm(total=config.steps, desc=f"{problem.name} seed {seed}", unit="step", disable=None)

    def show(number, state, metrics):
        bar.update(number - bar.n)

    with bar:
        fit(
            *(step, state, _feed(config, problem, seed)),
            steps=config.steps,
            hooks=[*_hooks(config, what, seed), show],
            checkpoint=checkpoint,
            records=records,
        )


def _feed(config: TrainConfig, problem: Problem, seed: int):
    if callable(problem.data):
        return from_function(problem.data, seed)
    return batches(problem.data, config.batch_size, seed=seed, weights=problem.weights)


def _hooks(config: TrainConfig, what: Task, seed: int) -> list:
    problem = what.problem
    evaluation = measure.Evaluation(problem, seed)
    if not isinstance(config, StudyConfig):
        steps = measure.measured_steps(config.steps, 12)
        return [measure.hook("measurement", steps, lambda p: {"metrics": evaluation(p)})]
    noise = measure.Noise(problem, seed, config.measure_examples, config.batch_size)
    check = measure.Check(problem, what.missing_reference, seed, _CHECK_EXAMPLES)

    def measurement(params):
        return {
            "batch_size": config.batch_size,
            "examples": noise.examples,
            "metrics": evaluation(params),
            "noise": noise(params),
        }

    steps = measure.measured_steps(config.steps, config.measurements)
    checked = measure.checked_steps(config.steps)
    return [
        measure.hook("measurement", steps, measurement),
        measure.hook("gradient_check", checked, check),
    ]


def _summary(config: TrainConfig, folder: Path, failure, seconds: float) -> dict[str, Any]:
    rows = list(read_rows(folder / "metrics.jsonl"))
    last = {row["seed"]: row["metrics"] for row in rows if row["kind"] == "measurement"}
    outcome = "completed"
    if failure is not None:
        outcome = f"stopped: the loss is {failure.loss} at step {failure.step}"
    summary = {
        "name": folder.name,
        "outcome": outcome,
        "seeds": list(config.all_seeds),
        "steps": config.steps,
        "final": _over_seeds(last),
        "seconds": round(seconds, 1),
        "report": "report.html",
    }
    checks = [row for row in rows if row["kind"] == "gradient_check"]
    return {**summary, **({"gradient_check": _verdict(checks)} if checks else {})}


def _over_seeds(last: Mapping[int, Mapping]) -> dict[str, Any]:
    """ "test accuracy" -> mean, spread (sample standard deviation) and values of the seeds."""
    values: dict[str, list[float]] = {}
    for metrics in last.values():
        for split, row in metrics.items():
            for name, value in row.items():
                values.setdefault(f"{split} {name}", []).append(value)
    return {
        name: {
            "mean": float(np.mean(v)),
            "spread": float(np.std(v, ddof=1)) if len(v) > 1 else None,
            "per_seed": v,
        }
        for name, v in values.items()
        if None not in v
    }


def _verdict(checks: list[dict]) -> dict[str, Any]:
    missing = [row["missing"] for row in checks if "missing" in row]
    if missing:
        return {"ok": None, "missing": missing[0]}
    errors = [x["relative_error"] for row in checks for x in row["leaves"]]
    return {
        "ok": all(row["ok"] for row in checks),
        "worst_relative_error": None if None in errors else max(errors, default=0.0),
        "compared_at": sorted({row["step"] for row in checks}),
    }


def _is_complete(folder: Path) -> bool:
    files = (folder / "summary.json", folder / "report.html")
    if not all(file.exists() for file in files):
        return False
    return json.loads(files[0].read_text(encoding="utf-8"))["outcome"] == "completed"
