"""A run as several processes: they start together, agree on what they run, and process 0 writes.

The processes are those of JAX's distributed runtime. Each runs the same program on the same steps;
what only one may do, such as claiming a folder, process 0 does and tells the others.
"""

import contextlib
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..files import json_safe
from ..usage import UsageError
from .config import TrainConfig

# Seconds that JAX waits longer than we do.
_LATER = 60


def join(config: TrainConfig) -> None:
    """Join the other processes of the run, if there are any; before anything is computed.

    Raises:
      UsageError: a cluster does not tell what is missing. Where the others are not there in time,
        the process ends with this line itself, for JAX would abort it.
    """
    if config.coordinator is None or are_several():
        return
    address = None if config.coordinator == "auto" else config.coordinator
    refusal = (
        f"--coordinator {config.coordinator}: the processes could not be joined (%s). Start all "
        "--num-processes of them with the same --coordinator, the address of process 0 as the "
        "others see it"
    )
    given_up = threading.Timer(
        config.wait, _end_now, [refusal % f"they were not all there after {config.wait} s, --wait"]
    )
    given_up.start()
    try:
        jax.distributed.initialize(
            *(address, config.num_processes, config.process_id),
            initialization_timeout=config.wait + _LATER,
        )
    except (ValueError, RuntimeError) as error:
        raise UsageError(refusal % _first_line(error)) from error
    finally:
        given_up.cancel()


def _end_now(refusal: str) -> None:
    print(f"funcbackprop: error: {refusal}", file=sys.stderr, flush=True)
    os._exit(2)


def part() -> None:
    """Part from the other processes, which all do so now: one that ends later is not missed."""
    if are_several():
        jax.distributed.shutdown()


def leave(status: int) -> int:
    """The exit status; but a process that fails alone ends here, for at the end of the program
    JAX waits for the others, which wait for this one."""
    if status and are_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def are_several() -> bool:
    """Whether this process has joined others, and has not parted."""
    return jax.distributed.is_initialized()


def is_first() -> bool:
    """Whether this process writes the files."""
    return jax.process_index() == 0


def together(f: Callable[[], Any]) -> Any:
    """`f()`; where it refuses in one process, all refuse."""
    if jax.process_count() == 1:
        return f()
    result = failure = None
    try:
        result = f()
    except (UsageError, OSError) as error:
        failure = error
    refused = multihost_utils.process_allgather(np.int32(failure is not None))
    if refused.any():
        part()
        raise failure or UsageError(
            f"process {np.argmax(refused)} refused the run; its message says why"
        )
    return result


def decided(by_first: Callable[[], Any]) -> bool:
    """Whether `by_first()`, which process 0 alone calls, is true; where it refuses, all refuse."""
    outcome = together(lambda: is_first() and bool(by_first()))
    if jax.process_count() == 1:
        return outcome
    return bool(multihost_utils.broadcast_one_to_all(np.int32(outcome)))


def refuse_different(wanted: Mapping[str, Any]) -> None:
    """UsageError unless all processes want the same."""
    if jax.process_count() == 1:
        return
    digest = hashlib.sha256(json.dumps(json_safe(wanted), sort_keys=True).encode()).digest()
    all_digests = multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))
    differing = np.flatnonzero((all_digests != all_digests[0]).any(axis=1))
    if differing.size:
        part()
        raise UsageError(
            f"process {differing[0]} was started with other options or other data than process 0; "
            "start all processes with the same command, but for --process-id"
        )


@contextlib.contextmanager
def others_alive() -> Iterator[None]:
    """UsageError in place of the runtime's error where another process has ended."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise UsageError(
            f"another process of the run has ended, or cannot be reached ({_first_line(error)}). "
            "The same commands go on from the last checkpoint"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
