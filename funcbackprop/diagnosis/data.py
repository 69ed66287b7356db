"""What the data of a problem say without a model: scales, labels, and whether x tells of y."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..contract import Problem, wide
from ..files import json_safe

# Examples that are looked at, and neighbours of each.
LOOKED_AT, NEIGHBOURS = 1000, 5


def of_data(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    params: chex.ArrayTree,
    batch_size: int,
    seed: int = 0,
) -> dict[str, Any]:
    """The row about a problem's data, for `findings`: scales, labels, whether x tells of y.

    Args:
      problem: up to 1000 of its examples are looked at, or one batch where its data are a function;
        those of weight 0 are left out.
      optimizer, params: whether the size of a gradient matters to this optimizer is noted.
      batch_size: noted.
      seed: of the choice of examples.

    Returns:
      A dict for JSON. On the host; no gradient of the loss is computed.

    >>> import funcbackprop as fb, jax.numpy as jnp, optax
    >>> data = jnp.ones((60, 2)), jnp.zeros(60)
    >>> problem = fb.Problem(lambda w, example: w, jnp.array(0.0), data, "constant")
    >>> row = of_data(problem, optax.sgd(0.1), problem.params, 10)
    >>> row["labels"]["std"], row["scale_free"]
    (0.0, False)
    """
    data = real_examples(problem)
    some = data(seed, 0, 0) if callable(data) else data
    row = data_row(some, np.random.default_rng(seed))
    return row | {"batch": batch_size, "scale_free": _scale_free(optimizer, params)}


def real_examples(problem: Problem) -> Any:
    """The data; of arrays, the rows of weight above 0."""
    if callable(problem.data) or problem.weights is None:
        return problem.data
    kept = np.flatnonzero(np.asarray(problem.weights) > 0)
    return jax.tree.map(lambda a: np.asarray(a)[kept], problem.data)


def _scale_free(optimizer, params) -> bool:
    """Whether a gradient 64 times as large makes the same first update."""

    def size(factor):
        g = jax.tree.map(lambda p: jnp.full_like(p, 1e-2 * factor), params)
        updates, _ = optimizer.update(g, optimizer.init(params), params)
        return optax.tree.norm(jax.tree.map(wide, updates))

    try:
        once, often = jax.jit(lambda: (size(1.0), size(64.0)))()
    except TypeError:  # it wants more than a gradient
        return False
    return bool(often < 2 * once)


def data_row(data: Any, rng: np.random.Generator) -> dict[str, Any]:
    """The row of a data set: pairs (x, y) of arrays; what is no pair is looked at as inputs."""
    pair = isinstance(data, tuple | list) and len(data) == 2
    x, y = data if pair else (data, None)
    size = len(jax.tree.leaves(x)[0])
    chosen = np.sort(rng.permutation(size)[:LOOKED_AT])
    take = lambda tree: jax.tree.map(lambda a: np.asarray(a)[chosen], tree)  # noqa: E731
    x, y = take(x), take(y)
    found: dict[str, Any] = {"kind": "data", "step": 0, "examples": size}
    floats = [a for a in jax.tree.leaves(x) if np.issubdtype(a.dtype, np.floating)]
    if floats:
        found["inputs"] = _inputs(np.concatenate([a.reshape(len(a), -1) for a in floats], 1))
    if isinstance(y, np.ndarray):
        found["labels"] = _labels(y)
        told = _told(x, y, rng) if isinstance(x, np.ndarray) else None
        if told is not None:
            found["told"] = told
    return json_safe(found)


def _inputs(x):
    """Of float inputs [N, F]."""
    x = x.astype(np.float64)
    finite = np.isfinite(x)
    bad_rows = int(np.sum(~finite.all(1)))
    x = np.where(finite, x, 0)
    std = x.std(0)
    moving = std > 1e-6 * max(np.abs(x).max(), 1e-30)
    low, high = np.quantile(std[moving], [0.05, 0.95]) if moving.any() else (np.nan, np.nan)
    spread = x.std()
    return {
        "rows_not_finite": bad_rows,
        "rms": np.sqrt(np.mean(x**2)),
        "offset": abs(x.mean()) / spread if spread > 0 else np.nan,
        "ratio_of_scales": high / low if low > 0 else np.nan,
        "constant": float(np.mean(~moving)),
    }


def _labels(y):
    if np.issubdtype(y.dtype, np.floating):
        return {
            "std": float(y.std()),
            "top": float(np.mean(y == y.ravel()[0])),
            "outputs": y[0].size,
        }
    counts = np.bincount(y[y >= 0].ravel())
    p = counts[counts > 0] / counts.sum()
    return {
        "classes": len(counts),
        "top": p.max(),
        # The loss of a prediction that does not look at the input.
        "entropy": float(-np.sum(p * np.log(p))),
        "outputs": y[0].size,
    }


def _told(x, y, rng):
    """Whether x tells of y: gain over what does not look at x, in standard errors; and the share
    of the examples whose label the others contradict."""
    if len(x) < 50:
        return None
    if np.issubdtype(y.dtype, np.integer) and y.ndim == 1:
        return _of_classes(x, y)
    if np.issubdtype(y.dtype, np.integer) and x.shape == y.shape:
        return _of_tokens(x, y, rng)
    if np.issubdtype(y.dtype, np.floating):
        return _of_numbers(x, y)
    return None


def _neighbours(x):
    """[N, k]: the nearest others, in standardised inputs."""
    x = np.nan_to_num(x.reshape(len(x), -1).astype(np.float64), posinf=0, neginf=0)
    std = x.std(0)
    x = (x - x.mean(0)) / np.where(std > 0, std, 1)
    square = np.sum(x**2, 1)
    distance = square[:, None] + square - 2 * x @ x.T
    np.fill_diagonal(distance, np.inf)
    return np.argpartition(distance, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]


def _of_classes(x, y):
    """Neighbours with the same label, against as many as by chance."""
    near = y[_neighbours(x)]
    same = np.mean(near == y[:, None], 1)
    p = np.bincount(y[y >= 0]) / len(y)
    chance = float(np.sum(p**2))
    # As if all agree on another label.
    first = near[:, 0]
    against = (near == first[:, None]).sum(1) >= NEIGHBOURS - 1
    return {
        "how": f"labels of the {NEIGHBOURS} nearest inputs",
        "agree": same.mean(),
        "chance": chance,
        "z": (same.mean() - chance) / max(same.std() / np.sqrt(len(y)), 1e-9),
        "contradicted": float(np.mean(against & (first != y))),
    }


def _of_tokens(x, y, rng):
    """Log-likelihood of a target after its token, counted in the other half, above that of the
    target alone; for each sequence."""
    x, y = x.astype(np.int64), y.astype(np.int64)
    size = int(max(x.max(), y.max())) + 1
    if size > 2000:
        return None
    half = np.arange(len(x)) % 2 == 0
    gains, others = np.zeros(len(x)), np.zeros(len(x))
    for fit, judge in ((half, ~half), (~half, half)):
        keep = y[fit] >= 0
        pairs = np.zeros((size, size))
        np.add.at(pairs, (x[fit][keep], y[fit][keep]), 1)
        alone = (pairs.sum(0) + 0.5) / (pairs.sum() + 0.5 * size)
        told = np.log((pairs + alone) / (pairs.sum(1, keepdims=True) + 1)) - np.log(alone)
        mean = lambda x, y: np.mean(np.where(y >= 0, told[x, y], 0), 1)  # noqa: B023, E731
        gains[judge] = mean(x[judge], y[judge])
        others[judge] = mean(x[judge], rng.permutation(y[judge]))
    return {
        "how": "targets after their token, in nats",
        "agree": gains.mean(),
        "chance": others.mean(),
        "z": (gains.mean() - others.mean()) / max(gains.std() / np.sqrt(len(x)), 1e-9),
        # Half of those that belong to another sequence lie below the median of such.
        "contradicted": min(2 * float(np.mean(gains < np.median(others))), 1.0),
    }


def _of_numbers(x, y):
    """Correlation of a target with the mean of its neighbours'."""
    y = y.reshape(len(y), -1)[:, 0].astype(np.float64)
    if y.std() == 0 or not np.isfinite(y).all():
        return None
    near = y[_neighbours(x)].mean(1)
    agree = np.corrcoef(near, y)[0, 1] if near.std() > 0 else 0.0
    return {
        "how": f"targets of the {NEIGHBOURS} nearest inputs, correlation",
        "agree": agree,
        "chance": 0.0,
        "z": agree * np.sqrt(len(y)),
        "contradicted": None,
    }
