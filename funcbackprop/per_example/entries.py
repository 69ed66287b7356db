"""The pass over entries: the gradients of a few examples at a time are written out, and everything
that is asked is taken from them while they are in the cache."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..contract import rows
from . import asks, costs
from .loops import even, in_lanes, lanes, scanned
from .numbers import abs2, join_deviations, ratio, real, sum_per_row
from .terms import Gradient, product_of


def by_entries(g: Gradient, asked: Sequence[asks.Ask]) -> list:
    """The answers."""
    source = source_of(g, asked)
    takers = [_TAKERS[type(ask)](g, ask, source) for ask in asked]

    def step(states, data):
        pairs, own = data
        group = source.group(pairs)
        each = zip(takers, states, own, strict=True)
        found = [taker.step(state, group, x) for taker, state, x in each]
        return [state for state, _ in found], [rows for _, rows in found]

    def lane(data):
        size = len(jax.tree.leaves(data)[0]) if source.known else source.size
        return scanned(step, [t.start for t in takers], data, size)

    def join(states):
        return [t.join(x) for t, x in zip(takers, states, strict=True)]

    data = [(t.u, t.v) for t in g.terms], [t.data for t in takers]
    states, rows = in_lanes(lane, join, data, 1 if source.known else lanes(g.weights))
    found = zip(takers, states, rows, strict=True)
    return [taker.finish(state if x is None else x) for taker, state, x in found]


def deviations_unless(
    kept: jax.Array, g: Gradient, ask: asks.Deviations, mean: jax.Array, found: jax.Array
) -> jax.Array:
    """The deviations that are asked for, which are `found` where that has kept its digits.

    A loop that runs no iteration then: unlike a branch it costs no copy of the result.

    Args:
      kept: whether it has.
      mean, found: in the order of the gradient's one product.
    """
    source = source_of(g, [ask])
    if lanes(g.weights) > 1:
        # Slices of a sharded batch would be gathered, even by a loop that does not run.
        exact = lambda: source.back(by_entries(g, [ask])[0][1], len(g.shape))  # noqa: E731
        return lax.cond(kept, lambda: found, exact)
    size = next(c for c in range(source.size, 0, -1) if g.size % c == 0)
    (term,) = g.terms
    shares = g.shares * ask.scale

    def step(number, total):
        some = lambda x: lax.dynamic_slice_in_dim(x, number * size, size)  # noqa: E731
        group = source.group([(some(term.u), some(term.v))])
        (more,) = group.sums(lambda x: [abs2(x - mean)], some(shares))
        return jnp.where(number > 0, total, 0) + more

    return lax.fori_loop(0, jnp.where(kept, 0, g.size // size), step, found)


# --- where entries come from ----------------------------------------------------------------------


class Group(NamedTuple):
    """The entries of a few examples, [C, *shape], and perhaps those of each by itself."""

    entries: Any
    one_by_one: Any = None

    def sums(self, f: Callable, c: jax.Array) -> list[jax.Array]:
        """sum_k c_k x for each of the arrays x in the list f(g_k)."""
        if self.one_by_one is None:
            return [_weighted(c, x) for x in jax.vmap(f)(self.entries)]
        on_cpu, elsewhere = (functools.partial(way, f) for way in (one_by_one, all_at_once))
        return lax.platform_dependent(self, c, cpu=on_cpu, default=elsewhere)

    @property
    def first(self) -> jax.Array:
        """The entries of the first example."""
        return self.entries[0] if self.one_by_one is None else self.one_by_one[0]


def one_by_one(f: Callable, group: Group, c: jax.Array) -> list[jax.Array]:
    """`Group.sums` for XLA's CPU compiler, whose sum over a leading axis is 10 times slower. Two
    real arrays become one complex array: both sums are then made in one pass over the entries."""
    values = [
        [c[k].astype(real(x.dtype)) * x for x in f(g)] for k, g in enumerate(group.one_by_one)
    ]
    first = values[0]
    pair = len(first) == 2 and first[0].dtype == first[1].dtype and not jnp.iscomplexobj(first[0])
    columns = zip(*([lax.complex(*row)] if pair else row for row in values), strict=True)
    total = [functools.reduce(jnp.add, column) for column in columns]
    return [total[0].real, total[0].imag] if pair else total


def all_at_once(f: Callable, group: Group, c: jax.Array) -> list[jax.Array]:
    """`Group.sums` for GPUs and TPUs, where reductions of the same entries are one kernel."""
    return [jnp.sum(rows(c.astype(real(x.dtype)), x) * x, 0) for x in jax.vmap(f)(group.entries)]


def _weighted(c, x):
    """As a matrix product: XLA's CPU sum over a leading axis is 10 times slower."""
    return jnp.tensordot(c.astype(x.dtype), x, 1, precision=lax.Precision.HIGHEST)


