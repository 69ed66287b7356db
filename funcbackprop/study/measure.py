"""What a study measures on the way: hooks for `fit` that return rows."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ..check import GradientCheck, LeafCheck
from ..check.gradients import check_with
from ..check.result import ADVICE
from ..contract import Problem, attach_keys, batch_size, layer_groups, without_aux
from ..noise import NoiseScale, noise_scale
from ..per_example import InnerWithMean, Mean, SquaredDeviations, gradient_statistics
from ..training import (
    TrainState,
    effect_of_next_update,
    everywhere,
    on_this_device,
    shard_batch,
    sharpness_against_threshold,
)

# Examples of each set that loss and accuracy are the means of, and how many are evaluated at once.
_EVALUATED = 2048
_CHUNK = 512
# Batches of a data function that stand for its training set, and the seed they are drawn with.
_FUNCTION_BATCHES = 8
_HELD_OUT_SEED = 2**31 - 1
# Rows of the noise tracker in a run, at most about.
_TRACKED_ROWS = 200
# Bytes of temporaries: on CPU, chunks of this size are faster than those of the default.
_MEMORY_LIMIT = 2**27


def measured_steps(steps: int, count: int) -> list[int]:
    """The first and the last step, and about `count` log-spaced ones between.

    >>> measured_steps(100, 5)
    [0, 1, 3, 10, 32, 100]
    """
    spaced = np.rint(np.geomspace(1, steps, count)).astype(int)
    return sorted({0, steps, *spaced.tolist()})


def checked_steps(steps: int) -> list[int]:
    """The first, the middle and the last step."""
    return sorted({0, steps // 2, steps})


class Evaluation:
    """Means over at most 2048 examples of each set, and their standard errors:
    `(params) -> {"metrics": {"train": {"loss": ...}, ...}, "standard_errors": ...}`."""

    def __init__(self, problem: Problem, seed: int, mesh: Mesh):
        train = training_examples(problem, seed)
        self._sets = {"train": _some((train, _weights(problem, train)), _EVALUATED)}
        if problem.test_data is not None:
            test = problem.test_data
            self._sets["test"] = _some((test, _weights(None, test)), _EVALUATED)
        self._key = jax.random.key(seed)
        self._mesh = mesh
        evaluate = jax.vmap(_evaluator(problem), in_axes=(None, 0, 0))
        self._evaluate = jax.jit(evaluate, out_shardings=everywhere(mesh))

    def __call__(self, params) -> dict[str, dict]:
        found = {name: self._means(params, *data) for name, data in self._sets.items()}
        kinds = ("metrics", "standard_errors")
        return {
            kind: {
                split: {name: pair[k] for name, pair in of_set.items()}
                for split, of_set in found.items()
            }
            for k, kind in enumerate(kinds)
        }

    def _means(self, params, data, weights) -> dict[str, tuple[float, float | None]]:
        data, keys = attach_keys(data, self._key)
        values: dict[str, list] = {}
        for start in range(0, len(keys), _CHUNK):
            chunk = jax.tree.map(lambda x, s=start: x[s : s + _CHUNK], (data, keys))
            (examples, own_keys), _ = shard_batch(chunk, None, self._mesh)
            for name, of_chunk in self._evaluate(params, examples, own_keys).items():
                of_chunk = np.asarray(of_chunk, np.float64)[: len(chunk[1])]
                values.setdefault(name, []).extend(of_chunk.tolist())
        weights = np.asarray(weights, np.float64)
        kept = weights > 0  # NaN in padding must not spread
        mean_of = lambda name: _mean if name == "loss" else _metric_mean  # noqa: E731
        return {name: mean_of(name)(np.array(v)[kept], weights[kept]) for name, v in values.items()}


def _mean(values, weights) -> tuple[float, float | None]:
    """The weighted mean and its standard error; None for a single value, or one not finite."""
    mean = float(np.average(values, weights=weights))
    if len(values) < 2 or not np.isfinite(mean):
        return mean, None
    squares = np.sum(weights**2 * (values - mean) ** 2) * len(values) / (len(values) - 1)
    return mean, float(np.sqrt(squares) / np.sum(weights))


def _metric_mean(values, weights) -> tuple[float, float | None]:
    """`_mean`, but of a proportion that is 0 or 1 the standard error is not 0.

    Such as the accuracy of a model without mistakes: there is no spread to see, and yet n examples
    do not tell it exactly. Two of each kind are added (Agresti and Coull 1998).
    """
    mean, error = _mean(values, weights)
    if error == 0 and mean in (0, 1):
        n = np.sum(weights) ** 2 / np.sum(weights**2)
        error = float(np.sqrt(2 * (n + 2) / (n + 4) ** 3))
    return mean, error


def _evaluator(problem: Problem) -> Callable:
    def evaluate(params, example, key):
        out = problem.loss(params, (example, key) if problem.rng else example)
        values = {"loss": out[0] if problem.has_aux else out}
        for name, metric in (problem.metrics or {}).items():
            values[name] = metric(params, example)
        return values

    return evaluate


class Noise:
    """The gradient noise with 95 % limits: `(params) -> {"total", "layers"}`."""

    def __init__(self, problem: Problem, seed: int, examples: int, mini_batch: int, mesh: Mesh):
        batch, weights = training_sample(problem, seed, examples)
        self.examples = len(weights)
        self._given = shard_batch(batch, weights, mesh)
        self._mini_batch = mini_batch
        self._groups = problem.groups
        stats = {
            "mean": Mean(),
            "sq_deviations": SquaredDeviations(),
            "inner": InnerWithMean(),
        }
        statistics = gradient_statistics(
            problem.loss, stats, has_aux=problem.has_aux, memory_limit=_MEMORY_LIMIT
        )

        def measure(params, batch, weights):
            layers = layer_groups(params, self._groups)
            layer_of = {path: name for name, paths in layers.items() for path in paths}
            g = statistics(params, batch, weights)[1]
            return noise_scale(**g, weights=weights, groups=layer_of.get)

        self._measure = jax.jit(measure, out_shardings=everywhere(mesh))

    def __call__(self, params) -> dict[str, Any]:
        found = on_this_device(self._measure(params, *self._given))
        names = map(str, layer_groups(params, self._groups))  # in the order of the model
        layers = {name: self._row(found.groups[name]) for name in names if name in found.groups}
        return {"total": self._row(found), "layers": layers}

    def _row(self, x: NoiseScale) -> dict[str, Any]:
        S, sq_norm, scale = (e.to_dict() for e in (x.S, x.sq_gradient_norm, x.B_simple))
        B, limits = self._mini_batch, ("lower", "upper")
        status = scale["status"]
        return {
            "S": S["value"],
            "sq_gradient_norm": sq_norm["value"],
            "noise_scale": scale["value"],
            "signal_to_noise": _ratio(sq_norm["value"], _ratio(S["value"], B)),
            "batch_variance": _ratio(S["value"], B),
            "examples": float(x.examples),
            # An interval without an upper end says so itself.
            "status": "ok" if status == "unbounded above" else status,
            "limits": {
                "S": [S[end] for end in limits],
                "sq_gradient_norm": [sq_norm[end] for end in limits],
                "noise_scale": [scale[end] for end in limits],
                "signal_to_noise": _inverse(B, scale["lower"], scale["upper"]),
                "batch_variance": [_ratio(S[end], B) for end in limits],
            },
        }


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def _inverse(B: float, lower: float | None, upper: float | None) -> list[float | None]:
    """Limits of B over a number that is not negative; of the number, None is no upper limit."""
    if lower is None:
        return [None, None]
    return [0.0 if upper is None else _ratio(B, upper), _ratio(B, lower)]


class Check:
    """The gradient held against the chain rule, and against the problem's own reference."""

    def __init__(self, problem: Problem, seed: int, examples: int, intended: Sequence[str] = ()):
        self._problem = problem
        self._intended = intended
        self._batch, self._weights = held_out_sample(problem, seed, examples)
        self._references = {"chain_rule": None}
        if (given := problem.reference) is not None:
            name = getattr(given, "__name__", type(given).__name__)
            self._references = {name: given, **self._references}

    def __call__(self, params) -> dict[str, Any]:
        reference = " and ".join(self._references)
        return {**self.report(params).to_dict(), "reference": reference}

    def report(self, params) -> GradientCheck:
        """By all references: of each leaf the worst verdict."""
        reports = check_with(
            *(list(self._references.values()), self._problem.loss, params, self._batch),
            grads=None,
            weights=None if jnp.all(self._weights == 1) else self._weights,
            has_aux=self._problem.has_aux,
            intended=self._intended,
        )
        leaves = tuple(
            min(of_leaf, key=_rank)
            for of_leaf in zip(*(report.leaves for report in reports), strict=True)
        )
        notes = tuple(dict.fromkeys(note for report in reports for note in report.notes))
        return dataclasses.replace(reports[0], leaves=leaves, notes=notes)


