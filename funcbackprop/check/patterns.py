"""In which way a wrong gradient is wrong: a factor, a sign, a term that was dropped."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Two arrays are the same pattern if they differ by less than this share of the larger norm. A
# pattern is a hint for people: it is looked for only after a leaf was found wrong.
_SAME = 1e-3
# ... and if what is left is less than this share of the difference from the reference.
_EXPLAINS = 0.1


def describe(
    got: Any,
    expected: Any,
    *,
    factors: Mapping[str, float] | None = None,
    arrays: Mapping[str, Any] | None = None,
    parts: Sequence[tuple[str, Any]] = (),
    others: Mapping[str, Any] | None = None,
) -> str:
    """How `got` comes from `expected`, in words; "" if no pattern was found.

    Args:
      factors: name -> number that a wrong factor may be, such as the batch size.
      arrays: name -> one-dimensional array that may be missing as a factor along an axis.
      parts: (name, array) of the terms that `expected` is the sum of.
      others: name -> another gradient that `got` may be.

    >>> describe(np.array([0.5, 1.0]), np.array([2.0, 4.0]), factors={"1/B": 0.25})
    'it is 0.25 times the reference, which is 1/B'
    >>> describe(np.array([1.0, -4.0]), np.array([1.0, 4.0]))
    'sizes are right, signs are not: 1 of 2 elements have the other sign'
    """
    a, b = np.asarray(got), np.asarray(expected)
    for name, other in (others or {}).items():
        if _is(a, np.asarray(other), b):
            return f"it is {name}"
    for found in (
        _zero(a, b),
        _factor(a, b, factors or {}),
        _sign(a, b),
        _transposed(a, b),
        _terms(a, b, parts),
        _along_an_axis(a, b, arrays or {}),
        _few(a, b),
    ):
        if found:
            return found
    return ""


def _is(a, candidate, b) -> bool:
    """Whether a is the candidate, which then explains how it differs from b."""
    if a.shape != candidate.shape:
        return False
    norm = lambda x: np.linalg.norm(x.ravel())  # noqa: E731
    off = norm(a - candidate)
    return bool(off <= _SAME * max(norm(a), norm(candidate)) and off <= _EXPLAINS * norm(a - b))


def _zero(a, b):
    return "it is zero" if not np.any(a) and np.any(b) else ""


def _factor(a, b, factors):
    square = np.sum(np.abs(b) ** 2)
    ratio = float(np.real(np.sum(a * np.conj(b))) / square) if square > 0 else 0.0
    if not np.isfinite(ratio) or abs(ratio) < 1e-12 or not _is(a, ratio * b, b):
        return ""
    if abs(ratio - 1) <= _SAME:
        return ""
    close = [name for name, value in factors.items() if abs(ratio - value) <= 2e-3 * abs(value)]
    if not close and abs(ratio + 1) <= 2e-3:
        return "the sign is wrong: it is -1 times the reference"
    which = f", which is {' or '.join(close)}" if close else ""
    return f"it is {ratio:.6g} times the reference{which}"


def _sign(a, b):
    wrong = np.sum((np.sign(np.real(a)) != np.sign(np.real(b))) & (b != 0))
    if wrong and a.size > 1 and _is(a, np.sign(np.real(a)) * np.abs(b), b):
        return f"sizes are right, signs are not: {wrong} of {a.size} elements have the other sign"
    return ""


def _transposed(a, b):
    square = a.ndim >= 2 and a.shape[-1] == a.shape[-2]
    return "it is the transposed reference" if square and _is(a, np.swapaxes(b, -1, -2), b) else ""


def _terms(a, b, parts):
    if len(parts) < 2:
        return ""
    for name, part in parts:
        if np.any(part) and _is(a, b - part, b):
            return f"the term of {name} is missing"
        if np.any(part) and _is(a, b + part, b):
            return f"the term of {name} counts twice"
        if _is(a, part, b):
            return f"only the term of {name} is there"
    return ""


def _along_an_axis(a, b, arrays):
    """A factor that varies along one axis only, and the array that it is."""
    for axis in range(a.ndim):
        if a.shape[axis] < 2:
            continue
        rest = tuple(k for k in range(a.ndim) if k != axis)
        square = np.sum(np.abs(b) ** 2, axis=rest)
        if not np.all(square > 0):
            continue
        ratio = np.real(np.sum(a * np.conj(b), axis=rest)) / square
        shape = [-1 if k == axis else 1 for k in range(a.ndim)]
        if a.ndim > 1 and not _is(a, b * ratio.reshape(shape), b):
            continue
        name = _named(ratio, arrays)
        if name:
            return f"along axis {axis} it is the reference {name}"
        if a.ndim > 1:
            low, high = ratio.min(), ratio.max()
            return f"it is the reference times a factor along axis {axis}, {low:.4g} to {high:.4g}"
    return ""


def _named(ratio, arrays):
    for name, array in arrays.items():
        array = np.asarray(array, np.float64)
        if array.shape != ratio.shape or np.ptp(array) == 0 or not np.all(array):
            continue
        if np.allclose(ratio, array, rtol=_SAME):
            return f"times {name}"
        if np.allclose(ratio, 1 / array, rtol=_SAME):
            return f"without the factor {name}"
    return ""


def _few(a, b):
    """Most elements right, a few wrong."""
    wrong = np.abs(a - b) > _SAME * np.abs(b).max(initial=0)
    if a.size > 1 and 0 < wrong.sum() <= max(1, a.size // 10):
        return f"{wrong.sum()} of {a.size} elements are wrong"
    return ""
