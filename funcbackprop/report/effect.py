"""The parts about the next update and the sharpness: curves, tables, sentences."""

import numpy as np

from .. import figures
from ..tables import number, percent, some, with_error
from . import cells
from .findings import last
from .run import Run, curve, noise, noise_limits

# The second-order prediction is called good where it is this close to the actual change.
_CLOSE = 0.1
_NAMED = 3


no_effect = cells.lacking(
    "effects", "What the next update does was not measured; `funcbackprop study` does that."
)
no_sharpness = cells.lacking(
    "sharpness", "The sharpness was not measured; `funcbackprop study` does that."
)


def no_shares(run: Run) -> str:
    """What would give the layers' shares; empty if all is there."""
    if run.effects and run.layers:
        return ""
    return "Gradient noise and effect by layer are needed; `funcbackprop study` measures both."


def of_updates(run: Run, name: str, key: str) -> dict:
    """The curve of one number of an estimate of the effect."""
    return curve(run.effects, lambda row: row[name][key])


def shares(run: Run) -> tuple[dict[str, dict], dict[str, dict]]:
    """layer -> curve: its share of |G|^2, and of the fall of the loss to first order.

    Of the sum of absolute values, so that a share is between -1 and 1 whatever the total is.
    """
    squares, falls = _squares_and_falls(run)
    return _of_whole(squares), _of_whole(falls)


def _squares_and_falls(run):
    squares = {name: noise(run, "sq_gradient_norm", name) for name in run.layers}
    falls = {name: curve(run.effects, lambda r, n=name: _fall(r, n)) for name in run.layers}
    return squares, falls


def limits_of_shares(run: Run) -> list[dict[str, figures.Limits]]:
    """layer -> 95 % limits, of both shares; the sum of absolute values is taken as known."""
    squares, falls = _squares_and_falls(run)
    of_squares = {name: noise_limits(run, "sq_gradient_norm", name) for name in run.layers}
    of_falls = {
        name: tuple(
            curve(run.effects, lambda r, n=name, k=k: _fall(r, n, k)) for k in _ENDS_OF_FALL
        )
        for name in run.layers
    }
    return [
        {
            name: (
                _of_whole(curves, {name: limits[name][0]})[name],
                _of_whole(curves, {name: limits[name][1]})[name],
            )
            for name in curves
        }
        for curves, limits in ((squares, of_squares), (falls, of_falls))
    ]


# What rises where the loss falls: the upper limit of a change is the lower one of a fall.
_ENDS_OF_FALL = ("upper", "lower")


def _fall(row, layer, key="value"):
    value = row["first_order_by_layer"].get(layer, {}).get(key)
    return None if value is None else -value


def _of_whole(curves, of=None):
    """`of`, or the curves themselves, divided by the sum of the curves' absolute values."""
    of = curves if of is None else of
    found = {name: {} for name in of}
    seeds = dict.fromkeys(seed for of_seeds in curves.values() for seed in of_seeds)
    for seed in seeds:
        known = {name: of[seed] for name, of in curves.items() if seed in of}
        steps = next(iter(known.values()))[0]
        table = np.array([figures.floats(values) for _, values in known.values()])
        whole = np.nansum(np.abs(table), axis=0)
        whole = np.where(whole > 0, whole, np.nan)
        for name, each in of.items():
            if seed in each:
                found[name][seed] = (steps, (figures.floats(each[seed][1]) / whole).tolist())
    return found


def effects_everywhere(run: Run) -> tuple[str, list, list]:
    """Title, rows and headers of the effect at every measurement."""
    names = ("first_order", "curvature", "predicted", "actual", "error")
    rows = [
        [
            *(row["seed"], row["step"], *(_with_error(row[name]) for name in names)),
            percent(row["share_helped"]["value"]),
        ]
        for row in run.effects
    ]
    headers = ["seed", "step", "first order", "curvature", "predicted", "actual", "error"]
    title = "The effect of the next update at every measurement, ± standard error over examples"
    return title, rows, [*headers, "examples helped"]


def _with_error(estimate):
    return with_error(estimate["value"], estimate.get("standard_error"), 3)


