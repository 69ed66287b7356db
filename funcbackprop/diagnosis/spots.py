"""Where to look in the program of a loss: its nonlinearities, and its parameters in their order."""

import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from ..contract import Loss, leaf_names, wide
from ..graph import Equation, Literal, Program, Use, observed, trace, uses_of

# A unit whose derivative is below this share of its largest is flat there: |tanh| > 0.975,
# a sigmoid outside 0.013 .. 0.987, a softmax with one entry above 0.987.
FLAT = 0.05
# A gate (of gelu, silu) below this lets nothing through.
SHUT = 1e-3


class Spot(NamedTuple):
    """One nonlinearity: its kind (a row of `KINDS`), its equation and the user's line."""

    kind: str
    equation: Equation
    source: str


class Places(NamedTuple):
    """What is looked at in a loss.

    Attributes:
      spots: the nonlinearities, in the order of the program.
      observe: `(params, batch) -> (share, size) for each spot`: the share of dead units or of flat
        entries, and the root mean square of what goes in, [turns] inside a loop; None where a spot
        cannot be seen.
      order: for each leaf of params the position of its first use among all; infinite if it has
        none.
      stacked: for each leaf, whether a loop over layers takes it slice by slice.
      dtypes: the floating-point types in which the program computes.
    """

    spots: tuple[Spot, ...]
    observe: Callable
    order: tuple[float, ...]
    stacked: tuple[bool, ...]
    dtypes: frozenset[str]


def places(loss: Loss, params: chex.ArrayTree, example: chex.ArrayTree) -> Places:
    """Find what is to be looked at, from one trace of `loss(params, example)`; nothing is run."""
    program = trace(loss)(params, example)
    found = _numbered(list(_spots(program)))
    count = len(leaf_names(params))
    order, stacked = _order(uses_of(program, count), count)
    dtypes = {str(v.dtype) for e in program.everything() for v in e.outputs}
    return Places(
        found,
        _observer(program, found),
        order,
        stacked,
        frozenset(d for d in dtypes if "float" in d),
    )


def _order(found: list[Use], count: int) -> tuple[tuple[float, ...], tuple[bool, ...]]:
    """For each leaf: its first place among the uses, and whether a loop takes it slice by slice.

    Uses in one loop have one place among the others, and fractions of 1 within it.
    """
    places = [math.inf] * count
    stacked = [False] * count
    loops: dict[Any, list[int]] = {}
    for k, use in enumerate(found):
        if use.loop is not None:
            loops.setdefault(use.loop, []).append(k)
    for k, use in enumerate(found):
        if places[use.leaf] < math.inf:
            continue
        places[use.leaf] = k
        if use.loop is not None:
            together = loops[use.loop]
            places[use.leaf] = together[0] + together.index(k) / len(together)
            stacked[use.leaf] = True
    return tuple(map(float, places)), tuple(stacked)


def _spots(program: Program):
    makers = {v: e for e in program.equations for v in e.outputs}
    users: dict[Any, list[Equation]] = {}
    for e in program.equations:
        for v in e.inputs:
            if not isinstance(v, Literal):
                users.setdefault(v, []).append(e)
    for e in program.equations:
        for _, inner in e.inner:
            if e.name == "scan":
                yield from _spots(inner)
        after = [u for y in e.outputs for u in users.get(y, ())]
        kind = next((kind for kind, (is_it, _) in KINDS.items() if is_it(e, makers, after)), None)
        if kind is not None:
            yield Spot(kind, e, _short(e))


def _numbered(spots: list[Spot]) -> tuple[Spot, ...]:
    """Spots of one line, which a loop in Python makes, get a number each."""
    alike: dict[tuple[str, str], list[Spot]] = {}
    for spot in spots:
        alike.setdefault((spot.kind, spot.source), []).append(spot)

    def named(spot):
        same = alike[spot.kind, spot.source]
        if len(same) == 1:
            return spot
        return spot._replace(source=f"{spot.source}, {same.index(spot) + 1} of {len(same)}")

    return tuple(map(named, spots))


