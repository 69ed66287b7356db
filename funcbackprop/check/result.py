"""What a check found: one verdict for each leaf, and how it reads in a terminal and a notebook."""

import dataclasses
import html
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from .. import tables
from ..files import json_safe
from ..graph import Program, Source

# verdict -> what to do about it. The first of these that some leaf has is shown at the end.
FINDINGS = {
    "not finite": "A gradient holds NaN or inf: mend the equation that is named.",
    "wrong rule": "A derivative rule is not that of the function: mend it, or, if it is meant "
    "(straight-through, gradient clipping), say so: intended=('<name>',).",
    "jit differs from eager": "The compiled gradient is another than the one computed step by "
    "step: look for side effects and Python state in the loss, and report it to JAX if there are "
    "none.",
    "differs": "The gradient is not that of this loss: look at the pattern, and at the equations "
    "that only the wrong leaves pass.",
    "zero by structure": "No gradient can flow to a leaf: remove what blocks it, or, if it is "
    "meant, say so: intended=('<primitive or leaf>',).",
    "disconnected": "The loss never reads a leaf: use it, remove it, or, if it is meant, say so: "
    "intended=('<leaf>',).",
}
UNDECIDED = {
    "not audited": "The gradient of a leaf passes what the reference cannot follow. Give "
    "reference=, a function (params, batch, weights=None) -> (value, grads), to compare it with a "
    "derivation of your own.",
    "precision": "Rounding alone explains the difference, and would hide a wrong gradient too. "
    "Compare in float64 (jax_enable_x64), or compute the equation that is named in a wider dtype.",
}
RIGHT = {
    "kink or tie": "Every leaf agrees; some hang on a kink or a tie, where several subgradients "
    "are right.",
    "agrees": "Every leaf agrees with the reference.",
}
ADVICE = {**FINDINGS, **UNDECIDED, **RIGHT}
# verdict -> level of an annotation in a graph, and colour class of the table.
LEVELS = {
    **dict.fromkeys(FINDINGS, "bad"),
    **dict.fromkeys(UNDECIDED, "unknown"),
    "kink or tie": "note",
    "agrees": "good",
}
_WIDTH = 80  # columns of a terminal
_MOST_NOTES = 5


@dataclasses.dataclass(frozen=True)
class LeafCheck:
    """One parameter leaf: how far its gradient a is from the reference b.

    Errors and resolution are None where a and b could not be compared.

    Attributes:
      leaf: the path, `params['layers'][0]['w']`.
      verdict: right: "agrees", "kink or tie"; undecided: "precision", "not audited"; findings: "not
        finite", "wrong rule", "jit differs from eager", "differs", "zero by structure",
        "disconnected". See the guide "Check your gradients".
      relative_error: max|a - b| / max|b|, or in units of the bound where that is larger.
      cosine_error: 1 - cos(a, b).
      worst_index: where |a - b| is largest, relative to the bound on rounding there.
      got: the value there of the gradient that was judged.
      expected: the value there of the reference.
      error_in_bounds: |a - b| there in units of what rounding explains; above 1 it does not agree.
      resolution: the smallest change of the whole leaf, by a factor, that would be noticed; None
        where the leaf is zero as far as float64 can tell.
      reason: where and why, in words; None where there is nothing to say.
      source: the user's line that this is about.
      suspects: of a leaf that differs, the lines that could explain what is wrong.
    """

    leaf: str
    verdict: str
    relative_error: float | None = None
    cosine_error: float | None = None
    worst_index: tuple[int, ...] | None = None
    got: float | complex | None = None
    expected: float | complex | None = None
    error_in_bounds: float | None = None
    resolution: float | None = None
    reason: str | None = None
    source: Source | None = None
    suspects: str | None = None

    @property
    def ok(self) -> bool:
        """True if the leaf was compared and is right."""
        return self.verdict in RIGHT


