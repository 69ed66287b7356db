"""What stands in the comparison of runs: groups of rows, a cell for each run."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import tables
from . import cells, diagnosis, effect
from .run import Run, metrics

# What differs between any two runs, or stands twice; and what is told of the data.
_PASSED_OVER = {"config": ("name",), "metadata": ("command", "started", "seeds")}
_OF_DATA = ("name", "hash", "examples", "test_examples")
_HASH = 12


class Amount(NamedTuple):
    """A number with its uncertainty.

    Attributes:
      value: mean over seeds; None where there is none.
      error: standard deviation over seeds; of one seed the standard error over examples, if known.
      lower, upper: 95 % limits of a single seed, if known; an `upper` of None is unbounded.
    """

    value: float | None
    error: float | None = None
    lower: float | None = None
    upper: float | None = None

    def __str__(self):
        if self.lower is not None:
            return tables.with_interval(self.value, self.lower, self.upper)
        return tables.with_error(self.value, self.error)


class Row(NamedTuple):
    """A quantity: its group and name, and for each run an `Amount`, a text or None."""

    group: str
    name: str
    values: tuple[Amount | str | None, ...]

    @property
    def cells(self) -> list[str]:
        return [tables.NO_VALUE if x is None else str(x) for x in self.values]


def configuration(runs: Sequence[Run]) -> list[list[str]]:
    """`[field, value in each run]` for what differs in configuration and environment."""
    found = []
    for part, passed_over in _PASSED_OVER.items():
        flat = [dict(cells.flat(_told(getattr(run, part), passed_over))[0]) for run in runs]
        for key in dict.fromkeys(key for of_run in flat for key in of_run):
            values = [of_run.get(key, tables.NO_VALUE) for of_run in flat]
            if len(set(values)) > 1:
                found.append([key, *values])
    return found


def _told(tree, passed_over):
    found = {k: v for k, v in tree.items() if k not in passed_over}
    if isinstance(data := found.get("data"), dict):
        found["data"] = {k: data[k] for k in _OF_DATA if data.get(k) is not None}
        if "hash" in found["data"]:
            found["data"]["hash"] = data["hash"][:_HASH]
    return found


def final(run: Run) -> dict[str, dict[Any, float]]:
    """ "test accuracy" -> seed -> value at the seed's last measurement, where it is a number."""
    found: dict[str, dict] = {}
    for name, splits in metrics(run).items():
        for split, curve in splits.items():
            last = {seed: values[-1] for seed, (_, values) in curve.items()}
            known = {seed: x for seed, x in last.items() if x is not None}
            if known:
                found[f"{split} {name}"] = known
    return found


def rows(runs: Sequence[Run]) -> list[Row]:
    """All rows in which some run has something to show, group by group."""
    found = [
        Row(group, name, tuple(of(run) for run in runs))
        for group, of_group in _groups(runs)
        for name, of in of_group
    ]
    return [row for row in found if any(x is not None for x in row.values)]


def _groups(runs) -> Iterator[tuple[str, Sequence[tuple[str, Callable]]]]:
    yield "The runs", _RUN
    names = dict.fromkeys(name for run in runs for name in final(run))
    order = sorted(names, key=lambda name: not name.startswith("test"))
    yield "At the end", [(name, lambda run, n=name: _metric(run, n)) for name in order]
    yield "Gradient noise at the end", _NOISE
    yield "The next update", _EFFECT
    yield "Verdicts", _VERDICTS
    kinds = dict.fromkeys(kind for run in runs for kind in _measured(run))
    each = [
        (f"one {kind.replace('_', ' ')}, in updates", lambda run, k=kind: _updates_of_one(run, k))
        for kind in kinds
    ]
    yield "Cost", [*_COST, *each]


def _metric(run, name):
    values = final(run).get(name)
    if values is None:
        return None
    known = list(values.values())
    if len(known) > 1:
        return Amount(float(np.mean(known)), float(np.std(known, ddof=1)))
    errors = (run.summary.get("final") or {}).get(name, {}).get("standard_errors")
    return Amount(known[0], errors[0] if errors else None)


