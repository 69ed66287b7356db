"""A run folder as plain data: what was configured, measured and checked."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

# Rows of metrics.jsonl that the report reads: kind -> the keys it cannot do without.
_NEEDED = {
    "step": ("seed", "step", "loss"),
    "measurement": ("seed", "step", "metrics"),
    "gradient_check": ("seed", "step"),
    "tracked_noise": ("seed", "step", "B_simple"),
    "update_effect": ("seed", "step", "predicted", "actual"),
    "sharpness": ("seed", "step", "value", "upper"),
    "vitals": ("seed", "step"),
    "data": ("seed",),
    "batch_variance": ("seed", "step", "sizes"),
}


# Standard errors from a mean to the ends of its 95 % interval.
_GAUSSIAN = 1.96


class Run(NamedTuple):
    """What a run folder holds.

    Attributes:
      folder: where it lies.
      config, metadata, summary: the JSON files; the last two are empty where the file is not there,
        as in a run that has not ended.
      steps, measurements, checks, tracked, effects, sharpness, vitals, data, sizes: the rows of
        metrics.jsonl by kind, in their order.
    """

    folder: Path
    config: dict
    metadata: dict
    summary: dict
    steps: list[dict]
    measurements: list[dict]
    checks: list[dict]
    tracked: list[dict]
    effects: list[dict]
    sharpness: list[dict]
    vitals: list[dict]
    data: list[dict]
    sizes: list[dict]

    @property
    def name(self) -> str:
        return str(self.summary.get("name") or self.config.get("name") or self.folder.name)

    @property
    def batch_size(self) -> int | None:
        known = [row["batch_size"] for row in self.measurements if row.get("batch_size")]
        return known[-1] if known else self.config.get("batch_size")

    @property
    def noisy(self) -> list[dict]:
        """The measurements that hold the moments of the gradient noise."""
        return [row for row in self.measurements if "total" in (row.get("noise") or {})]

    @property
    def layers(self) -> list[str]:
        """Every measured layer, in the order of the model."""
        return list(dict.fromkeys(x for row in self.noisy for x in row["noise"].get("layers", {})))

    @property
    def seeds(self) -> list:
        """Every seed that left a row, in order of appearance."""
        return list(dict.fromkeys(r["seed"] for r in [*self.steps, *self.measurements]))


def read(folder: str | os.PathLike, caller: str = "report") -> Run:
    """Read a run folder. Rows of a kind that the report does not know are passed over.

    Args:
      folder: where it lies.
      caller: that errors name.

    Raises:
      FileNotFoundError: no such folder, or it lacks config.json or metrics.jsonl.
      ValueError: a file or a line is not strict JSON, or a row lacks a key; the text names it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"`{caller}`: `folder` must be a run folder; there is no folder {str(folder)!r}"
        )
    lacking = [name for name in ("config.json", "metrics.jsonl") if not (folder / name).is_file()]
    if lacking:
        raise FileNotFoundError(
            f"`{caller}`: `folder` must be a run folder as `funcbackprop study` writes it; "
            f"{str(folder)!r} has no {' and no '.join(lacking)}"
        )
    rows = _rows(folder / "metrics.jsonl")
    return Run(
        folder,
        _object(folder / "config.json"),
        _object(folder / "metadata.json"),
        _object(folder / "summary.json"),
        *([row for row in rows if row["kind"] == kind] for kind in _NEEDED),
    )


def curve(rows: Iterable[dict], value: Callable[[dict], Any], shift: int = 0) -> dict:
    """`seed -> (steps - shift, values)`, as figures take it; rows without a value hold None.

    >>> curve([{"seed": 0, "step": 1, "loss": 2.5}], lambda row: row["loss"])
    {0: ([1], [2.5])}
    """
    curves: dict = {}
    for row in rows:
        steps, values = curves.setdefault(row["seed"], ([], []))
        steps.append(row["step"] - shift)
        values.append(value(row))
    return curves


def noise(run: Run, key: str, layer: str | None = None) -> dict:
    """The curve of one moment of the gradient noise, in total or of one layer."""

    def value(row):
        entry = row["noise"]["total" if layer is None else "layers"]
        return (entry if layer is None else entry.get(layer, {})).get(key)

    return curve(run.noisy, value)


def noise_limits(run: Run, key: str, layer: str | None = None) -> tuple[dict, dict]:
    """The curves of the 95 % limits of a moment; None where the run did not measure them."""

    def value(row, end):
        entry = row["noise"]["total" if layer is None else "layers"]
        entry = entry if layer is None else entry.get(layer, {})
        return entry.get("limits", {}).get(key, (None, None))[end]

    lower, upper = (curve(run.noisy, lambda row, k=k: value(row, k)) for k in (0, 1))
    return lower, upper


def metric_limits(run: Run, name: str, split: str) -> tuple[dict, dict]:
    """The curves of a metric less and plus 1.96 of its standard errors over examples."""

    def value(row, sign):
        mean = row["metrics"][split][name]
        error = row.get("standard_errors", {}).get(split, {}).get(name)
        return None if mean is None or error is None else mean + sign * _GAUSSIAN * error

    rows = [row for row in run.measurements if name in (row["metrics"].get(split) or {})]
    lower, upper = (curve(rows, lambda row, s=s: value(row, s)) for s in (-1, 1))
    return lower, upper


def metrics(run: Run) -> dict[str, dict[str, dict]]:
    """metric -> name of the data -> curve, for every metric of the measurements."""
    found: dict = {}
    for row in run.measurements:
        for split, values in row["metrics"].items():
            for name in values if isinstance(values, dict) else ():
                found.setdefault(name, {}).setdefault(split, None)
    for name, splits in found.items():
        for split in splits:
            rows = [row for row in run.measurements if name in row["metrics"].get(split, {})]
            splits[split] = curve(rows, lambda row, s=split, n=name: row["metrics"][s][n])
    return found


def _object(path):
    if not path.is_file():
        return {}
    value = _parse(path.read_text(encoding="utf-8"), path.name)
    if not isinstance(value, dict):
        raise ValueError(f"`report`: {path.name} must hold a JSON object, got {value!r:.60}")
    return value


def _rows(path):
    rows = []
    for k, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        where = f"line {k} of {path.name}"
        row = _parse(line, where)
        if not isinstance(row, dict) or "kind" not in row:
            raise ValueError(f'`report`: {where} must be a JSON object with "kind", got {line:.60}')
        lacking = [key for key in _NEEDED.get(row["kind"], ()) if key not in row]
        if lacking:
            raise ValueError(
                f"`report`: {where} is a row of kind {row['kind']!r} without {', '.join(lacking)}"
            )
        rows.append(row)
    return rows


def _parse(text, where):
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError as error:
        raise ValueError(
            f"`report`: {where} is not strict JSON ({error}); "
            "run the command again to write it anew"
        ) from None


def _refuse(name):
    raise ValueError(f"{name} is not JSON; non-finite numbers are null")