def sharpness_everywhere(run: Run) -> tuple[str, list, list]:
    """Title, rows and headers of the sharpness at every measurement."""
    keys = ("value", "upper", "residual", "smallest", "threshold", "status")
    rows = [[r["seed"], r["step"], *(r.get(key) for key in keys)] for r in run.sharpness]
    headers = ["seed", "step", "sharpness", "upper bound", "residual", "smallest", "threshold"]
    return "The sharpness at every measurement", rows, [*headers, "status"]


def shares_at_end(run: Run) -> tuple[str, list, list]:
    """Title, rows and headers of the layers' shares at the last measurement."""
    gradient, fall = shares(run)
    limits = limits_of_shares(run)
    rows = [
        [name, _share(gradient[name], limits[0][name]), _share(fall[name], limits[1][name])]
        for name in run.layers
    ]
    what = "with 95 % intervals" if len(run.seeds) == 1 else "means over seeds"
    title = f"Shares at the last measurement, {what}"
    return title, rows, ["layer", "of |G|²", "of the fall of the loss"]


def _share(curve, limits):
    value = percent(last(curve))
    ends = [last(x) for x in limits]
    if len(curve) > 1 or None in ends:
        return value
    return f"{value} [{', '.join(map(percent, ends))}]"


def effect(run: Run) -> list[str]:
    """Whether the updates helped, and how far second order went."""
    if not run.effects:
        return []
    data = run.effects[0].get("data", "")
    first = run.effects[0]
    predicted = number(first["predicted"]["value"])
    sentences = [
        f"At step {first['step']:,}{_whose(run, first)} the next update changes the {data} loss by "
        f"{_interval(first['actual'])}; second order predicts {predicted}."
    ]
    kinds = [kind_of(row["actual"]) for row in run.effects]
    counts = {kind: kinds.count(kind) for kind in ("lowers", "raises", "unclear")}
    unclear = counts["unclear"]
    sentences.append(
        f"Of {len(kinds)} measured updates {counts['lowers']} lowered it and {counts['raises']} "
        "raised it, beyond the error"
        + (f"; for {unclear} these examples cannot tell." if unclear else ".")
    )
    return [*sentences, *_prediction(run, kinds), *_taken_back(run)]


def _whose(run, row):
    """The seed that a row is of, where there are several."""
    return f" of seed {row['seed']}" if len(run.seeds) > 1 else ""


def _interval(estimate):
    text = number(estimate["value"])
    if estimate["lower"] is None:
        return text
    return f"{text} [{number(estimate['lower'])}, {number(estimate['upper'])}]"


def kind_of(actual: dict) -> str:
    """Whether a change of the loss lowers or raises it, or is unclear, by its interval."""
    low, high = actual["lower"], actual["upper"]
    if low is None or high is None or low <= 0 <= high:
        return "unclear"
    return "lowers" if high < 0 else "raises"


def _prediction(run, kinds):
    """How far the prediction was off where there was something to predict."""
    off = [
        (abs(row["error"]["value"] / row["actual"]["value"]), row["step"])
        for row, kind in zip(run.effects, kinds, strict=True)
        if kind != "unclear" and row["error"]["value"] is not None
    ]
    if not off:
        return
    worst, step = max(off)
    yield (
        f"Where it can be told, second order is off by at most {percent(worst)} of the change "
        f"(step {step:,})."
    )
    if worst > _CLOSE:
        yield "A step for which the prediction fails is long for this loss."


def _taken_back(run):
    """The part of the first-order fall that the curvature takes back, where it is largest."""
    ratios = [
        (row["curvature"]["value"] / -row["first_order"]["value"], row["step"])
        for row in run.effects
        if (row["first_order"]["upper"] or 0) < 0 and row["curvature"]["value"] is not None
    ]
    if ratios:
        worst, step = max(ratios)
        yield (
            f"The curvature takes back up to {percent(worst)} of the first-order fall (step "
            f"{step:,}); at 50 % the step is as long as is best along its direction, at 100 % it "
            "gains nothing."
        )


