"""Evaluation of a program that hands out what is seen at chosen equations, also inside loops."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .evaluate import bind
from .program import Equation, Literal, Program

Look = Callable[[tuple, tuple], Any]


def observed(program: Program, looks: Mapping[Equation, Look]) -> Callable:
    """The program as a function that also returns what is seen at some of its equations.

    Args:
      program: from `trace`.
      looks: equation -> `look(inputs, outputs) -> tree of arrays`. In the body of a `scan` it is
        called in every turn, and what it returns is stacked along a new first axis.

    Returns:
      `f(*inputs) -> (outputs, seen)`, of arrays in the order of `program.inputs`; `seen` is a list
      in the order of `looks`, with None for an equation in the body of a `while` or in a branch,
      which is not entered. For use inside functions that JAX traces.

    >>> from funcbackprop.graph import trace
    >>> program = trace(lambda x: jnp.tanh(2 * x))(1.0)
    >>> tanh = program.equations[-1]
    >>> outputs, seen = observed(program, {tanh: lambda inputs, outputs: inputs[0]})(3.0)
    >>> print(seen[0])
    6.0
    """

    def run(*inputs):
        outputs, seen = _run(program, inputs, looks)
        return outputs, [seen.get(equation) for equation in looks]

    return run


def _run(program, inputs, looks) -> tuple[list, dict]:
    known: dict[Any, Any] = dict(zip(program.inputs, inputs, strict=True))
    known.update(program.constants)
    read = lambda a: jnp.asarray(a.value) if isinstance(a, Literal) else known[a]  # noqa: E731
    seen = {}
    for equation in program.equations:
        values = tuple(map(read, equation.inputs))
        inside = [e for _, p in equation.inner for e in p.everything() if e in looks]
        if equation.name == "scan" and inside:
            outputs, found = _scan(equation, values, looks, inside)
            seen.update(found)
        else:
            outputs = bind(equation, *values)
        if equation in looks:
            seen[equation] = looks[equation](values, tuple(outputs))
        known.update(zip(equation.outputs, outputs, strict=True))
    return [read(atom) for atom in program.outputs], seen


def _scan(equation, values, looks, inside):
    """One `scan`, with what is seen in its turns stacked beside its own outputs."""
    params, body = equation.params, equation.programs["jaxpr"]
    constants, carried = params["num_consts"], params["num_consts"] + params["num_carry"]

    def turn(carry, xs):
        outputs, seen = _run(body, (*values[:constants], *carry, *xs), looks)
        rest = tuple(outputs[params["num_carry"] :])
        return tuple(outputs[: params["num_carry"]]), (rest, [seen.get(e) for e in inside])

    carry, (stacked, seen) = jax.lax.scan(
        turn,
        tuple(values[constants:carried]),
        tuple(values[carried:]),
        length=params["length"],
        reverse=params["reverse"],
    )
    found = {e: x for e, x in zip(inside, seen, strict=True) if x is not None}
    return (*carry, *stacked), found