@dataclasses.dataclass(frozen=True)
class GradientCheck:
    """The result of `check_gradients`; `str` is a table that ends with what to do.

    Attributes:
      leaves: one `LeafCheck` for each parameter leaf, in tree order.
      value: the (weighted) mean loss of the batch.
      reference_value: the same by the reference, or None if it could not be evaluated.
      notes: what is no finding but worth knowing, one sentence each.
      decisions: comparisons, selections and orders that float64 would have decided otherwise, one
        sentence each. The reference replayed the program's own: they are kinks close by.
      program: what was followed: the losses of the batch as one program. None if it could not be.
      marks: node key of `program` -> `Annotation`; see `annotations`.
    """

    leaves: tuple[LeafCheck, ...]
    value: float
    reference_value: float | None = None
    notes: tuple[str, ...] = ()
    decisions: tuple[str, ...] = ()
    program: Program | None = dataclasses.field(default=None, repr=False, compare=False)
    marks: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """True if every leaf was compared and is right."""
        return all(leaf.ok for leaf in self.leaves)

    @property
    def findings(self) -> tuple[LeafCheck, ...]:
        """The leaves whose gradient is wrong, or right but hardly meant."""
        return tuple(leaf for leaf in self.leaves if leaf.verdict in FINDINGS)

    @property
    def undecided(self) -> tuple[LeafCheck, ...]:
        """The leaves of which nothing can be said: not audited, or hidden by rounding."""
        return tuple(leaf for leaf in self.leaves if leaf.verdict in UNDECIDED)

    def annotations(self) -> Mapping[str, Any]:
        """For `report.program.to_html(report.annotations())`: at each node the size of its value
        and of the cotangent that reaches it, and at what was found a verdict."""
        return self.marks

    def to_html(self) -> str:
        """The graph of the losses with what was found, as one page; see `Program.to_html`.

        Raises:
          ValueError: the loss could not be followed, so that there is no graph.
        """
        if self.program is None:
            raise ValueError(
                "`GradientCheck.to_html`: the loss could not be followed, so there is no graph; "
                "the leaves say why"
            )
        return self.program.to_html(self.annotations())

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe; numbers that are not finite are None."""
        leaves = [
            {**dataclasses.asdict(leaf), "ok": leaf.ok, "source": leaf.source and str(leaf.source)}
            for leaf in self.leaves
        ]
        fields = ("value", "reference_value", "notes", "decisions")
        rest = {name: getattr(self, name) for name in fields}
        return json_safe({"ok": self.ok, "leaves": leaves, **rest})

    def __str__(self):
        table = tables.text(list(map(_cells, self.leaves)), _HEADERS, width=_WIDTH)
        return "\n".join([table, *map(_wrapped, self._lines())])

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        table = tables.html(list(map(_cells, self.leaves)), _HEADERS)
        table = table.replace("<table>", f'<table style="{_TABLE}">')
        for verdict, level in LEVELS.items():
            mark = f'<b style="color:{_COLOURS[level]}">{verdict}</b>'
            table = table.replace(f">{verdict} ", f">{mark} ").replace(f">{verdict}<", f">{mark}<")
        lines = [
            *(f"<p>{html.escape(line)}</p>" for line in self._losses()),
            *(
                f"<p><b>{html.escape(title)}</b><br>{'<br>'.join(map(html.escape, said))}</p>"
                for title, said in self._reasons()
            ),
            *(f"<p>{html.escape(line)}</p>" for line in self._remarks()),
        ]
        return f"<div>{table}{''.join(lines)}<p><b>{html.escape(self.advice)}</b></p></div>"

    @property
    def advice(self) -> str:
        """What to do about the worst verdict."""
        found = {leaf.verdict for leaf in self.leaves} or {"agrees"}
        return next(advice for verdict, advice in ADVICE.items() if verdict in found)

    def _losses(self) -> Iterator[str]:
        if self.reference_value is not None:
            numbers = (tables.number(x, 6) for x in (self.value, self.reference_value))
            yield "loss {}, by the reference {}".format(*numbers)

    def _reasons(self) -> Iterator[tuple[str, list[str]]]:
        """(verdict and leaves, what is to be said), for each reason once."""
        groups: dict[tuple[str, str], list[LeafCheck]] = {}
        for leaf in self.leaves:
            if leaf.reason or leaf.verdict not in RIGHT:
                groups.setdefault((leaf.verdict, leaf.reason or ""), []).append(leaf)
        for (verdict, reason), leaves in groups.items():
            shown = tables.some([dotted(leaf.leaf) for leaf in leaves], 4)
            yield f"{verdict}: {shown}", [x for x in (_worst(leaves), reason) if x]
        for text in dict.fromkeys(leaf.suspects for leaf in self.leaves if leaf.suspects):
            yield "where", [text]

    def _remarks(self) -> Iterator[str]:
        for many in (self.notes, self.decisions):
            yield from (f"note: {text}" for text in many[:_MOST_NOTES])
            if len(many) > _MOST_NOTES:
                yield f"note: and {len(many) - _MOST_NOTES} more"

    def _lines(self) -> Iterator[str]:
        yield from self._losses()
        for title, said in self._reasons():
            yield title
            yield from (f"  {text}" for text in said)
        yield from self._remarks()
        yield self.advice


_HEADERS = ("leaf", "verdict", "relative error", "error / bound", "would notice")


def _cells(leaf: LeafCheck) -> tuple:
    errors = leaf.relative_error, leaf.error_in_bounds
    return dotted(leaf.leaf), leaf.verdict, *errors, tables.percent(leaf.resolution)


def _worst(leaves) -> str:
    """The element of these leaves that is furthest off, where that is not explained by words."""
    known = [x for x in leaves if x.error_in_bounds is not None and x.error_in_bounds > 1]
    if not known:
        return ""
    leaf = max(known, key=lambda x: x.error_in_bounds or 0.0)
    at = f"[{', '.join(map(str, leaf.worst_index or ()))}]"
    return (
        f"worst element: {dotted(leaf.leaf)}{at if leaf.worst_index else ''} is "
        f"{_number(leaf.got)}, by the reference {_number(leaf.expected)}"
    )


def _number(x) -> str:
    return f"{x:.6g}"


def _wrapped(line: str) -> str:
    """A line in at most 80 columns; source lines are not broken."""
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.fill(
        line,
        _WIDTH,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


_TABLE = "border-collapse:separate;border-spacing:1em 2px"
_COLOURS = {"bad": "#c62828", "unknown": "#8d6e00", "note": "#1565c0", "good": "#2e7d32"}


def dotted(leaf: str) -> str:
    """`params['layers'][0]['w']` as `layers.0.w`, which leaves room for the numbers."""
    plain = re.sub(r"\[['\"]?([^]'\"]*)['\"]?\]", r".\1", leaf).removeprefix("params")
    return plain.lstrip(".") or leaf