def _rank(leaf: LeafCheck) -> tuple[int, float]:
    """The worst first; a comparison that could not be made counts least."""
    known = leaf.verdict != "not audited"
    order = list(ADVICE).index(leaf.verdict) if known else len(ADVICE)
    return order, -(leaf.error_in_bounds or 0.0)


def effect(
    problem: Problem, seed: int, examples: int, mesh: Mesh, step: Callable, feed: Callable
) -> Callable[[TrainState], dict[str, Any]]:
    """What the next update does to the loss of the test set, or of the training set without one."""
    batch, weights = held_out_sample(problem, seed, examples)
    measure = effect_of_next_update(
        *(step, feed, without_aux(problem)),
        *shard_batch(batch, weights, mesh),
        groups=problem.groups,
    )
    of = {"examples": len(weights), "data": "train" if problem.test_data is None else "test"}
    return lambda state: {**of, **measure(state)}


def sharpness(
    problem: Problem, seed: int, examples: int, mesh: Mesh, rule: Mapping[str, Any]
) -> Callable[[TrainState], dict[str, Any]]:
    """The sharpness of the loss of training examples against the threshold of `rule`."""
    batch, weights = training_sample(problem, seed, examples)
    measure = sharpness_against_threshold(
        without_aux(problem), *shard_batch(batch, weights, mesh), **rule
    )
    return lambda state: {"examples": len(weights), **measure(state)}


