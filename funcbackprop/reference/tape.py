"""The forward pass: a program evaluated in float64, and the tape of what was evaluated.

Every value is held twice: as the program has it, in its own dtype (`own`), and in float64 (`wide`).
Discrete decisions are taken on `own` and replayed on `wide`; where `wide` would have decided
otherwise, that is noted. Loops and branches run here, so the tape is one flat list of steps.
"""

import contextlib
import dataclasses
import operator
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
from . import decisions
from .decisions import Near
from .rounding import (
    NOT_FOLLOWED,
    Roundings,
    number_of_terms,
    precisions,
    product_bits,
    rounded,
    shaken,
)
from .rules.kinds import Local, Rule

INACTIVE = -1


class Value(NamedTuple):
    """A value on its way through the program.

    Attributes:
      own: as the program has it. Random keys stay JAX arrays, all else is NumPy.
      wide: in float64 or complex128; the same object as `own` where nothing is to be widened.
      id: number of its cotangent, or `INACTIVE` where no gradient flows.
      rough: of a float64 program that is to be bounded, the value of its shadow.
      near: of a decision that a parameter moves, what else could have been decided.
    """

    own: Any
    wide: Any
    id: int = INACTIVE
    rough: Any = None
    near: Near | None = None

    def detached(self) -> "Value":
        """The same value, with no gradient flowing to it."""
        return self._replace(id=INACTIVE)


