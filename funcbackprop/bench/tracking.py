"""What it costs to track the noise: a training step with the tracker beside the same step without.

To add a way to track: a row in `WAYS`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .. import tables
from ..noise import track, tracked, tracker
from ..per_example import SquaredNorms
from ..training import init_state, make_step
from . import clock
from .result import Kind, Spread
from .workloads import Workload

MICRO_BATCHES = 4
DEVICES = 2
_WIDTH = 100
_TRACKER = tracker()


class Loop(NamedTuple):
    """A training loop: `step(state, *data) -> state`, called `calls` times for one step."""

    step: Callable
    state: Any
    data: tuple
    calls: int = 1


class Way(NamedTuple):
    """A way to track.

    Attributes:
      loop: `(workload, with the tracker or without) -> Loop`.
      target: the most that a step with the tracker should take, as a multiple of one without.
    """

    loop: Callable[[Workload, bool], Loop]
    target: float


def _of_examples(work, with_tracker):
    """The norms of examples, measured and given to the optimizer by `make_step`."""
    optimizer, update_with = optax.adam(1e-3), None
    if with_tracker:
        optimizer, update_with = optax.chain(track(), optimizer), {"sq_norms": SquaredNorms()}
    step = make_step(work.loss, optimizer, update_with=update_with)
    loop = lambda state, batch: step(state, batch)[0]  # noqa: E731
    return Loop(loop, init_state(work.params, optimizer, 0), (work.batch,))


def _of_micro_batches(work, with_tracker):
    """A loop over micro-batches inside the step, which takes their norms on the way."""
    optimizer, gradient = optax.adam(1e-3), jax.grad(_mean_loss(work.loss))

    def step(state, batches):
        params, opt_state, noise = state

        def one(total, batch):
            g = gradient(params, batch)
            norm = optax.tree.norm(g, squared=True) if with_tracker else None
            return jax.tree.map(jnp.add, total, g), norm

        total, norms = jax.lax.scan(one, jax.tree.map(jnp.zeros_like, params), batches)
        mean = jax.tree.map(lambda x: x / MICRO_BATCHES, total)
        if with_tracker:
            noise = _TRACKER.update(noise, mean, micro_sq_norms=norms, micro_size=work.examples)
        updates, opt_state = optimizer.update(mean, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, noise

    batches = jax.tree.map(lambda x: jnp.stack([x] * MICRO_BATCHES), work.batch)
    state = work.params, optimizer.init(work.params), _TRACKER.init()
    return Loop(_jitted(step), _copied(state), (batches,))


def _of_multi_steps(work, with_tracker):
    """optax.MultiSteps, which is called once for each micro-batch."""
    optimizer: Any = optax.MultiSteps(optax.adam(1e-3), MICRO_BATCHES)
    if with_tracker:
        optimizer = tracked(optimizer, micro_size=work.examples)
    gradient = jax.grad(_mean_loss(work.loss))

    def step(state, batch):
        params, opt_state = state
        updates, opt_state = optimizer.update(gradient(params, batch), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    state = work.params, optimizer.init(work.params)
    return Loop(_jitted(step), _copied(state), (work.batch,), MICRO_BATCHES)


def _of_replicas(work, with_tracker):
    """The gradients of two devices, inside `shard_map`."""
    mesh = Mesh(np.array(jax.devices()[:DEVICES]), "replica")
    everywhere, by_rows = PartitionSpec(), PartitionSpec("replica")
    optimizer, gradient = optax.adam(1e-3), jax.grad(_mean_loss(work.loss))

    def step(state, batch):
        params, opt_state, noise = state
        own = gradient(params, batch)
        mean = jax.lax.pmean(own, "replica")
        if with_tracker:
            size = len(jax.tree.leaves(batch)[0])
            given: dict[str, Any] = {"micro_size": size, "axis_name": "replica"}
            noise = _TRACKER.update(noise, mean, replica_gradient=own, **given)
        updates, opt_state = optimizer.update(mean, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, noise

    specs: Any = {"in_specs": (everywhere, by_rows), "out_specs": everywhere}
    # Not checked, for a model whose scan starts from zeros would have to cast them.
    step = jax.shard_map(step, mesh=mesh, check_vma=False, **specs)
    state = work.params, optimizer.init(work.params), _TRACKER.init()
    state = jax.device_put(_copied(state), NamedSharding(mesh, everywhere))
    batch = jax.device_put(work.batch, NamedSharding(mesh, by_rows))
    return Loop(_jitted(step), state, (batch,))


WAYS: dict[str, Way] = {
    "norms of examples": Way(_of_examples, 1.05),
    f"{MICRO_BATCHES} micro-batches in a scan": Way(_of_micro_batches, 1.02),
    f"around MultiSteps(adam, {MICRO_BATCHES})": Way(_of_multi_steps, 1.02),
    f"{DEVICES} replicas in shard_map": Way(_of_replicas, 1.02),
}


def _mean_loss(loss):
    return lambda params, batch: jnp.mean(jax.vmap(loss, (None, 0))(params, batch))


def _jitted(step):
    return jax.jit(step, donate_argnums=0)


def _copied(tree):
    """So that the memory of nothing that is used again is given to a step."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


