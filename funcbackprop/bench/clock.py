"""Times of several functions, interleaved: a round calls each once, in a new order.

Times on a shared machine drift by more than the differences that matter, so only times of the same
round are compared.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

# A time is that of the fastest of as many calls as fill this many seconds: what else the machine
# does makes a short call longer, never shorter.
_SECONDS = 0.05

Call = Callable[[], Any]


def repeats(call: Call) -> int:
    """How many calls make up one time; the function has been called before."""
    return math.ceil(_SECONDS / _seconds(call, 1))


def interleaved(
    calls: Mapping[str, tuple[Call, int]], rounds: int, seed: int = 0, progress: Callable = iter
) -> dict[str, list[float]]:
    """Seconds of one call, in each round.

    Args:
      calls: name -> a function and its `repeats`.
      rounds: how often each is timed.
      seed: of the order of the calls.
      progress: wraps the iterator over the rounds.

    >>> list(map(len, interleaved({"a": (lambda: None, 1), "b": (lambda: None, 2)}, 3).values()))
    [3, 3]
    """
    rng = np.random.default_rng(seed)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in progress(range(rounds)):
        for name in rng.permutation(list(calls)).tolist():
            times[name].append(_seconds(*calls[name]))
    return times


def _seconds(call: Call, count: int) -> float:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times)
