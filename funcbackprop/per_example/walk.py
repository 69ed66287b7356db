"""Statistics of a batch from one pass over the program of one example's gradient.

The program of `value_and_grad(loss)` runs under `vmap`, equation by equation. Where a gradient is
born as a product, its two operands are kept in its place; where it arrives at its leaf, or at the
end of a loop's body, the statistics are taken from them. That step sees all examples at once, and
so is a `custom_vmap` function: its rule for a batch is what counts.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from ..contract import vary_like, wide
from ..graph import Literal, Program, bind, recorded, trace
from .factors import DENSE, FORMS
from .flow import SUMS, Flow, flow_of, parts_of_scan, scales
from .layouts import JOINS, Loop, layout_of, needed
from .loops import Shared
from .planner import reduced
from .rewrites import rewritten
from .statistics import Leafwise, Part
from .terms import Gradient, Term, dense


class Terms(tuple):
    """The gradient of one example, in place of its array: a tuple of `Term`."""


class Reduced(NamedTuple):
    """What the statistics took from a gradient, in place of its array."""

    parts: list[Part]


class Sink(NamedTuple):
    """An output of a program at which statistics are taken.

    Attributes:
      leaf: number of the parameter leaf.
      operands: for each statistic, its operands for what arrives there; and the mean, if known.
      times: how often it is passed, in the loops around it.
    """

    leaf: int
    operands: list[tuple]
    times: int = 1


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be taken from the gradients of B examples.

    Attributes:
      stats: leafwise statistics.
      operands: for each of them, trees like the parameters.
      numbers: for each of them, an array [..., B] or None.
      mean: the mean gradient of the whole batch, if these are some of its examples; or None.
      weights: [B].
      chunk_bytes: for gradients of a few examples that have to be written out.
      note: called with (leaf, gradient, times) wherever statistics are taken; returns the `log` of
        the choices made there. For `plan`.
    """

    stats: Sequence[Leafwise]
    operands: list[tuple]
    numbers: list[Any]
    mean: Any
    weights: jax.Array
    chunk_bytes: int
    note: Callable | None = None

    def parts(self, terms, shape, sink, operands, numbers, weights) -> list[Part]:
        """What each statistic takes from terms with a leading axis of examples."""
        terms = _together(jax.tree.map(_widened, terms))
        *operands, known = operands
        mean = wide(known[0]) if known else None
        g = Gradient(terms, shape, weights, self.chunk_bytes, mean)
        log = None if self.note is None else self.note(sink.leaf, g, sink.times)
        return reduced(self.stats, g, operands, numbers, log)


