"""The words of a drawing: short texts for equations, values, types and places in the code."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .program import UNKNOWN, Atom, Equation, Literal, Program, Source, Variable

_LONGEST = 160  # characters of one parameter in the details

# Where the order of the operands does not matter, a literal among them needs no place.
_COMMUTATIVE = {"add", "add_any", "and", "eq", "max", "min", "mul", "ne", "or", "xor"}

# primitive -> (parameter that belongs to its name in a drawing, how it reads)
_TELLING = {
    "argmax": ("axes", "over {}"),
    "argmin": ("axes", "over {}"),
    "concatenate": ("dimension", "along {}"),
    "cumlogsumexp": ("axis", "along {}"),
    "cummax": ("axis", "along {}"),
    "cummin": ("axis", "along {}"),
    "cumprod": ("axis", "along {}"),
    "cumsum": ("axis", "along {}"),
    "integer_pow": ("y", "{}"),
    "iota": ("dimension", "along {}"),
    "reduce_and": ("axes", "over {}"),
    "reduce_max": ("axes", "over {}"),
    "reduce_min": ("axes", "over {}"),
    "reduce_or": ("axes", "over {}"),
    "reduce_prod": ("axes", "over {}"),
    "reduce_sum": ("axes", "over {}"),
    "rev": ("dimensions", "along {}"),
    "scan": ("length", "{} steps"),
    "sort": ("dimension", "along {}"),
    "split": ("axis", "along {}"),
    "transpose": ("permutation", "{}"),
}


def title(equation: Equation, scalars: Mapping[Variable, Literal]) -> str:
    """The primitive with its small literals and its most telling parameter.

    >>> import jax.numpy as jnp
    >>> from funcbackprop.graph import trace
    >>> program = trace(lambda x: jnp.sum(1 - 0.5 * x))(jnp.ones(3))
    >>> [title(equation, {}) for equation in program.equations]
    ['mul 0.5', 'sub 1.0, ·', 'reduce_sum over 0']
    """
    known = [scalars.get(x, x) if isinstance(x, Variable) else x for x in equation.inputs]
    texts = [value(x) if isinstance(x, Literal) and x.value.size == 1 else "·" for x in known]
    literals = [text for text in texts if text != "·"]
    words = [equation.name]
    if equation.called is not None and not equation.name.startswith("jax:"):
        words.append(equation.called.name)
    if literals and not equation.programs:  # those of a loop stand at its inputs
        words.append(", ".join(literals if equation.name in _COMMUTATIVE else texts))
    if equation.name in _TELLING:
        parameter, form = _TELLING[equation.name]
        found = equation.params.get(parameter)
        found = found if isinstance(found, tuple | list) else [found]
        if found and found != [None]:
            words.append(form.format(", ".join(map(str, found))))
    return " ".join(words)


def value(literal: Literal) -> str:
    """A literal of one element, with the digits that tell it from others."""
    number = literal.value.reshape(-1)[0] if literal.value.size == 1 else literal.value
    try:
        number = number.item()
    except (AttributeError, TypeError, ValueError):
        return _cut(str(number))
    if isinstance(number, float):
        text = f"{number:.5g}"
        return text if set(text) & set(".en") else f"{text}.0"
    return _cut(str(number))


def type_of(atom: Atom) -> str:
    return f"{atom.dtype}[{','.join(map(str, atom.shape))}]"


def types(variables: Sequence[Variable]) -> str:
    """The types of what an equation gives; of many, the first and how many more.

    >>> types([Variable((2, 3), "float32")] * 3)
    'float32[2,3] and 2 more'
    """
    if not variables:
        return ""
    more = f" and {len(variables) - 1} more" if len(variables) > 1 else ""
    return f"{variables[0]!r}{more}"


def params(equation: Equation) -> list[list[str]]:
    """[name, text] of every parameter that is set, without addresses in memory."""
    return [
        [str(name), _cut(re.sub(r" at 0x[0-9a-f]+", "", str(held)))]
        for name, held in equation.params.items()
        if held is not None
    ]


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def source(place: Source) -> dict[str, str]:
    """A place in the code, short for the drawing and in full for the details."""
    if place is UNKNOWN:
        return {}
    return {"source": short(place), "file": str(place)}


def short(place: Source) -> str:
    """The last two parts of the path, and the line.

    >>> short(Source("/home/ada/models/layers.py", 12, "dense"))
    'models/layers.py:12'
    """
    parts = re.split(r"[/\\]", place.file)
    return f"{'/'.join(parts[-2:])}:{place.line}"


def span(places: Sequence[Source]) -> dict[str, str]:
    """The lines of one file that equations come from, as `source` gives a single one.

    >>> span([Source("/home/ada/layers.py", 12, "f"), Source("/home/ada/layers.py", 15, "f")])
    {'source': 'ada/layers.py:12-15', 'file': '/home/ada/layers.py:12-15'}
    """
    low, high = min(p.line for p in places), max(p.line for p in places)
    end = f"-{high}" if high > low else ""
    first = places[0]._replace(line=low)
    return {"source": short(first) + end, "file": f"{first.file}:{low}{end}"}


def function(place: Source) -> str:
    """The function that a place belongs to; for a comprehension or a lambda, the one around it.

    >>> function(Source("f.py", 1, "attention.<locals>.<genexpr>"))
    'attention'
    """
    return re.sub(r"(\.<locals>\.<\w+>)+$", "", place.function)


def same_function(a: Source, b: Source) -> bool:
    return (a.file, function(a)) == (b.file, function(b))


def output_names(program: Program) -> list[str]:
    """`out`, with the path of each leaf if the program gives a tree.

    >>> import jax.numpy as jnp
    >>> from funcbackprop.graph import trace
    >>> output_names(trace(lambda x: {"a": x, "b": x})(jnp.ones(2)))
    ["out['a']", "out['b']"]
    """
    count = len(program.outputs)
    if program.out_tree is None:
        return ["out"] if count == 1 else [f"out {i}" for i in range(count)]
    from jax.tree_util import keystr, tree_flatten_with_path, tree_unflatten

    tree: Any = tree_unflatten(program.out_tree, range(count))
    return [f"out{keystr(path)}" for path, _ in tree_flatten_with_path(tree)[0]]
