"""A function as a program: equations in order, over variables.

program    inputs, constants, equations, outputs
equation   outputs = primitive(inputs; params), with the user's file and line
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class UnsupportedPrimitive(NotImplementedError):
    """An equation that cannot be followed; the text names it, its source and what to do."""


class Variable:
    """A value that is known when the program runs; compared by identity."""

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: Any):
        self.shape = shape
        self.dtype = dtype

    def __repr__(self):
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


class Literal:
    """A value that is written into the program."""

    __slots__ = ("value",)

    def __init__(self, value: np.ndarray):
        self.value = value

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def dtype(self) -> Any:
        return self.value.dtype

    def __repr__(self):
        return repr(self.value.tolist())


Atom = Variable | Literal


class Source(NamedTuple):
    """Where in the user's code an equation comes from."""

    file: str
    line: int
    function: str

    def __str__(self):
        return f"{self.file}:{self.line} ({self.function})"


UNKNOWN = Source("unknown", 0, "?")


class Call(NamedTuple):
    """What stands around an equation: a call that was flattened away (`kind` is jit, remat,
    custom_jvp, custom_vjp, ...), or the loop or branch whose program it belongs to."""

    kind: str
    name: str
    source: Source
    in_jax: bool  # whether the function that was called is JAX's own


@dataclasses.dataclass(frozen=True, eq=False)
class Equation:
    """`outputs = primitive(inputs; params)`.

    Attributes:
      name: of the primitive, as JAX calls it.
      inputs: variables and literals.
      outputs: variables.
      params: what else the primitive needs; its sub-programs are in `programs`.
      programs: parameter name -> `Program`, or a tuple of them (the branches of a `cond`).
      calls: the calls, loops and branches around it, outermost first.
      locate: gives the source; see `source`.
      primitive: what evaluates it, for `evaluate`.
    """

    name: str
    inputs: tuple[Atom, ...]
    outputs: tuple[Variable, ...]
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    programs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    calls: tuple[Call, ...] = ()
    locate: Callable[[], Source] = lambda: UNKNOWN
    primitive: Any = None

    @property
    def source(self) -> Source:
        """The user's line. Inside a function of JAX, the line that called it."""
        for call in self.calls:
            if call.in_jax and call.source is not UNKNOWN:
                return call.source
        around = (call.source for call in reversed(self.calls))
        return next((s for s in (self.locate(), *around) if s is not UNKNOWN), UNKNOWN)

    @property
    def inner(self) -> list[tuple[str, "Program"]]:
        """(parameter name, program) for every program inside; some may be absent from a tuple."""
        return [
            (name, program)
            for name, held in self.programs.items()
            for program in (held if isinstance(held, tuple) else (held,))
            if program is not None
        ]

    def __repr__(self):
        left = " ".join(map(repr, self.outputs))
        return f"{left} = {self.name} {' '.join(map(repr, self.inputs))}  # {self.source}"


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """Equations in the order in which they run.

    Attributes:
      inputs, outputs: variables (outputs may be literals).
      constants: (variable, value) pairs of what the function closed over.
      equations: in order; calls are flattened, control flow has programs of its own.
      in_tree, out_tree: how the inputs and outputs were grouped, of a traced function.
      names: of the inputs, as paths: `params['w']`.
    """

    inputs: tuple[Variable, ...]
    constants: tuple[tuple[Variable, Any], ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Atom, ...]
    in_tree: Any = None
    out_tree: Any = None
    names: tuple[str, ...] = ()

    def __str__(self):
        labels = _Labels()
        lines = [f"inputs: {', '.join(map(labels.typed, self.inputs))}"]
        if self.constants:
            constants = (labels.typed(variable) for variable, _ in self.constants)
            lines.append(f"constants: {', '.join(constants)}")
        lines += _lines(self, labels, indent="")
        return "\n".join([*lines, f"outputs: {' '.join(map(labels, self.outputs))}"])


class _Labels:
    """Short names for variables, in order of appearance."""

    def __init__(self):
        self._names: dict[Variable, str] = {}

    def __call__(self, atom: Atom) -> str:
        if isinstance(atom, Literal):
            return repr(atom)
        return self._names.setdefault(atom, f"v{len(self._names)}")

    def typed(self, atom: Atom) -> str:
        return f"{self(atom)}:{atom!r}"


def _lines(program: Program, labels: _Labels, indent: str):
    for equation in program.equations:
        left = " ".join(map(labels.typed, equation.outputs))
        right = " ".join(map(labels, equation.inputs))
        yield f"{indent}{left} = {equation.name} {right}  # {equation.source}"
        for name, inner in equation.inner:
            inputs = ", ".join(map(labels.typed, inner.inputs))
            yield f"{indent}  {name}({inputs}):"
            yield from _lines(inner, labels, indent + "    ")
            yield f"{indent}    -> {' '.join(map(labels, inner.outputs))}"
