"""The table printed at the end of a run."""

import os
import textwrap

from .. import tables
from . import cells, diagnosis, effect
from .run import read

_WIDTH = 100
_MOST_LAYERS = 24
_MOST_LEAVES = 10
_NAMES = 36  # what the columns of numbers leave of 100 characters for layer and status


def table(folder: str | os.PathLike) -> str:
    """The text printed at the end of a run: final metrics, check, noise by layer, report's path.

    Raises:
      FileNotFoundError, ValueError: as `write`.
    """
    run = read(folder)
    blocks = [f"{run.name}: {cells.subtitle(run)}"]
    rows, headers = cells.final(run)
    if rows:
        blocks.append(tables.text(rows, headers, digits=4))
    blocks.append("\n".join(["Gradient check", *_check_lines(run)]))
    blocks.append(_noise_text(run))
    sentences = [*effect.effect(run), *effect.sharpness(run)]
    if sentences:
        blocks.append("\n".join(["Will the next update help", *map(_wrapped, sentences)]))
    if (diagnosed := diagnosis.found(run)) is not None:
        blocks.append(f"What training suffers from\n{textwrap.indent(str(diagnosed), '  ')}")
    if cost := effect.costs_note(run):
        blocks.append("\n".join(["What measuring cost", _wrapped(cost), *_cost_lines(run)]))
    blocks.append(f"Report: {run.folder / run.summary.get('report', 'report.html')}")
    return "\n\n".join(blocks)


def _cost_lines(run):
    rows, _ = effect.costs(run)
    known = [(row[0], row[-1]) for row in rows if row[-1] is not None]
    each = (f"{name} {tables.number(updates, 2)}" for name, updates in known)
    return [_wrapped(", ".join(each))] if known else []


def _wrapped(sentence):
    return textwrap.fill(sentence, _WIDTH, initial_indent="  ", subsequent_indent="    ")


def _noise_text(run):
    if not run.noisy:
        return f"Gradient noise\n  {cells.no_noise(run)}"
    title, rows, headers = cells.noise_at_end(run)
    if len(rows) > _MOST_LAYERS + 1:
        kept = sorted(rows[1:], key=lambda row: -(row[1] or 0))[:_MOST_LAYERS]
        title += f", the {_MOST_LAYERS} of {len(rows) - 1} layers with the largest S"
        rows = [rows[0], *(row for row in rows[1:] if row in kept)]
    width = _NAMES
    if all(row[-1] == "ok" for row in rows):
        rows, headers = [row[:-1] for row in rows], headers[:-1]
    else:
        width -= 2 + max(len("status  "), *(len(row[-1]) for row in rows))
    names = [rows[0][0], *tables.labels([row[0] for row in rows[1:]], max(width, 16))]
    rows = [[name, *row[1:]] for name, row in zip(names, rows, strict=True)]
    return f"{tables.text(rows, headers, title)}\n{_legend(run)}"


def _legend(run):
    return (
        f"S/B is the variance of the gradient of a mini-batch of B = {run.batch_size:,}, "
        "signal/noise is |G|²/(S/B),\nnoise scale is S/|G|² in examples."
    )


def _check_lines(run):
    """One line for each step, over all seeds, and the leaves that do not agree."""
    rows_of = {}
    for row in run.checks:
        rows_of.setdefault(row["step"], []).append(row)
    lines = [line for step, rows in rows_of.items() for line in _at_step(step, rows)]
    return lines or [f"  {cells.no_check(run)}"]


def _at_step(step, rows):
    leaves = [(row["seed"], leaf) for row in rows for leaf in row["leaves"]]
    agree = sum(leaf["ok"] for _, leaf in leaves)
    errors = [x["error_in_bounds"] for _, x in leaves if x["error_in_bounds"] is not None]
    largest = f" (largest error {tables.number(max(errors))} of its bound)" if errors else ""
    seeds = f" over {len(rows)} seeds" if len(rows) > 1 else ""
    lines = [f"  step {step:,}: {agree} of {len(leaves)} leaves agree{seeds}{largest}"]
    wrong = [
        f"    {x['leaf']}: {x['verdict']}" + (f", seed {seed}" if seeds else "")
        for seed, x in leaves
        if not x["ok"]
    ]
    more = [f"    and {len(wrong) - _MOST_LEAVES} more"] if len(wrong) > _MOST_LEAVES else []
    return [*lines, *wrong[:_MOST_LEAVES], *more]