class Source(NamedTuple):
    """How the entries of some examples are formed.

    Attributes:
      group: `[(u, v) of each term] -> Group`.
      shape: of the entries of one example: that of the leaf, or an order that is cheaper to form.
      place: `[..., *shape] -> [..., *leaf shape]`.
      size: examples in a group.
      known: whether all entries are there already.
    """

    group: Callable
    shape: tuple[int, ...]
    place: Callable
    size: int
    known: bool = False

    def back(self, d: jax.Array, ndim: int) -> jax.Array:
        """The reverse of `place`, of d [..., *leaf shape] with `ndim` axes of the leaf."""
        like = jax.ShapeDtypeStruct((*d.shape[: d.ndim - ndim], *self.shape), d.dtype)
        return jax.linear_transpose(self.place, like)(d)[0]


def source_of(g: Gradient, asked: Sequence[asks.Ask]) -> Source:
    """Entries for these questions."""
    same = lambda x: x  # noqa: E731
    if all(t.known for t in g.terms):
        added = lambda pairs: Group(functools.reduce(jnp.add, (v for _, v in pairs)))  # noqa: E731
        return Source(added, g.shape, same, g.size, known=True)
    size = _examples(g, asked)
    unfolded = product_of(g)
    if unfolded is not None:
        return _of_products(unfolded, size)

    def group(pairs):
        each = (_entries(t, u, v) for t, (u, v) in zip(g.terms, pairs, strict=True))
        entries = functools.reduce(jnp.add, each)
        return Group(entries, list(entries))

    return Source(group, g.shape, same, size)


def _of_products(unfolded, size) -> Source:
    """One product, its entries in its own order; with one position they are never written."""

    def group(pairs):
        u, v = unfolded.factors(*pairs[0])
        if unfolded.positions == 1:
            u = jnp.swapaxes(u, -1, -2)
            return Group(u * v, [a * b for a, b in zip(u, v, strict=True)])
        entries = _products(u, v, unfolded.precision)
        return Group(entries, list(entries))

    return Source(group, unfolded.shape, unfolded.place, size)


def _entries(term, u, v) -> jax.Array:
    """[C, *shape] of one term."""
    unfolded = term.unfolded
    if unfolded is None:
        return jax.vmap(lambda u, v: term.total(u[None], v[None]))(u, v)
    u, v = unfolded.factors(u, v)
    return unfolded.place(_products(u, v, unfolded.precision))


def _products(u, v, precision):
    return jnp.einsum("cgtm,cgtn->cgmn", u, v, precision=precision)


