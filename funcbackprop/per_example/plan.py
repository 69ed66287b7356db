"""The plan: how `gradient_statistics` will find the statistics of each parameter leaf."""

import dataclasses
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp

from ..contract import Loss, differentiable, leaf_names
from ..tables import labels, number, percent, text
from . import factored
from .engine import gradient_statistics
from .factors import DENSE
from .passes import rows_of
from .planner import Choice
from .statistics import Leafwise
from .terms import Gradient

# Characters for the name of a leaf.
_NAME = 36


@dataclasses.dataclass(frozen=True)
class LeafPlan:
    """What is done for one parameter leaf.

    Attributes:
      leaf: its path.
      source: the lines where the loss uses it, and its gradient is born.
      form: how its gradients are kept: "outer products", "convolution", "rows" (of a table, at
        indices), "entries" (they are no larger than an activation, or zero), or "written out";
        several with a plus.
      algorithm: how the statistics are found.
      flops: cost for the batch, of all statistics together, in FLOPs of a matrix product that would
        take as long.
      alternatives: (algorithm, flops) of other ways, which would have taken longer; flops are those
        of all statistics of the leaf with this one of them found in that way.
      bytes: of the gradients of the batch as they are kept.
      written: bytes of gradients that are written out at a time.
      reason: why its gradients are written out although they are larger than what they are made
        of; None otherwise.
    """

    leaf: str
    source: str
    form: str
    algorithm: str
    flops: float
    alternatives: tuple[tuple[str, float], ...]
    bytes: int
    written: int
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the statistics of a batch are found, leaf by leaf; `str(plan)` is a table of that, and
    one of what was not chosen.

    Attributes:
      leaves: a `LeafPlan` for each parameter leaf.
      examples: B.
      parameters: P.
    """

    leaves: tuple[LeafPlan, ...]
    examples: int
    parameters: int

    @property
    def fallbacks(self) -> tuple[LeafPlan, ...]:
        """The leaves whose gradients are written out because their form was not recognised."""
        return tuple(leaf for leaf in self.leaves if leaf.reason is not None)

    @property
    def written(self) -> int:
        """Bytes of gradients that are written out at a time, at most: all fallbacks, and for the
        other leaves a few examples of one leaf at a time."""
        fallback = sum(leaf.written for leaf in self.fallbacks)
        return fallback + max((leaf.written for leaf in self.leaves if not leaf.reason), default=0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return dataclasses.asdict(self)

    def __str__(self):
        names = labels([x.leaf for x in self.leaves], _NAME)
        rows = [
            [name, x.source, x.form, x.algorithm, x.flops / 1e6, x.bytes / 1e6, x.written / 1e6]
            for name, x in zip(names, self.leaves, strict=True)
        ]
        header = ["leaf", "born at", "form", "algorithm", "MFLOP", "MB kept", "MB written"]
        whole = self.examples * self.parameters * 4
        lines = [
            text(rows, header, width=120),
            f"{self.examples} examples, {number(self.parameters)} parameters. Gradients written "
            f"out at a time: at most {number(self.written / 1e6)} MB, "
            f"{percent(self.written / max(1, whole))} of what all of them would take.",
        ]
        lines += [f"{x.leaf} is written out: {x.reason}" for x in self.fallbacks]
        return "\n".join([*lines, *self._not_chosen(names)])

    def _not_chosen(self, names) -> list[str]:
        """A table of the ways that would have taken longer."""
        rows = [
            [name, x.algorithm, x.flops / 1e6, other, flops / 1e6]
            for name, x in zip(names, self.leaves, strict=True)
            for other, flops in x.alternatives
        ]
        header = ["leaf", "algorithm", "MFLOP", "not chosen", "MFLOP"]
        return ["", text(rows, header, "What would have taken longer:", 120)] if rows else []


def plan(loss: Loss, stats: Any, *, has_aux: bool = False, memory_limit: int | None = None):
    """How `gradient_statistics(loss, stats)` finds its results, without computing them.

    Args:
      loss, stats, has_aux, memory_limit: as for `funcbackprop.gradient_statistics`.

    Returns:
      `f(params, batch, weights=None) -> Plan`; shapes and dtypes are what counts. `print` shows it
      as a table.

    Raises:
      TypeError, ValueError: as `gradient_statistics`.

    Cost: tracing; nothing is computed.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> loss = lambda w, x: jnp.sum(jnp.tanh(x @ w))
    >>> found = fb.plan(loss, fb.SquaredNorms())(jnp.ones((64, 32)), jnp.ones((8, 64)))
    >>> found.leaves[0].form, found.leaves[0].algorithm, found.fallbacks
    ('outer products', 'product of norms', ())
    """
    measure = gradient_statistics(loss, stats, has_aux=has_aux, memory_limit=memory_limit)

    def f(params: chex.ArrayTree, batch: chex.ArrayTree, weights: Any = None) -> Plan:
        seen: dict[int, _Seen] = {}

        def note(leaf, g, times):
            seen[leaf] = seen.get(leaf, _Seen(g, times, []))
            return seen[leaf].log

        leafwise = [s for s in measure.stats if isinstance(s, Leafwise)]

        def taken(params, batch, weights):
            given = measure.given(params, batch, weights)
            return factored.take(leafwise, given, None, rows_of(leafwise), note)

        jax.eval_shape(taken, params, batch, weights)
        params, _ = differentiable(params, "plan")
        leaves, names = jax.tree.leaves(params), leaf_names(params)
        found = tuple(_leaf_plan(name, seen[k]) for k, name in enumerate(names))
        examples = len(jax.tree.leaves(batch)[0])
        return Plan(found, examples, sum(map(jnp.size, leaves)))

    return f


@dataclasses.dataclass
class _Seen:
    """Where statistics were taken from a leaf, and what was asked there."""

    gradient: Gradient
    times: int
    rounds: list[list[Choice]]

    def log(self, choices):
        self.rounds.append(choices)


def _leaf_plan(name: str, seen: _Seen) -> LeafPlan:
    g, terms = seen.gradient, seen.gradient.terms
    itemsize = jnp.dtype(g.dtype).itemsize
    causes = [t.equation for t in terms if t.form is DENSE and t.equation is not None]
    forms = dict.fromkeys(t.form.name for t in terms)
    chosen = [choices[0] for choices in seen.rounds]
    at_a_time = g.size if causes else max((c.written for c in chosen), default=0)
    return LeafPlan(
        leaf=name,
        source=", ".join(dict.fromkeys(map(_place, (t.equation for t in terms if t.equation)))),
        form="written out" if causes else " + ".join(forms),
        algorithm=", ".join(dict.fromkeys(c.name for c in chosen)),
        flops=g.size * seen.times * sum(c.flops for c in chosen),
        alternatives=tuple(_others(seen)),
        bytes=seen.times * sum(x.size * x.dtype.itemsize for t in terms for x in (t.u, t.v)),
        written=at_a_time * math.prod(g.shape) * itemsize,
        reason="; ".join(map(_why, causes)) if causes else None,
    )


def _others(seen: _Seen) -> list[tuple[str, float]]:
    """Ways that were not chosen, by name: the cheapest of each, and none named as the one taken."""
    whole = sum(choices[0].flops for choices in seen.rounds)
    found: dict[str, float] = {}
    for first, *rest in seen.rounds:
        for other in rest:
            flops = seen.gradient.size * seen.times * (whole - first.flops + other.flops)
            if other.name != first.name:
                found[other.name] = min(flops, found.get(other.name, flops))
    return sorted(found.items(), key=lambda pair: pair[1])


def _place(equation) -> str:
    source = equation.source
    return f"{source.file.rpartition('/')[2]}:{source.line}"


def _why(equation) -> str:
    return f"`{equation.name}` at {equation.source} makes it, and its entries are needed afterwards"
