"""Where the parameters of a function act: a program read as a network of layers.

Each parameter is followed through its layout (reshapes, transposes, casts, slices of a loop) to the
equations in which it meets a value that depends on the data. There its entries are given the units
that they connect; and what such a use reads tells the order of the layers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from .capture import trace
from .evaluate import evaluate
from .follow import Follow, Use
from .follow_rules import RULES, unknown
from .program import Literal, Program, Variable


class Network(NamedTuple):
    """`uses` in program order, and the positions of those that the output reads."""

    uses: list[Use]
    output: frozenset[int]


def network(fun: Callable, params: Any, *rest: Any, values: bool = False) -> Network:
    """The layers of `fun(params, *rest)`.

    Args:
      fun: a function that JAX can trace.
      params: pytree of arrays, whose uses are looked for.
      rest: its other arguments, such as one example.
      values: whether to run it, outside loops, for the values of the units.

    >>> import jax.numpy as jnp
    >>> from funcbackprop.graph import network
    >>> w = {"a": jnp.ones((3, 2)), "b": jnp.ones(3), "c": jnp.ones(3)}
    >>> net = lambda w, x: jnp.dot(w["c"], jnp.tanh(w["a"] @ x + w["b"]))
    >>> for use in network(net, w, jnp.ones(2)).uses:
    ...     print(use.leaf, use.kind, use.source, list(use.reads), use.shape)
    0 matrix ('data', 0) [] (3,)
    1 beside ('use', 0) [0] ()
    2 matrix ('use', 0) [1] ()
    """
    program = trace(fun)(params, *rest)
    follow, output = _followed(program, len(jax.tree.leaves(params)))
    uses = follow.found
    if values:
        known = _values(program, jax.tree.leaves((params, *rest)), follow.operands)
        uses = [use._replace(values=known.get(k)) for k, use in enumerate(uses)]
    return Network(uses, frozenset().union(*(tag.reads for tag in output)))


def uses_of(program: Program, count: int) -> list[Use]:
    """Where the first `count` inputs of a program, its parameters, act; in program order."""
    return _followed(program, count)[0].found


def _followed(program: Program, count: int):
    follow = Follow(program, count, RULES, unknown)
    return follow, follow.run(program, follow.arguments)


def _values(program: Program, arguments, operands) -> dict[int, np.ndarray]:
    """What enters along the input units, by use: the program is run, equation by equation."""
    known: dict[Variable, Any] = {v: np.asarray(value) for v, value in program.constants}
    known.update(zip(program.inputs, map(np.asarray, arguments), strict=True))
    wanted = {variable for variable, _ in operands.values()}
    for equation in program.equations:
        if wanted <= known.keys():
            break
        given = [a.value if isinstance(a, Literal) else known[a] for a in equation.inputs]
        known.update(zip(equation.outputs, evaluate(equation, *given), strict=True))
    found = {}
    for k, (variable, grid) in operands.items():
        if variable in known:  # not inside a loop
            found[k] = np.zeros(grid.max(initial=-1) + 1)
            found[k][grid] = known[variable]
    return found
