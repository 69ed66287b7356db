"""The problem that a command line asks for: a library model on a data set, or the user's own."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import losses, models
from ..contract import Problem, batch_size, example_loss
from ..noise import track
from ..reference import layerwise
from ..training import Dataset, load
from ..usage import UsageError, import_problem
from .config import MODELS, SEQUENCE_MODELS, ProblemConfig, TrainConfig

# kind of data -> (loss, what the model's last layer gives)
_LOSSES = {
    "classes": losses.cross_entropy,
    "regression": losses.squared_error,
    "sequence": losses.next_token,
}
# Optimizers whose full-batch stability is known -> what they are beside gradient descent.
_STABILITY = {
    "sgd": {},
    "adam": {"adam_b1": 0.9},
    "adamw": {"adam_b1": 0.9},
    "rmsprop": {"adam_b1": 0.0},
}
_HIDDEN = (512, 512)
_WIDTH = 64


@dataclasses.dataclass(frozen=True)
class Task:
    """A problem with what the run's files say about it."""

    problem: Problem
    data_name: str | None
    description: dict[str, Any]


def task(config: ProblemConfig) -> Task:
    """The task of a configuration; UsageError where there is none."""
    if ":" in config.model:
        return _users_task(config)
    if config.model not in MODELS:
        raise UsageError(
            f"--model: unknown {config.model!r}; expected one of {', '.join(MODELS)}, or "
            "module:problem"
        )
    name = config.data or ("text" if config.model in SEQUENCE_MODELS else "digits")
    try:
        dataset = load(name, length=config.length)
    except (ValueError, OSError) as error:
        raise UsageError(f"--data: {error}") from error
    problem = _problem(config.model, dataset)
    _check_batch_size(config, len(dataset.x))
    description = {**dataset.to_dict(), "examples": len(dataset.x)}
    return Task(problem, name, {**description, "test_examples": len(dataset.x_test)})


def _problem(kind: str, dataset: Dataset) -> Problem:
    model = _model(kind, dataset)
    loss = _LOSSES[dataset.kind]
    example_input = jax.tree.map(jnp.asarray, dataset.x[0])
    init = jax.jit(model.init)
    metrics = {"accuracy": _accuracy(model.apply)} if dataset.kind != "regression" else None
    return Problem(
        loss=example_loss(model.apply, loss),
        params=lambda key: init(key, example_input),
        data=(dataset.x, dataset.y),
        name=f"{dataset.name.rsplit('.', 1)[0]}-{kind}",
        test_data=(dataset.x_test, dataset.y_test),
        predict=model.apply,
        metrics=metrics,
        reference=layerwise.value_and_grad(model, loss),
    )


def _model(kind: str, dataset: Dataset) -> models.Model:
    shape, outputs = dataset.x.shape[1:], dataset.num_classes
    if outputs is None:
        outputs = dataset.y[0].size
    sequence = dataset.kind == "sequence"
    if sequence != (kind in SEQUENCE_MODELS):
        fitting = SEQUENCE_MODELS if sequence else ("mlp", "convnet")[: 1 + (len(shape) == 3)]
        raise UsageError(
            f"--model {kind} does not fit --data {dataset.name}, which holds "
            f"{'sequences of tokens' if sequence else f'arrays of shape {list(shape)}'}; "
            f"use --model {' or '.join(fitting)}"
        )
    if kind == "convnet" and len(shape) != 3:
        raise UsageError(
            f"--model convnet needs images [height, width, channels], and --data {dataset.name} "
            f"holds arrays of shape {list(shape)}; use --model mlp, or add the missing axes"
        )
    if kind == "mlp":
        return models.mlp((int(np.prod(shape)), *_HIDDEN, outputs))
    if kind == "convnet":
        return models.convnet((16, 32), outputs)
    if kind == "lstm":
        return models.lstm(outputs, _WIDTH)
    return models.transformer(outputs, shape[0], width=_WIDTH, depth=2, heads=4)


def _accuracy(apply: Callable) -> Callable:
    """Share of right predictions among the labels of one example that are not padding (< 0)."""

    def accuracy(params, example):
        x, y = example
        right = jnp.argmax(apply(params, x), axis=-1) == y
        return jnp.sum(jnp.where(y >= 0, right, False)) / jnp.maximum(jnp.sum(y >= 0), 1)

    return accuracy


def _users_task(config: ProblemConfig) -> Task:
    problem = import_problem(config.model)
    if config.data is not None:
        raise UsageError(
            f"--data cannot be given with --model {config.model}: a problem brings its own data"
        )
    if len(config.all_seeds) > 1 and not problem.draws_params:
        raise UsageError(
            "--seeds: several seeds need `Problem.params` to be a function key -> params; "
            f"{config.model} gives fixed parameters"
        )
    description: dict[str, Any] = {"name": problem.name, "hash": None}
    if callable(problem.data):
        return Task(problem, None, description)
    try:
        size = batch_size(problem.data, "Problem")
    except ValueError as error:
        raise UsageError(f"--model {config.model}: {error}") from error
    _check_batch_size(config, size)
    description |= {"hash": _hash((problem.data, problem.test_data)), "examples": size}
    if problem.test_data is not None:
        description["test_examples"] = batch_size(problem.test_data, "Problem")
    return Task(problem, None, description)


def _check_batch_size(config: ProblemConfig, examples: int) -> None:
    if isinstance(config, TrainConfig) and config.batch_size > examples:
        raise UsageError(
            f"--batch-size {config.batch_size} is larger than the data, which has {examples} "
            "training examples"
        )


def optimizer(problem: Problem, config: TrainConfig) -> optax.GradientTransformation:
    """The problem's own optimizer, or the one that was asked for; with the tracker before it."""
    found = problem.optimizer
    if found is None:
        found = getattr(optax, config.optimizer)(config.learning_rate)
    return optax.chain(track(), found) if config.track_noise else found


def stability_rule(problem: Problem, config: TrainConfig) -> dict[str, float]:
    """What `stability_threshold` needs to know of the optimizer; empty where there is no rule."""
    if problem.optimizer is not None or config.optimizer not in _STABILITY:
        return {}
    return {"learning_rate": config.learning_rate, **_STABILITY[config.optimizer]}


def _hash(data: Any) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(data):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        leaf = np.asarray(leaf)
        digest.update(f"{leaf.dtype.str}{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
