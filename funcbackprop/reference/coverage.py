"""What the general reference covers: its rules as a table."""

from typing import NamedTuple

from ..graph import CALLS
from .rules import FAMILIES


class Row(NamedTuple):
    """A primitive: `kind` is rule, zero, opaque, program (runs programs of its own) or call."""

    family: str
    primitive: str
    kind: str
    formula: str
    convention: str = ""


def coverage() -> list[Row]:
    """Every primitive that the reference knows, by family.

    >>> rows = {row.primitive: row for row in coverage()}
    >>> rows["tanh"].kind, rows["argmax"].kind, rows["scan"].kind, rows["jit"].kind
    ('rule', 'zero', 'program', 'call')
    """
    rows = []
    for family, module in FAMILIES.items():
        rules = getattr(module, "RULES", {})
        rows += [Row(family, name, *_describe(rule)) for name, rule in rules.items()]
        formulas = getattr(module, "FORMULAS", {})
        rows += [Row(family, name, "program", text) for name, text in formulas.items()]
    calls = [Row("calls", name, "call", _CALLED[kind]) for name, (_, kind) in CALLS.items()]
    return sorted([*rows, *calls], key=lambda row: (_ORDER.index(row.family), row.primitive))


def _describe(rule):
    kind = "opaque" if rule.opaque else "zero" if rule.zero else "rule"
    return kind, rule.opaque or rule.formula, rule.convention


_ORDER = (*FAMILIES, "calls")
_ENTERED = "its program takes its place"
_CALLED = dict.fromkeys((kind for _, kind in CALLS.values()), _ENTERED) | {
    "custom_jvp": "the body is differentiated, not the custom rule",
    "custom_vjp": "the body is differentiated, not the custom rule",
    "linear_call": "the function is differentiated, not the given transpose",
}