def sharpness(run: Run) -> list[str]:
    """From where to where the sharpness went, and where it stood against the threshold: of the
    first seed, for a threshold that moves is one of a single run."""
    rows = [row for row in run.sharpness if row["seed"] == run.sharpness[0]["seed"]]
    known = [row for row in rows if row["value"] is not None]
    sentences = _without(rows)
    if not known:
        return sentences
    kind = "preconditioned sharpness" if known[0].get("preconditioned") else "sharpness"
    first, end = known[0], known[-1]
    sentences.insert(
        0,
        f"The {kind}{_whose(run, first)} was {_bounded(first)} at step {first['step']:,} and "
        f"{_bounded(end)} at step {end['step']:,}.",
    )
    threshold = end.get("threshold")
    if threshold is None:
        return [*sentences, "The threshold of stability is not known for this optimizer."]
    above = [f"{row['step']:,}" for row in known if row["value"] > threshold]
    ratio = number(end["value"] / threshold, 2)
    sentences.append(f"At the end it is {ratio} of the threshold, {number(threshold)}.")
    sentences += _rates(run, end, threshold)
    if above:
        sentences.append(
            f"It lay above at step{'s' if len(above) > 1 else ''} {some(above, 6)}: there, a step "
            "of the full batch overshoots along the sharpest direction."
        )
    return sentences


def _bounded(row):
    """The sharpness, and what it is at most where that is another number."""
    value, upper = (number(row[key]) for key in ("value", "upper"))
    return value if row["upper"] is None or upper == value else f"{value} (at most {upper})"


def _rates(run, end, threshold):
    """Up to which learning rate the full batch would be stable."""
    rate = run.config.get("learning_rate")
    if not rate or end["value"] <= 0 or end["upper"] is None:
        return
    low, high = (number(rate * threshold / end[key], 2) for key in ("upper", "value"))
    most = low if low == high else f"{low} to {high}"
    yield (
        f"With this sharpness, steps of the full batch are stable up to a learning rate of {most}; "
        f"the run used {number(rate)}."
    )


def _without(rows):
    reasons = {row["status"]: row["step"] for row in reversed(rows) if row["value"] is None}
    return [
        f"At step {step:,} there is none: {reason}." for reason, step in sorted(reasons.items())
    ]


def by_layer(run: Run) -> list[str]:
    """The layers with the largest shares at the end, and those that raised the loss."""
    curves, limits = shares(run), limits_of_shares(run)
    gradient, fall = ({k: last(x) for k, x in of.items()} for of in curves)
    sentences = []
    for k, (what, of) in enumerate((("|G|²", gradient), ("the fall of the loss", fall))):
        known = {name: x for name, x in of.items() if x is not None}
        if known:
            top = max(known, key=lambda name: abs(known[name]))
            share = _share(curves[k][top], limits[k][top])
            sentences.append(f"At the last measurement {top} has {share} of {what}.")
    raising = [name for name, x in fall.items() if x is not None and x < 0]
    if raising:
        sentences.append(
            "To first order the next update raises the loss by what it changes in "
            f"{some(raising, _NAMED)}."
        )
    return sentences


def costs_note(run: Run) -> str:
    """What an update and all measurements took, in sentences."""
    cost = run.summary.get("cost") or {}
    measured = cost.get("measurements") or {}
    if not measured or not cost.get("seconds_of_update"):
        return ""
    spent = sum(of["seconds"] for of in measured.values())
    seconds = run.summary.get("seconds")
    of_all = "" if seconds is None else f" of {number(seconds)}"
    return (
        f"An update took {number(1000 * cost['seconds_of_update'])} ms on average, its compilation "
        f"included; measuring took {number(spent)}{of_all} s, compilation included. One "
        "measurement, without compilation (the median of those after the first), in units of one "
        "update:"
    )


def costs(run: Run) -> tuple[list, list]:
    """Rows and headers of what the measurements cost, in seconds and in updates."""
    measured = (run.summary.get("cost") or {}).get("measurements") or {}
    rows = [
        [kind.replace("_", " "), of["times"], *(of[k] for k in _COSTS)]
        for kind, of in measured.items()
    ]
    return rows, ["measurement", "times", *_COSTS.values()]


_COSTS = {"seconds": "s in all", "seconds_of_one": "s of one", "updates_of_one": "updates of one"}