def _widened(x):
    return wide(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x


def _together(terms: Sequence[Term]) -> tuple[Term, ...]:
    """Terms of which at most one is an array."""
    terms = [t.written_out() for t in terms]
    known = [t for t in terms if t.known]
    if len(known) < 2:
        return tuple(terms)
    one = dataclasses.replace(known[0], v=functools.reduce(jnp.add, (t.v for t in known)))
    return (*(t for t in terms if not t.known), one)


def captured(loss: Callable) -> Callable:
    """`(params, example) -> (program, flow)` of the gradient of one example.

    It is traced at the first call; at the others the arguments must be of the same form.

    Args:
      loss: `(params, example) -> (scalar, aux)`.
    """
    found: list[tuple[Program, Flow]] = []

    def of(params, example):
        if not found:
            gradient = jax.value_and_grad(loss, has_aux=True)
            program = trace(gradient, prints=True)(params, example)
            count, size = (len(jax.tree.leaves(x)) for x in (params, (params, example)))
            outputs = len(program.outputs)
            varying = [k >= count for k in range(size)]
            factored = [k >= outputs - count for k in range(outputs)]
            found.append((program, flow_of(program, varying, factored)))
        return found[0]

    return of


def measure(capture: Callable, params: Any, batch: Any, task: Task) -> tuple:
    """`(losses [B], aux, parts)`: for each statistic, the `Part` of every leaf.

    Args:
      capture: what `captured` returns.
    """
    count = len(jax.tree.leaves(params))

    def one(params, example, weight):
        program, flow = capture(params, example)
        inputs = jax.tree.leaves((params, example))
        first = len(program.outputs) - count
        walk = _Walk(flow, task, weight)
        known = () if task.mean is None else (task.mean,)
        operands = [[jax.tree.leaves(x) for x in trees] for trees in (*task.operands, known)]
        sinks = {
            first + k: Sink(k, [tuple(tree[k] for tree in trees) for trees in operands])
            for k in range(count)
        }
        outputs = walk.program(program, inputs, sinks)
        parts = [
            walk.taken(outputs[k], sink, program.outputs[k]).parts for k, sink in sinks.items()
        ]
        plain = [*outputs[:first], *(None for _ in sinks)]
        (value, aux), _ = jax.tree.unflatten(program.out_tree, plain)
        return value, aux, parts

    axes = (None, 0, 0), (0, 0, None)
    losses, aux, parts = jax.vmap(one, *axes)(params, batch, task.weights)
    return losses, aux, [[leaf[k] for leaf in parts] for k in range(len(task.stats))]


class _Walk:
    """One pass over the program of one example, under `vmap`."""

    def __init__(self, flow: Flow, task: Task, weight: jax.Array):
        self.flow = flow
        self.task = task
        self.weight = weight

    def program(self, program: Program, inputs: Sequence[Any], sinks: dict[int, Sink]) -> list:
        """The outputs: arrays, or what stands in place of one.

        Args:
          sinks: number of an output -> what is to be taken from it.
        """
        known = dict(zip(program.inputs, inputs, strict=True))
        known.update(program.constants)
        read = lambda a: a.value if isinstance(a, Literal) else known[a]  # noqa: E731
        for equation in program.equations:
            values = [read(a) for a in equation.inputs]
            outputs = self._equation(equation, values, sinks)
            known.update(zip(equation.outputs, outputs, strict=True))
        return [read(a) for a in program.outputs]

    def _equation(self, equation, values, sinks) -> Sequence[Any]:
        if equation in self.flow.inside:
            structured = self._scan if equation.name == "scan" else self._cond
            return structured(equation, values, sinks)
        for position, value in enumerate(values):
            if isinstance(value, Reduced):
                return [self._reduced(equation, value)]
            if isinstance(value, Terms):
                return [self._of_terms(equation, position, values)]
        if self.flow.births(equation):
            return [self._born(equation, values)]
        other = rewritten(equation)
        return bind(equation, *values) if other is None else other(*values)

    def _born(self, equation, values) -> Terms:
        form = FORMS[equation.name]
        u, v = form.factors(equation, values)
        return Terms((Term(form, equation, equation.outputs[0].shape, u, v),))

    def _of_terms(self, equation, position, values) -> Terms:
        """A sum, a multiple, or a layout of terms; where several arrays meet, of all of them."""
        if scales(equation, position):
            factor = _factor(equation, values, position)
            return Terms(t.scaled(factor) for t in values[position])
        meet = equation.name in SUMS or equation.name in JOINS
        used = needed(equation, position)
        found = []
        for k in range(len(values)) if meet else (position,):
            atom = equation.inputs[k]
            if k not in used and not self.flow.is_zero(atom):
                layout = layout_of(equation, k, values)
                terms = self._terms(values[k], atom)
                found += terms if layout is None else [t.laid_out(layout) for t in terms]
        return Terms(found)

    def _reduced(self, equation, value: Reduced) -> Reduced:
        if equation.name in SUMS:  # with zeros
            return value
        layout: Any = layout_of(equation, 0)
        parts = [
            part._replace(elements=jax.tree.map(layout, part.elements)) for part in value.parts
        ]
        return Reduced(parts)

    # --- loops ---------------------------------------------------------------------------------

    def _scan(self, equation, values, sinks) -> list:
        constants, carry, _ = parts_of_scan(equation)
        body, sums = equation.programs["jaxpr"], self.flow.sums[equation]
        consts, start = values[:constants], values[constants : constants + carry]
        arrays_given = [v for v in values if not isinstance(v, Terms)]
        inner = self._sinks_inside(equation, carry, sinks)
        with_arrays: set[int] = set()
        shared = Shared()

        def step(state, data):
            xs, operands = data
            carried = [Terms() if j in sums else x for j, x in enumerate(state)]
            here = {j: sink._replace(operands=operands[j]) for j, sink in inner.items()}
            out = self.program(body, [*consts, *carried, *xs], here)
            products = {}
            for j in sums:
                products[j], arrays = _apart(terms_of(out[j]))
                with_arrays.update([j] if arrays else [])
                out[j] = functools.reduce(jnp.add, arrays, state[j])
            for j, sink in here.items():
                out[j] = self.taken(out[j], sink, body.outputs[j]).parts
            return out[:carry], shared.apart((products, list(map(_plain, out[carry:]))), xs)

        for j in sums:
            zeros = jnp.zeros(body.outputs[j].shape, body.outputs[j].dtype)
            start[j] = vary_like(zeros, arrays_given)
        data = values[constants + carry :], {j: sink.operands for j, sink in inner.items()}
        options = {name: equation.params[name] for name in ("length", "reverse", "unroll")}
        end, stacked = jax.lax.scan(step, start, data, **options)
        products, ys = shared.together(stacked, data[0])
        outputs = [*end, *ys]
        for j, variable in enumerate(equation.outputs):
            if j in sums:
                known = [dense(end[j], self.flow.written.get(variable))] if j in with_arrays else []
                before = self._terms(values[constants + j], equation.inputs[constants + j])
                zero = self.flow.is_zero(equation.inputs[constants + j])
                looped = _looped(products[j], stacks=False, length=options["length"])
                outputs[j] = Terms((*(() if zero else before), *looped, *known))
            elif j in inner:
                ndim = len(body.outputs[j].shape)
                outputs[j] = Reduced([_stacked(part, ndim) for part in outputs[j]])
            elif isinstance(outputs[j], tuple):
                outputs[j] = _looped(outputs[j], stacks=True, length=options["length"])
        return outputs

    def _sinks_inside(self, equation, carry, sinks) -> dict[int, Sink]:
        """The scanned outputs of a loop at which statistics are taken in its body.

        Their operands have the axis of the loop in front.
        """
        found = {}
        for j, variable in enumerate(equation.outputs[carry:], carry):
            way = self.flow.ways.get(variable)
            if way is None or way.output not in sinks:
                continue
            sink = sinks[way.output]
            operands = [
                tuple(_into_loop(x, way.layouts, variable.shape) for x in some)
                for some in sink.operands
            ]
            found[j] = Sink(sink.leaf, operands, sink.times * equation.params["length"])
        return found

    # --- branches ------------------------------------------------------------------------------

    def _cond(self, equation, values, sinks) -> list:
        """Every branch gives the operands of the products in all of them, its own or zeros."""
        which, *given = values
        branches = equation.programs["branches"]
        pending = [v in self.flow.pending for v in equation.outputs]

        def run(branch, given):
            out = self.program(branch, given, {})
            kept = [
                (() if self.flow.is_zero(a) else tuple(self._terms(x, a))) if may else None
                for a, x, may in zip(branch.outputs, out, pending, strict=True)
            ]
            return [None if may else x for x, may in zip(out, pending, strict=True)], kept

        shapes = [jax.eval_shape(functools.partial(run, b), given)[1] for b in branches]

        def complete(number, branch):
            def f(*given):
                plain, own = run(branch, given)
                zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
                zeros[number] = own
                return plain, vary_like(zeros, given)

            return f

        chosen = [complete(k, b) for k, b in enumerate(branches)]
        plain, kept = jax.lax.switch(which, chosen, *given)
        terms = (
            Terms(t for some in column for t in some or ()) for column in zip(*kept, strict=True)
        )
        return [t if may else x for x, t, may in zip(plain, terms, pending, strict=True)]

    # --- where statistics are taken --------------------------------------------------------------

    def _terms(self, value: Any, atom: Any) -> Terms:
        return terms_of(value, self.flow.written.get(atom))

    def taken(self, value: Any, sink: Sink, atom: Any) -> Reduced:
        """What the statistics take from the gradient that arrives at a sink."""
        if isinstance(value, Reduced):
            return value
        task, shape = self.task, atom.shape
        terms = tuple(self._terms(value, atom)) or (dense(jnp.zeros(shape)),)

        factors = [(t.u, t.v) for t in terms]
        shared = [t.steps for t in terms], sink.operands, task.numbers, task.weights

        def of_batch(factors, steps, operands, numbers, weights):
            given = tuple(
                dataclasses.replace(t, u=u, v=v, steps=s)
                for t, (u, v), s in zip(terms, factors, steps, strict=True)
            )
            return task.parts(given, shape, sink, operands, numbers, weights)

        size = len(task.weights)
        of_all = jax.eval_shape(
            lambda: jax.tree.map(functools.partial(_of_all, size, False), factors)
        )
        replay, found = recorded(of_batch, of_all, *shared)

        @custom_vmap
        def take(weight, factors, shared):
            """Never runs; the forms of what it returns are those of what `rule` returns."""
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), found)

        @take.def_vmap
        def rule(size, is_batched, weight, factors, shared):
            given = jax.tree.map(functools.partial(_of_all, size), is_batched[1], factors)
            parts = replay(given, *shared)
            return parts, jax.tree.map(lambda _: False, parts)

        return Reduced(take(self.weight, factors, shared))


