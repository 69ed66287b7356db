"""How the values of an equation reach the programs inside it, by a literal table."""

from collections.abc import Sequence
from typing import NamedTuple

from .program import Atom, Equation, Program, Variable


class Part(NamedTuple):
    """One program inside an equation, or, without a program, a value that steers it.

    Attributes:
      title: of the program, where the equation has several.
      program: has as many inputs and outputs as the fields below.
      inputs, roles: which of the equation's inputs feed it, and as what.
      outputs, results: which of the equation's outputs it gives (None: none), and as what.
    """

    title: str
    program: Program | None
    inputs: Sequence[Atom]
    roles: Sequence[str]
    outputs: Sequence[Variable | None] = ()
    results: Sequence[str] = ()


def wiring(equation: Equation) -> list[Part]:
    """The parts of an equation; none if its values do not flow through its programs as they are.

    >>> import jax, jax.numpy as jnp
    >>> from funcbackprop.graph import trace
    >>> f = trace(lambda x: jax.lax.scan(lambda c, t: (c * t, c), 1.0, x))
    >>> (part,) = wiring(f(jnp.ones(3)).equations[0])
    >>> part.roles, part.results
    (['carry 0', 'x 0'], ['carry 0', 'y 0'])
    """
    kept = list(equation.programs) == ["body"]  # a call that stays an equation
    rule = _RULES.get(equation.name, _body if kept else None)
    parts = rule(equation) if rule else []
    fit = (
        part.program is None
        or (
            len(part.program.inputs) == len(part.inputs) == len(part.roles)
            and len(part.program.outputs) == len(part.outputs) == len(part.results)
        )
        for part in parts
    )
    return parts if all(fit) else []


def _scan(equation):
    program = equation.programs["jaxpr"]
    constants, carry = equation.params["num_consts"], equation.params["num_carry"]
    rest = len(equation.inputs) - constants - carry
    roles = [*_numbered("const", constants), *_numbered("carry", carry), *_numbered("x", rest)]
    results = [
        *_numbered("carry", carry),
        *_numbered("y", len(equation.outputs) - carry),
    ]
    return [Part("", program, equation.inputs, roles, equation.outputs, results)]


def _while(equation):
    n, m = equation.params["cond_nconsts"], equation.params["body_nconsts"]
    inputs = equation.inputs
    roles = _numbered("carry", len(inputs) - n - m)
    return [
        Part(
            *("condition", equation.programs["cond_jaxpr"]),
            *((*inputs[:n], *inputs[n + m :]), [*_numbered("const", n), *roles]),
            *([None], ["go on"]),
        ),
        Part(
            *("body", equation.programs["body_jaxpr"]),
            *(inputs[n:], [*_numbered("const", m), *roles]),
            *(equation.outputs, roles),
        ),
    ]


def _cond(equation):
    index, *operands = equation.inputs
    results = _numbered("out", len(equation.outputs))
    roles = _numbered("in", len(operands))
    branches = [
        Part(f"branch {i}", branch, operands, roles, equation.outputs, results)
        for i, branch in enumerate(equation.programs["branches"])
    ]
    return [Part("", None, [index], ["which branch"]), *branches]


def _body(equation):
    (program,) = (program for _, program in equation.inner)
    roles = _numbered("in", len(equation.inputs))
    results = _numbered("out", len(equation.outputs))
    return [Part("", program, equation.inputs, roles, equation.outputs, results)]


def _numbered(role, count):
    return [f"{role} {i}" for i in range(count)]


_RULES = {
    "cond": _cond,
    "run_state": _body,
    "scan": _scan,
    "shard_map": _body,
    "while": _while,
}
