"""JAX's local derivatives against the reference's, at the values that the program itself has.

The error of a whole gradient mixes everything on its way. One equation, or one function with a
derivative rule of its own, at its own values and the cotangent that the reference finds there, is
judged alone: the bound is that of a few roundings.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..graph import Equation, is_key, local_vjp, wide_dtype
from ..reference.backward import Cotangent, Seen, contributions, pull_back
from ..reference.rules import RULES, STRUCTURED
from ..reference.tape import INACTIVE, Region, Tape
from . import kinks, patterns
from .audit import Audit, cut
from .compare import Difference, Expected, compare, widened


class Fault(NamedTuple):
    """A local derivative of JAX that is not the reference's.

    Attributes:
      equation: where.
      where: the loops around it, as (primitive, iteration) pairs.
      input: number of the input whose contribution is wrong.
      id: number of its cotangent.
      difference: from the reference.
      pattern: in which way, in words; "" if none was found.
      finite: whether JAX's contribution is finite.
    """

    equation: Equation
    where: tuple[tuple[str, int], ...]
    input: int
    id: int
    difference: Difference | None
    pattern: str
    finite: bool = True

    @property
    def function(self) -> str:
        """The function whose rule is wrong; "" if it is an equation's."""
        return "" if self.equation.called is None else self.equation.called.name

    @property
    def in_jax(self) -> bool:
        """Whether the rule is JAX's own."""
        return self.equation.called is None or self.equation.called.in_jax

    @property
    def name(self) -> str:
        """What is wrong: a function, or a primitive of JAX."""
        name = self.function
        return f"`{name}`" if name else f"JAX's rule of `{self.equation.name}`"

    @property
    def loops(self) -> str:
        """ ", iteration 3 of the scan", or nothing."""
        return "".join(f", iteration {number} of the {name}" for name, number in self.where)


def wrong_rules(audit: Audit, intended: Sequence[str]) -> list[Fault]:
    """The calls of functions with derivative rules of their own that are not those of their body.

    Of the calls in a loop, the last iteration that is wrong is named: the first in backward order.
    """
    found: dict[tuple[Equation, int], Fault] = {}
    for region in reversed(audit.tape.regions):
        called = region.equation.called
        if called is None or called.name in intended:
            continue
        for fault in _region_faults(audit, region):
            found.setdefault((region.equation, fault.input), fault)
    return list(found.values())


def first_fault(audit: Audit, bits: int) -> Fault | None:
    """The first equation in backward order, on the way to some of these leaves, that is wrong."""
    return next(iter(_faults(audit, bits, wrong=_is_wrong)), None)


def first_not_finite(audit: Audit, bits: int) -> Fault | None:
    """The first equation in backward order at which JAX's derivative is not finite."""
    return next(iter(_faults(audit, bits, wrong=_is_not_finite)), None)


def _region_faults(audit: Audit, region: Region) -> Iterator[Fault]:
    dys = audit.arrivals.get(region, [])
    if all(dy is None or not np.any(dy) for dy in dys):
        return
    expected = _of_body(audit, region, dys)
    values = [v.own for v in region.inputs]
    got = _by_jax(region.equation, values, dys, compiled=bool(region.where))
    if got is None:
        return
    for k, (v, e) in enumerate(zip(region.inputs, expected, strict=True)):
        if e is None or not np.isfinite(e.value).all():
            continue
        fault = _is_wrong(got[k], e, v.own.dtype)
        if fault is not None:
            difference, pattern = fault
            yield Fault(region.equation, region.where, k, v.id, difference, pattern)


