"""Parameters followed through a program; the rule for each primitive is in `follow_rules`."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import axes as ax
from .axes import Axis
from .program import Equation, Literal, Program, Variable


class Use(NamedTuple):
    """One place where a parameter leaf meets a value.

    Attributes:
      leaf: which, in the order of `jax.tree.leaves(params)`.
      kind: "matrix", "kernel" or "lookup", which make units of their own; "beside", combined entry
        by entry with the outputs of another (a bias, a gain); "other", anything else.
      reads: the uses (positions in `Network.uses`) whose outputs come in; no other between.
      source: whose units are its inputs, or carry it if it stands beside: `("data", k)`, the k-th
        leaf of the other arguments, or `("use", k)`. None if that cannot be told, or for one
        input unit.
      source_shape: of these units.
      sources, targets: number of the input unit, and of the output unit, of each entry of the leaf;
        arrays that broadcast against it, None where they cannot be told. Of one that stands beside,
        `sources` is the unit it belongs to. Units are numbered in row-major order.
      shape: of its own units; () is one unit.
      loop: the innermost one that takes the leaf slice by slice along its first axis, or None.
      values: [units], what enters along each input unit; None where a unit has several values.
    """

    leaf: int
    kind: str
    reads: frozenset[int]
    source: tuple[str, int] | None = None
    source_shape: tuple[int, ...] = ()
    sources: np.ndarray | None = None
    targets: np.ndarray | None = None
    shape: tuple[int, ...] = ()
    loop: Equation | None = None
    values: np.ndarray | None = None


class Tag(NamedTuple):
    """What is known of a value.

    A parameter has `leaves`, those it is made of, the one that its axes are of in front; what
    depends on data, or has met a parameter, is `live`; a constant is neither.
    """

    axes: tuple[Axis, ...]
    leaves: tuple[int, ...] = ()
    live: bool = False
    reads: frozenset[int] = frozenset()
    loop: Equation | None = None

    @property
    def is_parameter(self) -> bool:
        return bool(self.leaves) and not self.live


class Product(NamedTuple):
    """A parameter times a value, entry by entry, which a sum may make a layer of."""

    use: int
    parameter: Tag
    value: Tag
    operand: Any


class Follow:
    """Goes through a program once, and collects uses."""

    def __init__(self, program: Program, count: int, rules: Mapping[str, Callable], unknown):
        self.rules, self.unknown = rules, unknown
        self.found: list[Use] = []
        self.keys: dict[Any, int] = {}
        self.operands: dict[int, tuple[Variable, np.ndarray]] = {}
        self.products: dict[Any, Product] = {}
        self.shapes: dict[Any, tuple[int, ...]] = {}
        self.arguments: list[Tag] = []
        for k, variable in enumerate(program.inputs):
            source = ("leaf", k) if k < count else ("data", k - count)
            self.shapes[source] = variable.shape
            axes = ax.whole(source, variable.shape)
            self.arguments.append(Tag(axes, leaves=(k,)) if k < count else Tag(axes, live=True))

    def run(self, program: Program, arguments: Sequence[Tag]) -> list[Tag]:
        known: dict[Any, Tag] = dict(zip(program.inputs, arguments, strict=True))
        known.update((v, Tag(ax.nobody(v.shape))) for v, _ in program.constants)

        def read(atom) -> Tag:
            return Tag(ax.nobody(atom.shape)) if isinstance(atom, Literal) else known[atom]

        for equation in program.equations:
            rule = self.rules.get(equation.name, self.unknown)
            tags = rule(self, equation, [read(a) for a in equation.inputs])
            known.update(zip(equation.outputs, tags, strict=True))
        return [read(a) for a in program.outputs]

    def use(self, equation: Equation, nth: int, use: Use) -> int:
        """The position of a use; a loop comes to it more than once."""
        key = (equation, use.leaf, nth)
        if key not in self.keys:
            self.keys[key] = len(self.found)
            self.found.append(use)
        k = self.keys[key]
        self.found[k] = use._replace(reads=use.reads | self.found[k].reads)
        return k

    def layer(
        self,
        equation: Equation,
        kind: str,
        parameter: Tag,
        value: Tag,
        inner: Sequence[tuple[int, int]],
        outer: Sequence[int],
        arrange: Callable | None = None,
        at: int | None = None,
    ) -> tuple[int, Callable[[Axis], Axis]]:
        """A use that makes units.

        Args:
          inner: pairs of axes, of parameter and value, that face each other.
          outer: the parameter's axes that stay.
          arrange: makes of the unit numbers along the inner axes such along outer and inner axes.
          at: the use that becomes the layer; None makes one.

        Returns:
          Its position, and what axes of the parameter are among those of its units.
        """
        first, *others = parameter.leaves
        leaf, shape = ("leaf", first), self.shapes["leaf", first]
        stays = [parameter.axes[k] for k in outer]
        over = ax.axes_of(stays, leaf)
        told = (
            ax.covered(stays, leaf, shape, over)
            and {a.source for axis in stays for a in axis} <= {leaf}
        )  # fmt: skip
        facing = [parameter.axes[k] for k, _ in inner]
        use = self._facing(first, kind, parameter, value, [value.axes[k] for _, k in inner],
                           facing if arrange is None else [*stays, *facing], arrange)  # fmt: skip
        units = tuple(shape[k] for k in over)
        if told:
            use = use._replace(targets=_numbers(shape, over), shape=units)
        if kind == "lookup":
            rest = [k for k in range(len(shape)) if k not in over]
            entries = tuple(shape[k] for k in rest)
            use = use._replace(sources=_numbers(shape, rest), source_shape=entries)
        if at is None:
            at = self.use(equation, 0, use)
        else:
            self.found[at] = use
        self.shapes["use", at] = units
        for nth, other in enumerate(others):
            self.use(equation, 1 + nth, Use(other, "other", value.reads, loop=parameter.loop))
        places = {k: j for j, k in enumerate(over)} if told else {}
        return at, lambda axis: ax.mapped(axis, leaf, ("use", at), places)

    def remember(self, at: int, operand: Any, value: Tag) -> None:
        """Where the value of each input unit of a layer stands, if it is one number."""
        source = self.found[at].source
        if source is None or any(a.source != source for axis in value.axes for a in axis):
            return
        grid = ax.unit_grid(value.axes, source, self.shapes[source])
        if grid is not None:
            self.operands[at] = operand, np.broadcast_to(grid, operand.shape)

    def meets(self, equation: Equation, parameters: Sequence[Tag], value: Tag, kind: str) -> Tag:
        """The value after parameters were combined with it: "beside" it, entry by entry, or in
        another way."""
        for nth, parameter in enumerate(parameters):
            first, *others = parameter.leaves
            use = Use(first, kind, value.reads, loop=parameter.loop)
            if kind == "beside" and len(parameter.axes) == len(value.axes):
                use = self._facing(first, kind, parameter, value, value.axes, parameter.axes)
            read = [self.use(equation, 10 * nth, use)]
            for j, other in enumerate(others):
                more = Use(other, "other", value.reads, loop=parameter.loop)
                read.append(self.use(equation, 10 * nth + 1 + j, more))
            value = value._replace(reads=frozenset(read), live=True)
        return value

    def _facing(self, leaf, kind, parameter, value, sides, across, arrange=None) -> Use:
        """A use with the units of `value` along `sides`, which face axes `across` of the leaf."""
        use = Use(leaf, kind, value.reads, loop=parameter.loop)
        sources = {atom.source for atom in ax.named(sides)}
        sizes = self.shapes["leaf", leaf]
        if not any(sides) and not any(across) and (kind != "beside" or math.prod(sizes) == 1):
            return use._replace(sources=np.zeros([1] * len(sizes), int))  # one unit, of anything
        if len(sources) != 1 or ax.MIXED in sources:
            return use
        (source,) = sources
        shape = self.shapes[source]
        if source[0] == "use" and not ax.covered(sides, source, shape, range(len(shape))):
            return use  # some units only, or one axis of several
        grid: Any = ax.unit_grid(sides, source, shape)
        found = ax.scattered(
            grid if arrange is None else arrange(grid),
            across,
            ("leaf", leaf),
            sizes,
        )
        over = ax.axes_of(sides, source)
        return use._replace(
            source=source, source_shape=tuple(shape[k] for k in over), sources=found
        )


def _numbers(shape, over) -> np.ndarray:
    """Numbers of the units over some axes of a leaf, to broadcast against it."""
    sizes = [n if k in over else 1 for k, n in enumerate(shape)]
    return np.arange(math.prod(sizes)).reshape(sizes)
