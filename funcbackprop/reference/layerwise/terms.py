"""Sums of terms that remember how large their terms were.

An element of a parameter gradient is a sum over examples and positions. If the terms cancel, the
rounding error of the sum is that of its terms, not that of the result; so every gradient comes with
`size`, the same sum over the absolute values of the terms.
"""

from typing import NamedTuple

import numpy as np


class Terms(NamedTuple):
    """A sum and the sum of the absolute values of its terms, of equal shape."""

    value: np.ndarray
    size: np.ndarray


def contract(
    formula: str, x: np.ndarray, dy: np.ndarray, dy_size: np.ndarray | None = None
) -> Terms:
    """`einsum(formula, x, dy)` with its size; `dy_size` where dy is itself a sum that cancels.

    >>> x, dy = np.array([[1.0], [1.0]]), np.array([[2.0], [-2.0]])
    >>> total = contract("bi,bo->io", x, dy)
    >>> print(total.value, total.size)
    [[0.]] [[4.]]
    """
    dy_size = np.abs(dy) if dy_size is None else dy_size
    return Terms(
        np.einsum(formula, x, dy, optimize=True),
        np.einsum(formula, np.abs(x), dy_size, optimize=True),
    )


def total(dy: np.ndarray, dy_size: np.ndarray | None = None) -> Terms:
    """The sum over all axes but the last: the gradient of a bias [N]."""
    axes = tuple(range(dy.ndim - 1))
    return Terms(dy.sum(axes), (np.abs(dy) if dy_size is None else dy_size).sum(axes))


def scatter(entries: int, index: np.ndarray, dy: np.ndarray) -> Terms:
    """Row k is the sum of the dy [..., N] whose index [...] is k: the gradient of a table."""
    value = np.zeros((entries, dy.shape[-1]))
    size = np.zeros_like(value)
    np.add.at(value, index, dy)
    np.add.at(size, index, np.abs(dy))
    return Terms(value, size)