def _of_body(audit: Audit, region: Region, dys) -> list[Expected | None]:
    """What the body of a function makes of the cotangents, at the program's own values."""
    tape = Tape(RULES, STRUCTURED, audit.tape.bounds)
    inputs = [
        tape.constant(v.own) if v.id == INACTIVE else tape.variable(v.own) for v in region.inputs
    ]
    outputs = tape.run(region.equation.programs["body"], inputs)
    seeds = [
        None if wide_dtype(v.wide.dtype) is None else (np.zeros_like(v.wide) if dy is None else dy)
        for v, dy in zip(outputs, dys, strict=True)
    ]

    def walk(variant=None, bounds=False):
        return pull_back(tape.steps, outputs, seeds, bounds, variant=variant)

    found = walk(bounds=True)
    if not all(np.isfinite(c.value).all() for c in found.values()):
        found = walk(variant=cut, bounds=True)
    ties = any(step.ties is not None for step in tape.steps)
    sides = [walk(variant=kinks.side(number)) for number in (0, 1)] if ties else []
    return [None if v.id == INACTIVE else _expected(v, found, sides, audit.scale) for v in inputs]


def _expected(value, found, sides, scale) -> Expected | None:
    zero = np.zeros(np.shape(value.wide))
    if value.id not in found:
        return Expected(zero, zero)
    c = found[value.id]
    if c.unaudited:
        return None
    if not sides:
        return Expected(c.value, scale * c.deviation)
    others = [s[value.id].value if value.id in s else zero for s in sides]
    return kinks.interval(c.value, scale * c.deviation, others)


def _is_wrong(got, expected: Expected, dtype) -> tuple[Difference | None, str] | None:
    """(difference, pattern) if a contribution is not the reference's."""
    got = np.zeros(np.shape(expected.value)) if got is None else got
    if not np.isfinite(widened(got)).all():
        return None
    difference = compare(got, expected, dtype)
    if difference.verdict != "differs":
        return None
    return difference, patterns.describe(widened(got), expected.value)


def _is_not_finite(got, expected: Expected, dtype) -> tuple[Difference | None, str] | None:
    bad = got is not None and not np.isfinite(widened(got)).all()
    return (None, "") if bad else None


def _faults(audit: Audit, bits: int, wrong) -> Iterator[Fault]:
    """The steps on the way to some leaves whose derivative by JAX is `wrong`, last step first."""
    found: list[Fault] = []

    def watch(seen: Seen):
        step = seen.step
        if found or step.equation.primitive is None or not audit.bits(step) & bits:
            return
        if not all(dy is None or np.isfinite(dy).all() for dy in seen.dys):
            return
        local = step.local
        if not step.rounding.is_shadow:
            local = step.rounding.shadow or local
        dtypes = [getattr(a, "dtype", None) for a in step.equation.inputs]
        values = [
            x if is_key(x) or d is None else np.asarray(x).astype(d)
            for x, d in zip(local.x, dtypes, strict=True)
        ]
        got = _by_jax(step.equation, values, seen.dys, compiled=bool(step.where))
        if got is None:
            return
        alone = step._replace(rounding=step.rounding._replace(own=None, depends=False), local=local)
        expected = _one_step(alone, seen.dys, audit.scale)
        for k, i in enumerate(step.inputs):
            if i == INACTIVE or not audit.reach.get(i, 0) & bits:
                continue
            fault = wrong(got[k], expected[k], dtypes[k])
            if fault is not None:
                found.append(
                    Fault(step.equation, step.where, k, i, *fault, finite=fault[0] is not None)
                )
                return

    audit.seen_at(watch)
    return iter(found)


def _by_jax(equation, values, dys, compiled) -> list[Any] | None:
    """JAX's contributions, None where it has no derivative for this equation on its own."""
    try:
        return local_vjp(equation, values, dys, compiled)
    except (
        Exception
    ):  # whatever a rule raises when it is called alone; the whole gradient was found
        return None


def _one_step(step, dys, scale) -> list[Expected]:
    """The contribution of one step to each of its inputs, with its bound."""
    reached = [None if dy is None else Cotangent(dy, np.zeros(np.shape(dy))) for dy in dys]
    zeros = [np.zeros(np.shape(x)) for x in step.local.x]
    return [
        Expected(zero, zero) if c is None else Expected(c.value, scale * c.deviation)
        for c, zero in zip(contributions(step, step.local, reached, True), zeros, strict=True)
    ]