def _short(equation):
    source = equation.source
    return f"{os.path.basename(source.file)}:{source.line} ({source.function})"


def _is_number(atom, value):
    return isinstance(atom, Literal) and atom.shape == () and float(atom.value) == value


def _is_relu(e, makers, after):
    floats = jnp.issubdtype(e.outputs[0].dtype, jnp.floating) if e.outputs else False
    return e.name == "max" and floats and any(_is_number(a, 0.0) for a in e.inputs)


def _is_gelu(e, makers, after):
    """tanh or erf with 1 added to it."""
    plus_one = any(u.name == "add" and any(_is_number(a, 1.0) for a in u.inputs) for u in after)
    return e.name in ("tanh", "erf") and plus_one


def _is_silu(e, makers, after):
    """A sigmoid times its own argument."""
    return e.name == "logistic" and any(u.name == "mul" and e.inputs[0] in u.inputs for u in after)


def _is_softmax(e, makers, after):
    """exp divided by something else than a number."""
    if e.name != "div" or e.outputs[0].shape == () or isinstance(e.inputs[1], Literal):
        return False
    maker = makers.get(e.inputs[0])
    return maker is not None and maker.name == "exp"


# Looks at one example. Rectifiers: which units (along the last axis) let anything through.


def _active(gate: Callable, threshold: float) -> Callable:
    def look(inputs, outputs):
        open_ = gate(wide(outputs[0])) > threshold
        return jnp.any(open_, axis=tuple(range(open_.ndim - 1)))

    return look


# Others: the share of entries where they are flat.


def _flat(slope: Callable) -> Callable:
    return lambda inputs, outputs: jnp.mean(slope(wide(outputs[0])) < FLAT)


def _one_sided(inputs, outputs):
    """Of the distributions along the last axis with more than one entry above 0."""
    p = wide(outputs[0])
    several = jnp.sum(p > 0, -1) > 1
    full = (1 - jnp.max(p, -1) < FLAT / 4) & several
    return jnp.sum(full) / jnp.maximum(jnp.sum(several), 1)


# kind -> (whether an equation is one, what to look at)
KINDS: dict[str, tuple[Callable, Callable]] = {
    "relu": (_is_relu, _active(lambda y: y, 0.0)),
    "gelu": (_is_gelu, _active(lambda y: (1 + y) / 2, SHUT)),
    "silu": (_is_silu, _active(lambda y: y, SHUT)),
    "tanh": (lambda e, makers, after: e.name == "tanh", _flat(lambda y: 1 - y * y)),
    "sigmoid": (
        lambda e, makers, after: e.name == "logistic",
        _flat(lambda y: 4 * y * (1 - y)),
    ),
    "softmax": (_is_softmax, _one_sided),
}
RECTIFIERS = ("relu", "gelu", "silu")


def _observer(program: Program, spots: tuple[Spot, ...]) -> Callable:
    def looking(kind):
        look = KINDS[kind][1]
        return lambda inputs, outputs: (
            look(inputs, outputs),
            jnp.mean(jnp.square(wide(inputs[0]))),
        )

    run = observed(program, {s.equation: looking(s.kind) for s in spots})

    def observe(params, batch):
        given = jax.tree.leaves(params)
        look = lambda *example: run(*given, *example)[1]  # noqa: E731
        seen = jax.vmap(look)(*jax.tree.leaves(batch))
        return [
            None if x is None else _over_examples(s.kind, x)
            for s, x in zip(spots, seen, strict=True)
        ]

    return observe


def _over_examples(kind, seen):
    """[B, turns..., units] or [B, turns...] -> the share that is dead or flat, [turns...]."""
    x, square = seen
    size = jnp.sqrt(jnp.mean(square, axis=0))
    if kind in RECTIFIERS:
        return 1 - jnp.mean(jnp.any(x, axis=0), axis=-1), size
    return jnp.mean(x, axis=0), size