class Step(NamedTuple):
    """One evaluated equation that a gradient flows through.

    Attributes:
      equation, rule: what was evaluated.
      local: where.
      inputs, outputs: numbers of the cotangents.
      where: loops around it, as (primitive, iteration) pairs, outermost first.
      rounding: how it rounds; nothing is known if bounds are not wanted.
      ties: `local` with exact ties broken to either side, where there are some.
    """

    equation: Equation
    rule: Rule
    local: Local
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    where: tuple[tuple[str, int], ...]
    rounding: Roundings = NOT_FOLLOWED
    ties: tuple[Local, Local] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """The steps of one call of a function that comes with a derivative rule of its own.

    Attributes:
      equation: the call.
      inputs, outputs: values.
      start, end: the steps are those numbers.
      where: loops around it.
    """

    equation: Equation
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    start: int
    end: int
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
      bounds: "" for no bounds, "own" to bound the rounding by the program's own values, "shadow"
        by a shadow that rounds more coarsely, for a program in float64.
      platform: where the program runs; it decides how operands of products are rounded.
      observe: called with each equation, its inputs and its outputs, as values.

    Attributes:
      steps: what was evaluated and a gradient flows through, in order.
      decisions: those that float64 would take otherwise.
      regions: calls of functions with derivative rules of their own.
      blocks: equation at which a gradient ends -> numbers of the cotangents that end there.
    """

    def __init__(
        self,
        rules: Mapping[str, Rule],
        structured: Mapping[str, Callable],
        bounds: str = "",
        platform: str = "cpu",
        observe: Callable | None = None,
    ):
        self.rules = rules
        self.structured = structured
        self.bounds = bounds
        self.observe = observe
        self.precisions = precisions(platform) if bounds else {}
        self.steps: list[Step] = []
        self.decisions: list[Decision] = []
        self.regions: list[Region] = []
        self.blocks: dict[Equation, set[int]] = {}
        self.where: tuple[tuple[str, int], ...] = ()
        self._count = 0
        self._last_uses: dict[Program, dict[int, list]] = {}

    def variable(self, own: Any) -> Value:
        """A value to be differentiated with respect to."""
        return self.constant(own)._replace(id=self._next_id())

    def constant(self, own: Any) -> Value:
        """A value that no gradient flows to."""
        rough = widen(own) if self.bounds == "shadow" and _is_floating(own) else None
        return Value(own, widen(own), rough=rough)

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

    def off_record(self, program: Program, inputs: Sequence[Value]) -> tuple[tuple, ...]:
        """Own, wide and shadow values that a program makes of the inputs; no step is recorded."""
        outputs = self.run(program, [value.detached() for value in inputs])
        return tuple(zip(*((v.own, v.wide, v.rough) for v in outputs), strict=True))

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
        rough = None
        if self.bounds == "shadow":
            rough = _shadow(equation, rule, choice, inputs, own, self._count)
        return self.record(equation, rule, inputs, own, wide, choice, rough)

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
        rough: Sequence[Any] | None = None,
    ) -> list[Value]:
        """Outputs that were evaluated already, as values; a step if a gradient flows through."""
        active = tuple(v.id != INACTIVE for v in inputs)
        differentiable = any(active) and not rule.zero
        ids = tuple(
            self._next_id() if differentiable and _is_floating(w) else INACTIVE for w in wide
        )
        if self.bounds == "shadow" and rough is None:
            rough = [shaken(o, self._count) if _is_floating(o) else None for o in own]
        outputs = [
            Value(*row) for row in zip(own, wide, ids, rough or [None] * len(ids), strict=True)
        ]
        if any(active) and all(i == INACTIVE for i in ids):
            ends = {v.id for v in inputs if v.id != INACTIVE}
            self.blocks.setdefault(equation, set()).update(ends)
        if self.observe is not None:
            self.observe(equation, inputs, outputs, self.where)
        near = self._near(equation, rule, inputs, own, choice) if self.bounds else None
        if rule.zero and near is not None:
            outputs = [v._replace(near=n) for v, n in zip(outputs, _for_each(near), strict=True)]
        if any(i != INACTIVE for i in ids):
            arrays = tuple(v.wide for v in inputs)
            local = Local(equation.params, arrays, tuple(wide), active, choice, equation.programs)
            step = Step(equation, rule, local, tuple(v.id for v in inputs), ids, self.where)
            if self.bounds:
                step = self._bounded(step, inputs, outputs, near)
            self.steps.append(step)
        return outputs

    def _near(self, equation, rule, inputs, own, choice) -> Near | None:
        """What else could have been decided by an equation."""
        if rule.choose is not None:
            decide = lambda *x: rule.choose(equation.params, *x)  # noqa: E731
            return decisions.near(decide, inputs, choice)
        discrete = rule.zero and not any(map(_is_floating, own))
        if not discrete or rule.forward is None or any(map(is_key, own)):
            return None
        decide = lambda *x: _forward(equation, rule, None, x)  # noqa: E731
        return decisions.near(decide, inputs, tuple(own))

    def _bounded(self, step: Step, inputs, outputs, near: Near | None) -> Step:
        """A step with what is known of its roundings and ties."""
        local, rule = step.local, step.rule
        flipped, *sides = (_variant(local, inputs, near, name) for name in Near._fields)
        sides = [_continuous(step, side) for side in sides]
        x, y = (tuple(map(_rough, values)) for values in (inputs, outputs))
        own = local._replace(x=x, y=y) if _differ(local, x, y) else None
        depends = own is not None and not (rule.exact or (rule.linear and not rule.operands))
        if flipped is not None:
            kept = zip(flipped.x, local.x, x, strict=True)
            flips = tuple(o if f is w else f for f, w, o in kept)
            own, depends = local._replace(x=flips, y=y, choice=flipped.choice), True
        bits = product_bits(step.equation, self.precisions)
        rounding = Roundings(
            tuple(v.own.dtype for v in inputs),
            number_of_terms(step.equation, rule, local.x, local.y),
            0.0 if bits is None else 2.0**-bits,
            own,
            self.bounds == "shadow",
            depends,
        )
        ties = tuple(local if side is None else side for side in sides)
        return step._replace(
            rounding=rounding, ties=ties if any(side is not None for side in sides) else None
        )

    def take_over(self, equation: Equation, rule: Rule, inputs: Sequence[Value]) -> list[Value]:
        """As `apply`, with the program's own outputs for those in float64 too: bits and draws."""
        own = evaluate(equation, *(value.own for value in inputs))
        return self.record(equation, rule, inputs, own, tuple(map(widen, own)))

    def note_region(self, equation: Equation, inputs, outputs, start: int) -> None:
        """Note that the steps since `start` are those of one call."""
        region = (equation, tuple(inputs), tuple(outputs), start, len(self.steps), self.where)
        self.regions.append(Region(*region))

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
        bits = product_bits(equation, self.precisions)
        if bits is not None:
            own_in = [rounded(x, bits) if x.dtype == np.float32 else x for x in own_in]
        own = _own(equation, rule, choice, own_in, self.bounds == "own")
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


