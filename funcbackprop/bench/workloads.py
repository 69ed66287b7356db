"""What is measured: models of the library on random data, or the user's own problem."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from .. import losses, models
from ..contract import (
    Loss,
    Problem,
    attach_keys,
    batch_size,
    checked_params,
    example_loss,
    scalar_loss,
)
from ..usage import UsageError, import_problem, initial_params


@dataclasses.dataclass(frozen=True)
class Workload:
    """A loss of one example with parameters and a batch.

    Attributes:
      name: as on the command line.
      title: its sizes, for people.
    """

    name: str
    title: str
    loss: Loss
    params: chex.ArrayTree
    batch: chex.ArrayTree

    @property
    def examples(self) -> int:
        """B."""
        return len(jax.tree.leaves(self.batch)[0])

    @property
    def parameters(self) -> int:
        """P."""
        return sum(map(jnp.size, jax.tree.leaves(self.params)))


class _Made(NamedTuple):
    title: str
    model: models.Model
    loss: Callable
    draw: Callable  # (key, B) -> (x [B, ...], y [B, ...])


def _mlp(*sizes):
    title = "MLP " + "-".join(map(str, sizes))
    return _Made(title, models.mlp(sizes), losses.cross_entropy, _images(sizes[-1], sizes[0]))


def _convnet(*channels, side):
    title = f"convnet 3x3, {'-'.join(map(str, channels))}, {side}x{side}x3"
    draw = _images(10, side, side, 3)
    return _Made(title, models.convnet(channels, 10), losses.cross_entropy, draw)


def _transformer(width, depth, length, vocabulary, heads=4, remat=False):
    title = f"transformer width {width}, depth {depth}, T {length}" + ", remat" * remat
    model = models.transformer(vocabulary, length, width, depth, heads, remat=remat)
    return _Made(title, model, losses.next_token, _tokens(vocabulary, length))


def _lstm(width, length, vocabulary):
    title = f"LSTM width {width}, T {length}"
    return _Made(
        title, models.lstm(vocabulary, width), losses.next_token, _tokens(vocabulary, length)
    )


def _images(classes, *shape):
    def draw(key, size):
        x, y = jax.random.split(key)
        return jax.random.normal(x, (size, *shape)), jax.random.randint(y, (size,), 0, classes)

    return draw


def _tokens(vocabulary, length):
    def draw(key, size):
        sequence = jax.random.randint(key, (size, length + 1), 0, vocabulary)
        return sequence[:, :-1], sequence[:, 1:]

    return draw


# name -> (its B, what makes it)
LIBRARY: dict[str, tuple[int, Callable[[], _Made]]] = {
    "mlp": (256, lambda: _mlp(784, 1024, 1024, 10)),
    "convnet": (64, lambda: _convnet(32, 64, 128, side=32)),
    "transformer": (16, lambda: _transformer(256, 4, 128, 1000)),
    "transformer-remat": (16, lambda: _transformer(256, 4, 128, 1000, remat=True)),
    "transformer-long": (4, lambda: _transformer(256, 4, 512, 1000)),
    "lstm": (64, lambda: _lstm(256, 64, 96)),
}
QUICK: dict[str, tuple[int, Callable[[], _Made]]] = {
    "mlp": (8, lambda: _mlp(32, 16, 16, 10)),
    "convnet": (8, lambda: _convnet(4, 8, side=8)),
    "transformer": (4, lambda: _transformer(8, 2, 8, 16, heads=2)),
    "transformer-remat": (4, lambda: _transformer(8, 2, 8, 16, heads=2, remat=True)),
    "transformer-long": (4, lambda: _transformer(8, 2, 16, 16, heads=2)),
    "lstm": (4, lambda: _lstm(8, 8, 16)),
}

# Examples of a user's problem if no B is asked for.
_USERS_BATCH = 64


def workload(
    name: str, batch: int | None = None, seed: int = 0, dtype: str = "float32", quick: bool = False
) -> Workload:
    """The workload of a name: one of `LIBRARY`, or `module:problem`.

    Args:
      name: as on the command line.
      batch: B; None is the workload's own, and 64 or all examples of a user's problem (whose
        weights, if it has any, are left out).
      seed: of parameters and data.
      dtype: of all floating-point parameters and data.
      quick: take tiny sizes; a user's problem is as it is.

    Raises:
      UsageError: there is no such problem, or it has fewer examples.

    >>> workload("mlp", quick=True).title
    'MLP 32-16-16-10'
    """
    if ":" in name:
        return _users(name, batch, seed, dtype)
    own, make = (QUICK if quick else LIBRARY)[name]
    made = make()
    for_params, for_data = jax.random.split(jax.random.key(seed))
    data = made.draw(for_data, batch or own)
    params = jax.jit(made.model.init)(for_params, jax.tree.map(lambda x: x[0], data[0]))
    loss = example_loss(made.model.apply, made.loss)
    return Workload(name, made.title, loss, _cast(params, dtype), _cast(data, dtype))


def _users(name: str, batch: int | None, seed: int, dtype: str) -> Workload:
    option = "--workloads"
    problem = import_problem(name, option)
    try:
        data = _examples(problem, batch or _USERS_BATCH, seed)
        size = batch_size(data, "Problem")
        if batch is not None and size < batch:
            raise UsageError(f"--batch {batch} is larger than the data of {name}: {size} examples")
        params = _cast(initial_params(problem, seed), dtype)
        data = _cast(data, dtype)
        if problem.rng:
            data = attach_keys(data, jax.random.key(seed))
        checked_params(params, "Problem")
        scalar = scalar_loss(problem.loss, problem.has_aux, "Problem")
        jax.eval_shape(scalar, params, jax.tree.map(lambda x: x[0], data))
        loss = _without_aux(problem.loss) if problem.has_aux else problem.loss
        return Workload(name, problem.name, loss, params, data)
    except UsageError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(f"{option} {name}: {error}") from error


def _examples(problem: Problem, count: int, seed: int) -> Any:
    """The first examples of the data, or of as many batches of a data function as are needed."""
    data = problem.data
    if callable(data):
        drawn: list[Any] = [data(seed, 0, 0)]
        size = batch_size(drawn[0], "Problem")
        drawn += [data(seed, 0, step) for step in range(1, -(-count // size))]
        data = jax.tree.map(lambda *x: jnp.concatenate(x), *drawn)
    batch_size(data, "Problem")
    return jax.tree.map(lambda x: jnp.asarray(x)[:count], data)


def _without_aux(loss: Callable) -> Loss:
    return lambda params, example: loss(params, example)[0]


def _cast(tree: Any, dtype: str) -> Any:
    def cast(x):
        x = jnp.asarray(x)
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, tree)
