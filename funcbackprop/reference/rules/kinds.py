"""What a rule is, and the kinds of rules from which the tables of the families are made.

A rule knows one primitive: `pull` is its local derivative, transposed. For an equation
y = f(x; params) and the cotangents dy of its outputs it returns the contributions dx to the
cotangents of its inputs. All arrays are NumPy, float64 or complex128 where they are
floating-point. Cotangents pair with tangents as Re(sum dy v), without conjugation, as in JAX: for
a holomorphic f, dx = f'(x) dy.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Array = Any


class Local(NamedTuple):
    """One equation at the point where it was evaluated.

    Attributes:
      p: parameters of the primitive.
      x: inputs; floating-point ones in float64.
      y: outputs.
      active: for each input, whether its cotangent is wanted.
      choice: what `choose` returned.
      programs: sub-programs of the primitive.
      cut: whether a cotangent of 0 ends a path even where the partial derivative is infinite.
    """

    p: Mapping[str, Any]
    x: tuple[Array, ...]
    y: tuple[Array, ...]
    active: tuple[bool, ...]
    choice: Any = None
    programs: Mapping[str, Any] | None = None
    cut: bool = False


@dataclasses.dataclass(frozen=True)
class Rule:
    """The local derivative of one primitive.

    Attributes:
      formula: the derivative in one line, for readers.
      pull: `pull(local, dys) -> contributions`, one for each input, None where it is zero or not
        wanted. `dys` has one array for each output (None for outputs that are not floating-point).
      forward: `forward(p, *x) -> y`, or a tuple of outputs; with `choose`, `forward(p, choice,
        *x)`. None: JAX evaluates the equation in float64.
      choose: `choose(p, *x) -> choice`, a tuple of arrays: the discrete decisions, taken on the
        values that the program itself has, in its own precision, and replayed in float64.
      exact: `forward` moves values and rounds nothing, so it serves in every dtype.
      square: `square(local, dys) -> contributions`: as `pull`, with every partial derivative
        squared and `dys` holding squares. None: unknown.
      linear: y is linear in each input, so that its derivative depends on `operands` only.
      operands: the inputs that are multiplied with each other, of a linear rule.
      cancels: `cancels(local, dys)`: how large the terms are by whose difference a contribution is
        commonly computed, such as the 1 of 1 - tanh^2: its rounding is relative to them.
      convention: what holds at kinks and ties.
      zero: the outputs are piecewise constant: nothing is pulled back.
      opaque: why the primitive cannot be followed; "" if it can.
    """

    formula: str
    pull: Callable[[Local, Sequence[Array]], Sequence[Array | None]]
    forward: Callable | None = None
    choose: Callable | None = None
    exact: bool = False
    square: Callable[[Local, Sequence[Array]], Sequence[Array | None]] | None = None
    linear: bool = False
    operands: tuple[int, ...] = ()
    cancels: Callable | None = None
    convention: str = ""
    zero: bool = False
    opaque: str = ""


def elementwise(
    forward: Callable | None,
    *partials: Callable | None,
    formula: str,
    choose: Callable | None = None,
    cancels: Callable | None = None,
    convention: str = "",
) -> Rule:
    """y = f(x_0, x_1, ...), entry by entry: dx_k = (df/dx_k) dy.

    Args:
      forward: as in `Rule`.
      partials: for each input, `partial(p, *x, y) -> df/dx_k`, or None where it is zero. With
        `choose`, `partial(p, choice, *x, y)`.
      cancels: `cancels(p, *x, y)`, of the partial derivative; see `Rule`.
    """

    def factors(local):
        chosen = (local.choice,) if choose is not None else ()
        for partial, wanted in zip(partials, local.active, strict=True):
            if partial is None or not wanted:
                yield None
            else:
                with np.errstate(all="ignore"):
                    yield partial(local.p, *chosen, *local.x, *local.y)

    def pull(local, dys):
        (dy,) = dys
        return [
            None if f is None else unbroadcast(times(f, dy, local.cut), x.shape)
            for f, x in zip(factors(local), local.x, strict=True)
        ]

    def square(local, dys):
        (dy,) = dys
        return [
            None if f is None else unbroadcast(np.abs(f) ** 2 * dy, x.shape)
            for f, x in zip(factors(local), local.x, strict=True)
        ]

    def sizes(local, dys):
        return np.abs(cancels(local.p, *local.x, *local.y) * dys[0])  # pyright: ignore

    return Rule(
        *(formula, pull, forward, choose),
        square=square,
        cancels=None if cancels is None else sizes,
        convention=convention,
    )


def linear(
    pull: Callable,
    *,
    formula: str,
    forward: Callable | None = None,
    exact: bool = False,
    convention: str = "",
    operands: Sequence[int] = (),
) -> Rule:
    """y is linear in each input, with coefficients that are 0, 1 or other inputs.

    Args:
      operands: inputs that are multiplied with each other, as in a contraction. The squares of the
        partial derivatives then come from the same `pull` on their squares.
    """

    def square(local, dys):
        x = tuple(np.abs(v) ** 2 if k in operands else v for k, v in enumerate(local.x))
        return [None if c is None else np.abs(c) for c in pull(local._replace(x=x), dys)]

    return Rule(
        *(formula, pull, forward),
        exact=exact,
        square=square,
        linear=True,
        operands=tuple(operands),
        convention=convention,
    )


def general(pull: Callable, *, formula: str, **fields: Any) -> Rule:
    """Any other differentiable primitive."""
    return Rule(formula, pull, **fields)


def constant(why: str, forward: Callable | None = None, **fields: Any) -> Rule:
    """Piecewise constant, or not differentiable by intention: the cotangent ends here."""
    return Rule(why, _nothing, forward, zero=True, **fields)


def opaque(why: str) -> Rule:
    """A primitive that cannot be looked into; a gradient that passes it is reported."""
    return Rule("unknown", _nothing, opaque=why)


def _nothing(local, dys):
    return [None] * len(local.x)


def times(factor: Array, dy: Array, cut: bool = False) -> Array:
    """factor dy; with `cut`, 0 where dy is 0, also for a factor that is infinite or NaN.

    >>> print(times(np.array([np.inf, 2.0]), np.array([0.0, 1.0]), cut=True))
    [0. 2.]
    """
    return np.where(dy == 0, 0.0, factor * np.where(dy == 0, 1.0, dy)) if cut else factor * dy


def unbroadcast(dy: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which an input of this shape was broadcast.

    >>> unbroadcast(np.ones((2, 3)), (1, 3)).tolist(), float(unbroadcast(np.ones((2, 3)), ()))
    ([[2.0, 2.0, 2.0]], 6.0)
    """
    dy = np.asarray(dy)
    if dy.shape == shape:
        return dy
    extra = dy.ndim - len(shape)
    axes = (
        *range(extra),
        *(extra + k for k, n in enumerate(shape) if n == 1 and dy.shape[extra + k] != 1),
    )
    return dy.sum(axes).reshape(shape)
