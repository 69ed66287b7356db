"""The part about other batch sizes: the variance that S/B predicts, and the one that was seen."""

from typing import TYPE_CHECKING

from .. import figures
from ..tables import number, with_interval
from . import cells
from .run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ENDS = ("value", "lower", "upper")

no_sizes = cells.lacking(
    "sizes",
    "The variance across mini-batches of other sizes was not measured; `funcbackprop study` does "
    "that where it has four examples or more of equal weight.",
)


def _first_seed(run):
    """`(row, S with its limits)` of each measured step, of the first seed."""
    found = []
    for row in run.sizes:
        if row["seed"] != run.sizes[0]["seed"]:
            continue
        same = (r for r in run.noisy if (r["seed"], r["step"]) == (row["seed"], row["step"]))
        total = next(same, {"noise": {"total": {}}})["noise"]["total"]
        lower, upper = total.get("limits", {}).get("S", (None, None))
        found.append((row, dict(zip(_ENDS, (total.get("S"), lower, upper), strict=True))))
    return found


def _predicted(S, size):
    return {end: None if S[end] is None else S[end] / size for end in _ENDS}


def draw(run: Run) -> "Figure":
    """The figure, of the first seed."""
    found = {}
    for row, S in _first_seed(run):
        sizes = [x["batch_size"] for x in row["sizes"]]
        predicted = [_predicted(S, size) for size in sizes]
        found[f"step {row['step']:,}"] = {
            "sizes": sizes,
            "seen": {end: [x[end] for x in row["sizes"]] for end in _ENDS},
            "predicted": {end: [x[end] for x in predicted] for end in _ENDS},
        }
    return figures.variance_at_sizes(found)


def _compared(run):
    """`(step, entry, predicted)` of everything that can be compared, of the first seed."""
    for row, S in _first_seed(run):
        for x in row["sizes"]:
            predicted = _predicted(S, x["batch_size"])
            if predicted["value"] and x["value"] is not None:
                yield row["step"], x, predicted


def findings(run: Run) -> list[str]:
    """How far the law S/B is off, and how often the interval holds what it predicts."""
    compared = list(_compared(run))
    if not compared:
        return []
    ratios = [x["value"] / predicted["value"] for _, x, predicted in compared]
    held = sum(
        x["lower"] is not None and x["lower"] <= predicted["value"] <= x["upper"]
        for _, x, predicted in compared
    )
    sizes = [x["batch_size"] for _, x, _ in compared]
    whose = f" (seed {run.sizes[0]['seed']})" if len(run.seeds) > 1 else ""
    return [
        f"For mini-batches of {number(min(sizes))} to {number(max(sizes))} examples the variance "
        f"seen is {number(min(ratios), 2)} to {number(max(ratios), 2)} times S/B{whose}; "
        f"{held} of {len(compared)} intervals hold the prediction, where 95 % are meant to."
    ]


def table(run: Run) -> tuple[str, list, list]:
    """Title, rows and headers of every comparison."""
    rows = [
        [
            *(step, x["batch_size"], x["mini_batches"]),
            with_interval(*(predicted[end] for end in _ENDS)),
            with_interval(*(x[end] for end in _ENDS)),
            x["value"] / predicted["value"],
        ]
        for step, x, predicted in _compared(run)
    ]
    headers = ["step", "B", "mini-batches", "predicted S/B", "seen across them", "seen / predicted"]
    return "Predicted and seen variance at every size", rows, headers
