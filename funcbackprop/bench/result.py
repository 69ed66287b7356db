"""What a benchmark found, as tables and as plain data."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import tables
from . import targets
from .config import BenchConfig

_WIDTH = 100
_WIDTH_WITH_TARGETS = 120
_TINY = "Tiny sizes (--quick): that it runs is all that this shows."
# How a figure above its target is marked.
_MARKS = {"time": "t", "memory": "m", "compile": "c"}


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
      target: what it should cost at most; None where the workload has no targets.
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
    target: targets.Target | None = None

    @property
    def above(self) -> tuple[str, ...]:
        """Which of time, memory and compile are above their targets."""
        its = self.target
        if its is None:
            return ()
        pairs = [
            ("time", _median(self), None if its.time is None else its.time + targets.NOISE),
            ("memory", self.memory, its.memory),
            ("memory", _megabytes(self), its.megabytes),
            ("compile", self.compile, its.compile),
        ]
        return tuple(k for k, x, most in pairs if x is not None and most is not None and x > most)


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
        columns = _COLUMNS
        if any(row.target for row in self.rows):
            columns = {**_COLUMNS, **_TARGET_COLUMNS}
        columns = {name: columns[name] for name in _ORDER if name in columns}
        rows = [
            [of(row) for of in columns.values()]
            for row in self.rows[1:]
            if row.temporary_bytes is not None or row.time is not None
        ]
        width = _WIDTH if columns.keys() == _COLUMNS.keys() else _WIDTH_WITH_TARGETS
        return "\n".join([tables.text(rows, list(columns), title, width), *self.notes])

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
      parts: the same; what is shown as it comes.
    """

    config: dict[str, Any]
    environment: dict[str, Any]
    date: str
    measured: tuple[Measured, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe, with every ratio of every round."""
        found = {"command": "bench", **dataclasses.asdict(self)}
        if self.config["growth"]:
            found["fits"] = [fit._asdict() for fit in fits(self.measured)]
        return found

    @property
    def parts(self) -> tuple[Measured, ...]:
        return self.measured

    def __str__(self):
        if self.config["growth"]:
            return f"{self.head}\n\n{_growth(self.measured)}"
        return "\n\n".join([self.head, *map(str, self.measured)])

    @property
    def head(self) -> str:
        """What it was made with, and what the figures are."""
        config, asked = self.config, BenchConfig(**self.config)
        what = (
            f"Ratios to jax.jit(jax.value_and_grad(mean loss)), {config['dtype']}: medians of "
            f"{config['rounds']} rounds, calls interleaved."
        )
        if config["quick"]:
            what += f"\n{_TINY}"
        if asked.has_targets and set(asked.names) & targets.TARGETS.keys():
            what += (
                f"\nTargets are for 2 cores. Above: t, a time by more than {targets.NOISE}; m, "
                f"memory; c, compiling, of target {targets.COMPILE:g}."
            )
        return f"{made_with(self.environment, self.date)}\n{what}"


class Kind(NamedTuple):
    """A kind of result that is no `Report`.

    Attributes:
      name: of its parts in JSON.
      about: config -> what the tables show, in some lines.
      plain: a part -> its entries in JSON.
    """

    name: str
    about: Callable[[dict[str, Any]], str]
    plain: Callable[[Any], list[dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Tables:
    """A result of some kind; `str(tables)` is its tables, one for each part.

    Attributes:
      config, environment, date: as of a `Report`.
      kind: what the parts are.
      parts: each has `str`.
    """

    config: dict[str, Any]
    environment: dict[str, Any]
    date: str
    kind: Kind
    parts: tuple[Any, ...] = ()

    @property
    def head(self) -> str:
        """What it was made with, and what it shows."""
        what = self.kind.about(self.config)
        if self.config["quick"] and not self.config["plan"]:
            what += f"\n{_TINY}"
        return f"{made_with(self.environment, self.date)}\n{what}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe, with every ratio of every round."""
        entries = [entry for part in self.parts for entry in self.kind.plain(part)]
        rest = {"config": self.config, "environment": self.environment, "date": self.date}
        return {"command": "bench", **rest, self.kind.name: entries}

    def __str__(self):
        return "\n\n".join([self.head, *map(str, self.parts)])


def made_with(environment: dict[str, Any], date: str) -> str:
    """Versions, cores, devices and the date, in two lines."""
    versions = ", ".join(f"{name} {number}" for name, number in environment["versions"].items())
    devices = tables.some(environment["devices"], 2)
    return f"{versions}\n{environment['cores']} cores, {devices}, {date}"


# --- growth ---------------------------------------------------------------------------------------


class Fit(NamedTuple):
    """Temporaries of a variant as a line over B, by least squares; of the gradients, B P 4 bytes.

    Attributes:
      name: of the variant.
      bytes: at B = 0.
      bytes_per_example: of each further example.
    """

    name: str
    bytes: float
    bytes_per_example: float

    def __str__(self):
        fixed, each = (tables.number(x) for x in (self.bytes / 1e6, self.bytes_per_example / 1e3))
        return f"{_SHORT.get(self.name, self.name)}: temporaries {fixed} MB + {each} kB x B"


def fits(measured: Sequence[Measured]) -> list[Fit]:
    """The line of each variant that has temporaries at two sizes."""
    found = []
    for rows in zip(*(one.rows for one in measured), strict=True):
        pairs = zip(measured, rows, strict=True)
        known = [(m.examples, r.temporary_bytes) for m, r in pairs if r.temporary_bytes is not None]
        if len(dict(known)) > 1:
            examples, sizes = np.asarray(known, float).T
            each, fixed = np.polyfit(examples, sizes, 1).tolist()
            found.append(Fit(rows[0].name, fixed, each))
    return found


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
    lines = [*map(str, fits(measured))]
    if lines:
        each = tables.number(4 * first.parameters / 1e3)
        lines.append(f"all gradients of single examples: {each} kB x B")
    return "\n".join([tables.text(rows, headers, title, _WIDTH), *lines, *notes])


# --- columns --------------------------------------------------------------------------------------


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


def _most_memory(row: Row) -> str | None:
    its = row.target or targets.Target()
    return f"{its.megabytes:g} MB" if its.megabytes is not None else _plain_number(its.memory)


def _plain_number(x: float | None) -> str | None:
    return None if x is None else tables.number(x)


# header -> what stands in a row
_COLUMNS: dict[str, Callable[[Row], Any]] = {
    "variant": lambda row: row.name,
    "time": _median,
    "quartiles": _quartiles,
    "memory": lambda row: row.memory,
    "MB": _megabytes,
    "compile": lambda row: row.compile,
}
_TARGET_COLUMNS: dict[str, Callable[[Row], Any]] = {
    "target": lambda row: row.target and row.target.time,
    "memory target": _most_memory,
    "above": lambda row: " ".join(_MARKS[k] for k in dict.fromkeys(row.above)),
}
_ORDER = ("variant", "time", "target", "quartiles", "memory", "MB", "memory target")
_ORDER += ("compile", "above")
