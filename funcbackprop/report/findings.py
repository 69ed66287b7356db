"""What to see in each figure: sentences computed from the data by simple rules.

Each function takes a `Run` and returns sentences. A number over several seeds is their mean.
"""

import math

import numpy as np

from .. import figures
from ..tables import number, some, with_error, with_interval
from .cells import short_status
from .run import Run, metrics, noise, noise_limits

# Ratios that count as a change, and as well above or below the batch size.
_CHANGE = 1.5
_CLEARLY = 2.0
# A test loss that ends this much above its lowest value has turned.
_TURNED = 1.05


def last(curve) -> float | None:
    """The last value of a curve, as the mean over seeds; None if there is none."""
    values = figures.band(curve).mean
    return float(values[-1]) if len(values) and np.isfinite(values[-1]) else None


def _ends(curve):
    """(first step, value), (last step, value) of the finite part of a curve."""
    b = figures.band(curve)
    known = np.flatnonzero(np.isfinite(b.mean))
    if not len(known):
        return None
    first, end = ((int(b.steps[k]), float(b.mean[k])) for k in (known[0], known[-1]))
    return first, end


def _uncertain_ends(run, key, layer=None):
    """`_ends` of a moment with its values as text: of one seed with their limits, of several with
    their standard deviation."""
    curve, limits = noise(run, key, layer), noise_limits(run, key, layer)
    ends = _ends(curve) or ()
    return [(step, _uncertain(curve, limits, step, value)) for step, value in ends]


def _uncertain(curve, limits, step, value):
    at = [
        figures.floats(x)[list(steps).index(step)] for steps, x in curve.values() if step in steps
    ]
    if len(curve) > 1:
        several = len(at) > 1 and np.isfinite(at).all()
        return with_error(value, float(np.std(at, ddof=1)) if several else None, 3)
    (steps, lower), (_, upper) = (next(iter(x.values())) for x in limits)
    k = list(steps).index(step)
    return with_interval(value, lower[k], upper[k])


def learning(run: Run) -> list[str]:
    """From where to where the loss and the accuracy went, and whether the test loss turned."""
    measured = metrics(run)
    sentences = _from_to(run, measured)
    if not measured and run.steps:
        seen = [row["loss"] for row in run.steps if row["loss"] is not None]
        if seen:
            sentences.append(
                f"The loss of a mini-batch went from {number(seen[0])} to {number(seen[-1])}."
            )
    return [*sentences, *_turned(measured.get("loss", {})), *_not_finite(run)]


def _not_finite(run):
    """The first step of each seed whose loss was not finite."""
    first = {}
    for row in run.steps:
        if row["loss"] is None:
            first.setdefault(row["seed"], row["step"])
    several = len(run.seeds) > 1
    return [
        f"The loss of the mini-batch of step {step:,}{f' (seed {seed})' if several else ''} was "
        "not finite."
        for seed, step in first.items()
    ]


def _from_to(run, measured):
    """One sentence for all losses and accuracies that were measured between the same steps."""
    found = {}
    for name in ("loss", "accuracy"):
        for split, curve in measured.get(name, {}).items():
            if (ends := _ends(curve)) is not None:
                (first, a), (last, b) = ends
                change = "" if first == last else f"{_metric(name, a)} to "
                part = f"{split} {name} {change}{_metric(name, b)}{_error(run, name, split)}"
                found.setdefault((first, last), []).append(part)
    return [
        (f"Measured once, at step {a:,}: " if a == b else f"From step {a:,} to {b:,}: ")
        + f"{', '.join(parts)}."
        for (a, b), parts in found.items()
    ]


def _error(run, name, split):
    """What the last value is uncertain by, as text: over examples, or over several seeds."""
    entry = (run.summary.get("final") or {}).get(f"{split} {name}") or {}
    error = entry.get("spread")
    if error is None:
        error = (entry.get("standard_errors") or [None])[0]
    if error is None:
        return ""
    return f" (± {number(100 * error, 2)} %)" if name == "accuracy" else f" ± {number(error, 2)}"


def _metric(name, value):
    return f"{100 * value:.1f} %" if name == "accuracy" else number(value)


def _turned(losses):
    """Whether the test loss rose at the end while the train loss fell on."""
    if not {"train", "test"} <= set(losses) or _ends(losses["test"]) is None:
        return []
    b, train = (figures.band(losses[split]) for split in ("test", "train"))
    k = int(np.nanargmin(b.mean))
    rose = 0 < b.mean[k] * _TURNED < b.mean[-1]
    if not (rose and train.mean[-1] < train.mean[np.searchsorted(train.steps, b.steps[k])]):
        return []
    return [
        f"The test loss was lowest at the measurement of step {int(b.steps[k]):,} "
        f"({number(float(b.mean[k]))}) and higher at the end: from there on, fitting the training "
        "examples better did not help on others."
    ]


