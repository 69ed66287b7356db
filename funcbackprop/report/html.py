"""The page of a run folder: what each part shows, and its assembly."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .. import __version__, figures, tables
from ..files import write_text
from . import cells, diagnosis, effect, findings, method, page, sizes
from .glossary import GLOSSARY
from .run import Run, curve, metric_limits, metrics, noise, noise_limits, read

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LIMITS = ("value", "lower", "upper")


class Part(NamedTuple):
    """One part of the report.

    Attributes:
      key: its anchor, and the name of its figure's file.
      title: heading.
      meaning: what the figure shows in general.
      draw: the figure; None for a part whose table says it all, and stands open.
      findings: sentences about this run.
      missing: what would give the part, if its ingredient is not there; empty otherwise.
      details: title and (rows, headers) of the table that can be opened below.
    """

    key: str
    title: str
    meaning: str
    draw: Callable[[Run], "Figure"] | None
    findings: Callable[[Run], list[str]]
    missing: Callable[[Run], str]
    details: Callable[[Run], tuple[str, list, list]]


def write(folder: str | os.PathLike) -> Path:
    """Write `plots/*.png` and the self-contained page `report.html` into a run folder.

    The page needs no network and no scripts: figures and style are inside. Each file appears whole
    or not at all; figures of an earlier report that this one does not draw are removed.

    Args:
      folder: a run folder as `funcbackprop study` or `train` writes it.

    Returns:
      The path of report.html.

    Raises:
      FileNotFoundError: no such folder, or config.json or metrics.jsonl are not in it.
      ValueError: one of its files is not what it should be; the text names the line.
      ImportError: matplotlib is not installed.
    """
    run = read(folder)
    (run.folder / "plots").mkdir(exist_ok=True)
    text = page.render(
        "report.html",
        version=__version__,
        name=run.name,
        subtitle=cells.subtitle(run),
        stopped=_stopped(run),
        cards=_cards(run),
        final=page.table(*cells.final(run), digits=4),
        final_note=cells.final_note(run),
        parts=[_part(run, part) for part in _PARTS if not part.missing(run)],
        absent=_absent(run),
        glossary=GLOSSARY,
        method=method.sentences(run),
        config=page.table(*cells.flat(run.config)),
        environment=page.table(*cells.flat(run.metadata)),
        costs=page.table(*effect.costs(run)),
        costs_note=effect.costs_note(run),
    )
    path = run.folder / "report.html"
    write_text(path, text)
    return path


def _stopped(run):
    outcome = run.summary.get("outcome")
    if outcome is None:
        return "This run has not finished; what follows is what it has written so far."
    return "" if outcome == "completed" else f"The run did not complete. It {_sentence(outcome)}"


def _sentence(text):
    return text.replace(": ", " because ", 1).rstrip(".") + "."


def _cards(run):
    """The few numbers that the page opens with: (label, value, note)."""
    final = run.summary.get("final") or {}
    cards = []
    for name in ("test accuracy", "test loss", "train loss"):
        if name in final and len(cards) < 2:
            mean, spread = final[name]["mean"], final[name].get("spread")
            text = f"{100 * mean:.1f} %" if "accuracy" in name and mean else tables.number(mean)
            factor = 100 if "accuracy" in name else 1
            errors = final[name].get("standard_errors")
            note = "at the end"
            if spread:
                note = f"± {tables.number(factor * spread, 2)} over {len(run.seeds)} seeds"
            elif errors and errors[0]:
                note = f"± {tables.number(factor * errors[0], 2)} over examples"
            cards.append((name, text, note, ""))
    if run.noisy:
        cards.append(("noise scale", *findings.scale_at_end(run), ""))
    cards.append(_check_card(run))
    return [*cards, *diagnosis.cards(run)]


def _check_card(run):
    if not run.checks:
        return ("gradient check", "not made", "see below", "")
    leaves = {leaf["leaf"] for row in run.checks for leaf in row["leaves"]}
    wrong = {x["leaf"] for row in run.checks for x in row["leaves"] if not x["ok"]}
    steps = len({row["step"] for row in run.checks})
    note = f"of {_many(len(leaves), 'leaf', 'leaves')} at {_many(steps, 'step')}"
    if wrong:
        return ("gradient check", f"{len(wrong)} not agreeing", note, "bad")
    return ("gradient check", "agrees", note.removeprefix("of "), "good")


def _many(count, one, several=None):
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _draw_learning(run):
    training = curve(run.steps, lambda row: row["loss"], shift=1)
    measured = metrics(run)
    limits = {
        name: {split: metric_limits(run, name, split) for split in splits}
        for name, splits in measured.items()
    }
    return figures.learning_curves(training, measured, limits=limits)


def _draw_noise(run):
    return figures.gradient_noise(
        noise(run, "S"),
        noise(run, "sq_gradient_norm"),
        variance_limits=noise_limits(run, "S"),
        sq_norm_limits=noise_limits(run, "sq_gradient_norm"),
    )


def _draw_scale(run):
    limits = noise_limits(run, "noise_scale")
    return figures.noise_scale(noise(run, "noise_scale"), run.batch_size, limits=limits)


def _draw_tracked(run):
    scale, lower, upper = (curve(run.tracked, lambda r, k=k: r["B_simple"][k]) for k in _LIMITS)
    return figures.tracked_noise_scale(scale, lower, upper, run.batch_size)


def _draw_layers(run):
    names = dict(zip(run.layers, tables.labels(run.layers, 30), strict=True))
    keys = ("batch_variance", "signal_to_noise")
    variance, ratio = ({x: noise(run, key, name) for name, x in names.items()} for key in keys)
    of_variance, of_ratio = (
        {x: noise_limits(run, key, name) for name, x in names.items()} for key in keys
    )
    return figures.layer_variance(
        variance, ratio, variance_limits=of_variance, ratio_limits=of_ratio
    )


def _draw_effect(run):
    predicted = effect.of_updates(run, "predicted", "value")
    actual, lower, upper = (effect.of_updates(run, "actual", key) for key in _LIMITS)
    return figures.effect_while_training(predicted, actual, lower, upper)


def _draw_sharpness(run):
    value, upper = (curve(run.sharpness, lambda r, k=k: r[k]) for k in ("value", "upper"))
    last = run.sharpness[-1]
    return figures.sharpness(value, upper, last.get("threshold"), last.get("preconditioned", False))


def _draw_shares(run):
    names = dict(zip(run.layers, tables.labels(run.layers, 30), strict=True))
    gradient, fall = ({names[k]: x for k, x in of.items()} for of in effect.shares(run))
    of_gradient, of_fall = (
        {names[k]: x for k, x in of.items()} for of in effect.limits_of_shares(run)
    )
    return figures.layer_shares(gradient, fall, gradient_limits=of_gradient, change_limits=of_fall)


def _draw_check(run):
    paths = list(dict.fromkeys(leaf["leaf"] for row in run.checks for leaf in row["leaves"]))
    names = dict(zip(paths, tables.labels(paths, 44), strict=True))
    leaves = [
        {**leaf, "leaf": names[leaf["leaf"]], "step": row["step"]}
        for row in run.checks
        for leaf in row["leaves"]
    ]
    return figures.gradient_check(leaves)


def _no_learning(run):
    return "" if run.steps or run.measurements else "The run made no update and no measurement."


def _no_layers(run):
    return cells.no_noise(run) or (
        "" if run.layers else "The gradient noise was measured in total only."
    )


# The page, in order.
_PARTS = (
    Part(
        "learning",
        "Learning",
        "Light: the loss of each mini-batch before its update; blue: its mean over the steps "
        "within 10 % of each step. Marked lines: means over the training and the test set at the "
        "measured steps, with their 95 % intervals over examples or, of several seeds, their "
        "range. Where the test line leaves the train line, what is learned holds for the "
        "training examples only.",
        _draw_learning,
        findings.learning,
        _no_learning,
        cells.metrics_everywhere,
    ),
    Part(
        "diagnosis",
        "What training suffers from",
        "Causes, the first to look at in front; what follows from another stands behind it. "
        "Severe: training fails; moderate: it costs; slight: worth a look. Measured on the way, on "
        "the batches of the next updates (of the first seed). The documentation defines each "
        "finding, with its threshold and source.",
        None,
        diagnosis.sentences,
        diagnosis.no_diagnosis,
        diagnosis.table,
    ),
    Part(
        "gradient_check",
        "Gradient check",
        "Each mark is one parameter leaf at one step (of one seed): JAX's gradient of the loss "
        "against the reference, in units of what rounding explains. Left of the dashed line "
        "rounding explains the difference.",
        _draw_check,
        findings.check,
        cells.no_check,
        cells.checked_leaves,
    ),
    Part(
        "gradient_noise",
        "Gradient noise",
        "S is the variance of one example's gradient, |G|² the squared norm of the mean gradient. "
        "The further S lies above |G|², the more examples must be averaged before the mean "
        "gradient stands out from the noise. Bands: 95 % intervals, or the range of several seeds.",
        _draw_noise,
        findings.gradient_noise,
        cells.no_noise,
        cells.noise_everywhere,
    ),
    Part(
        "noise_scale",
        "Noise scale against the batch size",
        "The noise scale S/|G|² is the batch size at which noise and signal are equal. Where it "
        "lies below the dashed line a mini-batch gradient is mostly signal; above, mostly noise. "
        "The band is the 95 % interval, or the range of several seeds; where it reaches the upper "
        "edge, the examples that were measured set no upper limit.",
        _draw_scale,
        findings.noise_scale,
        cells.no_noise,
        lambda run: ("", [], []),
    ),
    Part(
        "batch_variance",
        "Variance at other batch sizes",
        "Left, lines: S/B, the mini-batch variance that the gradients of single examples predict, "
        "with its 95 % interval. Marks: the variance seen across disjoint mini-batches of the same "
        "examples, with 95 % intervals; the largest sizes have few mini-batches. Right: seen over "
        "predicted. Where it is 1, twice the batch halves the variance.",
        sizes.draw,
        sizes.findings,
        sizes.no_sizes,
        sizes.table,
    ),
    Part(
        "tracked_noise",
        "Noise scale at every step",
        "From the norms of the examples' gradients in every mini-batch. The line and its 95 % "
        "interval are for the last half of the steps so far. Where the interval reaches the upper "
        "edge it is unbounded: |G|² cannot be told from zero.",
        _draw_tracked,
        findings.tracked_noise,
        cells.no_tracked,
        lambda run: ("", [], []),
    ),
    Part(
        "layers",
        "Gradient noise by layer",
        "Left: the variance of the mini-batch gradient, summed over a layer's parameters, so that "
        "large layers tend to have more. Right: the layer's |G|² divided by that variance; at 1 "
        "signal and noise are equal. Bands: 95 % intervals, or the range of several seeds. A layer "
        "is what the problem's `groups` say, or else the leaves of one parent in the tree.",
        _draw_layers,
        findings.by_layer,
        _no_layers,
        lambda run: cells.noise_at_end(run, full=True) if run.noisy else ("", [], []),
    ),
    Part(
        "update_effect",
        "What the next update does",
        "At each measured step the update that comes next, of the next mini-batch, is tried on "
        "examples that training does not see: of the test set, if there is one. Predicted is "
        "<G, u> + uᵀHu/2 with their gradient G and Hessian H; actual is the change of their loss. "
        "The interval is that of a mean over these examples. Where it holds 0, they cannot tell "
        "whether the update helps.",
        _draw_effect,
        effect.effect,
        effect.no_effect,
        effect.effects_everywhere,
    ),
    Part(
        "sharpness",
        "Sharpness against the threshold of stability",
        "The largest eigenvalue of the Hessian of the training loss, of some training examples; "
        "for Adam and RMSProp preconditioned as the optimizer does. Above the threshold, steps of "
        "the full batch on a quadratic would grow. Mini-batches, and a threshold that moves with "
        "the second moments, make it a guide, not a wall. The band reaches to the upper bound.",
        _draw_sharpness,
        effect.sharpness,
        effect.no_sharpness,
        effect.sharpness_everywhere,
    ),
    Part(
        "responsibility",
        "Responsibility by layer",
        "Left: each layer's share of |G|², the squared gradient of the training loss: which layer "
        "the error points at. Right: its share of what the next update changes to first order; "
        "above 0 the layer's part lowers the loss. Shares are of the sum of absolute values. "
        "Bands: 95 % intervals of the layer's part, the sum taken as known, or the range of "
        "several seeds.",
        _draw_shares,
        effect.by_layer,
        effect.no_shares,
        lambda run: effect.shares_at_end(run) if not effect.no_shares(run) else ("", [], []),
    ),
)


def _part(run, part):
    """What the template needs for one part; its figure is drawn and saved on the way."""
    title, rows, headers = part.details(run)
    return {
        **_image(run, part),
        "key": part.key,
        "title": part.title,
        "meaning": part.meaning,
        "findings": part.findings(run),
        "details": (title, page.table(rows, headers)) if rows else None,
    }


def _image(run, part):
    if part.draw is None:
        return {"image": ""}
    return page.picture(figures.save(part.draw(run), _plot(run, part)).read_bytes())


def _absent(run):
    """(titles, what would give them) of the parts without data; figures of an earlier report go."""
    titles = {}
    for part in _PARTS:
        if text := part.missing(run):
            titles.setdefault(text, []).append(part.title)
            _plot(run, part).unlink(missing_ok=True)
    return [(", ".join(some), text) for text, some in titles.items()]


def _plot(run, part):
    return run.folder / "plots" / f"{part.key}.png"
