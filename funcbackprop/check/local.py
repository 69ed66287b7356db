"""JAX's local derivatives against the reference's, at the values that the program itself has.

The error of a whole gradient mixes everything on its way. One equation, or one function with a
derivative rule of its own, at its own values and the cotangent that the reference finds there, is
judged alone: the bound is that of a few roundings.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..graph import Equation, is_key, local_vjp, wide_dtype
from ..reference.backward import Cotangent, Seen, contributions, pull_back
from ..reference.rules import RULES, STRUCTURED
from ..reference.tape import INACTIVE, Region, Tape
from . import kinks, patterns
from .audit import Audit, cut
from .compare import Expected, compare, widened


class Fault(NamedTuple):
    """A local derivative of JAX that is not the reference's.

    Attributes:
      equation: where.
      where: the loops around it, as (primitive, iteration) pairs.
      input: number of the input whose contribution is wrong.
      id: number of its cotangent.
      pattern: in which way, in words; "" if none was found.
    """

    equation: Equation
    where: tuple[tuple[str, int], ...]
    input: int
    id: int
    pattern: str

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
        return iterations(self.where)


def iterations(where) -> str:
    """The loops around a step in words.

    >>> iterations((("scan", 3),))
    ', iteration 3 of the scan'
    """
    return "".join(f", iteration {number} of the {name}" for name, number in where)


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
    return _first(audit, bits, _wrong)


def first_not_finite(audit: Audit, bits: int) -> Fault | None:
    """The first equation in backward order at which JAX's derivative is not finite."""
    return _first(audit, bits, _not_finite)


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
        pattern = _wrong(got[k], e, v.own.dtype)
        if pattern is not None:
            yield Fault(region.equation, region.where, k, v.id, pattern)


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
    ties = kinks.has_ties(tape.steps)
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


def _wrong(got, expected: Expected, dtype) -> str | None:
    """The pattern if a contribution is not the reference's; None if it is, or is not finite."""
    got = np.zeros(np.shape(expected.value)) if got is None else got
    known = np.isfinite(widened(got)).all()
    if not known or compare(got, expected, dtype).verdict != "differs":
        return None
    return patterns.describe(widened(got), expected.value)


def _not_finite(got, expected: Expected, dtype) -> str | None:
    return None if got is None or np.isfinite(widened(got)).all() else ""


def _first(audit: Audit, bits: int, wrong: Callable) -> Fault | None:
    """The last step on the way to some leaves whose derivative by JAX is `wrong`."""
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
            pattern = wrong(got[k], expected[k], dtypes[k])
            if pattern is not None:
                found.append(Fault(step.equation, step.where, k, i, pattern))
                return

    audit.gradients(watch=watch)
    return found[0] if found else None


def _by_jax(equation, values, dys, compiled) -> list[Any] | None:
    """JAX's contributions, None where it has no derivative for this equation on its own."""
    try:
        return local_vjp(equation, values, dys, compiled)
    except Exception:  # a rule may raise anything when it is called alone
        return None


def _one_step(step, dys, scale) -> list[Expected]:
    """The contribution of one step to each of its inputs, with its bound."""
    reached = [None if dy is None else Cotangent(dy, np.zeros(np.shape(dy))) for dy in dys]
    zeros = [np.zeros(np.shape(x)) for x in step.local.x]
    return [
        Expected(zero, zero) if c is None else Expected(c.value, scale * c.deviation)
        for c, zero in zip(contributions(step, step.local, reached, True), zeros, strict=True)
    ]
