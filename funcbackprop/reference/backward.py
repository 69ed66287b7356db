"""The backward pass: the tape walked backwards, cotangents added where paths meet."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .rules.kinds import Array
from .tape import INACTIVE, Step, Value

# A sum that is this much smaller than its terms has lost digits, and what is computed from it
# inherits the loss. Smaller cancellations are ordinary: a tolerance has room for them.
_CANCELLED = 0.1


class Cotangent(NamedTuple):
    """The derivative of the output with respect to one value.

    Attributes:
      value: float64 or complex128, in the shape of the value.
      square: sum of the squares of the terms that were added to form each element, or None where
        sizes are not wanted.
      lost: what size of terms the digits that were lost on the way would have belonged to.
      unaudited: what it passed that could not be followed.
      fresh: whether `value` belongs to this cotangent alone, so that it may be added to in place.
    """

    value: Array
    square: Array | None = None
    lost: float = 0.0
    unaudited: frozenset[str] = frozenset()
    fresh: bool = False

    @property
    def size(self) -> float:
        """The size m of the terms that form an element: what rounding is relative to."""
        return max(_root(self.square), self.lost)


def pull_back(
    steps: Sequence[Step], outputs: Sequence[Value], dys: Sequence[Array], sizes: bool = False
) -> dict[int, Cotangent]:
    """id -> cotangent of the values that no step has as its output: the inputs of the tape.

    Args:
      steps: in the order of the forward pass.
      outputs: where the walk begins; those that no gradient flows through are passed over.
      dys: the cotangent of each output.
      sizes: whether to follow the squares of terms too.
    """
    found: dict[int, Cotangent] = {}
    for value, dy in zip(outputs, dys, strict=True):
        if value.id != INACTIVE:
            term = Cotangent(dy, np.abs(dy) ** 2 if sizes else None)
            found[value.id] = _add(found[value.id], term) if value.id in found else term
    for step in reversed(steps):
        reached = [found.pop(i, None) for i in step.outputs]
        if any(out is not None for out in reached):
            for i, term in _terms(step, reached, sizes):
                found[i] = _add(found[i], term) if i in found else term
    return found


def _terms(step: Step, outputs, sizes):
    """(id, contribution) for each active input of a step."""
    local, rule = step.local, step.rule
    unaudited = frozenset().union(*(out.unaudited for out in outputs if out is not None))
    if rule.opaque:
        unaudited |= {f"{step.equation.name} at {step.equation.source}: {rule.opaque}"}
    dys = [_dense(out, i, y) for out, i, y in zip(outputs, step.outputs, local.y, strict=True)]
    with np.errstate(all="ignore"):
        terms = rule.pull(local, dys)
        squares = _squares(step, outputs, dys, terms) if sizes else [None] * len(terms)
    for k, i in enumerate(step.inputs):
        if i != INACTIVE and (terms[k] is not None or unaudited):
            value, square = _fitting(step, k, terms[k]), squares[k]
            if sizes and square is None:
                square = np.zeros(np.shape(value))
            lost = _lost(rule, outputs, square) if sizes else 0.0
            yield i, Cotangent(value, square, lost, unaudited)


def _dense(out, i, y):
    """The cotangent of an output, zeros where nothing flows, None where it is no float."""
    if out is not None:
        return out.value
    return None if i == INACTIVE else np.zeros_like(y)


def _squares(step, outputs, dys, terms):
    """Squares of the terms that each contribution is the sum of.

    A rule that only moves values keeps the terms they are the sums of.
    """
    rule = step.rule
    if rule.square is None:
        return [None if term is None else np.abs(term) ** 2 for term in terms]
    if not rule.exact:
        return rule.square(step.local, [None if dy is None else np.abs(dy) ** 2 for dy in dys])
    kept = [dy if out is None else out.square for out, dy in zip(outputs, dys, strict=True)]
    return rule.square(step.local, kept)


def _lost(rule, outputs, square) -> float:
    """What was lost before, or is lost now because an output's cotangent cancelled.

    Without this, softmax - onehot near the optimum would look as exact as any other number.
    """
    found = [out for out in outputs if out is not None]
    if rule.exact:
        return max(out.lost for out in found)
    growth = max(map(_growth, found))
    return growth * _root(square) if growth > 1 else 0.0


def _growth(out: Cotangent) -> float:
    """By how much the rounding of a cotangent is larger than its value suggests, at least 1."""
    value = float(np.max(np.abs(out.value), initial=0.0))
    size = max(_CANCELLED * _root(out.square), out.lost)
    return max(1.0, size / value) if 0 < value < np.inf and size < np.inf else 1.0


def _root(square: Array) -> float:
    return float(np.sqrt(np.max(square, initial=0.0)))


def _fitting(step: Step, k: int, term):
    """A contribution checked, and real or complex like its input."""
    x = step.local.x[k]
    if term is None:
        return np.zeros_like(x)
    if np.shape(term) != np.shape(x):
        raise RuntimeError(
            f"the rule of `{step.equation.name}` returned shape {np.shape(term)} for its input {k} "
            f"of shape {np.shape(x)}: a mistake in funcbackprop, please report it"
        )
    return np.asarray(term, complex) if np.iscomplexobj(x) else np.asarray(np.real(term), float)


def _add(a: Cotangent, b: Cotangent) -> Cotangent:
    square = None if a.square is None else a.square + b.square
    fields = (square, max(a.lost, b.lost), a.unaudited | b.unaudited, True)
    if a.fresh and a.value.dtype == np.result_type(a.value, b.value):
        np.add(a.value, b.value, out=a.value)
        return Cotangent(a.value, *fields)
    return Cotangent(np.asarray(a.value + b.value), *fields)
