"""Kinks and ties: where a gradient is one of several."""

from collections.abc import Sequence

import numpy as np

from ..graph import Equation
from ..reference.tape import Step
from .audit import Audit
from .compare import Expected, widened, worst


def sides(audit: Audit) -> list[list[np.ndarray]]:
    """The gradients with every exact tie broken to either side; nothing if there is no tie."""
    if not has_ties(audit.tape.steps):
        return []
    return [[c.value for c in audit.gradients(variant=side(number))] for number in (0, 1)]


def has_ties(steps: Sequence[Step]) -> bool:
    """Whether something was decided on its very threshold."""
    return any(step.ties is not None for step in steps)


def side(number: int):
    """A variant of the walk with ties broken to one side."""
    return lambda step: step.local if step.ties is None else step.ties[number]


def interval(value, deviation, others) -> Expected:
    """A gradient with the interval that it and its other subgradients span."""
    if not others or np.iscomplexobj(value):
        return Expected(value, deviation)
    every = np.stack([value, *others])
    low, high = every.min(0), every.max(0)
    if np.array_equal(low, high) or not np.isfinite(every).all():
        return Expected(value, deviation)
    return Expected(value, deviation, low, high)


def describe(audit: Audit, k: int, expected: Expected, grad) -> tuple[str, Equation | None]:
    """The subgradients of leaf k, and the equation that has the kink."""
    low, high = np.asarray(expected.low), np.asarray(expected.high)
    at = worst(high - low)
    element = f"element [{', '.join(map(str, at))}]" if at else "this leaf"
    equation = _with_kink(audit, k)
    kink = ""
    if equation is not None:
        kink = f"`{equation.name}` at {equation.source} lies on a kink or tie. "
    return (
        f"{kink}Any value from {low[at]:.4g} to {high[at]:.4g} is a subgradient of {element}; this "
        f"gradient has {widened(grad)[at]:.4g}",
        equation,
    )


def _with_kink(audit: Audit, k: int) -> Equation | None:
    """The last equation with a tie on the way to leaf k."""
    steps = (s for s in reversed(audit.tape.steps) if s.ties is not None)
    reached = (s for s in steps if s.equation in audit.nodes and audit.bits(s) >> k & 1)
    return next((step.equation for step in reached), None)
