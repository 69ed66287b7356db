"""Capture: from a function to a `Program`, with calls flattened by an explicit table."""

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from . import versions
from .program import Atom, Call, Equation, Literal, Program, UnsupportedPrimitive, Variable

# primitive -> (parameter that holds its program, kind of call). A call only groups equations: its
# program takes its place.
CALLS = {
    "call": ("call_jaxpr", "call"),
    "checkpoint": ("jaxpr", "remat"),
    "closed_call": ("call_jaxpr", "call"),
    "composite": ("jaxpr", "composite"),
    "compute_on": ("jaxpr", "compute_on"),
    "core_call": ("call_jaxpr", "call"),
    "core_closed_call": ("call_jaxpr", "call"),
    "custom_jvp_call": ("call_jaxpr", "custom_jvp"),
    "custom_vjp_call": ("call_jaxpr", "custom_vjp"),
    "custom_vmap_call": ("call", "custom_vmap"),
    "eval_jaxpr": ("call_jaxpr", "call"),
    "jit": ("jaxpr", "jit"),
    "linear_call": ("callee", "linear_call"),
    "pjit": ("jaxpr", "jit"),
    "remat2": ("jaxpr", "remat"),
    "remat_opt": ("fwd_jaxpr", "custom_vjp"),
    "xla_metadata_call": ("jaxpr", "jit"),
}

# primitive -> parameters that hold programs which run any number of times. They stay equations.
STRUCTURED = {
    "cond": ("branches",),
    "custom_linear_solve": ("jaxprs",),
    "reduce": ("jaxpr",),
    "reduce_window": ("jaxpr",),
    "run_state": ("jaxpr",),
    "scan": ("jaxpr",),
    "scatter": ("update_jaxpr",),
    "shard_map": ("jaxpr",),
    "while": ("cond_jaxpr", "body_jaxpr"),
}

# Primitives that hold a program which their name already tells (scatter-add adds), or that are
# opaque: kernels, whose program is not made of equations on arrays, and foreign calls.
ATOMS = {
    "core_map",
    "custom_partitioning",
    "mpmd_map",
    "pallas_call",
    "reduce_and",
    "reduce_or",
    "reduce_xor",
    "scatter-add",
    "scatter-max",
    "scatter-min",
    "scatter-mul",
    "scatter-sub",
    "scatter_apply",
    "select_and_scatter",
}


# Calls of functions that come with derivative rules of their own.
CUSTOM = {name for name, (_, kind) in CALLS.items() if kind in ("custom_jvp", "custom_vjp")}


def trace(
    fun: Callable, keep: Collection[str] = (), enter: bool = True, prints: bool = False
) -> Callable[..., Program]:
    """Capture a function as a program, in its own dtypes.

    Args:
      fun: a function of pytrees of arrays that JAX can trace.
      keep: names of functions of JAX with a custom derivative rule that stay one equation, named
        `jax:<name>`, instead of being flattened.
      enter: whether other functions with custom derivative rules are flattened like any call.
        Otherwise each stays one equation (`custom_jvp_call`, `custom_vjp_call`, ...) whose program
        is `equation.programs["body"]`.
      prints: whether `jax.debug.print` and callbacks without a result are equations too.

    Returns:
      `f(*args) -> Program`: nothing is computed; shapes and dtypes of `args` are what counts.

    Raises:
      UnsupportedPrimitive: when called, if the function reads a mutable array from outside, or
        calls a primitive whose program cannot be entered.

    >>> import jax.numpy as jnp
    >>> from funcbackprop.graph import trace
    >>> program = trace(lambda w, x: jnp.sum(jnp.tanh(w) * x))(jnp.ones(3), jnp.ones(3))
    >>> [equation.name for equation in program.equations]
    ['tanh', 'mul', 'reduce_sum']
    """

    def traced(*args):
        leaves, in_tree = jax.tree.flatten(args)
        out_trees = []

        def flat(*leaves):
            out, tree = jax.tree.flatten(fun(*jax.tree.unflatten(in_tree, leaves)))
            out_trees.append(tree)
            return out

        closed = jax.make_jaxpr(flat)(*leaves)
        if any(map(versions.is_mutable, (*leaves, *closed.consts))):
            raise UnsupportedPrimitive(
                "`trace`: the function takes or closes over a mutable array, whose contents change "
                "while it runs. Make it inside the function from an ordinary array: jax.new_ref(x)"
            )
        program = _Capture(keep, enter, prints).program(closed)
        names = tuple(keystr(path) for path, _ in tree_flatten_with_path(args)[0])
        return Program(
            *(program.inputs, program.constants, program.equations, program.outputs),
            *(in_tree, out_trees[-1], names),
        )

    return traced


