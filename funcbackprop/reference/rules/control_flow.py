"""Loops and branches: their programs run on the tape, iteration by iteration.

The derivative of a loop is that of the steps it took. How many it took, and which branch, is
decided in the program's own precision.
"""

import numpy as np

from ...graph import CUSTOM, stack, to_numpy, where, wide_dtype
from . import arithmetic, shapes
from .kinds import constant, general


def slices(tape, equation, value):
    """The slices of a value along its leading axis, as values on the tape."""
    if isinstance(value.own, np.ndarray):
        return tape.part(equation, shapes.RULES["unstack"], [value], axis=0)
    return [tape.constant(key) for key in value.own]


def stacked(tape, equation, values, variable):
    """Values along a new leading axis; zeros in the shape of `variable` where there are none."""
    if not values:
        return tape.constant(to_numpy(np.zeros(variable.shape, variable.dtype)))
    if isinstance(values[0].own, np.ndarray | np.generic):
        return tape.part(equation, shapes.RULES["stack"], values, axis=0)[0]
    return tape.constant(stack([v.own for v in values]))


def scan(tape, equation, inputs):
    """carry, y_t = body(constants, carry, x_t), in order, or from the last t if `reverse`."""
    p, program = equation.params, equation.programs["jaxpr"]
    n, c = p["num_consts"], p["num_carry"]
    constants, carry, length = list(inputs[:n]), list(inputs[n : n + c]), p["length"]
    xs = [slices(tape, equation, x) for x in inputs[n + c :]]
    ys: list = [None] * length
    for t in reversed(range(length)) if p["reverse"] else range(length):
        with tape.inside("scan", t):
            out = tape.run(program, constants + carry + [x[t] for x in xs])
        carry, ys[t] = out[:c], out[c:]
    outputs = [
        stacked(tape, equation, [y[k] for y in ys], variable)
        for k, variable in enumerate(equation.outputs[c:])
    ]
    return carry + outputs


def while_loop(tape, equation, inputs):
    """carry = body(carry) while cond(carry). Under `vmap` each row stops on its own."""
    p, programs = equation.params, equation.programs
    nc, nb = p["cond_nconsts"], p["body_nconsts"]
    of_cond, of_body = list(inputs[:nc]), list(inputs[nc : nc + nb])
    carry, number = list(inputs[nc + nb :]), 0
    while True:
        with tape.inside("while", number):
            (going,) = tape.run(programs["cond_jaxpr"], of_cond + carry)
            if not np.any(going.own):
                return carry
            after = tape.run(programs["body_jaxpr"], of_body + carry)
            carry = [
                new if np.all(going.own) else _where(tape, equation, going, old, new)
                for old, new in zip(carry, after, strict=True)
            ]
        number += 1


def _where(tape, equation, going, old, new):
    """`new` in the rows that are still going, `old` in the others."""
    shape = np.shape(new.own)
    rows = going.own.reshape(going.own.shape + (1,) * (len(shape) - going.own.ndim))
    if not isinstance(new.own, np.ndarray | np.generic):
        return tape.constant(where(rows, new.own, old.own))
    which = tape.constant(np.broadcast_to(rows, shape))
    return tape.part(equation, arithmetic.RULES["select_n"], [which, old, new])[0]


def cond(tape, equation, inputs):
    """The branch that the index selects."""
    branches = equation.programs["branches"]
    index = int(np.clip(int(inputs[0].own), 0, len(branches) - 1))
    return tape.run(branches[index], inputs[1:])


def custom(tape, equation, inputs):
    """The body: what the function computes is differentiated, not what its own rule claims."""
    start = len(tape.steps)
    outputs = tape.run(equation.programs["body"], inputs)
    # Each output gets a cotangent of its own, that of an identity function too.
    taken = {v.id for v in inputs}
    active = [v for v in inputs if v.id >= 0]
    for k, v in enumerate(outputs):
        if v.id in taken and v.id >= 0:
            outputs[k] = tape.part(equation, arithmetic.RULES["copy"], [v])[0]
        elif v.id < 0 and active and wide_dtype(v.wide.dtype) is not None:
            (outputs[k],) = tape.record(equation, ENDS, active[:1], [v.own], [v.wide])
        taken.add(outputs[k].id)
    tape.note_region(equation, inputs, outputs, start)
    return outputs


# An output of a body that is piecewise constant: its cotangent is noted, and ends there.
ENDS = general(lambda local, dys: [None], formula="0")

RULES = {"platform_index": constant("0: which branch of platform_dependent is for the CPU")}

# primitive -> run(tape, equation, inputs) -> outputs
STRUCTURED = {**dict.fromkeys(CUSTOM, custom), "cond": cond, "scan": scan, "while": while_loop}

# One line on each, for the coverage page.
FORMULAS = {
    "cond": "the derivative of the branch that was taken",
    "scan": "the derivatives of the body, last iteration first",
    "while": "the derivatives of the body, last iteration first",
}
