"""The four models of the calibration, small and healthy: what faults are put into."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcbackprop as fb

LENGTH = 16
BATCH = 32
STEPS = 150


@dataclasses.dataclass(frozen=True)
class Case:
    """A training set-up: what a fault changes.

    Attributes:
      arch: a key of `ARCHITECTURES`.
      apply, loss: of the model and of its prediction, before they are joined.
      init: key -> params.
      data: (x, y).
      optimizer: an optax transformation.
      batch: B.
      wrap: takes the joined loss and returns the one to train with.
    """

    arch: str
    model: Any
    loss: Callable
    init: Callable
    data: tuple
    optimizer: Any
    batch: int = BATCH
    wrap: Callable = lambda loss: loss

    def problem(self) -> fb.Problem:
        """For `fb.diagnose`."""
        joined = fb.example_loss(self.model.apply, self.loss)
        return fb.Problem(self.wrap(joined), self.init, self.data, self.arch)


@functools.cache
def digits():
    """Images and labels."""
    data = fb.training.load("digits")
    return data.x, data.y


@functools.cache
def text():
    """Windows of characters and of those that follow."""
    data = fb.training.load_text(length=LENGTH)
    keep = np.random.default_rng(0).permutation(len(data.x))[:3000]
    return data.x[keep], data.y[keep], data.num_classes


def _case(arch, model, loss, data, optimizer, **rest):
    init = lambda key: model.init(key, jnp.asarray(data[0][0]))  # noqa: E731
    return Case(arch, model, loss, init, data, optimizer, **rest)


def mlp(optimizer, *, sizes=(64, 64), activation="relu", **rest):
    """Digits."""
    model = fb.models.mlp((64, *sizes, 10), activation=activation)
    return _case("mlp", model, fb.losses.cross_entropy, digits(), optimizer, **rest)


def convnet(optimizer, *, channels=(8, 16), activation="relu", pool=2, **rest):
    """Digits, as images."""
    model = fb.models.convnet(channels, 10, activation=activation, pool=pool)
    return _case("convnet", model, fb.losses.cross_entropy, digits(), optimizer, **rest)


def transformer(optimizer, *, depth=2, width=32, **rest):
    """Characters."""
    x, y, vocabulary = text()
    model = fb.models.transformer(vocabulary, LENGTH, width, depth, 2)
    return _case("transformer", model, fb.losses.next_token, (x, y), optimizer, **rest)


def lstm(optimizer, *, depth=1, width=32, **rest):
    """Characters."""
    x, y, vocabulary = text()
    model = fb.models.lstm(vocabulary, width, depth)
    return _case("lstm", model, fb.losses.next_token, (x, y), optimizer, **rest)


ARCHITECTURES = {"mlp": mlp, "convnet": convnet, "transformer": transformer, "lstm": lstm}
TUNED_ON, TESTED_ON = ("mlp", "convnet"), ("transformer", "lstm")


def final_loss(case: Case, clean: Case, seed: int, steps: int = STEPS) -> float:
    """The loss of the clean case on its own data, after training `case`; infinite if it fails."""
    problem = case.problem()
    params = jax.jit(problem.params)(jax.random.key(seed))
    # Two programs: the first is the same for every optimizer, and is compiled once.
    gradient = jax.jit(fb.gradient_statistics(problem.loss, fb.Mean()))
    update = jax.jit(case.optimizer.update)
    state = jax.jit(case.optimizer.init)(params)
    feed = fb.training.batches(case.data, case.batch, seed=seed)
    late = []
    for number in range(steps):
        _, g = gradient(params, *feed(number))
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
        if number >= 0.9 * steps and number % 5 == 0:
            late.append(params)
    rows = np.random.default_rng(seed).permutation(len(clean.data[0]))[:512]
    sample = jax.tree.map(lambda a: a[rows], clean.data)
    loss = clean.problem().loss
    judge = jax.jit(lambda p: jnp.mean(jax.vmap(loss, (None, 0))(p, sample)))
    found = [float(judge(jax.tree.map(lambda x: x.astype(jnp.float32), p))) for p in late]
    return float(np.mean(found)) if np.isfinite(found).all() else float("inf")
