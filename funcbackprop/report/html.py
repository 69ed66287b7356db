"""The page and the terminal table of a run folder."""

import base64
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .. import figures, tables
from . import findings
from .run import Run, curve, metrics, noise, read

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PIXELS = 0.62  # width on the page of a pixel of a figure, so that all letters have one size
_MOST_LAYERS = 24  # layers in the terminal table


class Part(NamedTuple):
    """One part of the report.

    Attributes:
      key: its anchor, and the name of its figure's file.
      title: heading.
      meaning: what the figure shows in general.
      draw: the figure; None where the part is tables only.
      findings: sentences about this run.
      missing: what would give the figure, if its ingredient is not there; empty otherwise.
      details: title and (rows, headers) of the table that can be opened below.
    """

    key: str
    title: str
    meaning: str
    draw: Callable[[Run], "Figure"]
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
    page = _template().render(
        name=run.name,
        subtitle=_subtitle(run),
        stopped=_stopped(run),
        cards=_cards(run),
        final=_html(*_final(run), digits=4),
        parts=[_part(run, part) for part in _PARTS],
        glossary=_GLOSSARY,
        config=_html(*_flat(run.config)),
        environment=_html(*_flat(run.metadata)),
    )
    path = run.folder / "report.html"
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def table(folder: str | os.PathLike) -> str:
    """The text printed at the end of a run: final metrics, noise by layer, check, report's path.

    Raises:
      FileNotFoundError, ValueError: as `write`.
    """
    run = read(folder)
    blocks = [f"{run.name}: {_subtitle(run)}"]
    rows, headers = _final(run)
    if rows:
        blocks.append(tables.text(rows, headers, digits=4))
    blocks.append(_noise_text(run))
    blocks.append("\n".join(["Gradient check", *_check_lines(run)]))
    blocks.append(f"Report: {run.folder / run.summary.get('report', 'report.html')}")
    return "\n\n".join(blocks)


def _noise_text(run):
    if not run.noisy:
        return f"Gradient noise\n  {_no_noise(run)}"
    title, rows, headers = _noise_table(run)
    if len(rows) > _MOST_LAYERS + 1:
        kept = sorted(rows[1:], key=lambda row: -(row[1] or 0))[:_MOST_LAYERS]
        title += f", the {_MOST_LAYERS} of {len(rows) - 1} layers with the largest S"
        rows = [rows[0], *(row for row in rows[1:] if row in kept)]
    if all(row[-1] == "ok" for row in rows):
        rows, headers, width = [row[:-1] for row in rows], headers[:-1], 36
    else:
        width = 20
    names = [rows[0][0], *tables.labels([row[0] for row in rows[1:]], width)]
    rows = [[name, *row[1:]] for name, row in zip(names, rows, strict=True)]
    return tables.text(rows, headers, title)


def _check_lines(run):
    lines = []
    for row in run.checks:
        where = f"  step {row['step']:,}" + (f", seed {row['seed']}" if len(run.seeds) > 1 else "")
        if "leaves" not in row:
            lines.append(f"{where}: not made. {row.get('missing', '')}".rstrip())
            continue
        lines.append(f"{where}: {_verdicts(row)}")
        wrong = [leaf for leaf in row["leaves"] if leaf["verdict"] != "agrees"]
        lines += [f"    {leaf['leaf']}: {leaf['verdict']}" for leaf in wrong[:10]]
        lines += [f"    and {len(wrong) - 10} more"] if len(wrong) > 10 else []
    return lines or [f"  {_no_check(run)}"]


def _verdicts(row):
    leaves = row["leaves"]
    agree = sum(leaf["verdict"] == "agrees" for leaf in leaves)
    errors = [x["relative_error"] for x in leaves if x["relative_error"] is not None]
    largest = f"largest relative error {tables.number(max(errors))}, " if errors else ""
    tolerance = f"tolerance {tables.number(row.get('tolerance'))}"
    return f"{agree} of {len(leaves)} leaves agree ({largest}{tolerance})"


def _subtitle(run):
    seeds = run.summary.get("seeds") or run.seeds
    steps = run.summary.get("steps", max((row["step"] for row in run.steps), default=0))
    parts = [
        run.summary.get("outcome", "not finished"),
        f"{steps:,} updates",
        f"batch of {run.batch_size:,}" if run.batch_size else "",
        f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}" if seeds else "",
        f"{run.summary['seconds']:.1f} s" if run.summary.get("seconds") is not None else "",
    ]
    return " · ".join(part for part in parts if part)


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
            note = f"± {tables.number(factor * spread, 2)} over seeds" if spread else "at the end"
            cards.append((name, text, note, ""))
    if run.noisy:
        scale = findings.last(noise(run, "noise_scale"))
        value = "no finite estimate" if scale is None else f"{tables.number(round(scale, 1))}"
        cards.append(("noise scale", value, f"examples, at the end; batch {run.batch_size}", ""))
    cards.append(_check_card(run))
    return cards


