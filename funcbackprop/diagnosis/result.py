"""A diagnosis: findings in the order in which to look at them."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from .. import tables
from ..files import json_safe
from .facts import Facts
from .rules import EXPLAINS, GIVEN, LATER, RULES, SAME, STEP
from .sign import LEAST, SEVERE, SURE, Sign

_WIDTH = 100
# Where a finding is described.
PAGE = "findings.html"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One cause of trouble.

    Attributes:
      name: a key of `funcbackprop.diagnosis.RULES`.
      severity: 1 and above: training fails; from 0.3 on: it costs; below: worth a look.
      evidence: name -> number or text.
      where: a leaf, a line of the loss, "inputs" or "labels"; None if it is no single place.
      step: of the run, from which on it was seen.
      explained_by: the finding that this one follows from, or None.
      same_as: findings that are the same in effect, which these measurements cannot tell apart.
    """

    name: str
    severity: float
    evidence: dict[str, Any]
    where: str | None = None
    step: int | None = None
    explained_by: str | None = None
    same_as: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What is wrong, in words."""
        return RULES[self.name].title

    @property
    def remedy(self) -> str:
        """What to do."""
        return RULES[self.name].remedy

    @property
    def source(self) -> str:
        """Where definition and threshold come from."""
        return RULES[self.name].source

    @property
    def grade(self) -> str:
        """The severity as a word: severe, moderate or slight."""
        if self.severity >= SEVERE:
            return "severe"
        return "moderate" if self.severity >= SURE else "slight"

    @property
    def told(self) -> str:
        """The evidence in words and numbers."""
        return "; ".join(f"{k} {_shown(x)}" for k, x in self.evidence.items() if x is not None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: all fields, and title, grade, remedy, source and the anchor of the page."""
        texts = {k: getattr(self, k) for k in ("title", "grade", "remedy", "source")}
        anchor = f"{PAGE}#{self.name.replace('_', '-')}"
        return json_safe({**dataclasses.asdict(self), **texts, "anchor": anchor})

    def __str__(self):
        place = "".join(
            f", {word} {x}"
            for word, x in (("at", self.where), ("step", self.step))
            if x is not None
        )
        lines = [f"{self.title} ({self.grade}, {tables.number(self.severity)}{place})"]
        lines += [f"  evidence: {self.told}"] if self.told else []
        if self.same_as:
            same = ", ".join(RULES[name].title for name in self.same_as)
            lines.append(f"  the same in effect: {same}")
        if self.explained_by:
            lines.append(f"  follows from: {RULES[self.explained_by].title}")
        return "\n".join([*lines, f"  remedy: {self.remedy}"])


def _shown(x):
    return tables.number(x) if isinstance(x, float | int) and not isinstance(x, bool) else str(x)


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The result of `diagnose`; `str` is a list to read from the top.

    Attributes:
      findings: the one to look at first in front.
      unknown: what these rows cannot tell, one sentence each.
      rows: what was measured, JSON-safe.
    """

    findings: tuple[Finding, ...]
    unknown: tuple[str, ...] = ()
    rows: tuple[Mapping[str, Any], ...] = dataclasses.field(default=(), repr=False)

    @property
    def severe(self) -> tuple[Finding, ...]:
        """The findings with which training fails."""
        return tuple(x for x in self.findings if x.severity >= SEVERE)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe; the rows are left out."""
        return {"findings": [x.to_dict() for x in self.findings], "unknown": list(self.unknown)}

    def __str__(self):
        lines = [f"{k}. {finding}" for k, finding in enumerate(self.findings, 1)]
        lines = lines or ["Nothing was found."]
        return "\n".join([*lines, *(f"Not known: {text}" for text in self.unknown)])


def findings(rows: Iterable[Mapping[str, Any]]) -> Diagnosis:
    """The diagnosis that rows allow; a pure function of them.

    Args:
      rows: of `measure`, of a `hook`, or of a file of metrics (`training.read_rows`); rows of other
        kinds are used where they help (`{"kind": "step", "step", "loss"}`) and else left out. Of
        several seeds those of the first are read.

    Returns:
      `Diagnosis`.

    >>> print(findings([{"kind": "step", "step": 1, "loss": None}]).findings[0].title)
    the loss or the gradient is not finite
    """
    rows = tuple(rows)
    first = next((row["seed"] for row in rows if "seed" in row), None)
    rows = tuple(row for row in rows if row.get("seed") in (None, first))
    facts = Facts.of(rows)
    signs = {name: sign for name, rule in RULES.items() if (sign := rule.ask(facts)) is not None}
    signs = {name: sign for name, sign in signs.items() if sign.severity >= LEAST}
    found = [_finding(name, signs) for name in _ranked(signs)]
    return Diagnosis(tuple(found), tuple(_unknown(facts)), rows)


def _ranked(signs: Mapping[str, Sign]) -> list[str]:
    """By severity; an effect stands behind what explains it."""
    order = sorted(signs, key=lambda name: -signs[name].severity)
    ranked: list[str] = []
    while order:
        free = [n for n in order if not (_causes(n, signs) & {*order})]
        name = (free or order)[0]
        ranked.append(name)
        order.remove(name)
    return ranked


def _causes(name: str, signs: Mapping[str, Sign]) -> set[str]:
    """What was found that explains `name`."""
    return {c for c in signs if name in _effects(c, signs) and signs[c].severity >= SURE}


def _effects(cause: str, signs: Mapping[str, Sign]) -> set[str]:
    first = lambda name: signs[name].step or 0  # noqa: E731
    found = {*EXPLAINS.get(cause, ())} & {*signs}
    since = first(cause) if cause in LATER else 0
    if cause in (*GIVEN, *STEP, *LATER):
        found |= {n for n in LATER if n in signs and first(n) > since}
    if cause in LATER:
        found -= {n for n in LATER if n in signs and first(n) < first(cause)}
        found -= {*GIVEN, *STEP} if first(cause) > 0 else set()
    return found - {cause}


def _finding(name: str, signs: Mapping[str, Sign]) -> Finding:
    sign = signs[name]
    causes = sorted(_causes(name, signs), key=lambda c: -signs[c].severity)
    same = {n for group in SAME if name in group for n in group - {name} if n in signs}
    return Finding(
        name,
        sign.severity,
        json_safe(sign.evidence),
        sign.where,
        sign.step,
        causes[0] if causes and causes[0] not in same else None,
        tuple(sorted(same)),
    )


def _unknown(facts: Facts):
    if len(facts.vitals) < 2:
        yield (
            "layers, units, precision and the optimizer's state: there are fewer than two rows of "
            "vitals; train with funcbackprop.diagnosis.hook among the hooks"
        )
    if not facts.trials:
        yield (
            "whether another learning rate or batch size would do better: nothing was tried; "
            "funcbackprop.diagnose(problem) trains short runs and compares"
        )
    if not facts.data:
        yield "whether inputs and labels are sound: the data were not seen"
