"""The variance of the gradient of mini-batches of several sizes, as seen across mini-batches."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..contract import Problem, differentiable, without_aux
from ..noise.estimate import around_positive, quantile
from ..noise.leave_one_out import sq_norm
from ..training import TrainState, on_this_device
from .measure import training_sample

# Mini-batches of the smallest size, a power of two; and how many of the largest there must be.
_MOST, _LEAST = 32, 4


def batch_variance(
    problem: Problem, seed: int, examples: int
) -> Callable[[TrainState], dict[str, Any]] | None:
    """`(state) -> row`: sum_b |G_b - G|^2/(K - 1) over the K disjoint mini-batches of each size B.

    Over random partitions of the examples its expectation is S/B, with S of the same examples. The
    interval is that of a mean of K independent terms, symmetric in the logarithm.

    Returns:
      None where there are too few examples, or their weights differ: then S/B is not the law.

    Cost: two gradients of the examples, and memory for a few trees like the parameters.
    """
    batch, weights = training_sample(problem, seed, examples)
    weights = np.asarray(weights)
    kept = np.flatnonzero(weights > 0)
    if len(kept) < _LEAST or len(np.unique(weights[kept])) > 1:
        return None
    blocks = 2 ** int(np.log2(min(_MOST, len(kept))))
    size = len(kept) // blocks
    order = np.random.default_rng(seed).permutation(kept)[: blocks * size].reshape(blocks, size)
    loss = jax.vmap(without_aux(problem), (None, 0))

    @jax.jit
    def deviation(params, rows, mean):
        block = jax.tree.map(lambda x: x[rows], batch)
        trained, join = differentiable(params, "study")
        gradient = jax.grad(lambda p: jnp.mean(loss(join(p), block)))(trained)
        found = jax.tree.map(jnp.subtract, gradient, mean)
        return found, sq_norm(found)

    def measure(state):
        params = on_this_device(state.params)
        about = lambda mean: (deviation(params, rows, mean) for rows in order)  # noqa: E731
        zero = jax.tree.map(jnp.zeros_like, differentiable(params, "study")[0])
        mean, _ = _joined(about(zero))
        _, squares = _joined(about(mean))
        sizes = [_row(size * 2**k, x) for k, x in enumerate(squares) if len(x) >= _LEAST]
        return {"examples": order.size, "sizes": sizes}

    return measure


def _joined(gradients: Iterable[tuple[Any, Any]]) -> tuple[Any, list[list]]:
    """The mean of a power of two of trees, and |mean|^2 of each 1, 2, 4, ... neighbours.

    As one counts in binary: no more trees are held at a time than there are levels.
    """
    squares: list[list] = []
    waiting: list[Any] = []  # at most one tree of each level

    for tree, square in gradients:
        level = 0
        while True:
            if level == len(squares):
                squares.append([])
                waiting.append(None)
            squares[level].append(square)
            if waiting[level] is None:
                waiting[level] = tree
                break
            (tree, square), waiting[level] = _join(waiting[level], tree), None
            level += 1
    return waiting[-1], squares


@jax.jit
def _join(a, b):
    mean = jax.tree.map(lambda x, y: (x + y) / 2, a, b)
    return mean, sq_norm(mean)


def _row(size: int, squares: list) -> dict[str, Any]:
    x = np.asarray(jax.device_get(squares), np.float64)
    K = len(x)
    with np.errstate(invalid="ignore"):  # where a gradient is not finite, neither is the row
        error = np.std(x, ddof=1) / np.sqrt(K) * K / (K - 1)
    found = around_positive(x.sum() / (K - 1), error, quantile(K - 1)).to_dict()
    return {"batch_size": size, "mini_batches": K, **found}
