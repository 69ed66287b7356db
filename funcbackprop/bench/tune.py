"""What this machine would choose for the constants of `per_example.costs`.

Every constant is a ratio of times of small programs (`cases`), or the candidate whose program takes
the least time. All programs are timed in the same rounds. Constants are set while a program is
traced, and put back: nothing is changed. To tune another: a row in `_RATIOS` or `_CHOICES`.
"""

import textwrap
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from .. import tables
from ..per_example import costs
from . import cases, clock
from .cases import Convolution, Product
from .result import Kind, Spread

# A candidate takes the place of the constant in use if it takes this much less time.
_NOISE = 0.05
_MEGABYTE = 2**20
_WIDTH = 100


# --- constants ------------------------------------------------------------------------------------


class Sizes(NamedTuple):
    """What is measured.

    Attributes:
      product: a large one.
      few: with entries of a few kilobytes.
      one: with one position.
      squares: with as many positions as are to be compared.
      images: whose patches are copied.
    """

    product: Product
    few: Product
    one: Product
    squares: Product
    images: Convolution


SIZES = Sizes(
    Product(16, 128, 256, 1024),
    Product(64, 32, 64, 64),
    Product(256, 1, 784, 1024),
    Product(64, 16, 256, 1024),
    Convolution(16, 32, 28, 32),
)
QUICK = Sizes(
    Product(4, 4, 8, 8),
    Product(4, 2, 4, 4),
    Product(4, 1, 8, 8),
    Product(4, 2, 8, 8),
    Convolution(4, 4, 2, 2),
)


class _Ratio(NamedTuple):
    """A constant that is a function of the times of some programs.

    Attributes:
      size: of `Sizes`.
      answers: name -> what the program computes.
      formula: in the times a, b, ... of the answers.
      value: the formula, `(size, a, b, ...) -> constant`; of arrays, one element for each round.
    """

    size: str
    answers: dict[str, Callable]
    formula: str
    value: Callable


class _Choice(NamedTuple):
    """A constant that is the candidate with the least time.

    Attributes:
      size: of `Sizes`.
      answer: what the program computes.
      candidates: `size -> {value: (its name, constants to set)}`.
    """

    size: str
    answer: Callable
    candidates: Callable


def _groups(name, numbers):
    """So many examples at a time, as far as there are any."""
    return lambda size: {c: (f"{c} at a time", {name: c}) for c in numbers if c <= size.examples}


def _bytes_of_groups(size):
    groups = _groups("GROUP_EXAMPLES", _GROUPS)(size)
    return {
        c * size.bytes: (name, {**constants, "GROUP_BYTES": c * size.bytes})
        for c, (name, constants) in groups.items()
    }


def _bytes_of_patches(size):
    return {
        k * _MEGABYTE: (f"{k} MB", {"PATCH_BYTES": k * _MEGABYTE, "GROUP_EXAMPLES": 16})
        for k in (1, 2, 4, 8, 16)
    }


_GROUPS = (1, 2, 4, 8, 16)
# What a FLOP of the contraction takes is the unit: 2 T of them are the product of one entry.
_CONTRACTION = {"contraction": cases.contraction}
_RATIOS: dict[str, _Ratio] = {
    "ENTRY": _Ratio(
        "product",
        {**_CONTRACTION, "mean and variance by entries": cases.variance},
        "2 T (b - a) / a",
        lambda s, product, entries: 2 * s.positions * (entries / product - 1),
    ),
    "AGAIN": _Ratio(
        "product",
        {
            **_CONTRACTION,
            "mean and variance by entries": cases.variance,
            "and norms": cases.variance_and_norms,
        },
        "2 T (c - b) / a",
        lambda s, product, once, twice: 2 * s.positions * (twice - once) / product,
    ),
    "FUSED": _Ratio(
        "one",
        {**_CONTRACTION, "centred squares by entries": cases.centred},
        "2 T (b - a) / a",
        lambda s, product, entries: 2 * s.positions * (entries / product - 1),
    ),
    "POSITIONS": _Ratio(
        "product",
        {**_CONTRACTION, "norms by products of positions": cases.positions},
        "M N b / (T (M + N) a)",
        lambda s, product, norms: (
            norms / product * s.rows * s.columns / (s.positions * (s.rows + s.columns))
        ),
    ),
}
_CHOICES: dict[str, _Choice] = {
    "GROUP_BYTES": _Choice("product", cases.variance_and_norms, _bytes_of_groups),
    "GROUP_EXAMPLES": _Choice("few", cases.variance_and_norms, _groups("GROUP_EXAMPLES", _GROUPS)),
    "GROUP_FUSED": _Choice("one", cases.centred, _groups("GROUP_FUSED", (4, 8, 16, 32))),
    "PATCH_BYTES": _Choice("images", cases.contraction, _bytes_of_patches),
}
# Two ways to the same squares.
_SQUARES = {"by products": cases.squares, "by entries": cases.variance}


class Constant(NamedTuple):
    """A constant in use, and what was measured.

    Attributes:
      name: in `costs`.
      in_use: its value.
      here: the value that this machine would choose.
      quartiles: of the rounds, for a ratio of times.
      how: the formula and what was timed.
      milliseconds: its times, medians of the rounds.
    """

    name: str
    in_use: float
    here: float
    quartiles: tuple[float, float] | None
    how: str
    milliseconds: dict[str, float]

    def __str__(self):
        times = (f"{name} {tables.number(x)}" for name, x in self.milliseconds.items())
        line = f"{self.name}: {self.how}; ms: {', '.join(times)}"
        return textwrap.fill(line, _WIDTH, subsequent_indent="  ")