def gradient_noise(run: Run) -> list[str]:
    """How S and |G|^2 changed, and how often the estimate of |G|^2 was not above zero."""
    sq = noise(run, "sq_gradient_norm")
    spread, size = (_uncertain_ends(run, key) for key in ("S", "sq_gradient_norm"))
    sentences = []
    if spread and size:
        (first, a), (end, b) = spread
        (_, c), (_, d) = size
        if first == end:
            sentences.append(f"Measured once, at step {first:,}: S = {b} and |G|² = {d}.")
        else:
            sentences.append(
                f"From step {first:,} to {end:,}, S went from {a} to {b} and |G|² from {c} to {d}."
            )
    return [*sentences, *_not_positive(run, figures.band(sq))]


def _not_positive(run, b):
    count, of = int(np.sum(b.mean <= 0)), len(b.mean)
    examples = run.noisy[-1].get("examples") if run.noisy else None
    these = f"the {examples:,} examples measured" if examples else "the examples measured"
    if not count:
        return []
    return [
        f"At {count} of {of} measured steps the estimate of |G|² was not above zero: with {these} "
        "the mean gradient cannot be told from zero."
    ]


def noise_scale(run: Run) -> list[str]:
    """How the noise scale changed, and what that means for the batch size."""
    curve = noise(run, "noise_scale")
    ends, batch = _ends(curve), run.batch_size
    sentences = []
    if ends is not None:
        # A run that ended without finite gradients needs no advice on its batch size.
        finite = last(noise(run, "S")) is not None
        sentences.append(_scale_trend(*ends, batch if finite else None, len(curve)))
    b = figures.band(curve)
    if b.missing.any():
        sentences.append(_scale_missing(run, b))
    return [*sentences, *_suggested(run)]


def _last_scale(run):
    """The noise scale of the last measurement of a single seed, and its limits."""
    total = run.noisy[-1]["noise"]["total"]
    return (total.get("noise_scale"), *total.get("limits", {}).get("noise_scale", (None, None)))


def scale_at_end(run: Run) -> tuple[str, str]:
    """The noise scale of the last measurement, and its uncertainty."""
    batch = f"batch {run.batch_size:,}"
    curve = noise(run, "noise_scale")
    value = last(curve)
    if len(curve) > 1:
        of = "mean of the finite estimates" if value is not None else "no finite estimate"
        return number(value and round(value, 1)), f"examples, at the end, {of}; {batch}"
    value, lower, upper = _last_scale(run)
    if lower is None:
        note = "no finite estimate at the end" if value is None else "examples, at the end"
        return number(value and round(value, 1)), f"{note}; {batch}"
    if value is None or upper is None:
        return f"≥ {_count(lower)}", f"examples, at the end, with no upper limit; {batch}"
    return _count(value), f"examples [{_count(lower)}, {_count(upper)}], at the end; {batch}"


def _suggested(run):
    """The batch size that the last measurement suggests, in words."""
    if len(run.seeds) > 1 or not run.noisy:
        return
    value, lower, upper = _last_scale(run)
    if lower is None:
        return
    if upper is None or value is None:
        yield (
            f"At the end a larger batch saves steps up to {_examples(lower)} at least; the "
            "examples that were measured set no upper limit."
        )
    else:
        yield (
            f"At the end a larger batch saves steps up to about {_examples(value)} "
            f"[{_count(lower)}, {_count(upper)}]; beyond, it hardly does."
        )


def _scale_trend(first, end, batch, seeds):
    (start, a), (stop, b) = first, end
    mean = f" (mean of {seeds} seeds)" if seeds > 1 else ""
    if start == stop:
        trend = f"At step {stop:,} the noise scale was {_examples(b)}{mean}"
    elif b > _CHANGE * a:
        trend = f"The noise scale grew from {_count(a)} to {_examples(b)} by step {stop:,}{mean}"
    elif a > _CHANGE * b:
        trend = f"The noise scale fell from {_count(a)} to {_examples(b)} by step {stop:,}{mean}"
    else:
        trend = f"The noise scale stayed near {_examples(b)}{mean}"
    return trend + (_against_batch(b, batch) if batch else "") + "."


def _against_batch(scale, batch):
    if scale > _CLEARLY * batch:
        return (
            f" while a batch held {number(batch)}: there, one batch mostly sees noise, and a "
            "larger batch or a smaller learning rate would average more of it away"
        )
    if scale * _CLEARLY < batch:
        return (
            f" while a batch held {number(batch)}: there, one batch mostly sees signal, and a "
            "smaller batch would give almost the same direction for less work"
        )
    return (
        f", within a factor of 2 of the batch of {number(batch)}: signal and noise are "
        "comparable in one batch"
    )


def _count(x):
    return number(round(x) if x >= 10 else x)


def _examples(x):
    return f"{_count(x)} example{'' if round(x, 2) == 1 else 's'}"


