"""What a drawing of a program shows: nodes, edges and groups, as plain data."""

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import wording
from .evaluate import is_key
from .program import UNKNOWN, Atom, Call, Equation, Literal, Program, Source, Variable
from .wiring import Part, wiring

LEVELS = ("good", "note", "bad", "unknown", "")

# An argument with more leaves than this is taken for parameters, which are drawn beside the
# equations that use them; with fewer, for data, which a reader looks for outside of all groups.
_FEW_LEAVES = 3


class Annotation(NamedTuple):
    """What somebody found out about an equation or an input, to be shown in its drawing.

    Attributes:
      text: shown in the details of the node and when the pointer rests on it.
      level: verdict, shown as colour and mark: "good", "note", "bad", "unknown", or "" for none.
      size: a number, such as the root mean square of the cotangent that reaches the node: shown
        in the node, and as width and colour of the edges that leave it, on a logarithmic scale.
    """

    text: str = ""
    level: str = ""
    size: float | None = None


def keys(program: Program) -> dict[Equation | Variable, str]:
    """The name of every equation and input in a drawing; see `Program.keys`."""
    return dict(_keys(program, ""))


def _keys(program: Program, prefix: str) -> Iterator[tuple[Equation | Variable, str]]:
    for i, variable in enumerate(program.inputs):
        yield variable, prefix + (program.names[i] if program.names else f"in{i}")
    for i, equation in enumerate(program.equations):
        key = f"{prefix}{i}:{equation.name}"
        yield equation, key
        for name, held in equation.programs.items():
            if isinstance(held, Program):
                yield from _keys(held, f"{key}/{name}/")
            else:
                for j, inner in enumerate(held):
                    if inner is not None:
                        yield from _keys(inner, f"{key}/{name}[{j}]/")


def drawing(
    program: Program, annotations: Mapping[str, Annotation] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """The nodes, edges and groups of a program, fit for JSON; fields without content are absent.

    Returns:
      nodes: inputs, constants, equations and outputs: `id` ("n3"), `kind`, `title`, `group` (the
        id of the innermost group around it), and for the details `key`, `name`, `role`, `type`,
        `source`, `file`, `params`, `inputs`, `outputs`, `calls`, `text`, `level`, `size`,
        `size_text`; `within`: a node that stands for this one too.
      edges: `from` and `to` (ids of nodes), `type`, `size`.
      groups: `id` ("g3"), `kind` (jit, scan, function, ...), `title`, `group`; an equation with
        programs inside is a group, with the fields of a node.
    """
    names = keys(program)
    given = _checked(annotations or {}, set(names.values()))
    drawn = _Drawing(names, given)
    drawn.whole(program)
    return {"nodes": drawn.nodes, "edges": drawn.edges, "groups": drawn.groups}


def _checked(annotations, known: set[str]) -> dict[str, dict[str, Any]]:
    """Key -> the fields that an annotation adds to a node."""
    fields = {}
    for key, annotation in annotations.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 3, cutoff=0.0)
            raise ValueError(
                f"`to_html`: `annotations` has the key {key!r}, but the program has no such "
                f"equation or input. Keys look like {', '.join(map(repr, close))}; "
                "`Program.keys()` gives them all"
            )
        if not isinstance(annotation, Annotation):
            raise TypeError(
                f"`to_html`: `annotations[{key!r}]` must be an `Annotation`, "
                f"got {type(annotation).__name__}: Annotation(text, level, size)"
            )
        if annotation.level not in LEVELS:
            raise ValueError(
                f"`to_html`: `annotations[{key!r}]` has the level {annotation.level!r}; "
                f"expected one of {', '.join(map(repr, LEVELS))}"
            )
        fields[key] = _filled(text=str(annotation.text), level=annotation.level)
        if annotation.size is not None:
            size = float(annotation.size)
            fields[key]["size_text"] = f"{size:.2g}"
            # JSON has no NaN and no infinity
            fields[key]["size"] = size if math.isfinite(size) else str(size)
    return fields


def _filled(**fields):
    return {name: value for name, value in fields.items() if value not in ("", None, [], ())}


