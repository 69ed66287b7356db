"""Inner products of the gradients of all pairs of examples: [B, B]."""

import math

import jax.numpy as jnp

from . import asks, costs
from .asks import Kernel
from .entries import by_entries, source_of
from .loops import even, scanned
from .terms import Gradient, factors_of, product_of


def by_positions(g: Gradient, ask: asks.Gram) -> Kernel | None:
    """sum_ts <u_it, u_js> <v_it, v_js>, for a few examples i at a time."""
    p = product_of(g)
    if p is None or p.copies:
        return None
    flops = costs.POSITIONS * 2 * g.size * p.groups * p.positions**2 * (p.rows + p.columns)

    def run():
        u, v = factors_of(g)

        def some(_, data):
            a, b = (
                jnp.einsum("bgtm,cgsm->bcgts", x, jnp.conj(y), precision=p.precision)
                for x, y in zip(data, (u, v), strict=True)
            )
            return (), jnp.sum((a * b).real, axis=(2, 3, 4))

        one = 2 * g.size * p.groups * p.positions**2 * v.dtype.itemsize
        _, rows = scanned(some, (), (u, v), even(g.size, g.limit // max(1, one)))
        return rows

    return Kernel("products of positions", flops, run)


def by_slices(g: Gradient, ask: asks.Gram) -> Kernel | None:
    """The entries of all examples in a few rows of the weight at a time."""
    p = product_of(g)
    if p is None or p.copies:
        return None

    def run():
        u, v = factors_of(g)

        def some(total, u):
            entries = jnp.einsum("mbgt,bgtn->bgmn", u, v, precision=p.precision)
            flat = entries.reshape(g.size, -1)
            return total + (flat @ jnp.conj(flat).T).real, ()

        one = g.size * p.groups * p.columns * v.dtype.itemsize
        zeros = jnp.zeros((g.size, g.size), jnp.finfo(v.dtype).dtype)
        size = even(p.rows, g.limit // max(1, one))
        total, _ = scanned(some, zeros, jnp.moveaxis(u, -1, 0), size)
        return total

    return Kernel("entries, slice by slice", p.flops + 2 * g.size * p.entries, run)


def by_groups(g: Gradient, ask: asks.Gram) -> Kernel:
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
    return Kernel("entries, group by group", flops + 2 * g.size * math.prod(g.shape), run)
