"""The forward pass: a program evaluated in float64, and the tape of what was evaluated.

Every value is held twice: as the program has it, in its own dtype (`own`), and in float64 (`wide`).
Discrete decisions are taken on `own` and replayed on `wide`; where `wide` would have decided
otherwise, that is noted. Loops and branches run here, so the tape is one flat list of steps.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..graph import (
    Equation,
    Literal,
    Program,
    Source,
    UnsupportedPrimitive,
    evaluate,
    evaluate_wide,
    is_key,
    to_numpy,
    wide_dtype,
    widen,
)
from .rules.kinds import Local, Rule

INACTIVE = -1


class Value(NamedTuple):
    """A value on its way through the program.

    Attributes:
      own: as the program has it. Random keys stay JAX arrays, all else is NumPy.
      wide: in float64 or complex128; the same object as `own` where nothing is to be widened.
      id: number of its cotangent, or `INACTIVE` where no gradient flows.
    """

    own: Any
    wide: Any
    id: int = INACTIVE

    def detached(self) -> "Value":
        """The same value, with no gradient flowing to it."""
        return self._replace(id=INACTIVE)


class Step(NamedTuple):
    """One evaluated equation that a gradient flows through."""

    equation: Equation
    rule: Rule
    local: Local
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    where: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class Decision:
    """A discrete decision that float64 would take otherwise; the program's own was replayed.

    Attributes:
      primitive: what decided, such as `gt` or `max`.
      source: the user's line.
      where: loops around it, as (primitive, iteration) pairs, outermost first.
      differing: how many of its `total` entries differ.
    """

    primitive: str
    source: Source
    where: tuple[tuple[str, int], ...]
    differing: int
    total: int

    def __str__(self):
        loops = "".join(f", {name} iteration {number}" for name, number in self.where)
        return (
            f"{self.primitive} at {self.source}{loops}: {self.differing} of {self.total} would be "
            "decided otherwise in float64"
        )


class Tape:
    """Runs programs and records steps and decisions.

    Args:
      rules: primitive -> `Rule`.
      structured: primitive -> `run(tape, equation, inputs) -> outputs` for those that run
        programs of their own: loops, branches, mutable arrays.
    """

    def __init__(self, rules: Mapping[str, Rule], structured: Mapping[str, Callable]):
        self.rules = rules
        self.structured = structured
        self.steps: list[Step] = []
        self.decisions: list[Decision] = []
        self.where: tuple[tuple[str, int], ...] = ()
        self._count = 0
        self._last_uses: dict[Program, dict[int, list]] = {}

    def variable(self, own: Any) -> Value:
        """A value to be differentiated with respect to."""
        return Value(own, widen(own), self._next_id())

    def constant(self, own: Any) -> Value:
        """A value that no gradient flows to."""
        return Value(own, widen(own))

    def run(self, program: Program, inputs: Sequence[Any]) -> list[Any]:
        """The outputs of a program; its active steps go on the tape."""
        names: dict[Any, Any] = dict(zip(program.inputs, inputs, strict=True))
        for variable, value in program.constants:
            names[variable] = self.constant(to_numpy(value))
        if program not in self._last_uses:  # the program of a loop runs many times
            self._last_uses[program] = _last_uses(program)
        last = self._last_uses[program]

        def read(atom):
            return self.constant(atom.value) if isinstance(atom, Literal) else names[atom]

        for number, equation in enumerate(program.equations):
            outputs = self.evaluate(equation, [read(atom) for atom in equation.inputs])
            names.update(zip(equation.outputs, outputs, strict=True))
            for variable in last.get(number, ()):
                names.pop(variable, None)
        return [read(atom) for atom in program.outputs]

    def evaluate(self, equation: Equation, inputs: Sequence[Any]) -> Sequence[Any]:
        """The outputs of one equation."""
        if equation.name in self.structured:
            return self.structured[equation.name](self, equation, inputs)
        rule = self.rules.get(equation.name)
        if rule is None:
            raise UnsupportedPrimitive(
                f"`{equation.name}` at {equation.source} has no rule in funcbackprop.reference. "
                "The page 'Coverage of the reference' lists those that have one, and "
                "CONTRIBUTING.md says how to add a primitive."
            )
        return self.apply(equation, rule, inputs)

    def apply(self, equation: Equation, rule: Rule, inputs: Sequence[Value]) -> list[Value]:
        """Evaluate an equation by its rule and record it if a gradient flows through it."""
        own, wide, choice = self._outputs(equation, rule, inputs)
        return self.record(equation, rule, inputs, own, wide, choice)

    def part(
        self, equation: Equation, rule: Rule, inputs: Sequence[Value], **params
    ) -> list[Value]:
        """Apply a rule as one part of how a structured equation is evaluated."""
        step = Equation(f"{equation.name}:part", (), (), params, locate=lambda: equation.source)
        return self.apply(step, rule, inputs)

    def record(
        self,
        equation: Equation,
        rule: Rule,
        inputs: Sequence[Value],
        own: Sequence[Any],
        wide: Sequence[Any],
        choice: Any = None,
    ) -> list[Value]:
        """Outputs that were evaluated already, as values; a step if a gradient flows through."""
        active = tuple(v.id != INACTIVE for v in inputs)
        differentiable = any(active) and not rule.zero
        outputs = [
            Value(o, w, self._next_id() if differentiable and _is_floating(w) else INACTIVE)
            for o, w in zip(own, wide, strict=True)
        ]
        ids = tuple(v.id for v in outputs)
        if any(i != INACTIVE for i in ids):
            arrays = tuple(v.wide for v in inputs)
            local = Local(equation.params, arrays, tuple(wide), active, choice, equation.programs)
            step = Step(equation, rule, local, tuple(v.id for v in inputs), ids, self.where)
            self.steps.append(step)
        return outputs

    def take_over(self, equation: Equation, rule: Rule, inputs: Sequence[Value]) -> list[Value]:
        """As `apply`, with the program's own outputs for those in float64 too: bits and draws."""
        own = evaluate(equation, *(value.own for value in inputs))
        return self.record(equation, rule, inputs, own, tuple(map(widen, own)))

    @contextlib.contextmanager
    def inside(self, loop: str, iteration: int) -> Iterator[None]:
        """A context in which what is recorded belongs to this iteration."""
        outer, self.where = self.where, (*self.where, (loop, iteration))
        try:
            yield
        finally:
            self.where = outer

    def _outputs(self, equation, rule, inputs):
        """(own outputs, wide outputs, choice)."""
        own_in, wide_in = [v.own for v in inputs], [v.wide for v in inputs]
        widened = any(v.own is not v.wide for v in inputs)
        choice = None
        if rule.choose is not None:
            choice = _quiet(rule.choose, equation.params, *map(widen, own_in))
        own = _own(equation, rule, choice, own_in)
        if not widened and all(map(_is_wide, own)):
            return own, own, choice
        if widened and choice is not None:
            self._note(equation, choice, _quiet(rule.choose, equation.params, *wide_in))
        replayed = [not _is_floating(o) or (rule.zero and not rule.exact) for o in own]
        if all(replayed) and not widened:
            return own, tuple(map(widen, own)), choice
        wide = _wide(equation, rule, choice, own_in, wide_in, own)
        if widened:
            pairs = zip(own, wide, replayed, strict=True)
            pairs = [(widen(o), w) for o, w, r in pairs if r and not is_key(o)]
            self._note(equation, [o for o, _ in pairs], [w for _, w in pairs])
        taken = zip(own, wide, replayed, strict=True)
        return own, tuple(widen(o) if r else w for o, w, r in taken), choice

    def _note(self, equation, taken, otherwise):
        """Note where the decisions taken are not those of float64."""
        differing, total = 0, 0
        for a, b in zip(taken, otherwise, strict=True):
            unequal = np.asarray(a) != np.asarray(b)
            if np.asarray(a).dtype.kind in "fc":
                unequal &= ~(np.isnan(a) & np.isnan(b))
            differing, total = differing + int(np.sum(unequal)), total + unequal.size
        if differing:
            source = equation.source
            self.decisions.append(Decision(equation.name, source, self.where, differing, total))

    def _next_id(self) -> int:
        self._count += 1
        return self._count - 1