def _rough(value: Value):
    """What the program itself has, or its shadow."""
    return value.own if value.rough is None else value.rough


def _shadow(equation, rule, choice, inputs, own, seed) -> list:
    """The outputs of the shadow of a float64 program; None for those that are not floating-point.

    Sums round relative to their terms, so it is their inputs that are shaken, too.
    """
    if rule.forward is None or rule.zero or any(is_key(v.own) for v in inputs):
        return [shaken(o, seed) if _is_floating(o) else None for o in own]
    x = [v.own if v.rough is None else v.rough for v in inputs]
    if not rule.exact:
        x = [shaken(a, seed + k) if _is_floating(a) else a for k, a in enumerate(x)]
    out = _forward(equation, rule, choice, x)
    if not rule.exact:
        out = [shaken(o, seed) for o in out]
    return [r if _is_floating(o) else None for r, o in zip(out, own, strict=True)]


def _differ(local, x, y) -> bool:
    """Whether the program has other values than float64."""
    pairs = zip((*x, *y), (*local.x, *local.y), strict=True)
    return any(a is not b and not np.array_equal(a, b) for a, b in pairs if not is_key(a))


def _variant(local: Local, inputs, near: Near | None, name: str) -> Local | None:
    """`local` with the decisions that `name` says, None if they are the same."""
    choice = None if near is None else getattr(near, name)
    others = [None if v.near is None else getattr(v.near, name) for v in inputs]
    if choice is None and all(x is None for x in others):
        return None
    x = tuple(v if o is None else o for v, o in zip(local.x, others, strict=True))
    return local._replace(x=x, choice=local.choice if choice is None else choice)


def _continuous(step: Step, side: Local | None) -> Local | None:
    """`side` where it gives the value that the step has: at a kink, not at a jump or a guard."""
    forward = step.rule.forward
    if side is None or forward is None or all(map(operator.is_, side.x, step.local.x)):
        return side
    (y,) = step.local.y
    with np.errstate(all="ignore"):
        same = np.abs(forward(side.p, *side.x) - y) <= 1e-12 * np.max(np.abs(y), initial=0.0)
    if step.equation.name != "select_n":
        return side if np.all(same) else None
    which = np.where(same, side.x[0], step.local.x[0])
    unchanged = np.array_equal(which, step.local.x[0])
    return None if unchanged else side._replace(x=(which, *side.x[1:]))


def _for_each(near: Near) -> list[Near]:
    """The alternatives of an equation's outputs, output by output."""
    count = max(len(x) for x in near if x is not None)
    return [Near(*(None if x is None else x[k] for x in near)) for k in range(count)]


def _own(equation, rule, choice, inputs, as_jax) -> tuple:
    """The outputs as the program has them.

    By the rule's forward form where it rounds as the program does: in float32 and float64, or where
    it rounds nothing. Otherwise by JAX, which knows what 16-bit arithmetic accumulates in.

    Args:
      as_jax: whether the rounding matters, so that JAX evaluates all that is not rounded correctly:
        sums, whose order it chooses, and functions, which it approximates.
    """
    if as_jax and not (rule.exact or equation.name in _CORRECTLY_ROUNDED or not equation.primitive):
        return evaluate(equation, *inputs)
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


# What IEEE arithmetic rounds correctly, or does not round.
_CORRECTLY_ROUNDED = {
    *("add", "add_any", "sub", "mul", "div", "neg", "sqrt", "abs", "max", "min", "sign", "clamp"),
    *("square", "select_n", "convert_element_type", "real", "imag", "complex", "conj", "copy"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "xor", "iota", "is_finite"),
}
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
