"""The table printed at the end of a run."""

import os

from .. import tables
from . import cells
from .run import read


def table(folder: str | os.PathLike) -> str:
    """The text printed at the end of a run: final metrics, noise by layer, check, report's path.

    Raises:
      FileNotFoundError, ValueError: as `write`.
    """
    run = read(folder)
    blocks = [f"{run.name}: {cells.subtitle(run)}"]
    rows, headers = cells.final(run)
    if rows:
        blocks.append(tables.text(rows, headers, digits=4))
    blocks.append(_noise_text(run))
    blocks.append("\n".join(["Gradient check", *_check_lines(run)]))
    blocks.append(f"Report: {run.folder / run.summary.get('report', 'report.html')}")
    return "\n\n".join(blocks)


def _noise_text(run):
    if not run.noisy:
        return f"Gradient noise\n  {cells.no_noise(run)}"
    title, rows, headers = cells.noise_at_end(run)
    if len(rows) > _MOST_LAYERS + 1:
        kept = sorted(rows[1:], key=lambda row: -(row[1] or 0))[:_MOST_LAYERS]
        title += f", the {_MOST_LAYERS} of {len(rows) - 1} layers with the largest S"
        rows = [rows[0], *(row for row in rows[1:] if row in kept)]
    if all(row[-1] == "ok" for row in rows):
        rows, headers, width = [row[:-1] for row in rows], headers[:-1], 36
    else:
        width = 18  # what the other columns leave of 100 characters
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
    return lines or [f"  {cells.no_check(run)}"]


def _verdicts(row):
    leaves = row["leaves"]
    agree = sum(leaf["verdict"] == "agrees" for leaf in leaves)
    errors = [x["relative_error"] for x in leaves if x["relative_error"] is not None]
    largest = f"largest relative error {tables.number(max(errors))}, " if errors else ""
    tolerance = f"tolerance {tables.number(row.get('tolerance'))}"
    return f"{agree} of {len(leaves)} leaves agree ({largest}{tolerance})"


_MOST_LAYERS = 24  # layers in the terminal table
