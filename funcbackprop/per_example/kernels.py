"""Answers straight from the factors of a gradient, without the entries of single examples.

B examples, G groups, T positions at which a weight [G, M, N] is used: g_i = sum_t u_it (x) v_it.
A kernel answers one question; `planner` weighs it against the pass over entries.
"""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..contract import rows
from . import asks, costs, gram, indexed
from .asks import Kernel
from .entries import by_entries, deviations_unless
from .loops import in_lanes, lanes, scanned
from .numbers import abs2, real, sum_per_row
from .terms import Gradient, Term, factors_of, product_of


def kernels(g: Gradient, ask: asks.Ask) -> list[Kernel]:
    """All kernels that can answer a question, cheapest first."""
    found = (make(g, ask) for make in _KERNELS.get(type(ask), ()))
    return sorted((k for k in found if k is not None), key=lambda k: k.flops)


# --- sums over the examples -----------------------------------------------------------------------


def _contraction(g, ask):
    def one(c):
        return functools.reduce(jnp.add, (_weighted(g, t, c) for t in g.terms))

    several = ask.c.ndim > 1
    flops = (len(ask.c) if several else 1) * sum(t.flops for t in g.terms)
    run = lambda: jax.vmap(one)(ask.c) if several else one(ask.c)  # noqa: E731
    return Kernel("contraction", flops, run)


def _mean(g, ask):
    return _contraction(g, asks.WeightedSum(g.shares))


