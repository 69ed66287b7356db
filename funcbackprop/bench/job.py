"""The job of `funcbackprop bench`: every workload, and its report."""

import dataclasses
import itertools
import time
from collections.abc import Callable

from tqdm import tqdm

from ..files import write_json
from ..usage import UsageError, environment
from .config import BenchConfig
from .measure import measure
from .result import Measured, Report
from .variants import GROWTH, VARIANTS
from .workloads import workload


def run(config: BenchConfig, show: Callable[[Report], None] = lambda report: None) -> Report:
    """Measure what `config` asks for.

    Args:
      config: what to measure.
      show: called with the report as far as it has come, after each workload and each B; the file
        of `config.json` is rewritten then too, so that an interrupted benchmark leaves something.

    Raises:
      UsageError: the configuration cannot be run, or the results cannot be written.
    """
    config.check()
    report = Report(
        config=dataclasses.asdict(config),
        environment=environment(),
        date=time.strftime("%Y-%m-%d"),
        measured=(),
    )
    for name, size in itertools.product(config.names, config.batches):
        measured = (*report.measured, _measured(config, name, size))
        report = dataclasses.replace(report, measured=measured)
        _write(config, report)
        show(report)
    return report


def _write(config: BenchConfig, report: Report) -> None:
    if config.json is None:
        return
    try:
        write_json(config.json, report.to_dict())
    except OSError as error:
        raise UsageError(f"--json: cannot write to {config.json}: {error}") from error


def _measured(config: BenchConfig, name: str, size: int | None) -> Measured:
    work = workload(name, size, config.seed, config.dtype, config.quick)
    names = GROWTH if config.growth else tuple(VARIANTS)

    def progress(rounds):
        return tqdm(rounds, desc=f"{work.title}, B {work.examples}", unit="round", disable=None)

    try:
        return measure(work, names, config.rounds, config.seed, progress)
    except (TypeError, ValueError) as error:
        raise UsageError(f"--workloads {name}: {error}") from error
