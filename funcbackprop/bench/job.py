"""The job of `funcbackprop bench`: every workload and its report; or another kind of result."""

import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from ..files import write_json
from ..usage import UsageError, environment
from .config import BenchConfig
from .measure import measure
from .plans import PLANS, Planned, planned
from .result import Measured, Report, Tables
from .targets import TARGETS, target
from .tracking import TRACKING, Tracking, tracking
from .tune import CONSTANTS, tuned
from .variants import GROWTH, OURS, STANDARD, VARIANTS
from .workloads import Workload, workload

# What a benchmark ends in. `head` and `parts` are what is printed, `to_dict` what is written.
Found = Report | Tables


def run(config: BenchConfig, show: Callable[[Found], None] = lambda found: None) -> Found:
    """Measure what `config` asks for.

    Args:
      config: what to measure.
      show: called with the report as far as it has come, after each of its parts: a workload, a B,
        or all constants. The file of `config.json` is rewritten then too, so that an interrupted
        benchmark leaves something.

    Raises:
      UsageError: the configuration cannot be run, or the results cannot be written.
    """
    config.check()
    found, parts = _begun(config), ()
    for part in _parts(config):
        parts = (*parts, part)
        changed: Any = {"measured" if isinstance(found, Report) else "parts": parts}
        found = dataclasses.replace(found, **changed)
        _write(config, found)
        show(found)
    return found


def _begun(config: BenchConfig) -> Found:
    given = dataclasses.asdict(config), environment(), time.strftime("%Y-%m-%d")
    kinds = {"plan": PLANS, "tune": CONSTANTS, "tracking": TRACKING}
    asked = [kind for option, kind in kinds.items() if getattr(config, option)]
    return Tables(*given, asked[0]) if asked else Report(*given, ())


def _parts(config: BenchConfig):
    if config.tune:
        progress = _progress("constants")
        yield tuned(config.quick, config.rounds, config.seed, progress)
        return
    take = _planned if config.plan else _tracking if config.tracking else _measured
    for name, size in itertools.product(config.names, config.batches):
        work = workload(name, size, config.seed, config.dtype, config.quick)
        try:
            yield take(config, work)
        except (TypeError, ValueError) as error:
            raise UsageError(f"--workloads {name}: {error}") from error


def _planned(config: BenchConfig, work: Workload) -> Planned:
    return planned(work)


def _tracking(config: BenchConfig, work: Workload) -> Tracking:
    progress = lambda name: _progress(f"{work.title}, {name}")  # noqa: E731
    return tracking(work, config.rounds, config.seed, progress)


def _measured(config: BenchConfig, work: Workload) -> Measured:
    names = GROWTH if config.growth else tuple(VARIANTS) if config.all else STANDARD
    progress = _progress(f"{work.title}, B {work.examples}")
    found = measure(work, names, config.rounds, config.seed, progress)
    if not (config.has_targets and work.name in TARGETS):
        return found
    rows = (
        dataclasses.replace(row, target=target(work.name, row.name)) if row.name in OURS else row
        for row in found.rows
    )
    return dataclasses.replace(found, rows=tuple(rows))


def _progress(title: str) -> Callable:
    return lambda rounds: tqdm(rounds, desc=title, unit="round", disable=None)


def _write(config: BenchConfig, found: Found) -> None:
    if config.json is None:
        return
    try:
        write_json(config.json, found.to_dict())
    except OSError as error:
        raise UsageError(f"--json: cannot write to {config.json}: {error}") from error