def tracked_steps(steps: int) -> list[int]:
    """About 200 steps, evenly spaced, the last among them."""
    every = max(1, steps // _TRACKED_ROWS)
    return [*range(every, steps, every), steps]


def training_examples(problem: Problem, seed: int) -> Any:
    """The training set; of a data function, some batches that training does not see."""
    if not callable(problem.data):
        return problem.data
    drawn = [problem.data(_HELD_OUT_SEED - seed, 0, i) for i in range(_FUNCTION_BATCHES)]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *drawn)


def training_sample(problem: Problem, seed: int, count: int) -> tuple[Any, Any]:
    """`(batch, weights)`: at most `count` training examples, with their keys if they need any."""
    data = training_examples(problem, seed)
    return _sample(problem, seed, data, _weights(problem, data), count)


def held_out_sample(problem: Problem, seed: int, count: int) -> tuple[Any, Any]:
    """The same of the test set; without one, of the training set."""
    if problem.test_data is None:
        return training_sample(problem, seed, count)
    return _sample(problem, seed, problem.test_data, _weights(None, problem.test_data), count)


def _sample(problem, seed, data, weights, count):
    batch, weights = _some((data, weights), count)
    return (attach_keys(batch, jax.random.key(seed)) if problem.rng else batch), weights


def _weights(problem: Problem | None, data) -> np.ndarray:
    if problem is not None and problem.weights is not None:
        return np.asarray(problem.weights)
    return np.ones(batch_size(data, "measure"), np.float32)


def _some(data, count: int):
    """At most `count` rows, the same ones in every run."""
    size = batch_size(data, "measure")
    rows = np.sort(np.random.default_rng(0).permutation(size)[:count])
    return jax.tree.map(lambda x: jnp.asarray(x)[rows], data)
