"""The command line: `study`, `train`, `check`, `bench` and `compare`; help loads no JAX."""

import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, Union

from .bench.config import BenchConfig
from .study.config import CheckConfig, CompareConfig, StudyConfig, TrainConfig
from .usage import UsageError

_COMMANDS = {
    "study": StudyConfig,
    "train": TrainConfig,
    "check": CheckConfig,
    "bench": BenchConfig,
    "compare": CompareConfig,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 1 where `check` finds something, or 2 with one line on
    standard error."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        config = _parse(argv)
        if isinstance(config, CheckConfig):
            return _check(config)
        if isinstance(config, BenchConfig):
            return _bench(config)
        if isinstance(config, CompareConfig):
            return _compare(config)
        return _run(config, shlex.join(["funcbackprop", *argv]))
    except UsageError as error:
        return _refuse(error)


def _parse(argv: list[str]):
    try:
        import tyro
    except ImportError as error:
        raise UsageError(
            "the command line needs more packages: pip install 'funcbackprop[study]'"
        ) from error
    kinds = tuple(
        Annotated[
            kind, tyro.conf.subcommand(name, prefix_name=False), tyro.conf.PositionalRequiredArgs
        ]
        for name, kind in _COMMANDS.items()
    )
    either: Any = Union[kinds]  # noqa: UP007
    if len(argv) > 1 and argv[0] in _COMMANDS and ":" in argv[1] and argv[1][0] != "-":
        option = "--workloads" if argv[0] == "bench" else "--model"
        argv = [argv[0], option, *argv[1:]]  # `study module:problem`
    return tyro.cli(either, args=argv, prog="funcbackprop")


def _check(config: CheckConfig) -> int:
    from .study import checking

    report = checking.run(config)
    print(report)
    return 1 if report.findings else 0


def _compare(config: CompareConfig) -> int:
    from . import report

    try:
        found = report.compare(*config.runs)
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(str(error).removeprefix("`compare`: ")) from error
    try:
        page = found.write(config.out)
    except OSError as error:
        raise UsageError(f"--out: cannot write {config.out}: {error.strerror or error}") from error
    print(found)
    print(f"\nComparison: {page}")
    return 0


def _bench(config: BenchConfig) -> int:
    from .bench import job

    def show(found):
        if len(found.parts) == 1:
            print(found.head)
        print(f"\n{found.parts[-1]}", flush=True)

    try:
        found = job.run(config, show if not config.growth else lambda found: None)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if config.growth:
        print(found)
    return 0


def _run(config: TrainConfig, command: str) -> int:
    from .study import processes

    try:
        return processes.leave(_status(config, command))
    except UsageError as error:
        return processes.leave(_refuse(error))
    except Exception:
        if processes.are_several():
            traceback.print_exc()
            processes.leave(1)
        raise


def _status(config: TrainConfig, command: str) -> int:
    from . import report
    from .study import job, processes
    from .training import NonFiniteLoss

    try:
        folder = job.run(config, command)
    except NonFiniteLoss as error:
        cure = f"lower --learning-rate (now {config.learning_rate:g})"
        if error.step == 1:
            cure = "no update has been made yet, so look at the data and the initial parameters"
        return _refuse(
            f"the loss is {error.loss} at step {error.step}: {cure}; then give another --name or "
            "--overwrite"
        )
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    if processes.is_first():
        print(report.table(folder))
    return 0


def _refuse(problem) -> int:
    line = " ".join(str(problem).split())
    print(f"funcbackprop: error: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