def _weighted(g: Gradient, t: Term, c) -> jax.Array:
    """sum_i c_i g_i of one term."""
    v = t.v * rows(c.astype(real(t.v.dtype)), t.v)
    p = t.unfolded
    if p is None:
        return t.total(t.u, v)
    if not p.copies:
        return p.place(_summed(p, t.u, v))
    add = lambda total, data: (total + _summed(p, *data), ())  # noqa: E731
    zeros = jnp.zeros(p.shape, v.dtype)
    size = p.at_a_time(min(g.size // lanes(g.weights), costs.GROUP_EXAMPLES))
    lane = lambda data: scanned(add, zeros, data, size)  # noqa: E731
    total, _ = in_lanes(lane, lambda x: jnp.sum(x, 0), (t.u, v), lanes(g.weights))
    return p.place(total)


def _summed(p, u, v):
    u, v = p.factors(u, v)
    return _products(u, v, p.precision)


def _products(u, v, precision="highest"):
    """Over examples and positions, as a product of two matrices in each group."""
    u, v = (jnp.moveaxis(x, 1, 0).reshape(x.shape[1], -1, x.shape[-1]) for x in (u, v))
    return jnp.einsum("gtm,gtn->gmn", u, v, precision=precision)


def _squares(g, ask):
    """Of the function |g|^2."""
    p = product_of(g)
    if ask.f is not abs2 or not _few_positions(g):
        return None

    def run():
        u, v = factors_of(g)
        return p.place(_mean_of_squares(u, v, g.shares))

    return Kernel("products of positions, squared", _flops_of_squares(p), run)


def _few_positions(g):
    p = product_of(g)
    return p is not None and p.positions <= costs.SQUARES and not jnp.iscomplexobj(g.terms[0].v)


def _flops_of_squares(p):
    return p.flops * (p.positions + 1) / 2


def _mean_of_squares(u, v, shares):
    """sum_i s_i g_i^2: products of pairs of positions, as a Khatri-Rao product has them."""
    v_weighted = v * rows(shares.astype(v.dtype), v)
    pairs = list(itertools.combinations_with_replacement(range(u.shape[2]), 2))
    left = [u[:, :, t] * u[:, :, s] * (1 if t == s else 2) for t, s in pairs]
    right = [v[:, :, t] * v_weighted[:, :, s] for t, s in pairs]
    return _products(jnp.stack(left, 2), jnp.stack(right, 2))


def _deviations(g, ask):
    """From sums of squares, if the spread is no small part of them."""
    p = product_of(g)
    if not _few_positions(g) or (ask.centred and p.positions > 1):
        return None
    find = _about_means_of_factors if ask.centred else _about_zero

    def run():
        mean, squares, deviations = find(g, ask.scale)
        kept = jnp.max(deviations, initial=0) >= costs.SPREAD * jnp.max(squares, initial=0)
        return p.place(mean), p.place(deviations_unless(kept, g, ask, mean, deviations))

    name = "centred factors, squared" if ask.centred else "products of positions, squared"
    more = 2 * p.flops if ask.centred else _flops_of_squares(p)
    return Kernel(name, p.flops + more, run)


def _about_zero(g, scale):
    """`(mean, squares, deviations)`, which are what is left of the squares."""
    u, v = factors_of(g)
    mean = _products(u, v * rows(g.shares.astype(v.dtype), v), product_of(g).precision)
    squares = _mean_of_squares(u, v, g.shares * scale)
    return mean, squares, squares - jnp.asarray(scale).astype(v.dtype) * abs2(mean)


def _about_means_of_factors(g, scale):
    """The same. With u = a + x and v = b + y, a and b their means and C the mean of xy (T = 1),
    the mean of |uv - ab - C|^2 is the mean of

    u^2 y^2 + x^2 (b^2 + 2 b y), and 2 ab C - C^2,

    in which a large mean ab does not cancel.
    """
    u, v = factors_of(g)
    w, scale = rows(g.shares.astype(v.dtype), v), jnp.asarray(scale).astype(v.dtype)
    a, b = (jnp.sum(w * x, axis=0)[None] for x in (u, v))
    x, y = u - a, v - b
    spread = _products(x, w * y)
    left = jnp.concatenate([u * u, x * x], 2)
    squares = _products(left, scale * w * jnp.concatenate([y * y, b * b + 2 * b * y], 2))
    outer = jnp.swapaxes(a[0], 1, 2) * b[0]
    return outer + spread, squares, squares + scale * spread * (2 * outer - spread)


# --- a number for every example -------------------------------------------------------------------


def _norms(g, ask):
    p = product_of(g)
    if p is None:
        return None
    if p.positions == 1:
        flops = p.groups * (p.rows + p.columns)
        return Kernel("product of norms", flops, lambda: _norms_of_rows(*factors_of(g)))
    flops = costs.POSITIONS * 2 * p.groups * p.positions**2 * (p.rows + p.columns)
    return Kernel("products of positions", flops, lambda: _by_positions(g, p.precision))


def _norms_of_rows(u, v):
    return jnp.sum(jnp.sum(abs2(u[:, :, 0]), -1) * jnp.sum(abs2(v[:, :, 0]), -1), axis=1)


def _by_positions(g, precision):
    a, b = (
        jnp.einsum("bgtm,bgsm->bgts", x, jnp.conj(x), precision=precision) for x in factors_of(g)
    )
    return sum_per_row((a * b).real)


def _inner(g, ask):
    count = 1 if ask.d.ndim == len(g.shape) else len(ask.d)

    def one(d):
        return functools.reduce(jnp.add, (_inner_of(t, jnp.conj(d)) for t in g.terms))

    run = lambda: one(ask.d) if ask.d.ndim == len(g.shape) else jax.vmap(one, out_axes=1)(ask.d)  # noqa: E731
    return Kernel("contraction", count * sum(t.flops for t in g.terms), run)


def _inner_of(t: Term, d) -> jax.Array:
    (back,) = jax.linear_transpose(functools.partial(t.total, t.u), t.v)(d)
    return sum_per_row((t.v * back).real)


def _distances(g, ask):
    """|g|^2 - 2 <g, d> + |d|^2, if that is no small part of them."""
    norms = kernels(g, g.sq_norms)
    if not norms:
        return None
    inner = _inner(g, g.inner(ask.d))

    def run():
        squares = norms[0].run() + jnp.sum(abs2(ask.d))
        distances = squares - 2 * inner.run()
        kept = (distances >= costs.SPREAD * squares) | (g.weights <= 0)
        return jax.lax.cond(jnp.all(kept), lambda: distances, lambda: by_entries(g, [ask])[0])

    return Kernel("norms and contraction", norms[0].flops + inner.flops, run)


# --- rows at indices ------------------------------------------------------------------------------


def _at_indices(answer: Callable) -> Callable:
    """The kernel for a gradient that is rows at indices; `answer(g, ask, rows)`."""

    def make(g, ask):
        flops = indexed.flops(g)
        if flops is None:
            return None
        run = lambda: answer(g, ask, indexed.rows_of(g))  # noqa: E731
        return Kernel("rows at equal indices", flops, run)

    return make


_KERNELS: dict[type, tuple[Callable, ...]] = {
    asks.Mean: (_mean,),
    asks.WeightedSum: (_contraction,),
    asks.MeanOf: (_squares, _at_indices(indexed.mean_of)),
    asks.Deviations: (_deviations, _at_indices(indexed.deviations)),
    asks.SquaredNorms: (_norms, _at_indices(indexed.sq_norms)),
    asks.SquaredDistances: (_distances,),
    asks.Inner: (_inner,),
    asks.Gram: (gram.by_positions, gram.by_slices, gram.by_groups),
}
