"""Linear systems that JAX solves by a program of the user's or its own: `custom_linear_solve`.

The matrix is known by its product with a vector only. x counts as the solution of A x = b, whatever
the program did to find it, and dA and db follow from A x = b; the program is not differentiated.
"""

import dataclasses
from functools import partial
from typing import Any

import numpy as np

from ...graph import UnsupportedPrimitive
from .kinds import general
from .triangular import solve

FORMULA = "A' db = dx, and -db x' to what the product with A is made of"

# Up to this size the transposed system is written out and solved in NumPy. Above, the program that
# JAX was given is used, and what it leaves is solved for again.
_SMALL = 256
# Without such a program, or where it does not converge, this is the limit.
_LARGE = 2000
_REFINEMENTS = 20


def custom_linear_solve(tape, equation, inputs):
    """x = A^-1 b, written as x + A^-1 (b - A x): the solution stands, its residual is followed."""
    system = _System(tape, equation, inputs)
    count = len(system.b)
    found = tape.run(system.programs["solve"], _still([*system.constants["solve"], *system.b]))
    x = system.refined(found[:count])
    product = tape.run(system.programs["matvec"], [*system.constants["matvec"], *x])
    rule = general(
        partial(_pull, system, x), formula=FORMULA, forward=lambda p, *v: v[-count:], exact=True
    )
    return [*tape.part(equation, rule, [*product, *system.b, *x]), *found[count:]]


def _pull(system, x, local, dys):
    db = system.solve_transposed(x, dys)
    return [*(-d for d in db), *db, *(None for _ in db)]


class _System:
    """A x = b. Vectors are lists of arrays, as the program has them.

    Attributes:
      programs: matvec, vecmat, solve, transpose_solve; the latter may be None.
      constants: for each program, the values that it closes over.
      b: the right-hand side, as values on the tape.
    """

    names = ("matvec", "vecmat", "solve", "transpose_solve")

    def __init__(self, tape, equation, inputs):
        self.tape = tape
        self.source = equation.source
        self.programs = dict(zip(self.names, equation.programs["jaxprs"], strict=True))
        lengths = equation.params["const_lengths"]
        ends = np.cumsum([getattr(lengths, name) for name in self.names])
        self.constants = {
            name: list(inputs[end - getattr(lengths, name) : end])
            for name, end in zip(self.names, ends, strict=True)
        }
        self.b = list(inputs[ends[-1] :])

    def refined(self, x):
        """The values x with `wide` improved until A x = b holds as well as float64 allows."""
        b = [v.wide for v in self.b]
        better = self._refine(
            [v.wide for v in x],
            lambda x: _minus(b, self._run("matvec", x)),
            lambda r: self._run("solve", r)[: len(b)],
            _norm(b),
        ).x
        return [v if w is v.wide else v._replace(wide=w) for v, w in zip(x, better, strict=True)]

    def solve_transposed(self, x, dx):
        """l with A' l = dx."""
        transposed = self._transposed(x)
        size = sum(np.size(d) for d in dx)
        if size > _SMALL and self.programs["transpose_solve"] is not None:
            start = [np.zeros_like(d) for d in dx]
            found = self._refine(
                start,
                lambda l: _minus(dx, transposed(l)),
                lambda r: self._run("transpose_solve", r)[: len(dx)],
                _norm(dx),
            )
            if found.residual <= 1e-10 * _norm(dx):
                return found.x
        if size > _LARGE:
            raise UnsupportedPrimitive(
                f"`custom_linear_solve` at {self.source}: no `transpose_solve` that converges was "
                f"given, and the matrix of size {size} is too large to be written out "
                f"(at most {_LARGE})."
            )
        return _solve_written_out(transposed, dx)

    def _run(self, name, vector):
        """`wide` outputs of a program for a vector in float64; decisions are taken on `own`."""
        scratch = type(self.tape)(self.tape.rules, self.tape.structured)
        values = [
            v._replace(own=w.astype(v.own.dtype, copy=False), wide=w)
            for v, w in zip(self.b, vector, strict=True)
        ]
        outputs = scratch.run(self.programs[name], _still([*self.constants[name], *values]))
        return [v.wide for v in outputs]

    def _transposed(self, x):
        """l -> A' l: the product A x, pulled back."""
        from ..backward import pull_back  # `backward` imports the rules

        scratch = type(self.tape)(self.tape.rules, self.tape.structured)
        inputs = [scratch.variable(v.own) for v in x]
        outputs = scratch.run(self.programs["matvec"], [*_still(self.constants["matvec"]), *inputs])

        def pull(l):
            found = pull_back(scratch.steps, outputs, l)
            reasons = {r for c in found.values() for r in c.unaudited}
            if reasons:
                raise UnsupportedPrimitive(
                    f"`custom_linear_solve` at {self.source}: the product with the matrix passes "
                    f"what the reference cannot follow: {'; '.join(sorted(reasons))}"
                )
            zero = [np.zeros_like(v.wide) for v in inputs]
            return [
                found[v.id].value if v.id in found else z for v, z in zip(inputs, zero, strict=True)
            ]

        return pull

    def _refine(self, x, residual, solve, scale):
        """Add the solution for the residual, while that at least halves the residual."""
        left = residual(x)
        for _ in range(_REFINEMENTS):
            if not _norm(left) > 1e-15 * scale:
                break
            better = [a + b for a, b in zip(x, solve(left), strict=True)]
            remaining = residual(better)
            if not _norm(remaining) < 0.5 * _norm(left):
                break
            x, left = better, remaining
        return _Refined(x, _norm(left))


@dataclasses.dataclass
class _Refined:
    x: list[Any]
    residual: float


def _still(values):
    """The same values, with no gradient flowing to them."""
    return [v.detached() for v in values]


def _solve_written_out(transposed, dx):
    """A' l = dx with the matrix A' written out column by column; NaN if it is singular."""
    flat = np.concatenate([np.ravel(d) for d in dx])
    unit = np.eye(len(flat), dtype=flat.dtype)
    columns = [np.concatenate(list(map(np.ravel, transposed(_split(e, dx))))) for e in unit]
    matrix = np.reshape(columns, (len(flat), len(flat))).T
    return _split(solve(matrix, flat[:, None])[:, 0], dx)


def _split(flat, like):
    ends = np.cumsum([np.size(d) for d in like])[:-1]
    return [part.reshape(np.shape(d)) for part, d in zip(np.split(flat, ends), like, strict=True)]


def _minus(a, b):
    return [x - y for x, y in zip(a, b, strict=True)]


def _norm(x):
    return float(np.sqrt(sum(np.sum(np.abs(v) ** 2) for v in x)))
