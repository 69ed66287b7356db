"""The backward pass: the tape walked backwards, cotangents added where paths meet."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .rules.kinds import Array
from .tape import INACTIVE, Step

# A cotangent that is this much smaller than the terms it is the sum of has lost digits, and what
# comes out of it inherits the loss.
_CANCELLED = 0.1


class Cotangent(NamedTuple):
    """The derivative of the output with respect to one value.

    Attributes:
      value: float64 or complex128, in the shape of the value.
      square: sum of the squares of the terms that were added to form each element, or None where
        sizes are not wanted.
      unaudited: what it passed that could not be followed.
      fresh: whether `value` belongs to this cotangent alone, so that it may be added to in place.
    """

    value: Array
    square: Array | None
    unaudited: frozenset[str]
    fresh: bool = False


def pull_back(
    steps: Sequence[Step], cotangents: Mapping[int, Array], sizes: bool = False
) -> dict[int, Cotangent]:
    """Cotangents of the values that no step has as its output: the inputs of the tape.

    Args:
      steps: in the order of the forward pass.
      cotangents: id -> cotangent of an output.
      sizes: whether to follow the squares of terms too.
    """
    found = {
        i: Cotangent(dy, np.abs(dy) ** 2 if sizes else None, frozenset())
        for i, dy in cotangents.items()
    }
    for step in reversed(steps):
        outputs = [found.pop(i, None) for i in step.outputs]
        if any(out is not None for out in outputs):
            for i, term in _terms(step, outputs, sizes):
                found[i] = _add(found[i], term) if i in found else term
    return found


def _terms(step: Step, outputs, sizes):
    """(id, contribution) for each active input of a step."""
    local, rule = step.local, step.rule
    unaudited = frozenset().union(*(out.unaudited for out in outputs if out is not None))
    if rule.opaque:
        reason = f"{step.equation.name} at {step.equation.source}: {rule.opaque}"
        unaudited |= {reason}
        for i, x in zip(step.inputs, local.x, strict=True):
            if i != INACTIVE:
                zero = np.zeros_like(x)
                yield i, Cotangent(zero, np.abs(zero) if sizes else None, unaudited)
        return
    dys = [_dense(out, i, y) for out, i, y in zip(outputs, step.outputs, local.y, strict=True)]
    with np.errstate(all="ignore"):
        contributions = rule.pull(local, dys)
        squares = _squares(rule, local, outputs, dys, contributions) if sizes else ()
    for k, (i, c) in enumerate(zip(step.inputs, contributions, strict=True)):
        if i != INACTIVE and (c is not None or unaudited):
            x = local.x[k]
            c = np.zeros_like(x) if c is None else c
            _check(step, k, c, x)
            c = np.real(c) if not np.iscomplexobj(x) else np.asarray(c, complex)
            square = None
            if sizes:
                square = np.zeros(np.shape(x)) if squares[k] is None else squares[k]
            yield i, Cotangent(c, square, unaudited)


def _dense(out, i, y):
    """The cotangent of an output, zeros where nothing flows, None where it is no float."""
    if out is not None:
        return out.value
    return None if i == INACTIVE else np.zeros_like(y)


def _squares(rule, local, outputs, dys, contributions):
    """Squares of the terms of each contribution.

    The digits that an output's cotangent lost by cancellation are scaled into it first: without
    this, softmax - onehot near the optimum would look as exact as any other number.
    """
    scale = [1.0 if out is None else _cancellation(out) for out in outputs]
    if rule.square is None:
        largest = max(scale)
        return [None if c is None else largest * np.abs(c) ** 2 for c in contributions]
    squared = [
        None if dy is None else s * np.abs(dy) ** 2 for s, dy in zip(scale, dys, strict=True)
    ]
    return rule.square(local, squared)


def _cancellation(out: Cotangent) -> float:
    """max(1, c max square / max |value|^2) with c = 0.1^2."""
    value, square = np.max(np.abs(out.value), initial=0.0), np.max(out.square, initial=0.0)
    if not (0 < value < np.inf and square < np.inf):
        return 1.0
    return max(1.0, float(_CANCELLED**2 * square / value**2))


def _add(a: Cotangent, b: Cotangent) -> Cotangent:
    square = None if a.square is None else a.square + b.square
    unaudited = a.unaudited | b.unaudited
    if a.fresh and a.value.dtype == np.result_type(a.value, b.value):
        np.add(a.value, b.value, out=a.value)
        return Cotangent(a.value, square, unaudited, True)
    return Cotangent(np.asarray(a.value + b.value), square, unaudited, True)


def _check(step: Step, k: int, contribution, x):
    if np.shape(contribution) != np.shape(x):
        raise RuntimeError(
            f"the rule of `{step.equation.name}` returned shape {np.shape(contribution)} for its "
            f"input {k} of shape {np.shape(x)}: a mistake in funcbackprop, please report it"
        )