class _Capture:
    """Collects the equations of one program; programs inside it get a collector of their own."""

    def __init__(
        self, keep: Collection[str], enter: bool, prints: bool, calls: tuple[Call, ...] = ()
    ):
        self.keep = keep
        self.enter = enter
        self.prints = prints
        self.calls = calls
        self.constants: list[tuple[Variable, Any]] = []
        self.equations: list[Equation] = []

    def program(self, jaxpr) -> Program:
        jaxpr, consts = versions.open_jaxpr(jaxpr)
        inputs = tuple(_variable(v) for v in jaxpr.invars)
        outputs = self.flatten(jaxpr, consts, inputs, self.calls)
        equations = _live(self.equations, outputs, _WRITES | (_PRINTS if self.prints else set()))
        used = {atom for equation in equations for atom in equation.inputs} | {*outputs}
        constants = tuple((v, value) for v, value in self.constants if v in used)
        return Program(inputs, constants, tuple(equations), outputs)

    def flatten(self, jaxpr, consts: Sequence, inputs: Sequence[Atom], calls) -> tuple[Atom, ...]:
        """Append the equations of `jaxpr`, with fresh variables; returns its outputs."""
        names: dict[Any, Atom] = dict(zip(jaxpr.invars, inputs, strict=True))
        for var, value in zip(jaxpr.constvars, consts, strict=True):
            variable = _variable(var)
            names[var] = variable
            self.constants.append((variable, value))

        def read(atom) -> Atom:
            return names[atom] if versions.is_variable(atom) else Literal(_literal(atom))

        for eqn in jaxpr.eqns:
            arguments = tuple(map(read, eqn.invars))
            if eqn.primitive.name in CALLS:
                results = self._call(eqn, arguments, calls)
            else:
                results = self._equation(eqn, arguments, calls)
            names.update(zip(eqn.outvars, results, strict=True))
        return tuple(map(read, jaxpr.outvars))

    def _call(self, eqn, arguments, calls) -> tuple[Atom, ...]:
        parameter, kind = CALLS[eqn.primitive.name]
        if parameter not in eqn.params:  # as composite holds it in JAX 0.11
            parameter = "call_jaxpr"
        jaxpr, consts = versions.open_jaxpr(eqn.params[parameter])
        name, in_jax = versions.function_name(jaxpr, eqn)
        call = Call(kind, name, versions.source(eqn), in_jax)
        if eqn.primitive.name in CUSTOM:
            if in_jax and name in self.keep:
                call = call._replace(kind="kept")
                return self._kept(f"jax:{name}", eqn, arguments, calls, call, parameter)
            if not self.enter:
                return self._kept(eqn.primitive.name, eqn, arguments, calls, call, parameter)
        if versions.is_kept_apart(eqn):
            arguments = self._barrier(eqn, arguments, (*calls, call))
        return self.flatten(jaxpr, consts, arguments, (*calls, call))

    def _barrier(self, eqn, arguments, calls) -> tuple[Atom, ...]:
        """Before a recomputation, which XLA would otherwise merge with the way forward."""
        before = tuple(a for a in dict.fromkeys(arguments) if isinstance(a, Variable))
        after = tuple(Variable(v.shape, v.dtype) for v in before)
        locate = functools.partial(versions.source, eqn)
        self.equations.append(
            Equation(
                *("optimization_barrier", before, after),
                calls=calls,
                locate=locate,
                primitive=versions.Barrier(),
            )
        )
        passed: dict[Any, Any] = dict(zip(before, after, strict=True))
        return tuple(passed.get(a, a) for a in arguments)

    def _kept(self, name, eqn, arguments, calls, call, parameter) -> tuple[Variable, ...]:
        outputs = tuple(_variable(v) for v in eqn.outvars)
        program = self._inner(eqn.params[parameter], (*calls, call))
        self.equations.append(
            Equation(
                *(name, arguments, outputs),
                programs={"body": program},
                calls=calls,
                locate=functools.partial(versions.source, eqn),
                primitive=versions.Whole(eqn, eqn.params[parameter]),
                called=call,
            )
        )
        return outputs

    def _equation(self, eqn, arguments, calls) -> tuple[Variable, ...]:
        name = eqn.primitive.name
        locate = functools.partial(versions.source, eqn)
        params = versions.parameters(eqn)
        held = [k for k in STRUCTURED.get(name, ()) if params[k] is not None]
        outputs = tuple(_variable(v) for v in eqn.outvars)
        equation = Equation(
            *(name, arguments, outputs),
            params={k: v for k, v in params.items() if k not in held},
            programs={
                k: self._inner(params[k], (*calls, Call(name, k, locate(), False))) for k in held
            },
            calls=calls,
            locate=locate,
            primitive=versions.Whole(eqn, _first(params[held[0]])) if held else eqn.primitive,
        )
        if name not in STRUCTURED and name not in ATOMS and versions.has_programs(params):
            raise UnsupportedPrimitive(
                f"`{name}` at {equation.source} holds a program that funcbackprop does not know "
                "how to enter. Please report it with the code that uses it."
            )
        self.equations.append(equation)
        return outputs

    def _inner(self, held, calls):
        if isinstance(held, tuple):
            return tuple(None if x is None else self._inner(x, calls) for x in held)
        return _Capture(self.keep, self.enter, self.prints, calls).program(held)


def _first(held):
    return next(x for x in held if x is not None) if isinstance(held, tuple) else held


def _variable(var) -> Variable:
    return Variable(tuple(getattr(var.aval, "shape", ())), versions.dtype(var.aval))


def _literal(atom) -> np.ndarray:
    return np.asarray(atom.val, versions.dtype(atom.aval))


def _live(equations: list[Equation], outputs: Sequence[Atom], also: set[str]) -> list[Equation]:
    """The equations that the outputs need, and those with these names."""
    live: set[Any] = set(outputs)
    kept = []
    for equation in reversed(equations):
        if equation.name in also or not live.isdisjoint(equation.outputs):
            live.update(equation.inputs)
            kept.append(equation)
    return kept[::-1]


# What writes to a mutable array, or may do so in its program.
_WRITES = {"swap", "addupdate", "accum_grad_in_ref", "cond", "scan", "while", "run_state"}
_PRINTS = {"debug_callback", "debug_print", "io_callback"}