def _noise(run, key):
    """Over the last measurement of each seed: mean and spread; of one seed with its interval."""
    last = {row["seed"]: row["noise"]["total"] for row in run.noisy}.values()
    known = [entry[key] for entry in last if entry.get(key) is not None]
    if len(last) > 1:
        several = len(known) > 1
        mean = float(np.mean(known)) if known else None
        return Amount(mean, float(np.std(known, ddof=1)) if several else None)
    for entry in last:
        lower, upper = entry.get("limits", {}).get(key, (None, None))
        if known or lower is not None:
            return Amount(known[0] if known else None, None, lower, upper)
    return None


def _noise_status(run):
    last = {row["seed"]: row["noise"]["total"] for row in run.noisy}.values()
    return cells.status_of(list(last)) if last else None


def _seeds(run):
    return ", ".join(map(str, run.summary.get("seeds") or run.seeds))


def _updates(run):
    return f"{max((row['step'] for row in run.steps), default=0):,}"


def _helped(run):
    kinds = [effect.kind_of(row["actual"]) for row in run.effects]
    if not kinds:
        return None
    parts = [f"{kinds.count('lowers')} of {len(kinds)} lowered the loss"]
    for kind, text in (("raises", "raised it"), ("unclear", "cannot be told")):
        if kinds.count(kind):
            parts.append(f"{kinds.count(kind)} {text}")
    return ", ".join(parts)


def _against_threshold(run):
    last = {r["seed"]: r for r in run.sharpness if r["value"] is not None and r.get("threshold")}
    ratios = [[row[k] / row["threshold"] for k in ("value", "upper")] for row in last.values()]
    if not ratios:
        return None
    values = [value for value, _ in ratios]
    if len(values) > 1:
        return Amount(float(np.mean(values)), float(np.std(values, ddof=1)))
    return Amount(values[0], None, *ratios[0])


def _check(run):
    leaves = [leaf for row in run.checks for leaf in row["leaves"]]
    if not leaves:
        return None
    wrong = [leaf for leaf in leaves if not leaf["ok"]]
    errors = [x["error_in_bounds"] for x in leaves if x["error_in_bounds"] is not None]
    if wrong:
        what = ", ".join(dict.fromkeys(leaf["verdict"] for leaf in wrong))
        return f"{len(wrong)} of {len(leaves)} comparisons do not agree: {what}"
    largest = f", error at most {tables.number(max(errors), 2)} of its bound" if errors else ""
    return f"all {len(leaves)} comparisons agree{largest}"


def _diagnosis(run):
    found = diagnosis.found(run)
    if found is None:
        return "not watched (--diagnose)"
    if not found.findings:
        return "nothing found"
    return "; ".join(f"{x.title} ({x.grade})" for x in found.findings)


def _measured(run):
    return (run.summary.get("cost") or {}).get("measurements") or {}


def _updates_of_one(run, kind):
    value = _measured(run).get(kind, {}).get("updates_of_one")
    return None if value is None else Amount(value)


def _milliseconds_of_update(run):
    value = (run.summary.get("cost") or {}).get("seconds_of_update")
    return None if value is None else Amount(1000 * value)


def _seconds(run):
    value = run.summary.get("seconds")
    return None if value is None else Amount(value)


# (name, run -> cell).
_RUN = (
    ("outcome", lambda run: run.summary["outcome"]),
    ("updates", _updates),
    ("batch size", lambda run: f"{run.batch_size:,}" if run.batch_size else None),
    ("seeds", _seeds),
)
_NOISE = (
    ("noise scale S/|G|² (examples)", lambda run: _noise(run, "noise_scale")),
    ("signal to noise of a batch", lambda run: _noise(run, "signal_to_noise")),
    ("S", lambda run: _noise(run, "S")),
    ("|G|²", lambda run: _noise(run, "sq_gradient_norm")),
    ("status", _noise_status),
)
_EFFECT = (
    ("measured updates", _helped),
    ("sharpness / threshold, at the end", _against_threshold),
)
_VERDICTS = (("gradient check", _check), ("diagnosis", _diagnosis))
_COST = (
    ("seconds in all", _seconds),
    ("milliseconds of an update", _milliseconds_of_update),
)
