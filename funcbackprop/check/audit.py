"""The reference's walk of a loss, with what the checker asks it on the way."""

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from ..contract import leaf_names
from ..graph import CUSTOM, Equation, Program, local_vjp, wide_dtype, widen
from ..reference import chain_rule
from ..reference.backward import Cotangent, Seen
from ..reference.rounding import unit_of
from ..reference.rules import STRUCTURED
from ..reference.rules.control_flow import ENDS
from ..reference.rules.kinds import Local, general, linear
from ..reference.tape import INACTIVE, Region, Step, Value

# What loses digits.
_VALUE = "the terms of"
_SUM = "the cotangents that meet at"
_DERIVATIVE = "the terms of the derivative of"


class Node(NamedTuple):
    """What was seen at one equation, over all iterations of the loops around it.

    Attributes:
      forward: root mean square of its first output.
      cotangent: root mean square of the cotangents that reached it.
      rounding: standard deviation of the rounding of those cotangents, in units of their size.
      times: how often it was evaluated.
    """

    forward: float
    cotangent: float
    rounding: float
    times: int


class Loss(NamedTuple):
    """Where digits are lost: an equation, and by which factor the relative error grows there.

    Attributes:
      equation: where.
      ends: numbers of the cotangents of its inputs; none if no parameter moves it.
      factor: relative error of what comes out, in units of what went in.
      error: relative error of what comes out.
      what: what loses them, in words.
    """

    equation: Equation
    ends: tuple[int, ...]
    factor: float
    error: float
    what: str


