"""Which equation a wrong gradient comes from, by the leaves that are wrong and by how much.

A wrong cotangent spoils every leaf below it. So a fault that explains all wrong leaves at once lies
on an edge of the graph below which there are all of them, and none that is right. If the fault is a
factor (a sign and a missing term are factors too), the errors of all leaves are, by one and the
same factor, what flows through that edge.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..graph import Equation
from ..reference.backward import Seen, pull_back
from ..reference.tape import INACTIVE, Value
from .audit import Audit

# Edges for which it is computed what flows through them, and lines that a report names.
_MOST_EDGES = 300
_MOST_LINES = 6
# The errors fit what flows through an edge if they differ by less than this share of their norm.
_FITS = 1e-2


class Edge(NamedTuple):
    """An input of an equation, over all iterations of the loops around it."""

    equation: Equation
    input: int


class Suspicion(NamedTuple):
    """Where a fault may lie.

    Attributes:
      sentence: in words; "" if nothing is known.
      equation: the last of the equations, in the order of the program.
    """

    sentence: str
    equation: Equation | None


def suspects(audit: Audit, errors: Mapping[int, Any], right: int, k: int) -> Suspicion:
    """The equations that could explain what is wrong with leaf k.

    Args:
      errors: number of a wrong leaf -> what was given less what is right.
      right: the leaves that are right, as bits.
    """
    wrong = sum(1 << leaf for leaf in errors)
    edges = _explaining(audit, wrong, right) or _explaining(audit, 1 << k, right)
    if not edges:
        return Suspicion("", None)
    fitting = _fitting(audit, edges, errors)
    if fitting:
        factors = list(dict.fromkeys(f"{factor:.4g}" for factor in fitting.values()))
        lines = _lines(fitting)
        return Suspicion(
            f"All errors are those of a contribution that counts {factors[0]} times, at {lines}",
            next(iter(fitting)).equation,
        )
    return Suspicion(f"Only wrong leaves pass {_lines(edges)}", next(iter(edges)).equation)


def _explaining(audit: Audit, wrong: int, right: int) -> dict[Edge, list[int]]:
    """Edges below which there is all that is wrong and nothing right -> numbers of their steps."""
    found: dict[Edge, list[int]] = {}
    for number in reversed(range(len(audit.tape.steps))):
        step = audit.tape.steps[number]
        if step.equation not in audit.nodes or step.equation.name.endswith(":part"):
            continue
        for j, i in enumerate(step.inputs):
            below = audit.reach.get(i, 0)
            if i != INACTIVE and below & wrong == wrong and not below & right:
                found.setdefault(Edge(step.equation, j), []).append(number)
    return found


def _fitting(audit: Audit, edges, errors) -> dict[Edge, float]:
    """The edges whose contribution fits the errors -> how often it seems to count."""
    if len(edges) > _MOST_EDGES:
        return {}
    terms = _terms(audit, edges)
    found = {}
    for edge, numbers in edges.items():
        through = _through(audit, edge, numbers, terms)
        factor = _factor([(errors[k], through[k]) for k in errors])
        if factor is not None:
            found[edge] = 1 + factor
    return found


def _terms(audit: Audit, edges) -> dict[tuple[int, int], Any]:
    """(number of a step, input) -> its contribution, for the steps of these edges."""
    steps = audit.tape.steps
    numbers = {id(steps[n]): n for numbers in edges.values() for n in numbers}
    found = {}

    def watch(seen: Seen):
        number = numbers.get(id(seen.step))
        if number is not None:
            for j, term in enumerate(seen.terms):
                if term is not None:
                    found[number, j] = np.array(term.value)

    audit.seen_at(watch)
    return found


def _through(audit: Audit, edge: Edge, numbers, terms) -> list[Any]:
    """For each leaf, the part of its gradient that flows through an edge."""
    total = [np.zeros(np.shape(v.wide)) for v in audit.inputs]
    for number in numbers:
        dy = terms.get((number, edge.input))
        if dy is None:
            continue
        step = audit.tape.steps[number]
        value = Value(step.local.x[edge.input], dy, step.inputs[edge.input])
        found = pull_back(audit.tape.steps[:number], [value], [dy])
        for k, v in enumerate(audit.inputs):
            if v.id in found:
                total[k] = total[k] + found[v.id].value
    return total


def _factor(pairs) -> float | None:
    """f with error = f through, of all leaves at once; None if there is none."""
    error, through = (np.concatenate([np.ravel(x) for x in xs]) for xs in zip(*pairs, strict=True))
    square = float(np.sum(np.abs(through) ** 2))
    if not 0 < square < np.inf:
        return None
    factor = float(np.real(np.sum(error * np.conj(through)))) / square
    off = np.linalg.norm(error - factor * through)
    return factor if off <= _FITS * np.linalg.norm(error) else None


def _lines(edges) -> str:
    """The lines of some edges, with the primitives of each."""
    names: dict[str, list[str]] = {}
    for edge in edges:
        of_line = names.setdefault(str(edge.equation.source), [])
        if edge.equation.name not in of_line:
            of_line.append(edge.equation.name)
    shown = [f"{line} ({', '.join(n)})" for line, n in list(names.items())[:_MOST_LINES]]
    more = f" and {len(names) - _MOST_LINES} more lines" if len(names) > _MOST_LINES else ""
    return ", or ".join(shown) + more
