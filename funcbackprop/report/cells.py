"""The tables of a run as rows and headers, and the sentences that stand where one is missing."""

import statistics
from collections.abc import Callable

from .. import tables
from .run import Run, metrics


def subtitle(run: Run) -> str:
    """How the run ended, and its size, in one line."""
    seeds = run.summary.get("seeds") or run.seeds
    done = max((row["step"] for row in run.steps), default=0)
    planned = run.summary.get("steps", done)
    parts = [
        run.summary.get("outcome", "not finished"),
        f"{done:,} updates" if done == planned else f"{done:,} of {planned:,} updates",
        f"batch of {run.batch_size:,}" if run.batch_size else "",
        f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}" if seeds else "",
        f"{run.summary['seconds']:.1f} s" if run.summary.get("seconds") is not None else "",
    ]
    return " · ".join(part for part in parts if part)


def final(run: Run) -> tuple[list, list]:
    """Rows and headers of the metrics at the end."""
    final = run.summary.get("final") or {}
    several = any(entry.get("spread") is not None for entry in final.values())
    rows = []
    for name, entry in final.items():
        each = ", ".join(tables.number(x, 4) for x in entry.get("per_seed", []))
        spread = entry.get("spread")
        spread = spread if spread is None else float(f"{spread:.2g}")
        rows.append([name, entry["mean"], *([spread, each] if several else [])])
    if several:
        return rows, ["at the end", "mean", "standard deviation", "each seed"]
    errors = [entry.get("standard_errors") or [None] for entry in final.values()]
    if any(error is not None for error, *_ in errors):
        short = [error and float(f"{error:.2g}") for error, *_ in errors]
        rows = [[*row, error] for row, error in zip(rows, short, strict=True)]
        return rows, ["at the end", "value", "standard error"]
    return rows, ["at the end", "value"]


def final_note(run: Run) -> str:
    """What the uncertainty of the metrics at the end is."""
    if len(run.seeds) > 1:
        return (
            f"The standard deviation is that over {len(run.seeds)} seeds; divided by the root of "
            "their number it is the standard error of the mean."
        )
    return (
        "The standard error is that over the examples, for these parameters. How much another seed "
        "would change is not known from one seed: `--seeds 0 1 2` tells."
    )


def noise_at_end(run: Run, full: bool = False) -> tuple[str, list, list]:
    """Title, rows and headers of the gradient noise at the last measurement, total first.

    Args:
      run: that was measured.
      full: every number with its uncertainty; else only the noise scale.
    """
    step = max(row["step"] for row in run.noisy)
    rows = [row["noise"] for row in run.noisy if row["step"] == step]
    mean = f", mean of {len(rows)} seeds" if len(rows) > 1 else ""
    mean += " ± standard deviation" if mean and full else ""
    entries = {"in total": [row["total"] for row in rows]} | {
        name: [row["layers"][name] for row in rows if name in row.get("layers", {})]
        for name in run.layers
    }
    title = f"Gradient noise after {step:,} updates{mean}"
    if full:
        cells = [
            [name, *(_uncertain(found, key) for key in _NOISE_COLUMNS), status_of(found)]
            for name, found in entries.items()
        ]
        return title, cells, ["layer", *_NOISE_COLUMNS.values(), "status"]
    known = any("limits" in row["total"] for row in rows)
    cells = [
        [name, *_short(found, known and len(rows) == 1), status_of(found)]
        for name, found in entries.items()
    ]
    interval = ["its 95 % interval"] if known and len(rows) == 1 else []
    short = list(_NOISE_COLUMNS.values())
    return title, cells, ["layer", *short[:3], *interval, *short[3:], "status"]


def _short(entries, interval):
    """The mean of every column, and the interval of the noise scale behind it."""
    row = [_mean(entries, key) for key in _NOISE_COLUMNS]
    if not interval:
        return row
    limits = entries[0].get("limits", {}) if entries else {}
    lower, upper = limits.get("noise_scale", (None, None))
    ends = "" if lower is None else f"{tables.number(lower)} to "
    most = "unbounded" if upper is None else tables.number(upper)
    return [*row[:3], ends + most if ends else tables.NO_VALUE, *row[3:]]


