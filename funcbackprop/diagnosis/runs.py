"""A short run of a problem, measured, and the same run with one thing changed: trials."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..contract import Problem, attach_keys, batch_size, wide, without_aux
from ..training import batches, from_function
from .birth import cause
from .data import of_data, real_examples
from .vitals import LOOKED_AT, vitals

# change -> (factor of the update, factor of the batch); those of the second table only if the run
# goes nowhere.
TRIALS = {"rate / 4": (0.25, 1), "rate x 4": (4.0, 1), "batch x 4": (1.0, 4)}
FAR = {"rate / 64": (1 / 64, 1), "rate x 64": (64.0, 1)}
NOWHERE = 0.05
# Examples of which the loss of a run is measured: so many batches within these bounds; and at which
# shares of its steps.
JUDGED, LEAST_JUDGED, MOST_JUDGED = 16, 128, 512
LATE = (0.9, 0.95, 1.0)
POINTS = 6


class Trial(NamedTuple):
    """State of the optimizer of a trial: what is changed, and gradients on the way.

    Attributes:
      factor: of the updates.
      every: batches of which the gradients are averaged for one update.
      count: batches since the last update.
      total: the sum of their gradients over `every`.
      inner: of the optimizer.
    """

    factor: Any
    every: Any
    count: Any
    total: Any
    inner: Any


def _changeable(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """`optimizer` with a number in its state that multiplies updates, and one of batches to average
    over; so every trial is the same program."""
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return Trial(jnp.float32(1), jnp.int32(1), jnp.int32(0), zeros, optimizer.init(params))

    def update(updates: Any, state: Any, params: Any = None, **extra):
        share = lambda x: (wide(x) / state.every).astype(x.dtype)  # noqa: E731
        total = jax.tree.map(lambda t, g: t + share(g), state.total, updates)
        zeros = jax.tree.map(jnp.zeros_like, total)

        def take(total, inner):
            found, inner = optimizer.update(total, inner, params, **extra)
            scaled = jax.tree.map(lambda x: (wide(x) * state.factor).astype(x.dtype), found)
            return scaled, zeros, inner

        def wait(total, inner):
            return jax.tree.map(jnp.zeros_like, jax.eval_shape(take, total, inner)[0]), total, inner

        due = state.count + 1 >= state.every
        found, total, inner = jax.lax.cond(due, take, wait, total, state.inner)
        count = jnp.where(due, 0, state.count + 1)
        return found, state._replace(count=count, total=total, inner=inner)

    return optax.GradientTransformationExtraArgs(init, update)


class Runs:
    """Runs of one problem from the same start, over the same batches."""

    def __init__(self, problem: Problem, optimizer, size: int, steps: int, seed: int):
        self.problem, self.size, self.steps, self.seed = problem, size, steps, seed
        self.optimizer = _changeable(optimizer)
        self.loss = without_aux(problem)
        key = jax.random.key(seed)
        self.params = jax.jit(problem.params)(key) if problem.draws_params else problem.params
        data = problem.data
        self.examples = math.inf if callable(data) else batch_size(data, "diagnose")
        self.feed = self._feed()
        first = self._keyed(self.feed(0)[0], 0)
        self.look = vitals(self.loss, self.optimizer, self.params, first, whole=False)
        self.train = self._sample(real_examples(problem))
        keyed = [self._keyed(batch, k) for k, batch in enumerate(self.train)]
        few = keyed[: -(-LOOKED_AT // len(jax.tree.leaves(self.train[0])[0]))]
        self.seen = jax.tree.map(lambda *x: jnp.concatenate(x)[:LOOKED_AT], *few)
        self.test = None if problem.test_data is None else self._sample(problem.test_data)

    def _feed(self) -> Callable:
        """number -> (batch, weights)."""
        data = self.problem.data
        if callable(data):
            return from_function(data, self.seed)
        return batches(data, self.size, seed=self.seed, weights=self.problem.weights)

    def _sample(self, data):
        """Chunks of [B] for the loss of a run."""
        examples = min(MOST_JUDGED, max(LEAST_JUDGED, JUDGED * self.size))
        if callable(data):
            count = max(1, examples // self.size)
            return [data(self.seed + 1, 0, 10**6 + k) for k in range(count)]
        size = batch_size(data, "diagnose")
        chosen = np.random.default_rng(self.seed).permutation(size)[:examples]
        chunk = min(self.size, len(chosen))
        rows = chosen[: len(chosen) // chunk * chunk].reshape(-1, chunk)
        return [jax.tree.map(lambda a, r=r: np.asarray(a)[r], data) for r in rows]

    def judge(self, params, sample) -> float:
        """The mean loss over a sample."""
        keyed = (self._keyed(batch, k) for k, batch in enumerate(sample))
        return float(np.mean([np.mean(self.look.losses(params, batch)) for batch in keyed]))

    def _keyed(self, batch, number):
        if not self.problem.rng:
            return batch
        return attach_keys(batch, jax.random.fold_in(jax.random.key(self.seed), number))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Of the data and of the run as it is."""
        yield of_data(self.problem, self.optimizer, self.params, self.size, self.seed)
        yield from self.run("none", 1.0, 1, measured=True)

    def trials(self, nowhere: bool) -> Iterator[dict[str, Any]]:
        """One row for each change."""
        for change, (factor, more) in ({**TRIALS, **FAR} if nowhere else TRIALS).items():
            if more == 1 or more * self.size <= self.examples:
                yield from self.run(change, factor, more)

    def run(self, change: str, factor: float, more: int, measured: bool = False):
        """Train; rows of vitals on the way if `measured`, and one of how it ended."""
        params, state = self.params, jax.jit(self.optimizer.init)(self.params)
        state = state._replace(factor=jnp.float32(factor), every=jnp.int32(more))
        points, marks = _points(self.steps), {max(1, round(s * self.steps)) for s in LATE}
        start, late, bad = self.judge(params, self.train), [], None
        for number in range(self.steps + 1):
            if measured and number in points:
                pair = self._batch(number), self._batch(number + 1)
                yield self.look(params, state, *pair, number, self.seen)
            if number in marks:
                late.append(params)
            if number == self.steps:
                break
            for k in range(number * more, (number + 1) * more):
                batch, weights = self._batch(k)
                losses, g = self.look.gradient(params, batch, weights)
                before = params
                _, state, params = self.look.update(g, losses, params, state, batch, weights)
                if not _all_finite(losses) or not _all_finite(g["sq_norms"]):
                    bad = self._not_finite(k, before) if measured else {}
                    break
            if bad is not None:
                break
        if bad:
            yield bad
        found = {"kind": "trial", "step": number, "change": change, "finite": bad is None}
        found |= {"start": start, "steps": self.steps}
        for name, sample in (("loss", self.train), ("test", self.test)):
            if bad is None and sample is not None:
                found[name] = float(np.mean([self.judge(p, sample) for p in late]))
        yield found

    def _batch(self, number):
        batch, weights = self.feed(number)
        return self._keyed(batch, number), weights

    def _not_finite(self, number, params):
        """The row of a step that is not finite, with the cause in one of its examples."""
        batch, _ = self._batch(number)
        alone: Callable = jax.jit(jax.vmap(jax.value_and_grad(self.loss), (None, 0)))
        losses, g = alone(params, batch)
        sound = np.isfinite(losses)
        for leaf in jax.tree.leaves(g):
            sound &= np.isfinite(np.asarray(wide(leaf)).reshape(len(sound), -1)).all(1)
        bad = np.flatnonzero(~sound)
        chosen = bad[:1] if len(bad) else np.arange(1)
        example = jax.tree.map(lambda x: x[chosen], batch)
        return {
            "kind": "not_finite",
            "step": number,
            "examples": len(bad),
            "of": len(sound),
            "cause": cause(self.loss, params, example),
        }


def _all_finite(tree) -> bool:
    return all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(tree)))


def _points(steps: int) -> set[int]:
    """0 and logarithmically spaced steps."""
    return {0, *(int(x) for x in np.geomspace(1, max(steps, 1), POINTS - 1).round())}
