"""What the general reference covers: its rules as a table."""

from typing import NamedTuple

from ..graph import CALLS
from .rules import FAMILIES


class Row(NamedTuple):
    """One primitive of JAX.

    Attributes:
      family: the group of rules that it is in.
      primitive: its name.
      kind: "rule", "zero" (no gradient passes), "opaque" (it runs, but gradients cannot be followed
        through it), "program" (it runs programs of its own) or "call" (its program takes its
        place).
      formula: its derivative, or how it is dealt with.
      convention: what holds where there is no derivative, or several.
    """

    family: str
    primitive: str
    kind: str
    formula: str
    convention: str = ""


def coverage() -> list[Row]:
    """Every primitive that the reference knows, by family.

    >>> from funcbackprop.reference.coverage import coverage
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