def _check_card(run):
    done = [row for row in run.checks if "leaves" in row]
    if not done:
        return ("gradient check", "not made", "see below", "")
    verdicts = [leaf["verdict"] for row in done for leaf in row["leaves"]]
    wrong = sum(verdict != "agrees" for verdict in verdicts)
    leaves = len({leaf["leaf"] for row in done for leaf in row["leaves"]})
    note = f"{_many(leaves, 'leaf', 'leaves')} at {_many(len({r['step'] for r in done}), 'step')}"
    if wrong:
        return ("gradient check", f"{wrong} not agreeing", note, "bad")
    return ("gradient check", "agrees", note, "good")


def _many(count, one, several=None):
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _final(run):
    """Rows and headers of the metrics at the end."""
    final = run.summary.get("final") or {}
    several = any(entry.get("spread") is not None for entry in final.values())
    rows = []
    for name, entry in final.items():
        each = ", ".join(tables.number(x, 4) for x in entry.get("per_seed", []))
        spread = tables.number(entry.get("spread"), 2)
        rows.append([name, entry["mean"], *([spread, each] if several else [])])
    if several:
        return rows, ["at the end", "mean", "standard deviation", "each seed"]
    return rows, ["at the end", "value"]


def _noise_table(run):
    """Title, rows and headers of the gradient noise at the last measurement, total first."""
    step = max(row["step"] for row in run.noisy)
    rows = [row["noise"] for row in run.noisy if row["step"] == step]
    mean = f", mean of {len(rows)} seeds" if len(rows) > 1 else ""
    entries = {"in total": [row["total"] for row in rows]} | {
        name: [row["layers"][name] for row in rows if name in row.get("layers", {})]
        for name in run.layers
    }
    cells = [
        [name, *(_mean(found, key) for key in _NOISE_COLUMNS), _status(found)]
        for name, found in entries.items()
    ]
    title = f"Gradient noise after {step:,} updates{mean}"
    return title, cells, ["layer", *_NOISE_COLUMNS.values(), "status"]


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


def _status(entries):
    return "; ".join(dict.fromkeys(entry.get("status", "") for entry in entries))


def _measured_table(run):
    rows = []
    for row in run.noisy:
        total = row["noise"]["total"]
        rows.append(
            [
                row["seed"],
                row["step"],
                *(total.get(key) for key in _NOISE_COLUMNS),
                _status([total]),
            ]
        )
    return "Every measurement", rows, ["seed", "step", *_NOISE_COLUMNS.values(), "status"]


def _metric_table(run):
    columns = [(s, name) for name, splits in metrics(run).items() for s in splits]
    rows = [
        [r["seed"], r["step"], *((r["metrics"].get(s) or {}).get(name) for s, name in columns)]
        for r in run.measurements
    ]
    return "Every measurement", rows, ["seed", "step", *(f"{s} {name}" for s, name in columns)]


def _check_table(run):
    rows = [
        [
            row["seed"],
            row["step"],
            leaf["leaf"],
            leaf["verdict"],
            leaf["relative_error"],
            leaf.get("cosine_error"),
            str(leaf.get("worst_index", "")),
        ]
        for row in run.checks
        for leaf in row.get("leaves", ())
    ]
    headers = ["seed", "step", "leaf", "verdict", "relative error", "cosine error", "worst element"]
    return "Every leaf", rows, headers


def _flat(tree, prefix=""):
    """Nested dicts as rows of (dotted key, value)."""
    rows = []
    for key, value in tree.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")[0]
        elif isinstance(value, list):
            rows.append([f"{prefix}{key}", ", ".join(map(str, value))])
        else:
            rows.append([f"{prefix}{key}", str(value)])
    return rows, ["field", "value"]


def _draw_learning(run):
    training = curve(run.steps, lambda row: row["loss"], shift=1)
    return figures.learning_curves(training, metrics(run))


def _draw_noise(run):
    return figures.gradient_noise(noise(run, "S"), noise(run, "sq_gradient_norm"))


def _draw_scale(run):
    return figures.noise_scale(noise(run, "noise_scale"), run.batch_size)


def _draw_layers(run):
    keys = ("batch_variance", "signal_to_noise")
    return figures.layer_variance(*({x: noise(run, key, x) for x in run.layers} for key in keys))


def _draw_check(run):
    done = [row for row in run.checks if "leaves" in row]
    leaves = [{**leaf, "step": row["step"]} for row in done for leaf in row["leaves"]]
    return figures.gradient_check(leaves, done[0].get("tolerance"))


def _no_learning(run):
    return "" if run.steps or run.measurements else "The run made no update and no measurement."