class Table(NamedTuple):
    """All constants."""

    constants: tuple[Constant, ...]

    def __str__(self):
        rows = [[c.name, c.in_use, c.here, _range(c.quartiles)] for c in self.constants]
        table = tables.text(rows, ["constant", "in use", "here", "quartiles"])
        return "\n".join([table, "", *map(str, self.constants)])


def _range(quartiles) -> str:
    return " to ".join(map(tables.number, quartiles)) if quartiles else tables.NO_VALUE


def _about(config):
    return (
        "Constants of funcbackprop/per_example/costs.py: FLOPs of a large product that take as "
        f"long, or the\nbest of some candidates, {config['rounds']} rounds, interleaved; the one "
        f"in use, if it is within {tables.percent(_NOISE)}.\nThis only measures: every constant "
        "keeps its value."
    )


def _plain(part):
    return [constant._asdict() for constant in part.constants]


CONSTANTS = Kind("constants", _about, _plain)


# --- measuring ------------------------------------------------------------------------------------


def tuned(quick: bool = False, rounds: int = 15, seed: int = 0, progress: Callable = iter) -> Table:
    """The constants in use, and what this machine would choose.

    Args:
      quick: take tiny sizes.
      rounds, seed, progress: as of `clock.interleaved`.
    """
    sizes = QUICK if quick else SIZES
    programs: dict[str, clock.Call] = {}
    of = {name: getattr(sizes, name).case() for name in Sizes._fields}
    for ratio in _RATIOS.values():
        for name, answer in ratio.answers.items():
            key = f"{ratio.size}, {name}"
            programs[key] = programs.get(key) or of[ratio.size].program(answer)
    for constant, choice in _CHOICES.items():
        for name, constants in choice.candidates(getattr(sizes, choice.size)).values():
            program = of[choice.size].program(choice.answer, **constants)
            programs[f"{constant}, {name}"] = program
    for size in _with_positions(sizes.squares):
        case = size.case()
        for label, answer in _SQUARES.items():
            programs[f"SQUARES, T {size.positions} {label}"] = case.program(
                answer, SQUARES=size.positions
            )
    times = _times(programs, rounds, seed, progress)
    found = [_of_ratio(name, ratio, sizes, times) for name, ratio in _RATIOS.items()]
    found += [_of_choice(name, choice, sizes, times) for name, choice in _CHOICES.items()]
    return Table((*found, _of_squares(sizes, times)))


def _times(programs, rounds, seed, progress) -> dict[str, np.ndarray]:
    """Seconds of each program in each round."""
    for call in programs.values():
        jax.block_until_ready(call())
    timed = {name: (call, clock.repeats(call)) for name, call in programs.items()}
    found = clock.interleaved(timed, rounds, seed, progress)
    return {name: np.asarray(seconds) for name, seconds in found.items()}


def _of_ratio(name, ratio: _Ratio, sizes, times) -> Constant:
    size = getattr(sizes, ratio.size)
    own = {k: times[f"{ratio.size}, {k}"] for k in ratio.answers}
    spread = Spread.of(ratio.value(size, *own.values()).tolist())
    assert spread is not None
    lettered = {f"{letter} {k}": x for letter, (k, x) in zip("abc", own.items(), strict=False)}
    return Constant(
        name=name,
        in_use=getattr(costs, name),
        here=spread.median,
        quartiles=(spread.lower, spread.upper),
        how=f"{ratio.formula} at {size}",
        milliseconds=_medians(lettered),
    )


def _of_choice(name, choice: _Choice, sizes, times) -> Constant:
    size, in_use = getattr(sizes, choice.size), getattr(costs, name)
    candidates = choice.candidates(size)
    own = _medians({label: times[f"{name}, {label}"] for label, _ in candidates.values()})
    of = {value: own[label] for value, (label, _) in candidates.items()}
    best = min(of, key=lambda value: of[value])
    here = in_use if of.get(in_use, np.inf) * (1 - _NOISE) <= of[best] else best
    return Constant(name, in_use, here, None, f"the least time at {size}", own)


def _of_squares(sizes, times) -> Constant:
    """The most positions at which products of positions take less time than entries; 0 if none."""
    own, here = {}, 0
    for size in _with_positions(sizes.squares):
        names = [f"T {size.positions} {label}" for label in _SQUARES]
        own |= _medians({name: times[f"SQUARES, {name}"] for name in names})
        products, entries = (own[name] for name in names)
        here = size.positions if products < entries else here
    largest = sizes.squares._replace(positions=f"up to {sizes.squares.positions}")
    how = f"the largest T at which products take less time, at {largest}"
    return Constant("SQUARES", costs.SQUARES, here, None, how, own)


def _with_positions(largest: Product) -> list[Product]:
    """1, 2, 4, ... positions."""
    numbers = range(largest.positions.bit_length())
    return [largest._replace(positions=2**k) for k in numbers]


def _medians(times: dict[str, np.ndarray]) -> dict[str, float]:
    """In milliseconds."""
    return {name: float(np.median(seconds)) * 1e3 for name, seconds in times.items()}