def _scale_missing(run, b):
    reasons = {short_status(row["noise"]["total"]) for row in run.noisy} - {"ok", ""}
    steps = [int(step) for step in b.steps[b.missing]]
    where = (
        f"step {steps[0]:,}"
        if len(steps) == 1
        else f"{len(steps)} of {len(b.steps)} steps (the first is {steps[0]:,})"
    )
    why = f" ({'; '.join(sorted(reasons))})" if reasons else ""
    some = " for at least one seed" if len(run.seeds) > 1 else ""
    return (
        f"At {where} there was no finite estimate{some}{why}: hollow triangles at the upper edge."
    )


def by_layer(run: Run) -> list[str]:
    """The layer with most of the variance at the end, and those of best and worst signal."""
    variance = {name: last(noise(run, "batch_variance", name)) for name in run.layers}
    variance = {name: x for name, x in variance.items() if x is not None}
    if not variance:
        return ["At the last measurement no layer had a finite estimate."]
    whole = math.fsum(variance.values())
    sentences = []
    if len(variance) > 1 and whole > 0:
        top = max(variance, key=lambda name: variance[name])
        sentences.append(
            f"At the last measurement {top} held {100 * variance[top] / whole:.0f} % of the "
            f"variance, the largest share of {len(variance)} layers."
        )
    ratio = {name: last(noise(run, "signal_to_noise", name)) for name in run.layers}
    known = {name: x for name, x in ratio.items() if x is not None}
    return [*sentences, *_signal_by_layer(run, known)]


def _signal_by_layer(run, ratio):
    if len(ratio) < 2:
        return []
    below = sum(x <= 0 for x in ratio.values())
    if below == len(ratio):
        return [
            "In no layer was the estimate of |G|² above zero: no signal could be told from noise."
        ]
    low, high = (pick(ratio, key=lambda name: ratio[name]) for pick in (min, max))
    sentences = [
        f"The signal to noise of one batch ranged from {_ratio_at_end(run, low)} ({low}) to "
        f"{_ratio_at_end(run, high)} ({high})."
    ]
    if below:
        sentences.append(
            f"In {below} of {len(ratio)} layers it was not above zero: there, no signal could be "
            "told from noise."
        )
    return sentences


def _ratio_at_end(run, layer):
    return _uncertain_ends(run, "signal_to_noise", layer)[1][1]


def check(run: Run) -> list[str]:
    """Whether every leaf agreed with the reference; what did not comes by name."""
    if not run.checks:
        return []
    leaves = [leaf for row in run.checks for leaf in row["leaves"]]
    steps = ", ".join(f"{step:,}" for step in sorted({row["step"] for row in run.checks}))
    name = run.checks[0].get("reference", "given")
    references = "references" if " and " in name else "reference"
    where = f"the {name} {references} at the compared steps ({steps})"
    wrong = {x["leaf"]: x["verdict"] for x in leaves if not x["ok"]}
    total = len({x["leaf"] for x in leaves})
    if wrong:
        reasons = dict.fromkeys(x["reason"] for x in leaves if x.get("reason"))
        return [*_disagreement(wrong, total, where), *(f"{x}." for x in reasons)]
    errors = [x["error_in_bounds"] for x in leaves if x["error_in_bounds"] is not None]
    largest = f"; the largest error was {number(max(errors))} of its bound" if errors else ""
    return [f"All {total} leaves agreed with {where}{largest}."]


def _disagreement(wrong, total, where):
    named = [f"{leaf} ({verdict})" for leaf, verdict in wrong.items()]
    shown = some(named, 5)
    sentences = [f"{len(wrong)} of {total} leaves were not found to agree with {where}: {shown}."]
    if set(wrong.values()) - {"not audited", "precision"}:
        sentences.append("Until this is explained, trust no other number of this report.")
    return sentences


def tracked_noise(run: Run) -> list[str]:
    """The last window of each seed, with its interval and status."""
    last_rows = {row["seed"]: row for row in run.tracked}
    return [sentence for seed, row in last_rows.items() for sentence in _window(run, seed, row)]


def _window(run, seed, row):
    whose = f"Seed {seed}: over" if len(run.seeds) > 1 else "Over"
    B, steps = row["B_simple"], number(row["window"])
    if B["lower"] is None:
        yield f"{whose} the last {steps} steps the noise scale has no interval: {B['status']}."
    elif B["upper"] is None:
        yield (
            f"{whose} the last {steps} steps the noise scale is at least {number(B['lower'])} "
            "examples, unbounded above."
        )
    else:
        yield (
            f"{whose} the last {steps} steps the noise scale is {number(B['value'])} examples, "
            f"95 % interval {number(B['lower'])} to {number(B['upper'])}."
        )
    if B["status"] == "correlated slots":
        yield "Neighbouring slots of steps are alike, so the interval may be too short."
    if row["skipped"]:
        yield f"{number(row['skipped'])} steps were left out: their gradients were not finite."
