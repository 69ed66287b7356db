"""The equations that lose digits, and marks for a graph."""

from collections.abc import Mapping, Sequence

from ..graph import Annotation, Equation
from ..tables import number, percent
from .audit import Audit, Node
from .result import LEVELS, LeafCheck

# A relative error that grows by less is ordinary.
_GROWTH = 10


def digits(audit: Audit, k: int, resolution: float | None) -> tuple[str, Equation | None]:
    """Which equation loses the digits of leaf k, in which dtype."""
    bit = 1 << k
    on_the_way = [
        loss for loss in audit.losses if loss.factor > _GROWTH and audit.passes(loss, bit)
    ]
    dtype = _dtype(audit, k)
    limit = f"rounding in {dtype} would hide a change of {percent(resolution)}"
    if not on_the_way:
        return f"{limit}; it adds up over the whole program", None
    worst = max(on_the_way, key=lambda loss: loss.factor)
    equation = worst.equation
    return (
        f"{limit}: {worst.what} `{equation.name}` at {equation.source} cancel, and the relative "
        f"error grows {number(worst.factor, 2)} times, to {number(worst.error * audit.scale, 2)}",
        equation,
    )


def _dtype(audit: Audit, k: int) -> str:
    """The narrowest dtype on the way to leaf k."""
    bit = 1 << k
    units = {}
    for step in audit.tape.steps:
        if audit.bits(step) & bit:
            rounding = step.rounding
            for j, dtype in enumerate(rounding.dtypes):
                if rounding.unit(j) > 0:
                    units[getattr(dtype, "name", str(dtype))] = rounding.unit(j)
    return max(units, key=lambda name: units[name]) if units else "its dtype"


def annotations(
    audit: Audit, leaves: Sequence[LeafCheck], equations: Sequence[Equation | None]
) -> Mapping[str, Annotation]:
    """Node key -> `Annotation`: sizes at each equation, verdicts at inputs and where they arose.

    Args:
      equations: for each leaf, what its reason is about.
    """
    program = audit.program
    keys = program.keys()
    marks = {keys[e]: _sizes(node) for e, node in audit.nodes.items() if e in keys}
    named = [(e, x) for e, x in zip(equations, leaves, strict=True) if e in keys]
    for e, leaf in sorted(named, key=lambda pair: list(LEVELS).index(pair[1].verdict))[::-1]:
        sizes = marks.get(keys[e], Annotation())
        said = f"{leaf.verdict}: {leaf.reason}. {sizes.text}"
        marks[keys[e]] = sizes._replace(text=said, level=LEVELS[leaf.verdict])
    for variable, leaf in zip(program.inputs, leaves, strict=False):
        text = leaf.verdict if leaf.reason is None else f"{leaf.verdict}: {leaf.reason}"
        marks[keys[variable]] = Annotation(text, LEVELS[leaf.verdict])
    return marks


def _sizes(node: Node) -> Annotation:
    times = f"; largest of {node.times} evaluations" if node.times > 1 else ""
    return Annotation(
        f"value {number(node.forward)}, cotangent {number(node.cotangent)} (root mean squares), "
        f"relative rounding {number(node.rounding, 2)}{times}",
        size=node.cotangent,
    )
