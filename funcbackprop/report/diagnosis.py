"""The part about what training suffers from, where the run was watched for it."""

from .. import tables
from ..diagnosis import Diagnosis, findings
from . import cells
from .run import Run

no_diagnosis = cells.lacking(
    "vitals",
    "The run was not watched for what training may suffer from; `--diagnose` does that.",
)


def found(run: Run) -> Diagnosis | None:
    """The diagnosis of the first seed; None if the run was not watched."""
    rows = (*run.data, *run.vitals, *run.sharpness, *run.steps)
    return findings(rows) if run.vitals else None


def sentences(run: Run) -> list[str]:
    """What was found, in order, and what cannot be told."""
    diagnosis = found(run)
    if diagnosis is None:
        return []
    told = [f"{tables.capital(x.title)} ({x.grade})." for x in diagnosis.findings]
    return [*(told or ["Nothing was found."]), *(f"Not known: {x}." for x in diagnosis.unknown)]


def cards(run: Run):
    """(label, value, note, tone): how bad it is, and the first finding."""
    diagnosis = found(run)
    if diagnosis is None:
        return
    if not diagnosis.findings:
        yield "diagnosis", "nothing found", "see below for what is not known", "good"
        return
    first = diagnosis.findings[0]
    worst = max(diagnosis.findings, key=lambda x: x.severity)
    yield "diagnosis", worst.grade, f"first: {first.title}", "bad" if diagnosis.severe else ""


def table(run: Run) -> tuple[str, list, list]:
    """Title, rows and headers of the findings."""
    diagnosis = found(run)
    if diagnosis is None or not diagnosis.findings:
        return "", [], []
    rows = [
        [
            tables.capital(x.title),
            f"{x.grade}, {tables.number(x.severity, 2)}",
            x.where or "",
            x.step,
            x.told,
            x.remedy,
        ]
        for x in diagnosis.findings
    ]
    headers = ["finding", "severity", "where", "from step", "evidence", "what to do"]
    return "What was found, the first to look at in front", rows, headers