def _no_noise(run):
    """What would give the gradient noise; empty if it was measured."""
    if run.noisy:
        return ""
    said = [(row.get("noise") or {}).get("missing") for row in run.measurements]
    default = "Per-example gradients were not measured in this run; `funcbackprop study` does that."
    return next((text for text in said if text), default)


def _no_layers(run):
    return _no_noise(run) or (
        "" if run.layers else "The gradient noise was measured in total only."
    )


def _no_check(run):
    """What would give the gradient check; empty if one was made."""
    if any("leaves" in row for row in run.checks):
        return ""
    said = [row.get("missing") for row in run.checks]
    default = "JAX's gradient was not compared in this run; `funcbackprop study` does that."
    return next((text for text in said if text), default)


# The page, in order.
_PARTS = (
    Part(
        "learning",
        "Learning",
        "Light: the loss of each mini-batch before its update; blue: its mean over the steps within "
        "10 % of each step. Marked lines: loss and metrics over many examples at the measured "
        "steps. A test line that leaves the train line shows "
        "what was learned about the training examples only.",
        _draw_learning,
        findings.learning,
        _no_learning,
        _metric_table,
    ),
    Part(
        "gradient_noise",
        "Gradient noise",
        "S is how much the gradients of single examples differ from one another, |G|² how large "
        "their common part is. The further S lies above |G|², the more examples must be averaged "
        "before the common direction can be seen.",
        _draw_noise,
        findings.gradient_noise,
        _no_noise,
        _measured_table,
    ),
    Part(
        "noise_scale",
        "Noise scale against the batch size",
        "The noise scale S/|G|² is the batch at which noise and signal are equal. Below the dashed "
        "line a batch sees mostly signal; above it, mostly noise.",
        _draw_scale,
        findings.noise_scale,
        _no_noise,
        lambda run: ("", [], []),
    ),
    Part(
        "layers",
        "By layer",
        "Left: the variance of the mini-batch gradient, summed over a layer's parameters, so that "
        "large layers tend to have more. Right: how far the layer's mean gradient stands above "
        "that noise; at 1 they are equal.",
        _draw_layers,
        findings.by_layer,
        _no_layers,
        lambda run: _noise_table(run) if run.noisy else ("", [], []),
    ),
    Part(
        "gradient_check",
        "Is the gradient right?",
        "Each mark is one parameter leaf at one step: JAX's gradient of the loss against the "
        "reference. Marks left of the dashed line agree within the tolerance.",
        _draw_check,
        findings.check,
        _no_check,
        _check_table,
    ),
)

_GLOSSARY = (
    (
        "S = tr Σ",
        "The variance of one example's gradient, summed over all parameters. Unit: squared gradient, "
        "loss² / parameter².",
    ),
    (
        "|G|²",
        "The squared norm of the mean gradient, estimated without bias: the part that noise adds is "
        "subtracted. Near zero the estimate may be negative; it is shown as it is. Unit: as S.",
    ),
    (
        "Noise scale",
        "B_simple = S / |G|², in examples: the batch size at which the variance of the batch "
        "gradient equals its squared mean (McCandlish, Kaplan and Amodei 2018, arXiv:1812.06162). "
        "Without a finite value where |G|² is not above zero.",
    ),
    (
        "Mini-batch variance",
        "S/B: the variance of the mean gradient of B examples drawn independently.",
    ),
    (
        "Signal to noise",
        "B |G|² / S: the batch size divided by the noise scale. 1 means equal parts. A pure number.",
    ),
    (
        "Relative error",
        "The largest difference between two gradients of a leaf, divided by the largest magnitude "
        "that it is compared with. The verdict of a leaf also weighs the size of the terms that "
        "were added to form an element.",
    ),
    (
        "Several seeds",
        "Lines are means over seeds and bands reach from the smallest to the largest; the standard "
        "deviation is that of the sample (n - 1). The mean noise scale is that of the finite "
        "estimates.",
    ),
)


def _part(run, part):
    """What the template needs for one part; its figure is drawn and saved on the way."""
    path = run.folder / "plots" / f"{part.key}.png"
    missing = part.missing(run)
    shown = {"key": part.key, "title": part.title, "missing": missing}
    if missing:
        path.unlink(missing_ok=True)
        return shown
    png = figures.save(part.draw(run), path).read_bytes()
    title, rows, headers = part.details(run)
    return shown | {
        "meaning": part.meaning,
        "findings": part.findings(run),
        "image": base64.b64encode(png).decode("ascii"),
        "width": round(struct.unpack(">I", png[16:20])[0] * _PIXELS),  # from the PNG's header
        "details": (title, _html(rows, headers)) if rows else None,
    }


def _html(rows, headers, digits=3):
    from markupsafe import Markup

    # tables.html escapes every cell
    return Markup(tables.html(rows, headers, digits)) if rows else ""


def _template():
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")
