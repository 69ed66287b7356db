"""Runs side by side: what differs, what came out, and how sure the differences are."""

import dataclasses
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import __version__, figures, tables
from ..files import json_safe, write_text
from . import diagnosis, page, side_by_side
from .differences import Difference, difference
from .run import Run, metric_limits, metrics, noise, noise_limits, read
from .side_by_side import Row

_WIDTH = 100
_LONGEST_LABEL = 30
_NAMES = 34  # characters of a line for the names of rows; where the rest is too few, lines

_ABOUT = (
    "± is the standard deviation over seeds or, of one seed, the standard error over examples; "
    "brackets are 95 % intervals."
)
_ABOUT_DIFFERENCES = (
    "The standard error is over seeds and the 95 % interval Student's. Runs with the same seeds "
    "are compared seed by seed, for equal seeds share initial parameters and the order of the data."
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs side by side. `str` is the tables for a terminal, `write` a self-contained page.

    Attributes:
      runs: in the order given; the first is what the others are compared with.
      labels: short names of the runs, all different.
      configuration: `[field, value in each run]` for what differs in config.json and metadata.json.
      rows: what came out, by group, with a cell for each run.
      differences: (metric, label) -> its mean over seeds less that of the first run.
    """

    runs: tuple[Run, ...] = dataclasses.field(repr=False)
    labels: tuple[str, ...]
    configuration: list[list[str]] = dataclasses.field(repr=False)
    rows: list[Row] = dataclasses.field(repr=False)
    differences: dict[tuple[str, str], Difference] = dataclasses.field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        values = lambda row: [  # noqa: E731
            x._asdict() if isinstance(x, side_by_side.Amount) else x for x in row.values
        ]
        return json_safe(
            {
                "runs": [
                    {"label": label, "folder": run.folder}
                    for label, run in zip(self.labels, self.runs, strict=True)
                ],
                "configuration": {name: values for name, *values in self.configuration},
                "rows": [
                    {"group": r.group, "name": r.name, "values": values(r)} for r in self.rows
                ],
                "differences": [
                    {"metric": name, "run": label, "less": self.labels[0], **d.to_dict()}
                    for (name, label), d in self.differences.items()
                ],
            }
        )

    def sentences(self) -> list[str]:
        """Which metrics differ beyond their intervals, and what would tell more."""
        found = list(_what_differs(self))
        if any(d.standard_error is None for d in self.differences.values()):
            found.append(
                "A run of one seed shows no standard error of a difference: `--seeds 0 1 2` gives "
                "one."
            )
        return found

    def __str__(self):
        return "\n\n".join(_blocks(self))

    def write(self, path: str | os.PathLike) -> Path:
        """Write the page: one file with figures and style inside, without scripts.

        Raises:
          OSError: the file cannot be written.
          ImportError: matplotlib is not installed.
        """
        write_text(path, _page(self))
        return Path(path)


def compare(*folders: str | os.PathLike) -> Comparison:
    """Put runs side by side: configuration, metrics, noise, verdicts, cost.

    A metric is the mean over seeds of its last measured values. Its difference from that of the
    first run has a standard error where both runs have several seeds: of pairs where the seeds are
    the same, else of two independent means (Welch 1947).

    Args:
      folders: of two runs or more, as `funcbackprop study` or `train` writes them.

    Returns:
      `Comparison`; print it, or `.write("compare.html")`.

    Raises:
      FileNotFoundError: a folder is not there, or is no run folder.
      ValueError: fewer than two folders, one given twice, a run that has not ended, or a file that
        is damaged; the text names it.

    Cost: reads the folders; no gradient is computed.

    >>> compare("runs/a")
    Traceback (most recent call last):
    ValueError: `compare`: give two run folders or more, got 1: 'runs/a'
    """
    if len(folders) < 2:
        given = f": {str(folders[0])!r}" if folders else ""
        raise ValueError(f"`compare`: give two run folders or more, got {len(folders)}{given}")
    runs = tuple(read(folder, "compare") for folder in folders)
    _refuse_twice(folders)
    for run in runs:
        _refuse_unfinished(run)
    labels = _labels(runs)
    return Comparison(
        runs=runs,
        labels=labels,
        configuration=side_by_side.configuration(runs),
        rows=side_by_side.rows(runs),
        differences=dict(_differences(runs, labels)),
    )


def _refuse_twice(folders):
    seen = {}
    for folder in folders:
        place = Path(folder).resolve()
        if place in seen:
            raise ValueError(
                f"`compare`: {str(seen[place])!r} and {str(folder)!r} are the same folder; give "
                "each run once"
            )
        seen[place] = folder


def _refuse_unfinished(run):
    if "outcome" not in run.summary:
        raise ValueError(
            f"`compare`: the run in {str(run.folder)!r} has not ended, for it has no summary.json; "
            "wait for it, or start its command again: it goes on from its last checkpoint"
        )


def _labels(runs) -> tuple[str, ...]:
    """The names of the runs, or where two are the same their folders."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.folder) for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.folder.resolve()) for run in runs]
    return tuple(tables.labels(names, _LONGEST_LABEL))


def _differences(runs, labels) -> Iterator[tuple[tuple[str, str], Difference]]:
    base, *others = [side_by_side.final(run) for run in runs]
    for name in base:
        for label, of in zip(labels[1:], others, strict=True):
            if name in of:
                yield (name, label), difference(of[name], base[name])


def _what_differs(c: Comparison) -> Iterator[str]:
    known = {key: d for key, d in c.differences.items() if d.standard_error is not None}
    if not known:
        return
    clear = {key: d for key, d in known.items() if d.is_clear}
    first = c.labels[0]
    yield (
        f"{len(clear)} of {len(known)} differences from {first} leave 0 outside of their 95 % "
        "interval."
    )
    for (name, label), d in clear.items():
        text = tables.with_interval(abs(d.value), *sorted((abs(d.lower or 0), abs(d.upper or 0))))
        how = "lower" if d.value < 0 else "higher"
        yield f"{tables.capital(name)} of {label} is {how} by {text}."


def _difference_table(c: Comparison) -> tuple[list, list]:
    rows = [
        [
            *(name, label, d.value, d.standard_error and float(f"{d.standard_error:.2g}")),
            *(
                tables.NO_VALUE
                if d.lower is None
                else f"{tables.number(d.lower)} to {tables.number(d.upper)}",
            ),
            d.how,
        ]
        for (name, label), d in c.differences.items()
    ]
    headers = ["at the end", "run", f"less {c.labels[0]}", "± error", "95 % interval", "from"]
    return rows, headers


def _groups(c: Comparison) -> Iterator[tuple[str, list[Row]]]:
    for group in dict.fromkeys(row.group for row in c.rows):
        yield group, [row for row in c.rows if row.group == group]


def _blocks(c: Comparison) -> Iterator[str]:
    """The tables of the terminal."""
    if c.configuration:
        yield tables.text(c.configuration, ["what differs", *c.labels], width=_WIDTH)
    else:
        yield "Configuration and environment are the same."
    for group, rows in _groups(c):
        most = (_WIDTH - _NAMES) / len(c.runs)
        long = [row for row in rows if max(map(len, row.cells)) > most]
        short = [[row.name, *row.cells] for row in rows if row not in long]
        if short:
            yield tables.text(short, [group.lower(), *c.labels], width=_WIDTH)
        for row in long:
            yield "\n".join(
                [tables.capital(row.name), *_lines(zip(c.labels, row.cells, strict=True))]
            )
    yield textwrap.fill(_ABOUT, _WIDTH)
    rows, headers = _difference_table(c)
    if rows:
        yield tables.text(rows, headers, width=_WIDTH)
    if sentences := c.sentences():
        yield "\n".join(textwrap.fill(x, _WIDTH, subsequent_indent="  ") for x in sentences)


def _lines(pairs):
    for label, text in pairs:
        start = f"  {label}: "
        yield textwrap.fill(text, _WIDTH, initial_indent=start, subsequent_indent="    ")


def _page(c: Comparison) -> str:
    groups = [
        (group, page.table([[row.name, *row.cells] for row in rows], ["", *c.labels]))
        for group, rows in _groups(c)
    ]
    parts = list(_figures(c))
    texts = [_ABOUT, _ABOUT_DIFFERENCES, *(text for part in parts for text in part["texts"])]
    texts += [row.name for row in c.rows]
    return page.render(
        "compare.html",
        version=__version__,
        labels=c.labels,
        folders=[str(run.folder) for run in c.runs],
        same=not c.configuration,
        configuration=page.table(c.configuration, ["field", *c.labels]),
        groups=groups,
        about=_ABOUT,
        differences=page.table(*_difference_table(c)),
        about_differences=_ABOUT_DIFFERENCES,
        sentences=c.sentences(),
        parts=parts,
        diagnoses=[
            (label, " ".join(diagnosis.sentences(run)))
            for label, run in zip(c.labels, c.runs, strict=True)
            if run.vitals
        ],
        glossary=page.mentioned(texts),
    )


def _figures(c: Comparison) -> Iterator[dict[str, Any]]:
    measured = _measured(c)
    if measured:
        yield _figure(
            "metrics",
            "Loss and metrics",
            figures.metrics_of_runs(measured),
            _best(c),
            "Means over the test set, or over the training set where there is none, at the "
            "measured steps. Bands: 95 % intervals over examples, or the range of several seeds.",
        )
    noisy = [(label, run) for label, run in zip(c.labels, c.runs, strict=True) if run.noisy]
    if noisy:
        scales = {
            label: (noise(run, "noise_scale"), noise_limits(run, "noise_scale"))
            for label, run in noisy
        }
        sizes = {label: run.batch_size for label, run in noisy if run.batch_size}
        ends = next(row for row in c.rows if row.name.startswith("noise scale"))
        yield _figure(
            "noise-scale",
            "Noise scale",
            figures.noise_scales_of_runs(scales, sizes),
            "At the end the noise scale, in examples, is " + f"{_each(c, ends, '; ')}.",
            "S/|G|²: the batch size at which noise and signal are equal. Above a dashed line a "
            "batch of that size is mostly noise, below it mostly signal. Bands: 95 % intervals, "
            "or the range of several seeds; at the upper edge there is no upper limit.",
        )


def _figure(key, title, figure, caption, meaning):
    texts = [caption, meaning]
    return {**page.drawn(figure), "key": key, "title": title, "texts": texts}


def _measured(c: Comparison):
    """Title -> label -> curve with limits, of the test set where some run has one."""
    found: dict[str, dict] = {}
    for label, run in zip(c.labels, c.runs, strict=True):
        for name, splits in metrics(run).items():
            split = "test" if "test" in splits else next(iter(splits))
            line = splits[split], metric_limits(run, name, split)
            found.setdefault(f"{split} {name}", {})[label] = line
    return found


def _best(c: Comparison) -> str:
    """At the end, every run's value of what is drawn."""
    drawn = _measured(c)
    parts = [f"{row.name} {_each(c, row, ', ')}" for row in c.rows if row.name in drawn]
    return f"At the end: {'; '.join(parts)}." if parts else ""


def _each(c: Comparison, row: Row, between: str) -> str:
    """The cells of a row with the labels of their runs, where there is something."""
    cells = zip(c.labels, row.cells, strict=True)
    return between.join(f"{x} ({label})" for label, x in cells if x != tables.NO_VALUE)