def _of_all(size, batched, x):
    """x with a leading axis of examples."""
    return x if batched else jnp.broadcast_to(x, (size, *jnp.shape(x)))


def terms_of(value: Any, written: Any = None) -> Terms:
    """An array as a term; terms as they are."""
    return value if isinstance(value, Terms) else Terms((dense(jnp.asarray(value), written),))


def _apart(terms: Terms) -> tuple[tuple[Term, ...], list]:
    """(products, arrays)."""
    products = tuple(t for t in terms if t.form is not DENSE)
    return products, [t.total(t.u[None], t.v[None]) for t in terms if t.form is DENSE]


def _looped(terms: Sequence[Term], stacks: bool, length: int) -> Terms:
    return Terms(t.looped(Loop(stacks), length) for t in terms)


def _plain(value):
    return tuple(value) if isinstance(value, Terms) else value


def _factor(equation, values, position):
    if equation.name == "neg":
        return -1
    other = jnp.asarray(values[1 - position])
    return 1 / other if equation.name == "div" else other


def _into_loop(x, layouts, shape):
    """An operand of a leaf, as that of the array that a loop stacks: the axis of the loop first."""
    for layout in reversed(layouts):
        x = layout.back(x)
    return jnp.moveaxis(x, x.ndim - len(shape), 0)


def _stacked(part: Part, ndim: int) -> Part:
    """What a loop took, iteration by iteration, as what belongs to the whole."""
    return Part(
        elements=jax.tree.map(lambda x: jnp.moveaxis(x, 0, x.ndim - 1 - ndim), part.elements),
        sums=jax.tree.map(lambda x: jnp.sum(x, axis=0), part.sums),
    )
