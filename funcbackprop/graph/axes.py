"""What the axes of a value are made of: which entry along an axis is which unit of a layer.

An axis is a tuple of atoms, outermost first, whose sizes multiply to its length; an axis of length
1 has none. Reshapes split and join atoms, so that a channel is found again after flattening.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Atom(NamedTuple):
    """Part of an axis: `stride * (0, ..., size - 1)` along axis `axis` of `source`; None: of
    nothing that is followed."""

    source: Any
    axis: int
    stride: int
    size: int


Axis = tuple[Atom, ...]

# The source of an axis along which two layers were added.
MIXED = ("mixed", 0)


def whole(source: Any, shape: Sequence[int]) -> tuple[Axis, ...]:
    """The axes of `source` itself."""
    return tuple((Atom(source, k, 1, n),) if n != 1 else () for k, n in enumerate(shape))


def nobody(shape: Sequence[int]) -> tuple[Axis, ...]:
    """Axes of nothing that is followed."""
    return whole(None, shape)


def length(axis: Axis) -> int:
    return math.prod(atom.size for atom in axis)


def named(axes: Sequence[Axis]) -> list[Atom]:
    return [atom for axis in axes for atom in axis if atom.source is not None]


def reshaped(axes: Sequence[Axis], shape: Sequence[int]) -> tuple[Axis, ...]:
    """The axes after a reshape.

    >>> rows = whole("x", (2, 6))
    >>> [length(axis) for axis in reshaped(rows, (4, 3))]
    [4, 3]
    >>> reshaped(reshaped(rows, (12,)), (2, 6)) == rows
    True
    """
    if 0 in shape:
        return nobody(shape)
    rest = [atom for axis in axes for atom in axis][::-1]
    found = []
    for n in shape:
        taken: list[Atom] = []
        while (left := n // length(tuple(taken))) > 1:
            atom = rest.pop()
            if left % atom.size == 0:
                taken.append(atom)
            elif atom.size % left == 0:
                inner = atom.size // left
                taken.append(atom._replace(stride=atom.stride * inner, size=left))
                rest.append(atom._replace(size=inner))
            else:  # the boundary falls inside an atom: nothing can be told of any axis
                return nobody(shape)
        found.append(_joined(taken))
    return tuple(found)


def _joined(atoms: list[Atom]) -> Axis:
    """Neighbours that belong together as one."""
    found: list[Atom] = []
    for atom in atoms:
        last = found[-1] if found else None
        if last and last[:2] == atom[:2] and last.stride == atom.stride * atom.size:
            found[-1] = atom._replace(size=last.size * atom.size)
        else:
            found.append(atom)
    return tuple(found)


def agreed(several: Sequence[Sequence[Axis]], shape: Sequence[int]) -> tuple[Axis, ...]:
    """Of values that are combined entry by entry: what one of them tells of an axis, and `MIXED`
    where two contradict; scalars and what is broadcast say nothing, statistics of groups little."""
    found = []
    for k, n in enumerate(shape):
        axes = {x[k] for x in several if len(x) == len(shape) and length(x[k]) == n}
        told = {axis for axis in axes if named([axis])}
        told = {axis for axis in told if len(named([axis])) == len(axis)} or told
        mixed = (Atom(MIXED, k, 1, n),) if n != 1 else ()
        found.append(mixed if len(told) > 1 else told.pop() if told else nobody([n])[0])
    return tuple(found)


def index_along(axis: Axis, source: Any, of_axis: int) -> np.ndarray | None:
    """For each entry along `axis`, where it stands along axis `of_axis` of `source`; None if it
    says nothing about that."""
    total, inner = np.arange(length(axis)), length(axis)
    found = None
    for atom in axis:
        inner //= atom.size
        if atom[:2] == (source, of_axis):
            part = atom.stride * ((total // inner) % atom.size)
            found = part if found is None else found + part
    return found


def covered(axes: Sequence[Axis], source: Any, shape: Sequence[int], over: Sequence[int]) -> bool:
    """Whether the axes hold every entry of the axes `over` of `source` once."""
    held = math.prod(atom.size for atom in named(axes) if atom.source == source)
    return held == math.prod(shape[k] for k in over)


def unit_grid(axes: Sequence[Axis], source: Any, shape: Sequence[int]) -> np.ndarray | None:
    """The number of the unit of `source` at each entry of a value with these axes, broadcast along
    axes that do not matter; None if they say nothing. Units are numbered over the axes of `source`
    that occur, in row-major order."""
    over = axes_of(axes, source)
    if not over:
        return None
    steps = dict(zip(over, _steps([shape[k] for k in over]), strict=True))
    total: Any = 0
    for k, axis in enumerate(axes):
        for of_axis, step in steps.items():
            part = index_along(axis, source, of_axis)
            if part is not None:
                total = total + step * part.reshape([-1 if j == k else 1 for j in range(len(axes))])
    return total


def axes_of(axes: Sequence[Axis], source: Any) -> list[int]:
    return sorted({atom.axis for atom in named(axes) if atom.source == source})


def _steps(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[k + 1 :]) for k in range(len(shape))]


def scattered(
    values: np.ndarray, axes: Sequence[Axis], leaf: Any, shape: Sequence[int]
) -> np.ndarray | None:
    """`values` at the entries of a leaf, which stand along `axes`: broadcasts against the leaf.
    None if an axis of the leaf that occurs is not there in full, or an entry has several values."""
    over = axes_of(axes, leaf)
    if not over or not covered(axes, leaf, shape, over):
        return None
    for axis, varies in zip(axes, values.shape, strict=True):
        if varies > 1 and (not axis or any(atom.source != leaf for atom in axis)):
            return None  # one entry of the leaf stands for several values
    places: list[Any] = [np.zeros((1,) * len(axes), int)] * len(shape)
    for k, axis in enumerate(axes):
        for j in over:
            part = index_along(axis, leaf, j)
            if part is not None:
                places[j] = places[j] + part.reshape(
                    [-1 if i == k else 1 for i in range(len(axes))]
                )
    found = np.zeros([n if k in over else 1 for k, n in enumerate(shape)], int)
    full = np.broadcast_arrays(values, *places)
    found[tuple(full[1:])] = full[0]
    return found


def mapped(axis: Axis, source: Any, onto: Any, places: Mapping[int, int]) -> Axis:
    """Atoms of `source` as those of `onto`, by axis; all others as nobody's."""
    return tuple(
        Atom(onto, places[atom.axis], atom.stride, atom.size)
        if atom.source == source and atom.axis in places
        else atom._replace(source=None, axis=0, stride=1)
        for atom in axis
    )
