"""The job of `funcbackprop study` and `train`: a run folder, started or resumed, and its report."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from .. import diagnosis, report
from ..contract import (
    Problem,
    attach_keys,
    batch_size,
    checked_weights,
    same_structure,
    scalar_loss,
    without_aux,
)
from ..files import write_json
from ..noise import tracked_noise
from ..per_example import SquaredNorms
from ..training import (
    Checkpoints,
    Measurement,
    NonFiniteLoss,
    Records,
    batches,
    device_mesh,
    fit,
    from_function,
    init_state,
    make_step,
    on_this_device,
    read_rows,
    replicate,
    shard_batches,
)
from ..usage import UsageError, environment, initial_params
from . import measure, processes
from .batch_variance import batch_variance
from .config import StudyConfig, TrainConfig
from .cost import Spent, cost
from .folder import check_rows, is_complete, run_folder
from .problems import Task, optimizer, stability_rule, task

_CHECK_EXAMPLES = 64
# Steps between two rows for the diagnosis, at most.
_WATCHED = 50


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
    processes.join(config)
    with processes.others_alive():
        what = processes.together(lambda: _tried(config))
        name = config.name or what.problem.name
        folder = Path(config.out) / name
        wanted = config.to_dict(name, what.data_name)
        data_hash = what.description["hash"]
        processes.refuse_different({**wanted, "hash": data_hash, "out": str(config.out)})
        metadata = functools.partial(_metadata, config, what, command)
        held = run_folder(folder, wanted, metadata, data_hash, config.overwrite)
        with contextlib.ExitStack() as stack:
            processes.decided(lambda: stack.enter_context(held))
            if not processes.decided(lambda: is_complete(folder)):
                _run(config, what, folder)
    return folder


def _run(config: TrainConfig, what: Task, folder: Path) -> None:
    started = time.perf_counter()
    failure, spent = None, []
    try:
        for seed in config.all_seeds:
            _train(config, what, seed, folder, spent)
    except NonFiniteLoss as error:
        failure = error
    if processes.is_first():
        seconds = round(time.perf_counter() - started, 1)
        _conclude(config, folder, failure, {"seconds": seconds, "cost": cost(spent)})
    if failure is not None:
        processes.part()
        raise failure


def _conclude(config: TrainConfig, folder: Path, failure, spent: Mapping) -> None:
    """summary.json and the report."""
    summary = _summary(config, folder, failure, spent)
    write_json(folder / "summary.json", summary)
    report.write(folder)


def _tried(config: TrainConfig) -> Task:
    what = task(config)
    _try_once(config, what.problem)
    return what


def _try_once(config: TrainConfig, problem: Problem) -> None:
    """Try every part of the problem on one or two examples, before anything is written."""
    try:
        params = jax.eval_shape(lambda: initial_params(problem, 0))
        data: Any = problem.data(0, 0, 0) if callable(problem.data) else problem.data
        if problem.weights is not None and not callable(problem.data):
            checked_weights(problem.weights, batch_size(data, "Problem"), "Problem")
        two = jax.tree.map(lambda x: x[:2], data)
        example = jax.tree.map(lambda x: x[0], data)
        with_key = (example, jax.random.key(0)) if problem.rng else example
        loss = scalar_loss(problem.loss, problem.has_aux, "Problem")
        jax.eval_shape(loss, params, with_key)
        for name, metric in (problem.metrics or {}).items():
            shape = jax.eval_shape(metric, params, example).shape
            if shape != ():
                raise ValueError(f"metric {name!r} must return a scalar, got shape {shape}")
        if problem.reference is not None and isinstance(config, StudyConfig):
            params = initial_params(problem, 0)
            keys = attach_keys(two, jax.random.key(0)) if problem.rng else two
            _, grads = problem.reference(params, keys)
            same_structure(grads, params, "the gradient of `reference`", "Problem")
    except (TypeError, ValueError) as error:
        raise UsageError(f"--model {config.model}: {error}") from error


def _metadata(config: TrainConfig, what: Task, command: str) -> dict[str, Any]:
    params = jax.eval_shape(lambda: initial_params(what.problem, 0))
    return {
        "command": command,
        **environment(),
        "seeds": list(config.all_seeds),
        "data": what.description,
        "parameters": sum(int(np.prod(p.shape)) for p in jax.tree.leaves(params)),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _train(config: TrainConfig, what: Task, seed: int, folder: Path, spent: list[Spent]) -> None:
    """One seed, from its newest checkpoint on; what it took is appended to `spent`."""
    problem = what.problem
    update = optimizer(problem, config)
    mesh = device_mesh()
    state = replicate(init_state(initial_params(problem, seed), update, seed), mesh)
    tracked = {"sq_norms": SquaredNorms()} if config.track_noise else None
    step = make_step(
        problem.loss, update, update_with=tracked, rng=problem.rng, has_aux=problem.has_aux
    )
    checkpoint = Checkpoints(
        folder / "checkpoints" / f"seed-{seed}", every=max(1, config.steps // 10)
    )
    events = folder / "tensorboard" / f"seed-{seed}" if config.tensorboard else None
    records = None
    if processes.is_first():
        records = Records(folder / "metrics.jsonl", tags={"seed": seed}, tensorboard=events)
    latest = checkpoint.latest()
    if latest is not None:
        processes.decided(lambda: check_rows(folder / "metrics.jsonl", seed, latest))
    quiet = None if processes.is_first() else True  # None: where standard error is no terminal
    bar = tqdm(total=config.steps, desc=f"{problem.name} seed {seed}", unit="step", disable=quiet)

    done = latest or 0

    def show(number, state, metrics):
        nonlocal done
        bar.update(number - done)
        done = number

    feed = shard_batches(_feed(config, problem, seed), mesh)
    hooks = _hooks(config, what, seed, mesh, step, feed)
    started = time.perf_counter()
    try:
        with bar:
            fit(
                *(step, state, feed),
                steps=config.steps,
                hooks=[*hooks, show],
                checkpoint=checkpoint,
                records=records,
            )
    finally:
        spent.append(Spent(time.perf_counter() - started, done - (latest or 0), hooks))


def _feed(config: TrainConfig, problem: Problem, seed: int):
    if callable(problem.data):
        return from_function(problem.data, seed)
    return batches(problem.data, config.batch_size, seed=seed, weights=problem.weights)


def _hooks(
    config: TrainConfig, what: Task, seed: int, mesh: Mesh, step: Callable, feed: Callable
) -> list[Measurement]:
    problem = what.problem
    evaluation = measure.Evaluation(problem, seed, mesh)
    others = [_tracked(config.steps)] if config.track_noise else []
    if config.diagnose:
        others += _watched(config, problem, seed, feed)
    if not isinstance(config, StudyConfig):
        steps = measure.measured_steps(config.steps, 12)
        only = lambda state: evaluation(state.params)  # noqa: E731
        return [Measurement("measurement", steps, only), *others]
    noise = measure.Noise(problem, seed, config.measure_examples, config.batch_size, mesh)
    check = measure.Check(problem, seed, _CHECK_EXAMPLES)

    def measurement(state):
        return {
            "batch_size": config.batch_size,
            "examples": noise.examples,
            **evaluation(state.params),
            "noise": noise(state.params),
        }

    steps = measure.measured_steps(config.steps, config.measurements)
    effect = measure.effect(problem, seed, config.measure_examples, mesh, step, feed)
    sharpness = measure.sharpness(
        problem, seed, config.sharpness_examples, mesh, stability_rule(problem, config)
    )
    checked = measure.checked_steps(config.steps)
    across = batch_variance(problem, seed, config.measure_examples)
    if across is not None:
        some = [steps[0], steps[len(steps) // 2], steps[-1]]
        others.append(Measurement("batch_variance", some, across))
    return [
        Measurement("measurement", steps, measurement),
        Measurement("update_effect", steps, effect),
        Measurement("sharpness", steps, sharpness),
        Measurement("gradient_check", checked, lambda s: check(on_this_device(s.params))),
        *others,
    ]


def _watched(config: TrainConfig, problem: Problem, seed: int, feed: Callable) -> list[Measurement]:
    """What a diagnosis needs to see of the data, and of the state; of the optimizer without the
    tracker."""
    plain = optimizer(problem, dataclasses.replace(config, track_noise=False))
    look = diagnosis.of_next_update(without_aux(problem), plain, feed, rng=problem.rng)

    def data(state):
        params = on_this_device(state.params)
        return diagnosis.of_data(problem, plain, params, config.batch_size, seed)

    def watch(state):
        opt_state = state.opt_state[1] if config.track_noise else state.opt_state
        return look(state._replace(opt_state=opt_state))

    every = max(1, min(_WATCHED, config.steps // 10))
    return [Measurement("data", {0}, data), Measurement("vitals", every, watch)]


def _tracked(steps: int) -> Measurement:
    """What the tracker in the optimizer's state says."""
    estimate = jax.jit(tracked_noise)
    steps_of_rows = measure.tracked_steps(steps)
    return Measurement("tracked_noise", steps_of_rows, lambda s: estimate(s.opt_state).to_dict())