def _examples(g, asked) -> int:
    """How many examples are formed at a time."""
    most = costs.GROUP_EXAMPLES
    if fused(g, asked):
        most = costs.GROUP_FUSED
    else:
        one = math.prod(g.shape) * jnp.dtype(g.dtype).itemsize
        most = min(most, g.limit // max(1, one))
    for t in g.terms:
        most = most if t.unfolded is None else t.unfolded.at_a_time(most)
    return even(g.size // lanes(g.weights), most)


def fused(g: Gradient, asked: Sequence[asks.Ask]) -> bool:
    """Whether every entry is the product of two numbers that is formed where it is needed."""
    unfolded = product_of(g)
    sums = all(isinstance(a, _SUMS) and jnp.ndim(getattr(a, "c", 0)) < 2 for a in asked)
    return unfolded is not None and unfolded.positions == 1 and sums


# --- what is taken from them ----------------------------------------------------------------------


class _Taker(NamedTuple):
    """How a question is answered, group by group.

    Attributes:
      data: with a leading axis [B], for `step`.
      start: the state of no examples; () if the answer has rows.
      step: `(state, group, data) -> (state, rows)`, one of them () or None.
      join: states behind a leading axis -> one state.
      finish: `state or rows -> answer`.
    """

    data: Any
    start: Any
    step: Callable
    join: Callable
    finish: Callable


def _summed(data, like, step, finish) -> _Taker:
    """A sum over groups; `step(group, data)`, whose result is like `like`."""
    start = jnp.zeros(like.shape, like.dtype)
    return _Taker(data, start, lambda s, *x: (s + step(*x), None), _added, finish)


def _added(states):
    return jnp.sum(states, axis=0)


def _rows(step) -> _Taker:
    """An answer for every example: `step(group)`."""
    none: Any = ()
    return _Taker(
        (), none, lambda s, group, data: (none, step(group)), lambda states: none, lambda x: x
    )


def _weighted_sum(g, ask, source):
    if ask.c.ndim == 1:
        step = lambda group, c: group.sums(lambda x: [x], c)[0]  # noqa: E731
        like = jax.ShapeDtypeStruct(source.shape, g.dtype)
        return _summed(ask.c, like, step, source.place)
    like = jax.ShapeDtypeStruct((len(ask.c), *source.shape), g.dtype)
    step = lambda group, c: _weighted(c.T, group.entries)  # noqa: E731
    return _summed(ask.c.T, like, step, source.place)


def _mean(g, ask, source):
    return _weighted_sum(g, asks.WeightedSum(g.shares), source)


def _mean_of(g, ask, source):
    like = jax.eval_shape(ask.f, jax.ShapeDtypeStruct(source.shape, g.dtype))
    step = lambda group, w: group.sums(lambda x: [ask.f(x)], w)[0]  # noqa: E731
    return _summed(g.shares, like, step, source.place)


def _deviations(g, ask, source):
    """Relative to the mean so far, so that a large mean does not cancel; of the first group,
    relative to its first example."""
    if source.known:
        return _deviations_of_known(g, ask)
    count, pair = lanes(g.weights), _pair_of(g.dtype)
    shares = g.shares.reshape(count, -1)
    until = jnp.cumsum(shares, axis=1)
    scale = jnp.asarray(ask.scale).astype(real(g.dtype))
    any_weight = g.weight > 0

    def step(state, group, data):
        shares, until = data
        mean, deviations = pair.parts(state)
        near = jnp.where(until[0] > shares[0], mean, jnp.where(any_weight, group.first, 0))
        shift, squares = group.sums(lambda x: [x - near, abs2(x - near)], shares)
        part = ratio(1, until[-1]).astype(deviations.dtype)
        return pair.joined(near + shift * part, deviations + squares - abs2(shift) * part), None

    def join(states):
        return pair.joined(*join_deviations(until[:, -1], *pair.parts(states)))

    def finish(state):
        mean, deviations = pair.parts(state)
        return source.place(mean), source.place(scale * deviations)

    zeros = jnp.zeros(source.shape, g.dtype), jnp.zeros(source.shape, real(g.dtype))
    data = shares.reshape(-1), until.reshape(-1)
    return _Taker(data, pair.joined(*zeros), step, join, finish)


class _Pair(NamedTuple):
    """Two arrays in one."""

    joined: Callable
    parts: Callable


def _pair_of(dtype) -> _Pair:
    """An array of this dtype and a real one. Two real arrays become one complex array: XLA's CPU
    compiler then updates both in one kernel."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return _Pair(lambda *parts: parts, lambda parts: parts)
    return _Pair(lax.complex, lambda x: (x.real, x.imag))


def _deviations_of_known(g, ask):
    """In two passes."""

    def step(_, group, shares):
        (mean,) = group.sums(lambda x: [x], shares)
        (deviations,) = group.sums(lambda x: [abs2(x - mean)], shares * ask.scale)
        return (), (mean, deviations)

    return _Taker(g.shares, (), step, lambda states: (), lambda found: found)


def _sq_norms(g, ask, source):
    return _rows(lambda group: sum_per_row(abs2(group.entries)))


def _sq_distances(g, ask, source):
    d = source.back(ask.d, len(g.shape))[None]
    return _rows(lambda group: sum_per_row(abs2(group.entries - d)))


def _inner(g, ask, source):
    d = source.back(ask.d, len(g.shape))
    count = d.ndim - len(source.shape)
    flat = jnp.conj(d).reshape(*d.shape[:count], -1)

    def step(group):
        entries = group.entries.reshape(len(group.entries), -1)
        return jnp.tensordot(entries, flat, (1, count), precision=lax.Precision.HIGHEST).real

    return _rows(step)


def _fold(g, ask, source):
    def step(group, w):
        return ask.f(source.place(group.entries), w)

    group = jax.eval_shape(lambda: jnp.zeros((1, *g.shape), g.dtype))
    like = jax.eval_shape(ask.f, group, g.weights[:1])
    return _summed(g.weights, like, step, lambda x: x)


def _each(g, ask, source):
    return _rows(lambda group: ask.f(source.place(group.entries)))


# Sums over the examples of functions of entries.
_SUMS = (asks.Mean, asks.WeightedSum, asks.MeanOf, asks.Deviations)
_TAKERS: dict[type, Callable] = {
    asks.Mean: _mean,
    asks.WeightedSum: _weighted_sum,
    asks.MeanOf: _mean_of,
    asks.Deviations: _deviations,
    asks.SquaredNorms: _sq_norms,
    asks.SquaredDistances: _sq_distances,
    asks.Inner: _inner,
    asks.Fold: _fold,
    asks.Each: _each,
}