class Audit:
    """A mean loss that was followed, and its gradient with bounds.

    Args:
      loss: `(params, example) -> (scalar, aux)`; aux is not looked at.
      intended: names of functions whose own derivative rule is taken as right.
      platform: where the gradient that is judged was computed.
      observe: called with each equation, its inputs and its outputs, as values.

    Attributes:
      leaves: a `Cotangent` for each parameter leaf.
      value: the mean loss.
      names: of the leaves.
      nodes: equation -> `Node`.
    """

    def __init__(
        self,
        loss: Callable,
        params: Any,
        batch: Any,
        weights: Any,
        intended: Collection[str] = (),
        platform: str = "cpu",
        observe: Callable | None = None,
    ):
        self._arguments = loss, params, batch, weights, intended, platform
        self.names = leaf_names(params)
        self._observer = observe
        self.losses: list[Loss] = []
        self.matched: dict[str, Equation | None] = {}
        structured = {
            **STRUCTURED,
            **dict.fromkeys(CUSTOM, functools.partial(self._custom, intended)),
            "stop_gradient": _gate,
        }
        self.mean = chain_rule.follow(
            *(lambda p, x: (loss(p, x)[0], ()), params, batch, weights),
            bounds=True,
            platform=platform,
            structured=structured,
            observe=self._observe,
        )
        self.tape = self.mean.recording.tape
        self.scale = self.mean.recording.scale
        self.value = self.mean.value
        self.nodes: dict[Equation, Node] = {}
        self.arrivals: dict[Region, list[np.ndarray | None]] = {}
        self.parts: dict[int, list[tuple[Step, np.ndarray]]] = {}
        self._relative: dict[int, float] = {}
        self.leaves = self._walk()

    def again(self, weights: Any = None, **others: Any) -> "Audit":
        """The same loss with other weights, intentions or an observer."""
        loss, params, batch, own_weights, intended, platform = self._arguments
        weights = own_weights if weights is None else weights
        options = {"intended": intended, "platform": platform, **others}
        return Audit(loss, params, batch, weights, **options)

    @functools.cached_property
    def program(self) -> Program:
        """The losses of the batch, with inputs named as a user would write them."""
        _, params, batch, *_ = self._arguments
        names = (*leaf_names(params), *leaf_names(batch, "batch"))
        return dataclasses.replace(self.mean.recording.program, names=names)

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The values of the parameter leaves."""
        return self.mean.recording.pullback.inputs[: self.mean.leaves]

    # --- on the way forward ----------------------------------------------------------------------

    def _custom(self, intended, tape, equation, inputs):
        """A function with a derivative rule of its own: entered, or its rule taken as right."""
        if equation.called.name not in intended:
            return STRUCTURED[equation.name](tape, equation, inputs)
        self.matched[equation.called.name] = equation
        own, wide, rough = tape.off_record(equation.programs["body"], inputs)
        dtypes = [v.own.dtype for v in inputs]
        rule = general(_by_its_own_rule(equation, dtypes), formula="the function's own rule")
        return tape.record(equation, rule, inputs, own, wide, None, rough)

    def _observe(self, equation, inputs, outputs, where):
        """Where the value loses digits, on paths that no parameter moves too."""
        if self._observer is not None:
            self._observer(equation, inputs, outputs, where)
        units = [unit_of(v) for v in (*inputs, *outputs)]
        into = max([*map(_error_of, inputs), *units], default=0.0)
        out = max(map(_error_of, outputs), default=0.0)
        if into > 0 and np.isfinite(out) and out > 4 * into:
            ends = tuple(v.id for v in inputs if v.id != INACTIVE)
            self.losses.append(Loss(equation, ends, out / into, out, _VALUE))

    # --- on the way back -------------------------------------------------------------------------

    def _walk(self) -> list[Cotangent]:
        """The gradient, with what is noted at each step and before each region."""
        leaf_ids = {v.id for v in self.inputs}
        stops: dict[int, list[Region]] = {}
        for region in self.tape.regions:
            stops.setdefault(region.end, []).append(region)

        def arrive(regions, found):
            for region in regions:
                reached = (found.get(v.id) for v in region.outputs)
                self.arrivals[region] = [None if c is None else np.array(c.value) for c in reached]

        def watch(seen: Seen):
            self._note_node(seen)
            self._note_digits(seen)
            for i, term in zip(seen.step.inputs, seen.terms, strict=True):
                if i in leaf_ids and term is not None:
                    self.parts.setdefault(i, []).append((seen.step, term.value))

        arrivals = {end: functools.partial(arrive, regions) for end, regions in stops.items()}
        return self.mean.gradients(bounds=True, watch=watch, stops=arrivals)

    def _note_node(self, seen: Seen):
        step, reached = seen.step, [c for c in seen.reached if c is not None]
        old = self.nodes.get(step.equation)
        cotangent = max(rms(c.value) for c in reached)
        rounding = max(relative(c) for c in reached) * self.scale
        new = Node(rms(step.local.y[0]), cotangent, rounding, 1)
        if old is not None:
            forward, cotangent, rounding = map(max, new[:3], old[:3])
            new = Node(forward, cotangent, rounding, old.times + 1)
        self.nodes[step.equation] = new

    def _note_digits(self, seen: Seen):
        """Where the relative error grows: of the value, of a sum of cotangents, of a derivative."""
        step = seen.step
        if step.rule is GATE or step.rule is ENDS:
            return
        reached = [(i, c) for i, c in zip(step.outputs, seen.reached, strict=True) if c is not None]
        for i, c in reached:
            if i in self._relative:
                arrived = self._relative.pop(i)
                self._note_loss(step, relative(c), arrived, _SUM)
        into = max(relative(c) for _, c in reached)
        for i, term in zip(step.inputs, seen.terms, strict=True):
            if term is not None:
                error = relative(term)
                if step.rule.cancels is not None:
                    self._note_loss(step, error, max(into, term.unit), _DERIVATIVE)
                self._relative[i] = max(self._relative.get(i, 0.0), error, term.unit)

    def _note_loss(self, step, out, into, what):
        if into > 0 and np.isfinite(out) and out > 4 * into:
            ends = tuple(i for i in step.inputs if i != INACTIVE)
            self.losses.append(Loss(step.equation, ends, out / into, out, what))

    # --- questions -------------------------------------------------------------------------------

    @functools.cached_property
    def reach(self) -> dict[int, int]:
        """Number of a cotangent -> the leaves that its value depends on, as bits."""
        return self._reach(through_gates=False)

    def _reach(self, through_gates: bool) -> dict[int, int]:
        reach = {v.id: 1 << k for k, v in enumerate(self.inputs)}
        for step in self.tape.steps:
            if step.rule is not ENDS and (through_gates or step.rule is not GATE):
                bits = _union(reach.get(i, 0) for i in step.inputs)
                reach.update((i, bits) for i in step.outputs if i != INACTIVE)
        return reach

    def bits(self, step: Step) -> int:
        """The leaves that a step depends on."""
        return _union(self.reach.get(i, 0) for i in step.inputs)

    def passes(self, loss: Loss, bits: int) -> bool:
        """Whether digits that were lost may matter to some of these leaves."""
        return not loss.ends or any(self.reach.get(i, 0) & bits for i in loss.ends)

    def is_reached(self, k: int) -> bool:
        """Whether some path from the loss to leaf k is not blocked."""
        return bool(self._reached_leaves & 1 << k)

    @functools.cached_property
    def _reached_leaves(self) -> int:
        outputs = (v.id for v in self.mean.recording.pullback.outputs)
        return _union(self.reach.get(i, 0) for i in outputs)

    def blockers(self, k: int) -> list[Equation]:
        """The equations at which the gradient of leaf k ends."""
        bit = 1 << k
        found = [step.equation for step in self.gates() if self.bits(step) & bit]
        reach = self._reach(through_gates=True)
        for equation, ends in self.tape.blocks.items():
            if any(reach.get(i, 0) & bit for i in ends):
                found.append(equation)
        return list(dict.fromkeys(found))

    def gates(self) -> list[Step]:
        """The stop_gradients that some parameter passes."""
        return [step for step in self.tape.steps if step.rule is GATE]

    def gradients(self, **options: Any) -> list[Cotangent]:
        """The gradient of each leaf once more; `options` are those of `pull_back`."""
        return self.mean.gradients(**options)


def rms(x) -> float:
    """Root mean square."""
    flat = np.ravel(x)
    with np.errstate(all="ignore"):
        return float(np.sqrt(np.vdot(flat, flat).real / flat.size)) if flat.size else 0.0


def relative(c: Cotangent) -> float:
    """Rounding of a cotangent in units of its size."""
    size = rms(c.value)
    return rms(c.deviation) / size if c.spread is not None and size > 0 else 0.0


def _error_of(value: Value) -> float:
    """Relative error of the program's own value, or that of its shadow."""
    own, wide = value.own if value.rough is None else value.rough, value.wide
    if own is wide or wide_dtype(wide.dtype) is None:
        return 0.0
    with np.errstate(all="ignore"):
        difference, size = rms(widen(own) - wide), rms(wide)
    return difference / size if 0 < size < np.inf and np.isfinite(difference) else 0.0


def _union(bits) -> int:
    total = 0
    for b in bits:
        total |= b
    return total


def _gate(tape, equation, inputs):
    """stop_gradient, as a gate that is closed unless `opened` says otherwise."""
    (x,) = inputs
    return tape.record(equation, GATE, inputs, [x.own], [x.wide], None, [x.rough])


def _pull_gate(local, dys):
    return [dys[0] if local.cut is OPEN else None]


OPEN = "open"
GATE = linear(_pull_gate, formula="0, by intention", forward=lambda p, x: x, exact=True)


def opened(step: Step) -> Local:
    """A variant of the walk that passes every stop_gradient."""
    return step.local._replace(cut=OPEN) if step.rule is GATE else step.local


def cut(step: Step) -> Local:
    """A variant of the walk in which a cotangent of 0 ends a path, whatever comes after it."""
    return step.local._replace(cut=True)


def _by_its_own_rule(equation, dtypes):
    def pull(local, dys):
        values = [x.astype(d) for x, d in zip(local.x, dtypes, strict=True)]
        found = local_vjp(equation, values, dys)
        return [None if x is None else widen(x) for x in found]

    return pull
