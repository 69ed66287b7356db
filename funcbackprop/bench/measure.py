"""Paired measurements: all variants in one process, interleaved, as ratios to the plain gradient.

The time of each is divided by that of the plain gradient of the same round; the median of the
rounds is reported, with its quartiles.
"""

import functools
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import clock
from .result import Measured, Row, Spread
from .variants import DEFINITION, PLAIN, STANDARD, VARIANTS, Found, Missing
from .workloads import Workload

# Share of the memory that a variant may take; one that needs more is not run.
_MEMORY_SHARE = 0.6


class Compiled(NamedTuple):
    """A compiled function, and what XLA says about it.

    Attributes:
      call: `(params, batch) -> output`.
      seconds: to trace, lower and compile, with JAX's caches empty.
      temporary: bytes of temporaries; None where XLA does not say.
      needed: bytes of temporaries and output.
    """

    call: Callable
    seconds: float
    temporary: int | None
    needed: int


def compiled(f: Callable, params: Any, batch: Any) -> Compiled:
    """Compile `f(params, batch)`; nothing is run."""
    jax.clear_caches()  # else what one variant has traced would be free for the next
    start = time.perf_counter()
    program = jax.jit(f).lower(params, batch).compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    if memory is None:
        return Compiled(program, seconds, None, 0)
    temporary = int(memory.temp_size_in_bytes)
    return Compiled(program, seconds, temporary, temporary + int(memory.output_size_in_bytes))


def measure(
    work: Workload,
    names: Sequence[str] = STANDARD,
    rounds: int = 15,
    seed: int = 0,
    progress: Callable = iter,
) -> Measured:
    """Measure the variants of these names on one workload.

    Args:
      work: the workload.
      names: of `VARIANTS`; the plain gradient must be among them.
      rounds: how often each is timed.
      seed: of the order of the calls.
      progress: wraps the iterator over the rounds.

    Raises:
      ValueError: the plain gradient does not fit in memory. What tracing it raises is passed on.
        Of another variant that fails or does not fit, the note says so.
    """
    _compile(PLAIN, work)  # not counted: the first compilation in a process takes longer
    prepared = {name: _prepare(name, work) for name in names}
    programs = {k: v for k, v in prepared.items() if isinstance(v, Compiled)}
    notes = {k: _why(v) for k, v in prepared.items() if isinstance(v, Exception)}
    for name, program in programs.items():
        if program.needed > _MEMORY_SHARE * _memory():
            notes[name] = f"not run: it needs {program.needed / 1e9:.1f} GB"
    if PLAIN in notes:
        raise ValueError(f"the plain gradient is {notes[PLAIN]}")
    calls = {
        k: functools.partial(v.call, work.params, work.batch)
        for k, v in programs.items()
        if k not in notes
    }
    found, timed = _first_calls(calls)
    times = clock.interleaved(timed, rounds, seed, progress)
    rows = []
    for name in names:
        difference = _difference(name, found)
        if difference is not None and not difference <= _tolerance(work):
            notes[name] = f"its result differs from the reference by {difference:.2g}"
        rows.append(_row(name, programs, times, difference, notes.get(name)))
    return Measured(work.name, work.title, work.examples, work.parameters, tuple(rows))


def _compile(name: str, work: Workload) -> Compiled:
    return compiled(VARIANTS[name].make(work.loss, work.examples), work.params, work.batch)


def _prepare(name: str, work: Workload) -> Compiled | Exception:
    try:
        return _compile(name, work)
    except Exception as error:  # other libraries' too: the other rows must not be lost
        return error


def _why(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"left out: {text}" if isinstance(error, Missing) else f"{type(error).__name__}: {text}"


def _first_calls(calls) -> tuple[dict[str, Found], dict[str, tuple[clock.Call, int]]]:
    """What each variant found, in NumPy, and each with how many calls make up one time."""
    found, timed = {}, {}
    for name, call in calls.items():
        out = jax.block_until_ready(call())
        found[name] = jax.tree.map(np.asarray, VARIANTS[name].read(out))
        del out
        timed[name] = call, clock.repeats(call)
    return found, timed


def _row(name, programs, times, difference, note) -> Row:
    plain, its = programs[PLAIN], programs.get(name)
    ratios = [a / b for a, b in zip(times.get(name, ()), times[PLAIN], strict=False)]
    return Row(
        name=name,
        time=Spread.of(ratios),
        seconds=Spread.of(times.get(name, ())),
        memory=_ratio(its and its.temporary, plain.temporary),
        temporary_bytes=its and its.temporary,
        compile=_ratio(its and its.seconds, plain.seconds),
        compile_seconds=its and its.seconds,
        difference=difference,
        note=note,
    )


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def _difference(name: str, found: dict[str, Found]) -> float | None:
    """Of the mean from plain, and of the norms from the definition: the larger, relative."""
    pairs = []
    if name in found:
        pairs.append((found[name].mean, found[PLAIN].mean))
        if DEFINITION in found:
            pairs.append((found[name].sq_norms, found[DEFINITION].sq_norms))
    errors = [_relative(a, b) for a, b in pairs if a is not None]
    return max(errors, default=None)


def _relative(tree, reference) -> float:
    """|a - b| / |b| over all leaves; 0 where both are zero."""
    a, b = (
        np.concatenate([np.ravel(np.asarray(x, np.complex128)) for x in jax.tree.leaves(t)])
        for t in (tree, reference)
    )
    error, size = np.linalg.norm(a - b), np.linalg.norm(b)
    return float(error / size) if size else float(error)


def _tolerance(work: Workload) -> float:
    # 1e-3 in float32, 0.3 in bfloat16: sums over examples and positions in another order, or kept
    # in float32 here and in the narrower dtype by JAX. To see blunders; bounds are for the tests.
    leaves = jax.tree.leaves(work.params)
    return max(3 * math.sqrt(jnp.finfo(jnp.result_type(x)).eps) for x in leaves)


def _memory() -> float:
    """Bytes of memory of the device."""
    device = jax.local_devices()[0]
    usage = None if device.platform == "cpu" else device.memory_stats()
    if usage and "bytes_limit" in usage:
        return usage["bytes_limit"]
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return math.inf
