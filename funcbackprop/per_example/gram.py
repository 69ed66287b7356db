"""Inner products of the gradients of all pairs of examples: [B, B]."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from . import asks, costs
from .entries import by_entries, source_of
from .loops import even, scanned
from .terms import Gradient, product_of


class Way(NamedTuple):
    """Attributes:
    name: in the plan.
    flops: for one example.
    run: `() -> [B, B]`.
    """

    name: str
    flops: float
    run: Callable


def ways(g: Gradient) -> list[Way]:
    """Ways to the Gram matrix, cheapest first."""
    found = [_by_positions(g), _by_slices(g), _by_groups(g)]
    return sorted((way for way in found if way is not None), key=lambda way: way.flops)


def _factors(g):
    (term,) = g.terms
    return term.unfolded.factors(term.u, term.v)


def _by_positions(g: Gradient) -> Way | None:
    """sum_ts <u_it, u_js> <v_it, v_js>, for a few examples i at a time."""
    p = product_of(g)
    if p is None or p.copies:
        return None
    flops = costs.POSITIONS * 2 * g.size * p.groups * p.positions**2 * (p.rows + p.columns)

    def run():
        u, v = _factors(g)

        def some(_, data):
            a, b = (
                jnp.einsum("bgtm,cgsm->bcgts", x, jnp.conj(y), precision=p.precision)
                for x, y in zip(data, (u, v), strict=True)
            )
            return (), jnp.sum((a * b).real, axis=(2, 3, 4))

        one = 2 * g.size * p.groups * p.positions**2 * v.dtype.itemsize
        _, rows = scanned(some, (), (u, v), even(g.size, g.limit // max(1, one)))
        return rows

    return Way("products of positions", flops, run)


def _by_slices(g: Gradient) -> Way | None:
    """The entries of all examples in a few rows of the weight at a time."""
    p = product_of(g)
    if p is None or p.copies:
        return None

    def run():
        u, v = _factors(g)

        def some(total, u):
            entries = jnp.einsum("mbgt,bgtn->bgmn", u, v, precision=p.precision)
            flat = entries.reshape(g.size, -1)
            return total + (flat @ jnp.conj(flat).T).real, ()

        one = g.size * p.groups * p.columns * v.dtype.itemsize
        zeros = jnp.zeros((g.size, g.size), jnp.finfo(v.dtype).dtype)
        size = even(p.rows, g.limit // max(1, one))
        total, _ = scanned(some, zeros, jnp.moveaxis(u, -1, 0), size)
        return total

    return Way("entries, slice by slice", p.flops + 2 * g.size * p.entries, run)


def _by_groups(g: Gradient) -> Way:
    """The entries of a few examples against those of a few others."""
    size = source_of(g, ()).size

    def run():
        def column(group):
            flat = jnp.conj(group.reshape(len(group), -1))
            against = lambda others: (others.reshape(len(others), -1) @ flat.T).real  # noqa: E731
            return by_entries(g, [asks.Each(against)])[0].T

        return by_entries(g, [asks.Each(column)])[0]

    again = sum(t.flops for t in g.terms) * (1 + g.size / size)
    flops = 0 if all(t.known for t in g.terms) else again
    return Way("entries, group by group", flops + 2 * g.size * math.prod(g.shape), run)