def _summary(config: TrainConfig, folder: Path, failure, spent: Mapping) -> dict[str, Any]:
    rows = list(read_rows(folder / "metrics.jsonl"))
    last = {row["seed"]: row for row in rows if row["kind"] == "measurement"}
    outcome = "completed"
    if failure is not None:
        outcome = f"stopped: the loss is {failure.loss} at step {failure.step}"
    summary = {
        "name": folder.name,
        "outcome": outcome,
        "seeds": list(config.all_seeds),
        "steps": config.steps,
        "final": _over_seeds(last),
        **spent,
        "report": "report.html",
    }
    if any(row["kind"] == "vitals" for row in rows):
        summary["diagnosis"] = diagnosis.findings(rows).to_dict()
    checks = [row for row in rows if row["kind"] == "gradient_check"]
    return {**summary, **({"gradient_check": _verdict(checks)} if checks else {})}


def _over_seeds(last: Mapping[int, Mapping]) -> dict[str, Any]:
    """ "test accuracy" -> mean, spread (sample standard deviation) and values of the seeds, and
    their standard errors over examples."""
    values, errors = (_by_metric(last, kind) for kind in ("metrics", "standard_errors"))
    return {
        name: {
            "mean": float(np.mean(v)),
            "spread": float(np.std(v, ddof=1)) if len(v) > 1 else None,
            "per_seed": v,
            "standard_errors": errors.get(name),
        }
        for name, v in values.items()
        if None not in v
    }


def _by_metric(last, kind) -> dict[str, list]:
    """ "test accuracy" -> one number of each seed."""
    found: dict[str, list] = {}
    for row in last.values():
        for split, of_split in row.get(kind, {}).items():
            for name, value in of_split.items():
                found.setdefault(f"{split} {name}", []).append(value)
    return found


def _verdict(checks: list[dict]) -> dict[str, Any]:
    errors = [x["error_in_bounds"] for row in checks for x in row["leaves"]]
    return {
        "ok": all(row["ok"] for row in checks),
        "worst_error_in_bounds": None if None in errors else max(errors, default=0.0),
        "compared_at": sorted({row["step"] for row in checks}),
    }
