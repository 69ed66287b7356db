"""How the values of a program flow: which depend on the example, which only into gradients.

A gradient may stay factored from the equation where it is born to its leaf if nothing on the way
needs its entries: only layouts and sums. One sweep backward over the program, and over the programs
inside its loops and branches, marks these variables.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ..graph import Equation, Literal, Program, Variable, is_concrete
from .factors import FORMS
from .layouts import Layout, layout_of, needed, zeros_needed

SUMS = ("add", "add_any")


class Way(NamedTuple):
    """The only way of a variable to an output of its program, by layouts that permute.

    Attributes:
      output: number of the output.
      layouts: in order.
    """

    output: int
    layouts: tuple[Layout, ...]


@dataclasses.dataclass
class Flow:
    """What is known of a program before it runs.

    Attributes:
      varies: variables that depend on the example.
      zeros: variables that are zero everywhere.
      pending: variables that flow only into outputs that may stay factored.
      ways: pending variable -> its only way out, if there is one.
      sums: loop -> the places in its carry that only add up contributions.
      inside: loops and branches with pending variables inside.
      written: variables that hold a gradient that was written out although it is larger than
        anything on the way forward -> the equation that made it.
      largest: entries of the largest variable on the way forward that depends on the example.
    """

    varies: set[Variable] = dataclasses.field(default_factory=set)
    zeros: set[Variable] = dataclasses.field(default_factory=set)
    pending: set[Variable] = dataclasses.field(default_factory=set)
    ways: dict[Variable, Way] = dataclasses.field(default_factory=dict)
    sums: dict[Equation, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    inside: set[Equation] = dataclasses.field(default_factory=set)
    written: dict[Any, Equation] = dataclasses.field(default_factory=dict)
    largest: int = 0

    def is_zero(self, atom: Any) -> bool:
        """Whether a value is known to be zero everywhere."""
        return _is_zero(atom.value) if isinstance(atom, Literal) else atom in self.zeros

    def births(self, equation: Equation) -> bool:
        """Whether a gradient is born here that can stay factored."""
        form = FORMS.get(equation.name)
        return (
            form is not None and equation.outputs[0] in self.pending and form.fits(self, equation)
        )


def flow_of(program: Program, varying: Sequence[bool], factored: Sequence[bool]) -> Flow:
    """The flow of a program.

    Args:
      varying: of each input, whether it depends on the example.
      factored: of each output, whether it may stay factored.
    """
    flow = Flow()
    _forward(flow, program, varying)
    ends = [_End(k, ()) if may else None for k, may in enumerate(factored)]
    _backward(flow, program, ends, alone=True)
    flow.largest = _largest(flow, program, factored)
    _write(flow, program)
    return flow


# --- forward: what depends on the example, what is zero -------------------------------------------


def _forward(flow: Flow, program: Program, varying: Sequence[bool]) -> list[bool]:
    """Whether each output varies."""
    flow.varies.update(v for v, varies in zip(program.inputs, varying, strict=True) if varies)
    flow.zeros.update(v for v, value in program.constants if _is_zero(value))
    for equation in program.equations:
        varies = [v in flow.varies for v in equation.inputs]
        out = _INNER.get(equation.name, _any)(flow, equation, varies)
        flow.varies.update(v for v, o in zip(equation.outputs, out, strict=True) if o)
        if equation.name in _KEEP_ZERO and flow.is_zero(equation.inputs[0]):
            flow.zeros.update(equation.outputs)
    return [v in flow.varies for v in program.outputs]


_KEEP_ZERO = ("broadcast_in_dim", "convert_element_type", "reshape", "copy", "squeeze", "transpose")


def _is_zero(value) -> bool:
    if not isinstance(value, np.ndarray | np.generic) and not is_concrete(value):
        return False
    numeric = jnp.issubdtype(value.dtype, jnp.number)
    return bool(numeric and value.size and not np.any(np.asarray(value)))


def _any(flow, equation, varies):
    return [any(varies)] * len(equation.outputs)


def _scan_varies(flow, equation, varies):
    constants, carry, _ = parts_of_scan(equation)
    body = equation.programs["jaxpr"]
    while True:
        out = _forward(flow, body, varies)
        new = [a or b for a, b in zip(varies[constants : constants + carry], out, strict=False)]
        if new == varies[constants : constants + carry]:
            return [*new, *out[carry:]]
        varies = [*varies[:constants], *new, *varies[constants + carry :]]


def _cond_varies(flow, equation, varies):
    which, *given = varies
    outs = [_forward(flow, branch, given) for branch in equation.programs["branches"]]
    return [which or any(column) for column in zip(*outs, strict=True)]


_INNER = {"scan": _scan_varies, "cond": _cond_varies}


def parts_of_scan(equation: Equation) -> tuple[int, int, int]:
    """How many constants, carried values and scanned arrays a loop takes."""
    constants, carry = equation.params["num_consts"], equation.params["num_carry"]
    return constants, carry, len(equation.inputs) - constants - carry


# --- backward: what flows only into gradients -----------------------------------------------------


class _End(NamedTuple):
    """One use of a variable that lets it stay factored; the way out from there, if it is one."""

    output: int | None
    layouts: tuple[Layout, ...]


_SOMEWHERE = _End(None, ())


class _Uses:
    """The uses of the variables of one program, counted from its end."""

    def __init__(self):
        self.all: Counter = Counter()
        self.factored: dict[Any, list[_End]] = {}

    def add(self, atom, end: _End | None):
        self.all[atom] += 1
        if end is not None:
            self.factored.setdefault(atom, []).append(end)

    def end(self, variable) -> _End | None:
        """Where a variable goes, if it may stay factored."""
        ends = self.factored.get(variable, [])
        if not ends or len(ends) < self.all[variable]:
            return None
        return ends[0] if len(ends) == 1 else _SOMEWHERE


def _backward(flow: Flow, program: Program, ends: Sequence[_End | None], alone: bool):
    """Mark the pending variables of a program.

    Args:
      ends: of each output, where it goes if it may stay factored.
      alone: whether the program runs once, so that the values in it can be kept.
    """
    uses = _Uses()
    for atom, end in zip(program.outputs, ends, strict=True):
        uses.add(atom, end if isinstance(atom, Variable) and is_inexact(atom) else None)
    for equation in reversed(program.equations):
        out = [uses.end(v) for v in equation.outputs]
        for variable, end in zip(equation.outputs, out, strict=True):
            _settle(flow, variable, end)
        for atom, end in zip(equation.inputs, _ends(flow, equation, out, uses, alone), strict=True):
            uses.add(atom, end if isinstance(atom, Variable) and is_inexact(atom) else None)
    for variable in program.inputs:
        _settle(flow, variable, uses.end(variable))


def _settle(flow, variable, end):
    if end is not None:
        flow.pending.add(variable)
        if end.output is not None:
            flow.ways[variable] = Way(*end)


def _ends(flow, equation, out, uses, alone) -> list[_End | None]:
    """Where each input goes, if the equation lets it stay factored."""
    if equation.name == "scan":
        return _scan_ends(flow, equation, out, uses)
    none: list[_End | None] = [None] * len(equation.inputs)
    if all(end is None for end in out):
        return none
    if equation.name == "cond":
        flow.inside.add(equation)
        for branch in equation.programs["branches"]:
            inner = [None if end is None else _SOMEWHERE for end in out]
            _backward(flow, branch, inner, alone=False)
        return none
    if len(out) != 1:
        return none
    (end,) = out
    if equation.name in SUMS:
        return _sum_ends(flow, equation, end)
    return [_layout_end(flow, equation, k, end, alone) for k in range(len(equation.inputs))]


def _sum_ends(flow, equation, end):
    a, b = equation.inputs
    if a.shape != b.shape:
        return [None, None]
    return [end if flow.is_zero(other) else _SOMEWHERE for other in (b, a)]


def _layout_end(flow, equation, position, end, alone):
    if scales(equation, position):
        return _SOMEWHERE
    layout = layout_of(equation, position)
    zeros = all(flow.is_zero(equation.inputs[k]) for k in zeros_needed(equation))
    if layout is None or not zeros:
        return None
    operands = [equation.inputs[k] for k in needed(equation, position)]
    if operands and (not alone or any(a in flow.varies for a in operands)):
        return None
    if not layout.permutes or end.output is None:
        return _SOMEWHERE
    return _End(end.output, (layout, *end.layouts))


def scales(equation: Equation, position: int) -> bool:
    """Whether an equation multiplies one of its inputs by a number."""
    if equation.name == "neg":
        return True
    if equation.name not in ("mul", "div") or (equation.name == "div" and position == 1):
        return False
    this, other = equation.inputs[position], equation.inputs[1 - position]
    real = not jnp.issubdtype(other.dtype, jnp.complexfloating)
    return other.shape == () and this.shape == equation.outputs[0].shape and real


def _scan_ends(flow, equation, out, uses):
    constants, carry, _ = parts_of_scan(equation)
    body = equation.programs["jaxpr"]
    sums = tuple(
        j
        for j in range(carry)
        if (out[j] is not None or not uses.all[equation.outputs[j]])
        and _only_adds_up(body, constants + j, j)
    )
    inner: list[_End | None] = [_SOMEWHERE if j in sums else None for j in range(carry)]
    for j, end in enumerate(out[carry:], carry):
        one_way = end is not None and end.output is not None
        inner.append(_End(j, ()) if one_way else end)
    if any(end is not None for end in inner):
        flow.inside.add(equation)
        flow.sums[equation] = sums
        _backward(flow, body, inner, alone=False)
    ends: list[_End | None] = [None] * len(equation.inputs)
    for j in sums:
        ends[constants + j] = _SOMEWHERE
    return ends


def _only_adds_up(body: Program, number: int, output: int) -> bool:
    """Whether a carried value is used for nothing but sums that end in its own next value."""
    value = body.inputs[number]
    if not is_inexact(value):
        return False
    users: dict[Any, list] = {}
    for equation in body.equations:
        for atom in equation.inputs:
            users.setdefault(atom, []).append(equation)
    while True:
        places = [k for k, atom in enumerate(body.outputs) if atom is value]
        using = users.get(value, [])
        if places:
            return places == [output] and not using and value is not body.inputs[number]
        if len(using) != 1 or using[0].name not in SUMS:
            return False
        (result,) = using[0].outputs
        if result.shape != value.shape:
            return False
        value = result


def is_inexact(atom: Any) -> bool:
    return jnp.issubdtype(atom.dtype, jnp.inexact)


# --- gradients that are written out in spite of their size ----------------------------------------


def _write(flow: Flow, program: Program):
    for equation in program.equations:
        if equation.name == "scan":
            body = equation.programs["jaxpr"]
            _write_inside(flow, body, equation.inputs, equation.outputs)
        elif equation.name == "cond":
            for branch in equation.programs["branches"]:
                _write_inside(flow, branch, equation.inputs[1:], equation.outputs)
        else:
            for variable in equation.outputs:
                cause = _cause(flow, equation, variable)
                if cause is not None:
                    flow.written[variable] = cause


def _largest(flow, program, factored) -> int:
    """Over what the outputs that are no gradients are made of."""
    live = {a for a, may in zip(program.outputs, factored, strict=True) if not may}
    found = list(program.inputs)
    for equation in reversed(program.equations):
        if not live.isdisjoint(equation.outputs):
            live.update(equation.inputs)
            found += equation.outputs
            inside = (e for _, inner in equation.inner for e in inner.everything())
            found += (v for e in inside for v in e.outputs)
    return max((math.prod(v.shape) for v in found if v in flow.varies), default=0)


def _write_inside(flow, body, inputs, outputs):
    for outer, inner in zip(inputs, body.inputs, strict=True):
        if outer in flow.written:
            flow.written[inner] = flow.written[outer]
    _write(flow, body)
    for inner, outer in zip(body.outputs, outputs, strict=True):
        if inner in flow.written:
            flow.written[outer] = flow.written[inner]


def _cause(flow, equation, variable) -> Equation | None:
    """The equation to blame for the size of a variable, if it is larger than what it came from."""
    size = math.prod(variable.shape)
    for atom in equation.inputs:
        if atom in flow.written and size >= math.prod(atom.shape):
            return flow.written[atom]
    if equation.name not in FORMS or flow.births(equation) or variable not in flow.varies:
        return None
    return equation if size > flow.largest else None