# --- measuring ------------------------------------------------------------------------------------


class Overhead(NamedTuple):
    """One way to track on one workload.

    Attributes:
      name: of the way.
      seconds: a step without the tracker.
      time: a step with it, divided by that of the same round.
      again: a step without it, compiled and timed once more, likewise.
      target: what `time` should be at most.
      note: why it was not measured; the figures are None then.
    """

    name: str
    seconds: Spread | None
    time: Spread | None
    again: Spread | None
    target: float
    note: str | None = None


def overhead(name: str, work: Workload, rounds: int, seed: int, progress: Callable) -> Overhead:
    """Time a step of this way of `WAYS` with the tracker and without, interleaved."""
    way = WAYS[name]
    if way.loop is _of_replicas and (why := _no_replicas(work)):
        return Overhead(name, None, None, None, way.target, why)
    loops = {"without": False, "with": True, "again": False}
    calls = {k: _call(way.loop(work, with_tracker)) for k, with_tracker in loops.items()}
    for call in calls.values():
        jax.block_until_ready(call())
    timed = {k: (call, clock.repeats(call)) for k, call in calls.items()}
    times = clock.interleaved(timed, rounds, seed, progress)
    ratios = lambda k: Spread.of([a / b for a, b in zip(times[k], times["without"], strict=True)])  # noqa: E731
    return Overhead(name, Spread.of(times["without"]), ratios("with"), ratios("again"), way.target)


def _no_replicas(work: Workload) -> str | None:
    if jax.device_count() < DEVICES:
        return f"not run: needs {DEVICES} devices; JAX_NUM_CPU_DEVICES={DEVICES} simulates them"
    if work.examples % DEVICES:
        return f"not run: {work.examples} examples do not part into {DEVICES}"
    return None


def _call(loop: Loop) -> clock.Call:
    """One step of the loop, which goes on from the state of the last."""
    state = loop.state

    def call():
        nonlocal state
        for _ in range(loop.calls):
            state = loop.step(state, *loop.data)
        return state

    return call


# --- what it shows --------------------------------------------------------------------------------


class Tracking(NamedTuple):
    """All ways on one workload."""

    name: str
    title: str
    examples: int
    parameters: int
    rows: tuple[Overhead, ...]

    def __str__(self):
        title = f"{self.title}, B {self.examples}, {tables.number(self.parameters)} parameters"
        rows = [
            [
                r.name,
                r.seconds.median * 1e3,
                r.time.median,
                r.target,
                _range(r.time),
                r.again.median,
            ]
            for r in self.rows
            if r.seconds and r.time and r.again
        ]
        headers = ["noise from", "step: ms", "tracked", "target", "quartiles", "untracked again"]
        notes = [f"{row.name}: {row.note}" for row in self.rows if row.note]
        return "\n".join([tables.text(rows, headers, title, _WIDTH), *notes])


def _range(spread: Spread) -> str:
    return f"{tables.number(spread.lower)} to {tables.number(spread.upper)}"


def tracking(
    work: Workload, rounds: int, seed: int, progress: Callable[[str], Callable]
) -> Tracking:
    """All of `WAYS` on one workload; `progress(name)` wraps the iterator over the rounds."""
    rows = tuple(overhead(name, work, rounds, seed, progress(name)) for name in WAYS)
    return Tracking(work.name, work.title, work.examples, work.parameters, rows)


def _about(config):
    return (
        "A training step (gradient, adam, update) that tracks the noise scale, as a multiple of "
        f"one that\ndoes not: medians of {config['rounds']} rounds, calls interleaved. Each "
        "micro-batch has B examples."
    )


def _plain(part):
    return [{**part._asdict(), "rows": [_row(row) for row in part.rows]}]


TRACKING = Kind("tracking", _about, _plain)


def _row(row: Overhead) -> dict[str, Any]:
    spread = lambda x: dataclasses.asdict(x) if isinstance(x, Spread) else x  # noqa: E731
    return {name: spread(x) for name, x in row._asdict().items()}
