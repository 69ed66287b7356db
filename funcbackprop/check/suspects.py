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
# Edges in loops whose factor is sought, and steps of the search.
_MOST_LOOPS = 4
_MOST_SECANTS = 5
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
    """Edges below which there is all that is wrong and nothing right -> numbers of their steps.

    Below an edge in a loop is what is below any of its iterations.
    """
    steps: dict[Edge, list[int]] = {}
    below: dict[Edge, int] = {}
    for number in reversed(range(len(audit.tape.steps))):
        step = audit.tape.steps[number]
        if step.equation not in audit.nodes or step.equation.name.endswith(":part"):
            continue
        for j, i in enumerate(step.inputs):
            if i != INACTIVE:
                edge = Edge(step.equation, j)
                steps.setdefault(edge, []).append(number)
                below[edge] = below.get(edge, 0) | audit.reach.get(i, 0)
    return {
        edge: numbers
        for edge, numbers in steps.items()
        if below[edge] & wrong == wrong and not below[edge] & right
    }


def _fitting(audit: Audit, edges, errors) -> dict[Edge, float]:
    """The edges whose contribution fits the errors -> how often it seems to count."""
    if len(edges) > _MOST_EDGES:
        return {}
    terms = _terms(audit, edges)
    found, in_loops = {}, []
    for edge, numbers in edges.items():
        fit = _fit(errors, _through(audit, edge, numbers, terms))
        if fit.off <= _FITS:
            found[edge] = 1 + fit.factor
        elif len(numbers) > 1:
            in_loops.append((fit, edge))
    for fit, edge in sorted(in_loops, key=lambda pair: pair[0].off)[:_MOST_LOOPS]:
        factor = _compounded(audit, edge, errors, 1 + fit.factor)
        if factor is not None:
            found[edge] = factor
    return found


def _compounded(audit: Audit, edge: Edge, errors, start: float) -> float | None:
    """The factor of an edge in a loop, which counts once in every iteration that is passed.

    The errors are no multiple of what flows through the edge then: the factor is found by the
    secant method, from what the whole gradient becomes with it.
    """
    right = [c.value for c in audit.leaves]

    def part(factor):
        """How much of the errors this factor explains, and how well."""
        changed = audit.gradients(alter=_times(edge, factor))
        return _fit([c.value - g for c, g in zip(changed, right, strict=True)], errors)

    a, b = 1.0, start
    at_a, at_b = 0.0, part(b)
    for _ in range(_MOST_SECANTS):
        if at_b.off <= _FITS and abs(at_b.factor - 1) <= _FITS:
            return b
        if at_b.factor == at_a or not np.isfinite(at_b.factor):
            return None
        a, b = b, b + (1 - at_b.factor) * (b - a) / (at_b.factor - at_a)
        at_a, at_b = at_b.factor, part(b)
    return None


def _times(edge: Edge, factor: float):
    def alter(step, terms):
        if step.equation is not edge.equation or terms[edge.input] is None:
            return terms
        term = terms[edge.input]
        changed = term._replace(value=factor * term.value, fresh=False)
        return [changed if j == edge.input else t for j, t in enumerate(terms)]

    return alter


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

    audit.gradients(watch=watch)
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


class _Fit(NamedTuple):
    """error = factor through, but for a share `off` of the error."""

    factor: float
    off: float


def _fit(errors, through) -> _Fit:
    """The factor of all leaves at once; both are by number of a leaf."""
    numbers = list(errors) if isinstance(errors, dict) else list(through)
    error, flow = (np.concatenate([np.ravel(x[k]) for k in numbers]) for x in (errors, through))
    square = float(np.sum(np.abs(flow) ** 2))
    if not 0 < square < np.inf:
        return _Fit(0.0, np.inf)
    factor = float(np.real(np.sum(error * np.conj(flow)))) / square
    size = np.linalg.norm(error)
    return _Fit(factor, float(np.linalg.norm(error - factor * flow) / size) if size else np.inf)


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
