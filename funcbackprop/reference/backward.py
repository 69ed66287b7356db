"""The backward pass: the tape walked backwards, cotangents added where paths meet.

Beside each cotangent two more travel if bounds are wanted, which together say how far rounding may
take the program's own gradient from it: `spread`, the variance of independent roundings, each made
as large as the program's dtype says, and `drift`, the difference that the program's own values make
against those in float64. See `rounding`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from . import rounding
from .rules.kinds import Array, Local
from .tape import INACTIVE, Step, Value


class Cotangent(NamedTuple):
    """The derivative of the output with respect to one value.

    Attributes:
      value: float64 or complex128, in the shape of the value.
      spread: variance of the roundings of each element; None where bounds are not wanted.
      drift: what the program's own values add to `value`; None is zero.
      steady: sum of the roundings of the sums that formed it one after the other, all to one side.
      unit: the unit roundoff of the cotangent in the program.
      unaudited: what it passed that could not be followed.
      fresh: whether `value` belongs to this cotangent alone, so that it may be added to in place.
    """

    value: Array
    spread: Array | None = None
    drift: Array | None = None
    steady: Array | None = None
    unit: float = 0.0
    unaudited: frozenset[str] = frozenset()
    fresh: bool = False

    @property
    def variance(self) -> Array:
        """The spread, with that of sums whose roundings do not average out."""
        if self.steady is None:
            return self.spread
        return self.spread + (rounding.ONE_BY_ONE * self.steady) ** 2

    @property
    def deviation(self) -> Array:
        """Standard deviation of the rounding of each element of the program's own cotangent."""
        return rounding.deviation(self.variance, self.drift)


class Seen(NamedTuple):
    """What a watcher of `pull_back` sees at a step, before its contributions are added.

    Attributes:
      step: the step.
      reached: the cotangents of its outputs; None where nothing flows.
      dys: their values, with zeros where nothing flows; None for outputs that are no floats.
      terms: the contribution to each input; None where there is none.
    """

    step: Step
    reached: Sequence[Cotangent | None]
    dys: Sequence[Array | None]
    terms: Sequence[Cotangent | None]


def pull_back(
    steps: Sequence[Step],
    outputs: Sequence[Value],
    dys: Sequence[Array],
    bounds: bool = False,
    *,
    variant: Callable[[Step], Local] | None = None,
    watch: Callable[[Seen], None] | None = None,
    stops: Mapping[int, Callable[[dict[int, Cotangent]], None]] | None = None,
    alter: Callable[[Step, list[Cotangent | None]], list[Cotangent | None]] | None = None,
) -> dict[int, Cotangent]:
    """id -> cotangent of the values that no step has as its output: the inputs of the tape.

    Args:
      steps: in the order of the forward pass.
      outputs: where the walk begins; those that no gradient flows through are passed over.
      dys: the cotangent of each output.
      bounds: whether to follow the roundings too.
      variant: another `Local` at which a step is pulled back; None takes `step.local`.
      watch: called at each step that is reached, last step first.
      alter: changes the contributions of a step before they are added: a fault, to be tried out.
      stops: number -> called with the cotangents found when the steps from this number on are done.
    """
    found: dict[int, Cotangent] = {}
    for value, dy in zip(outputs, dys, strict=True):
        if value.id != INACTIVE:
            term = _seed(value, dy, bounds)
            found[value.id] = _add(found[value.id], term) if value.id in found else term
    for number in reversed(range(len(steps))):
        if stops and number + 1 in stops:
            stops[number + 1](found)
        step = steps[number]
        reached = [found.pop(i, None) for i in step.outputs]
        if any(out is not None for out in reached):
            local = step.local if variant is None else variant(step)
            terms = contributions(step, local, reached, bounds)
            if alter is not None:
                terms = alter(step, terms)
            if watch is not None:
                watch(Seen(step, reached, _values(step, reached), terms))
            for i, term in zip(step.inputs, terms, strict=True):
                if term is not None:
                    found[i] = _add(found[i], term) if i in found else term
    return found


def _seed(value: Value, dy, bounds) -> Cotangent:
    unit = rounding.unit_of(value)
    return Cotangent(dy, rounding.once(dy, unit) if bounds else None, unit=unit)


def _values(step: Step, reached) -> list:
    """The cotangent of each output, zeros where nothing flows, None where it is no float."""
    values = zip(reached, step.outputs, step.local.y, strict=True)
    return [
        (None if i == INACTIVE else np.zeros_like(y)) if out is None else out.value
        for out, i, y in values
    ]


def contributions(
    step: Step, local: Local, reached: Sequence[Cotangent | None], bounds: bool = False
) -> list[Cotangent | None]:
    """What a step adds to the cotangent of each input; None for those that are not active.

    Args:
      local: where it is pulled back.
      reached: the cotangents of its outputs.
    """
    rule = step.rule
    unaudited = frozenset().union(*(out.unaudited for out in reached if out is not None))
    if rule.opaque:
        unaudited |= {f"{step.equation.name} at {step.equation.source}: {rule.opaque}"}
    dys = _values(step, reached)
    with np.errstate(all="ignore"):
        values = rule.pull(local, dys)
        errors = rounding.pulled(step, local, reached, dys, values) if bounds else None
    wanted = [
        i != INACTIVE and (value is not None or bool(unaudited))
        for i, value in zip(step.inputs, values, strict=True)
    ]
    return [
        Cotangent(
            _fitting(step, k, values[k]),
            *(errors[k] if errors else (None, None)),
            unit=step.rounding.unit(k) if bounds else 0.0,
            unaudited=unaudited,
        )
        if wanted[k]
        else None
        for k in range(len(values))
    ]


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
    fresh = a.fresh and a.value.dtype == np.result_type(a.value, b.value)
    value = np.add(a.value, b.value, out=a.value) if fresh else np.asarray(a.value + b.value)
    unit, unaudited = max(a.unit, b.unit), a.unaudited | b.unaudited
    if a.spread is None or b.spread is None:
        return Cotangent(value, unit=unit, unaudited=unaudited, fresh=True)
    spread = a.spread + b.spread + rounding.once(value, unit)
    drift = rounding.added(a.drift, b.drift)
    steady = rounding.added(rounding.added(a.steady, b.steady), unit * np.abs(value))
    return Cotangent(value, spread, drift, steady, unit, unaudited, fresh=True)