class _Drawing:
    """Collects nodes, edges and groups, outer programs first."""

    def __init__(self, names, annotations):
        self.names = names
        self.annotations = annotations
        self.nodes: list[dict[str, Any]] = []
        self.edges: list[dict[str, Any]] = []
        self.groups: list[dict[str, Any]] = []
        self.ends: dict[Variable, list[str]] = {}  # the nodes at which the edges of a value start
        self.sizes: dict[Variable, Any] = {}
        self.scalars: dict[Variable, Literal] = {}  # constants that are shown like literals
        self.paths: dict[Atom, str] = {}  # the names of the inputs of the whole program
        self.movable: list[dict[str, Any]] = []  # nodes that may be drawn beside what uses them

    def whole(self, program: Program) -> None:
        leaves = [name[: name.find("]") + 1] for name in program.names]
        for i, variable in enumerate(program.inputs):
            key = self.names[variable]
            self.paths[variable] = key
            node = self.input(variable, key, "")
            if program.names and leaves.count(leaves[i]) > _FEW_LEAVES:
                self.movable.append(node)
        self.body(program, 0, "")
        outputs = wording.output_names(program)
        for name, atom in zip(outputs, program.outputs, strict=True):
            self.output(atom, name, "")
        self._move_to_users()

    def body(self, program: Program, depth: int, group: str) -> None:
        """The constants and equations of a program; `depth` calls stand around all of them."""
        for i, (variable, value) in enumerate(program.constants):
            if variable.shape == () and hasattr(value, "dtype") and not is_key(value):
                self.scalars[variable] = Literal(np.asarray(value))
                continue
            node = self.node("constant", f"constant {i}", group, type=repr(variable))
            self.ends[variable] = [node["id"]]
            self.movable.append(node)
        self.arrange(program.equations, depth, group)

    def arrange(self, equations: Sequence[Equation], depth: int, group: str) -> None:
        """Equations in the groups of the functions and calls that they come from."""
        runs = _runs(_items(equations, depth))
        for run in runs:
            inside = group
            several = sum(len(item.equations) for item in run) > 2
            if len(runs) > 1 and several and not (len(run) == 1 and run[0].call):
                inside = self.function(run, group)
            for item in run:
                if item.call is None:
                    self.equation(item.equations[0], inside)
                else:
                    self.call(item.equations, depth, inside)

    def function(self, run, group: str) -> str:
        places = [item.source for item in run]
        title = wording.function(places[0]).rpartition(".")[2]
        return self.group("function", title, group, **wording.span(places))

    def call(self, equations: Sequence[Equation], depth: int, group: str) -> None:
        """A group for a call; for several with the same equations, one."""
        first, last = equations[0].calls, equations[-1].calls
        end = depth + 1
        while end < min(len(first), len(last)) and first[end] is last[end]:
            end += 1
        chain = first[depth:end]
        # A function of JAX that is one equation is no more than that equation.
        if len(equations) > 1 or not all(call.in_jax for call in chain):
            titles = list(dict.fromkeys(call.name for call in chain))
            kinds = list(dict.fromkeys(call.kind for call in chain))
            source = next((call.source for call in chain if call.source is not UNKNOWN), UNKNOWN)
            group = self.group(
                ", ".join(kinds), " / ".join(titles), group, **wording.source(source)
            )
        self.arrange(equations, end, group)

    def equation(self, equation: Equation, group: str) -> None:
        details = self.details(equation)
        self.sizes |= dict.fromkeys(equation.outputs, details.get("size"))
        parts = wiring(equation)
        title = wording.title(equation, self.scalars)
        if parts:
            self.wired(equation, parts, self.group(equation.name, title, group, **details))
            return
        if equation.inner:  # a small program, such as how two numbers are reduced to one
            group = self.group(equation.name, title, group, **details)
        node = self.node("equation", title, group, **details)
        for atom in equation.inputs:
            self.edge(atom, node["id"])
        self.ends |= {variable: [node["id"]] for variable in equation.outputs}
        for name, program in equation.inner:
            inner = self.group("program", name, group)
            for variable in program.inputs:
                self.input(variable, "", inner)
            self.body(program, len(equation.calls) + 1, inner)
            for i, atom in enumerate(program.outputs):
                self.output(atom, f"out {i}", inner)

    def wired(self, equation: Equation, parts: Sequence[Part], group: str) -> None:
        """Programs through which the values of the equation flow, one for one."""
        for part in parts:
            inside = self.group("program", part.title, group) if part.title else group
            if part.program is None:
                self.port(part, inside)
                continue
            for variable, atom, role in zip(
                part.program.inputs, part.inputs, part.roles, strict=True
            ):
                self.passed(variable, atom, role, inside)
            self.body(part.program, len(equation.calls) + 1, inside)
            results = zip(part.program.outputs, part.outputs, part.results, strict=True)
            for atom, variable, role in results:
                node = self.output(atom, role, inside)
                if variable is not None:
                    self.ends.setdefault(variable, []).append(node["id"])

    def passed(self, variable: Variable, atom: Atom, role: str, group: str) -> None:
        """An input of an inner program; one that never changes goes by the name it has outside."""
        changes = role.startswith("carry")
        path = None if changes else self.paths.get(atom)
        node = self.input(variable, path or self._named(role, atom), group, role=role)
        self.edge(atom, node["id"])
        if not changes:
            self.movable.append(node)
        if path is not None:
            self.paths[variable] = path

    def port(self, part: Part, group: str) -> None:
        """A value that goes into an equation but into none of its programs."""
        (atom,), (role,) = part.inputs, part.roles
        node = self.node("port", self._named(role, atom), group, type=repr(atom))
        self.edge(atom, node["id"])

    def _named(self, role: str, atom: Atom) -> str:
        literal = self.scalars.get(atom, atom) if isinstance(atom, Variable) else atom
        if isinstance(literal, Literal):
            return f"{role} = {wording.value(literal)}" if literal.value.size == 1 else role
        if literal in self.paths:
            return f"{role}: {self.paths[literal]}"
        return role

    def input(self, variable: Variable, title: str, group: str, **details) -> dict[str, Any]:
        key = self.names[variable]
        found = self.annotations.get(key, {})
        details |= {"key": key, "type": repr(variable), **found}
        node = self.node("input", title or key, group, **details)
        self.ends[variable] = [node["id"]]
        self.sizes[variable] = found.get("size")
        return node

    def output(self, atom: Atom, title: str, group: str) -> dict[str, Any]:
        node = self.node("output", self._named(title, atom), group, type=wording.type_of(atom))
        self.edge(atom, node["id"])
        return node

    def details(self, equation: Equation) -> dict[str, Any]:
        key = self.names[equation]
        return {
            "key": key,
            "name": equation.name,
            "type": wording.types(equation.outputs),
            **wording.source(equation.source),
            "params": wording.params(equation),
            "inputs": [self._operand(atom) for atom in equation.inputs],
            "outputs": [repr(variable) for variable in equation.outputs],
            "calls": [f"{call.kind} {call.name}" for call in equation.calls],
            **self.annotations.get(key, {}),
        }

    def _operand(self, atom: Atom) -> str:
        literal = self.scalars.get(atom, atom) if isinstance(atom, Variable) else atom
        if isinstance(literal, Literal):
            return f"{wording.value(literal)}: {wording.type_of(literal)}"
        return repr(atom)

    def node(self, kind: str, title: str, group: str, **details) -> dict[str, Any]:
        node = {"id": f"n{len(self.nodes)}", "kind": kind, "title": title}
        self.nodes.append(node | {"group": group} | _filled(**details))
        return self.nodes[-1]

    def group(self, kind: str, title: str, group: str, **details) -> str:
        name = f"g{len(self.groups)}"
        fields = {"id": name, "kind": kind, "title": title, "group": group}
        self.groups.append(fields | _filled(**details))
        return name

    def edge(self, atom: Atom, to: str) -> None:
        if isinstance(atom, Literal) or atom in self.scalars:
            return
        for start in self.ends[atom]:
            edge = {"from": start, "to": to, "type": repr(atom)}
            self.edges.append(edge | _filled(size=self.sizes.get(atom)))

    def _move_to_users(self) -> None:
        """Parameters and constants into the innermost group around all that uses them."""
        parents = {group["id"]: group["group"] for group in self.groups}
        nodes = {node["id"]: node for node in self.nodes}
        users: dict[str, list[str]] = {}
        for edge in self.edges:
            users.setdefault(edge["from"], []).append(edge["to"])

        def around(group: str) -> list[str]:  # outermost first
            return [*around(parents[group]), group] if group else [""]

        for node in reversed(self.movable):  # those of inner programs first: others follow them
            paths = [around(nodes[user]["group"]) for user in users.get(node["id"], [])]
            if paths:
                common = [level[0] for level in zip(*paths, strict=False) if len({*level}) == 1]
                node["group"] = common[-1]
            if len(paths) == 1 and node["kind"] == "input":
                (user,) = users[node["id"]]
                if nodes[user]["kind"] == "input":  # what a loop hands on to its program
                    node["within"] = user


class _Item(NamedTuple):
    """An equation, or the equations of one call, and where in the code it stands."""

    call: Call | None
    source: Source
    equations: list[Equation]


def _items(equations: Sequence[Equation], depth: int) -> list[_Item]:
    items: list[_Item] = []
    for equation in equations:
        call = equation.calls[depth] if len(equation.calls) > depth else None
        if call is not None and items and items[-1].call is call:
            items[-1].equations.append(equation)
        else:
            known = call is not None and call.source is not UNKNOWN
            source = call.source if call is not None and known else equation.source
            items.append(_Item(call, source, [equation]))
    return items


def _runs(items: Sequence[_Item]) -> list[list[_Item]]:
    """Neighbours from one function. A return to the line at which it began is a call anew."""
    runs: list[list[_Item]] = []
    for item in items:
        if runs:
            first, last = runs[-1][0].source, runs[-1][-1].source
            again = item.source.line == first.line != last.line
            if wording.same_function(item.source, first) and not again:
                runs[-1].append(item)
                continue
        runs.append([item])
    return runs
