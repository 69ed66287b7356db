"""What a benchmark found, as tables and as plain data."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import tables

_WIDTH = 100


@dataclasses.dataclass(frozen=True)
class Spread:
    """Numbers of several rounds: median and quartiles.

    >>> Spread.of([1.0, 2.0, 4.0]).median
    2.0
    """

    median: float
    lower: float
    upper: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """None if there are no values."""
        if not values:
            return None
        lower, median, upper = np.percentile(values, [25, 50, 75]).tolist()
        return cls(median, lower, upper, tuple(values))


@dataclasses.dataclass(frozen=True)
class Row:
    """One variant on one workload; a figure that could not be had is None, and `note` says why.

    Attributes:
      name: of the variant.
      time: its time divided by the plain gradient's, in the same round.
      seconds: its time.
      memory: bytes of temporaries divided by the plain gradient's.
      temporary_bytes: of XLA, without arguments and output.
      compile: time to trace, lower and compile, divided by the plain gradient's: one measurement.
      compile_seconds: the same in seconds.
      difference: relative, of its mean from the plain gradient or of its norms from the definition.
      note: what kept it from being measured, or is wrong.
    """

    name: str
    time: Spread | None
    seconds: Spread | None
    memory: float | None
    temporary_bytes: int | None
    compile: float | None
    compile_seconds: float | None
    difference: float | None
    note: str | None = None


@dataclasses.dataclass(frozen=True)
class Measured:
    """All variants on one workload at one B; the first row is the plain gradient."""

    name: str
    title: str
    examples: int
    parameters: int
    rows: tuple[Row, ...]

    def __str__(self):
        plain = self.rows[0]
        title = (
            f"{self.title}, B {self.examples}, {tables.number(self.parameters)} parameters\nplain: "
            f"{tables.number(_median(plain, 1e3))} ms, {_megabytes(plain)} MB of temporaries, "
            f"compiled in {tables.number(plain.compile_seconds)} s"
        )
        rows = [
            [row.name, _median(row), _quartiles(row), row.memory, _megabytes(row), row.compile]
            for row in self.rows[1:]
            if row.temporary_bytes is not None or row.time is not None
        ]
        headers = ["variant", "time", "quartiles", "memory", "MB", "compile"]
        return "\n".join([tables.text(rows, headers, title, _WIDTH), *self.notes])

    @property
    def notes(self) -> list[str]:
        """A line for each variant that has one."""
        return [f"{row.name}: {row.note}" for row in self.rows if row.note]


@dataclasses.dataclass(frozen=True)
class Report:
    """The whole of a benchmark; `str(report)` is its tables.

    Attributes:
      config: what was asked for.
      environment: versions, platform, devices, cores.
      date: when it began.
      measured: each workload, or one workload at each B.
    """

    config: dict[str, Any]
    environment: dict[str, Any]
    date: str
    measured: tuple[Measured, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe, with every ratio of every round."""
        return {"command": "bench", **dataclasses.asdict(self)}

    def __str__(self):
        if self.config["growth"]:
            return f"{self.head}\n\n{_growth(self.measured)}"
        return "\n\n".join([self.head, *map(str, self.measured)])

    @property
    def head(self) -> str:
        """What it was made with, and what the figures are."""
        where, config = self.environment, self.config
        versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
        what = (
            f"Ratios to jax.jit(jax.value_and_grad(mean loss)), {config['dtype']}: medians of "
            f"{config['rounds']} rounds, calls interleaved."
        )
        if config["quick"]:
            what += "\nTiny sizes (--quick): that it runs is all that this shows."
        devices = tables.some(where["devices"], 2)
        return f"{versions}\n{where['cores']} cores, {devices}, {self.date}\n{what}"


# How the variants of a table of growth are called there.
_SHORT = {"Mean + SquaredNorms": "norms", "Mean + Variance": "variance"}


def _growth(measured: Sequence[Measured]) -> str:
    names = [row.name for row in measured[0].rows[1:]]
    headers = ["B", "plain: ms", "MB"]
    headers += [x for name in names for x in (f"{_SHORT.get(name, 'vmap(grad)')}: time", "MB")]
    rows = []
    for one in measured:
        plain, *others = one.rows
        row = [one.examples, _median(plain, 1e3), _megabytes(plain)]
        rows.append(row + [x for other in others for x in (_median(other), _megabytes(other))])
    first = measured[0]
    title = f"{first.title}, {tables.number(first.parameters)} parameters"
    notes = [f"B {one.examples}, {note}" for one in measured for note in one.notes]
    return "\n".join([tables.text(rows, headers, title, _WIDTH), *notes])


def _median(row: Row, unit: float | None = None) -> float | None:
    """The ratio of times, or the time in `1 / unit` seconds."""
    spread = row.time if unit is None else row.seconds
    return None if spread is None else spread.median * (unit or 1)


def _quartiles(row: Row) -> str:
    if row.time is None:
        return tables.NO_VALUE
    return f"{tables.number(row.time.lower)} to {tables.number(row.time.upper)}"


def _megabytes(row: Row) -> float | None:
    return None if row.temporary_bytes is None else float(f"{row.temporary_bytes / 1e6:.3g}")
