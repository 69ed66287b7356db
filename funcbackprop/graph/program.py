"""A function as a program: equations in order, over variables.

program    inputs, constants, equations, outputs
equation   outputs = primitive(inputs; params), with the user's file and line
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from .drawing import Annotation


class UnsupportedPrimitive(NotImplementedError):
    """An equation that cannot be followed; the text names it, its source and what to do."""


class Variable:
    """A value that is known when the program runs, of this `shape` and `dtype`; compared by
    identity."""

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: Any):
        self.shape = shape
        self.dtype = dtype

    def __repr__(self):
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


class Literal:
    """A value, a NumPy array, that is written into the program."""

    __slots__ = ("value",)

    def __init__(self, value: np.ndarray):
        self.value = value

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the value."""
        return self.value.shape

    @property
    def dtype(self) -> Any:
        """Of the value."""
        return self.value.dtype

    def __repr__(self):
        return repr(self.value.tolist())


Atom = Variable | Literal


class Source(NamedTuple):
    """Where in the user's code an equation comes from: file, line, and function around it."""

    file: str
    line: int
    function: str

    def __str__(self):
        return f"{self.file}:{self.line} ({self.function})"


UNKNOWN = Source("unknown", 0, "?")


class Call(NamedTuple):
    """What stands around an equation: a call that was flattened away (`kind` is jit, remat,
    custom_jvp, custom_vjp, ...), or the loop or branch whose program it belongs to.

    Attributes:
      kind: of call, or the primitive of the loop or branch.
      name: of the function that is called, or of the parameter that holds the program.
      source: the line of the call.
      in_jax: whether the function that was called is JAX's own.
    """

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
      called: of a call that stays an equation, what is called.
    """

    name: str
    inputs: tuple[Atom, ...]
    outputs: tuple[Variable, ...]
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    programs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    calls: tuple[Call, ...] = ()
    locate: Callable[[], Source] = lambda: UNKNOWN
    primitive: Any = None
    called: Call | None = None

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
      names: of the inputs, as paths in the arguments: `[0]['w']`.
    """

    inputs: tuple[Variable, ...]
    constants: tuple[tuple[Variable, Any], ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Atom, ...]
    in_tree: Any = None
    out_tree: Any = None
    names: tuple[str, ...] = ()

    def everything(self) -> Iterator[Equation]:
        """All equations, those of the programs inside equations too."""
        for equation in self.equations:
            yield equation
            for _, program in equation.inner:
                yield from program.everything()

    def __str__(self):
        labels = _Labels()
        lines = [f"inputs: {', '.join(map(labels.typed, self.inputs))}"]
        if self.constants:
            constants = (labels.typed(variable) for variable, _ in self.constants)
            lines.append(f"constants: {', '.join(constants)}")
        lines += _lines(self, labels, indent="")
        return "\n".join([*lines, f"outputs: {' '.join(map(labels, self.outputs))}"])

    def keys(self) -> "dict[Equation | Variable, str]":
        """The name of every equation and input, also of the programs inside, in a drawing.

        An input has its path, or `in0`, `in1`, ... where it has none; an equation its number and
        primitive; what is inside an equation stands behind a slash.

        >>> import jax, jax.numpy as jnp
        >>> from funcbackprop.graph import trace
        >>> f = trace(lambda p, x: jax.lax.scan(lambda c, t: (c * t, None), p["w"], x)[0])
        >>> list(f({"w": 1.0}, jnp.ones(3)).keys().values())[:4]
        ["[0]['w']", '[1]', '0:scan', '0:scan/jaxpr/in0']
        """
        from .drawing import keys

        return keys(self)

    def to_mermaid(self) -> str:
        """The program as a flowchart in Mermaid, which many editors and code hosts draw.

        One node for each input, constant, equation (primitive, type of its output, source) and
        output; subgraphs for calls, for the functions that equations come from, and for programs
        inside equations. Mermaid draws up to 500 edges and 50,000 characters unless configured
        otherwise (`maxEdges`, `maxTextSize`); `to_html` has no such limit.

        >>> import jax.numpy as jnp
        >>> from funcbackprop.graph import trace
        >>> print(trace(jnp.tanh)(1.0).to_mermaid().splitlines()[1].strip())
        n0(["[0]<br>float32[]"]):::input
        """
        from .mermaid import mermaid

        return mermaid(self)

    def to_html(
        self,
        annotations: "Mapping[str, Annotation] | None" = None,
        title: str = "Computational graph",
    ) -> str:
        """The program as one page of HTML that needs no network: a graph to move around in.

        Calls, functions, loops and branches open and close; a node shows its primitive, types and
        source, and its details when it is chosen.

        Args:
          annotations: key of an equation or input (see `keys`) -> `Annotation`: a text, a verdict
            and a number to show there.
          title: heading of the page.

        Raises:
          ValueError: an unknown key or level; the text says what they look like.
          TypeError: a value that is not an `Annotation`.

        >>> import jax.numpy as jnp
        >>> from funcbackprop.graph import Annotation, trace
        >>> program = trace(lambda w, x: jnp.tanh(w * x))(1.0, 2.0)
        >>> page = program.to_html({"1:tanh": Annotation("saturated", "note", 1e-7)})
        >>> page.startswith("<!DOCTYPE html>"), "saturated" in page
        (True, True)
        """
        from .page import page

        return page(self, annotations, title)


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
