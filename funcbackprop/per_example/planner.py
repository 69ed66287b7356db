"""The choice: which questions are answered by a kernel of their own, and which by one pass over
entries for all of them."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from . import asks, costs
from .asks import Kernel
from .entries import by_entries, fused, source_of
from .kernels import kernels
from .terms import Gradient


class Choice(NamedTuple):
    """How questions are answered.

    Attributes:
      kernels: question -> its kernel.
      from_entries: the questions that are answered by the pass over entries.
      flops: for one example; those of a matrix product that would take as long.
      written: examples whose entries are written at a time; 0 if none are, or all are known.
    """

    kernels: dict[asks.Ask, Kernel]
    from_entries: Sequence[asks.Ask]
    flops: float
    written: int

    @property
    def name(self) -> str:
        """Of the ways, for people."""
        names = [k.name for k in self.kernels.values()]
        if self.from_entries:
            names.append(f"entries of {self.written}" if self.written else "entries")
        return ", ".join(dict.fromkeys(names))


def answered(g: Gradient, asked: Sequence[asks.Ask], log: Callable | None = None) -> dict:
    """question -> answer.

    Args:
      log: called with the choices that there are, the cheapest first.
    """
    asked = list(dict.fromkeys(asked))
    with_mean = next((a for a in asked if isinstance(a, asks.Deviations)), None)
    if with_mean is not None and g.own_mean in asked:
        asked.remove(g.own_mean)
    found = choices(g, asked)
    if log is not None:
        log(found)
    answers = _answers(g, found[0])
    if with_mean is not None:
        answers[g.own_mean] = answers[with_mean][0]
    return answers


def _answers(g, chosen) -> dict:
    entries = by_entries(g, chosen.from_entries) if chosen.from_entries else []
    answers = dict(zip(chosen.from_entries, entries, strict=True))
    for ask, kernel in chosen.kernels.items():
        answers[ask] = kernel.run()
    return answers


def choices(g: Gradient, asked: Sequence[asks.Ask]) -> list[Choice]:
    """Kernels for all questions, or entries for some or for all of them: the cheapest first."""
    cheapest = {ask: kernel for ask in asked for kernel in kernels(g, ask)[:1]}
    without = [a for a in asked if a not in cheapest]
    several = [a for a in asked if not isinstance(a, asks.Gram)]
    _, again = _cost_of_entries(g, several)
    cheaper = [a for a in several if a in without or cheapest[a].flops > again]
    sets = [cheaper, without] if all(t.known for t in g.terms) else [cheaper, without, several]
    found = [_choice(g, cheapest, some) for some in dict.fromkeys(map(tuple, sets))]
    return sorted(found, key=lambda choice: choice.flops)


def _choice(g, cheapest, from_entries) -> Choice:
    own = {a: k for a, k in cheapest.items() if a not in from_entries}
    flops = sum(k.flops for k in own.values())
    if not from_entries:
        return Choice(own, (), flops, 0)
    once, again = _cost_of_entries(g, from_entries)
    known = all(t.known for t in g.terms)
    written = 0 if known or fused(g, from_entries) else source_of(g, from_entries).size
    return Choice(own, from_entries, flops + once + again * len(from_entries), written)


def _cost_of_entries(g, asked) -> tuple[float, float]:
    """Of a pass over entries, and of each question to them."""
    one = math.prod(g.shape)
    if all(t.known for t in g.terms):
        return 0, costs.AGAIN * one
    flops = sum(t.flops for t in g.terms)
    if fused(g, asked):
        return flops, costs.FUSED * one
    return flops + (costs.ENTRY - costs.AGAIN) * one, costs.AGAIN * one


def reduced(
    stats: Sequence[Any], g: Gradient, operands, numbers, log: Callable | None = None
) -> list:
    """What each statistic takes from a gradient. What they ask at a time is answered together."""
    parts: list[Any] = [None] * len(stats)
    running = {
        k: (s.reduce(g, o, n), None)
        for k, (s, o, n) in enumerate(zip(stats, operands, numbers, strict=True))
    }
    while running:
        asked = {}
        for k, (run, answer) in running.items():
            try:
                asked[k] = run.send(answer)
            except StopIteration as stop:
                parts[k] = stop.value
        found = answered(g, list(asked.values()), log) if asked else {}
        running = {k: (running[k][0], found[ask]) for k, ask in asked.items()}
    return parts
