"""Why training fails: a short run, measured, beside the same run with one thing changed."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import optax

from ..contract import Problem
from ..contract import batch_size as size_of
from ..training import read_rows
from .facts import Facts
from .result import Diagnosis, findings
from .runs import Runs

STEPS, LEAST_STEPS, BATCH = 300, 30, 64
# Products of a run: 6 P for each of its B examples (and its tokens), so that a large model takes
# fewer steps.
_PRODUCTS = 1e12


def diagnose(
    problem: Problem | str | os.PathLike,
    *,
    optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Why training fails although every gradient is right: findings with evidence, ranked.

    Of a problem, a short run is taken and measured at some steps, the data are looked at, and the
    same run is taken again with one thing changed: a quarter and four times the learning rate, four
    times the batch (if there are as many examples); if it goes nowhere, also a 64th and 64 times
    the rate. The updates are scaled, so this needs no knowledge of the optimizer. Of the folder of
    a run, the rows in `metrics.jsonl` are read, of several seeds those of the first; `hook` writes
    the rows that tell most.

    Args:
      problem: a `Problem`, or the folder of a run.
      optimizer: an optax transformation; None takes the problem's, or `optax.adam(1e-3)`.
      batch_size: B; None is 64, or all examples if there are fewer. Not used where the problem's
        data are a function.
      steps: of each run, at least 2; None is 300, fewer for a large model.
      seed: of parameters and order.

    Returns:
      `Diagnosis`; `print` it.

    Raises:
      FileNotFoundError: there is no `metrics.jsonl` in the folder.
      TypeError, ValueError: an argument has the wrong form.

    Cost: seven times `steps` training steps (the larger batch counts four times), nine times if the
    run goes nowhere, and the compilation of two steps and one measurement.

    >>> import funcbackprop as fb, jax.numpy as jnp, optax
    >>> x = jnp.linspace(-1, 1, 64)[:, None]
    >>> loss = lambda w, example: 0.5 * (w * example[0][0] - example[1]) ** 2
    >>> problem = fb.Problem(loss, jnp.array(0.0), (x, 3 * x[:, 0]), "line")
    >>> found = fb.diagnose(problem, optimizer=optax.sgd(100.0), batch_size=16, steps=30)
    >>> print(found.findings[0].title)
    the learning rate is above the stability limit
    """
    if isinstance(problem, str | os.PathLike):
        return findings(_rows_of(Path(problem)))
    if not isinstance(problem, Problem):
        raise TypeError(
            "`diagnose`: `problem` expected a funcbackprop.Problem or the folder of a run, got "
            f"{type(problem).__name__}; make one: fb.Problem(loss, params, data, name)"
        )
    optimizer = optimizer or problem.optimizer or optax.adam(1e-3)
    size = _size(problem, batch_size)
    count = _steps(problem, size) if steps is None else steps
    if count < 2:
        raise ValueError(f"`diagnose`: `steps` expected at least 2, got {steps}; 300 is usual")
    return findings(_measured(Runs(problem, optimizer, size, count, seed)))


def _measured(runs: Runs) -> Iterator[dict[str, Any]]:
    rows = list(runs.rows())
    facts = Facts.of(rows)
    yield from rows
    yield from runs.trials(nowhere=not facts.progress >= 0.05)


def _size(problem, wanted):
    if callable(problem.data):
        first: Any = problem.data(0, 0, 0)
        return size_of(first, "diagnose")
    available = size_of(problem.data, "diagnose")
    if wanted is None:
        return min(BATCH, available)
    if not 1 <= wanted <= available:
        raise ValueError(
            f"`diagnose`: `batch_size` expected 1 to {available}, the number of examples, got "
            f"{wanted}"
        )
    return wanted


def _steps(problem, size) -> int:
    """As many as the products allow."""
    key = jax.random.key(0)
    params = jax.eval_shape(problem.params, key) if problem.draws_params else problem.params
    data = problem.data(0, 0, 0) if callable(problem.data) else problem.data
    tokens = max(leaf[0].size for leaf in jax.tree.leaves(data))
    integers = all(leaf.dtype.kind in "iu" for leaf in jax.tree.leaves(data))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    each = 6 * parameters * size * (tokens if integers else 1)
    return int(min(STEPS, max(LEAST_STEPS, _PRODUCTS // each)))


def _rows_of(folder: Path) -> Iterator[dict[str, Any]]:
    path = folder / "metrics.jsonl" if folder.is_dir() else folder
    if not path.exists():
        raise FileNotFoundError(
            f"`diagnose`: there is no {path}; expected the folder of a run of `funcbackprop train`"
            ", or of `training.fit` with records=Records(folder / 'metrics.jsonl')"
        )
    return read_rows(path)