def _uncertain(entries, key):
    """A number with its interval; over several seeds the mean with the standard deviation."""
    known = [entry[key] for entry in entries if entry.get(key) is not None]
    if len(entries) == 1:
        limits = entries[0].get("limits", {}).get(key, (None, None))
        return tables.with_interval(known[0] if known else None, *limits)
    spread = statistics.stdev(known) if len(known) > 1 else None
    return tables.with_error(_mean(entries, key), spread, 3)


_NOISE_COLUMNS = {
    "S": "S",
    "sq_gradient_norm": "|G|²",
    "noise_scale": "noise scale",
    "signal_to_noise": "signal/noise",
    "batch_variance": "S/B",
}


def _mean(entries, key):
    known = [entry[key] for entry in entries if entry.get(key) is not None]
    return sum(known) / len(known) if known else None


def short_status(entry: dict) -> str:
    """The status of one estimate, in few characters."""
    status = entry.get("status", "")
    return "|G|² ≤ 0" if status == "gradient not above zero" else status


def status_of(entries: list[dict]) -> str:
    """One status for several seeds: what is not "ok", and how often."""
    found = [short_status(entry) for entry in entries]
    if len(set(found)) <= 1:
        return "".join(found[:1])
    bad = dict.fromkeys(status for status in found if status != "ok")
    return "; ".join(f"{x} in {found.count(x)} of {len(found)}" for x in bad)


def noise_everywhere(run: Run) -> tuple[str, list, list]:
    """Title, rows and headers of the total noise at every measurement."""
    rows = []
    for row in run.noisy:
        total = row["noise"]["total"]
        rows.append(
            [
                row["seed"],
                row["step"],
                *(_uncertain([total], key) for key in _NOISE_COLUMNS),
                status_of([total]),
            ]
        )
    title = "Gradient noise at every measurement, with 95 % intervals"
    return title, rows, ["seed", "step", *_NOISE_COLUMNS.values(), "status"]


def metrics_everywhere(run: Run) -> tuple[str, list, list]:
    """Title, rows and headers of the metrics at every measurement."""
    columns = [(s, name) for name, splits in metrics(run).items() for s in splits]
    rows = [
        [r["seed"], r["step"], *(_metric(r, s, name) for s, name in columns)]
        for r in run.measurements
    ]
    headers = ["seed", "step", *(f"{s} {name}" for s, name in columns)]
    return "Loss and metrics at every measurement, ± standard error over examples", rows, headers


def _metric(row, split, name):
    value, error = (
        ((row.get(kind) or {}).get(split) or {}).get(name)
        for kind in ("metrics", "standard_errors")
    )
    return value if error is None else tables.with_error(value, error)


def checked_leaves(run: Run) -> tuple[str, list, list]:
    """Title, rows and headers of every comparison of a leaf."""
    rows = [
        [
            row["seed"],
            row["step"],
            leaf["leaf"],
            leaf["verdict"],
            leaf["relative_error"],
            leaf["error_in_bounds"],
            tables.percent(leaf.get("resolution")),
            leaf.get("reason") or "",
        ]
        for row in run.checks
        for leaf in row["leaves"]
    ]
    about = ["relative error", "error / bound", "would notice", "reason"]
    headers = ["seed", "step", "leaf", "verdict", *about]
    return "Every comparison", rows, headers


def flat(tree: dict, prefix: str = "") -> tuple[list, list]:
    """Nested dicts as rows of (dotted key, value)."""
    rows = []
    for key, value in tree.items():
        if isinstance(value, dict):
            rows += flat(value, f"{prefix}{key}.")[0]
        elif isinstance(value, list):
            rows.append([f"{prefix}{key}", ", ".join(map(str, value))])
        else:
            rows.append([f"{prefix}{key}", str(value)])
    return rows, ["field", "value"]


def no_noise(run: Run) -> str:
    """What would give the gradient noise; empty if it was measured."""
    if run.noisy:
        return ""
    said = [(row.get("noise") or {}).get("missing") for row in run.measurements]
    default = "Per-example gradients were not measured in this run; `funcbackprop study` does that."
    return next((text for text in said if text), default)


def lacking(rows: str, text: str) -> Callable[[Run], str]:
    """`(run) -> what would give a part`: `text`, or nothing if the run has such rows."""
    return lambda run: "" if getattr(run, rows) else text


no_tracked = lacking(
    "tracked", "The noise was not tracked at every step; the option `--track-noise` does that."
)
no_check = lacking(
    "checks", "JAX's gradient was not compared in this run; `funcbackprop study` does that."
)