def _own(equation, rule, choice, inputs) -> tuple:
    """The outputs as the program has them.

    By the rule's forward form where it rounds as the program does: in float32 and float64, or where
    it rounds nothing. Otherwise by JAX, which knows what 16-bit arithmetic accumulates in.
    """
    arrays = rule.forward is not None and not any(map(is_key, inputs))
    if arrays and rule.exact:
        return _forward(equation, rule, choice, inputs)
    dtypes = [x.dtype for x in (*inputs, *equation.outputs) if wide_dtype(x.dtype) is not None]
    if arrays and dtypes and all(dtype in _NATIVE for dtype in dtypes):
        out = _forward(equation, rule, choice, inputs)
        return tuple(
            np.asarray(o).astype(variable.dtype, copy=False)
            for o, variable in zip(out, equation.outputs, strict=True)
        )
    return evaluate(equation, *inputs)


_NATIVE = (np.float32, np.float64, np.complex64, np.complex128)


def _wide(equation, rule, choice, own_in, wide_in, own) -> tuple:
    """The outputs in float64."""
    if rule.opaque:
        return tuple(map(widen, own))
    if rule.forward is not None and not any(map(is_key, own_in)):
        return _forward(equation, rule, choice, wide_in)
    if not any(map(_is_floating, wide_in)):
        return tuple(map(widen, own))
    return evaluate_wide(equation, *wide_in)


def _forward(equation, rule, choice, inputs) -> tuple:
    chosen = () if choice is None else (choice,)
    out = _quiet(rule.forward, equation.params, *chosen, *inputs)
    out = out if isinstance(out, tuple | list) else (out,)
    return tuple(np.asarray(o) if isinstance(o, np.generic) else o for o in out)


def _quiet(f, *arguments):
    """NaN and inf are results here, not mistakes."""
    with np.errstate(all="ignore"):
        return f(*arguments)


def _is_floating(x) -> bool:
    return wide_dtype(x.dtype) is not None


def _is_wide(x) -> bool:
    """Whether there is nothing to widen. (A NumPy dtype compares equal to None.)"""
    wide = wide_dtype(x.dtype)
    return wide is None or wide == x.dtype


def _last_uses(program: Program) -> dict[int, list]:
    """Number of an equation -> variables that nothing needs after it."""
    last: dict[Any, int] = {}
    for number, equation in enumerate(program.equations):
        for atom in (*equation.inputs, *equation.outputs):
            last[atom] = number
    for atom in program.outputs:
        last.pop(atom, None)
    ends: dict[int, list] = {}
    for atom, number in last.items():
        ends.setdefault(number, []).append(atom)
    return ends
