"""A gradient that is kept factored: a sum of terms, and what can be asked of it."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..contract import rows, vary_like
from .factors import DENSE, Form
from .kernels import abs2, norm_kernel, single_position, sum_per_row
from .layouts import Layout, Loop


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("u", "v", "steps"),
    meta_fields=("form", "equation", "shape"),
)
@dataclasses.dataclass(frozen=True)
class Term:
    """One product, and what happens to it on its way.

    Inside the program it belongs to one example. Where statistics are taken, u and v have a leading
    axis of examples.

    Attributes:
      form, equation: how the product is formed, and where. Of entries that are larger than what
        they were made of, the equation that wrote them out.
      shape: of the array that it stands for, after the steps.
      u, v: its operands, with an axis in front for every loop on the way.
      steps: layouts and loops, in order.
    """

    form: Form
    equation: Any
    shape: tuple[int, ...]
    u: Any
    v: Any
    steps: tuple[Layout | Loop, ...] = ()

    def laid_out(self, layout: Layout) -> "Term":
        shape = jax.eval_shape(layout, jax.ShapeDtypeStruct(self.shape, self.v.dtype)).shape
        return dataclasses.replace(self, shape=shape, steps=(*self.steps, layout))

    def looped(self, kind: Loop, length: int) -> "Term":
        """What a loop makes of it, whose iterations have put an axis in front of u and v."""
        shape = (length, *self.shape) if kind.stacks else self.shape
        return dataclasses.replace(self, shape=shape, steps=(*self.steps, kind))

    def scaled(self, factor: Any) -> "Term":
        """The term times a number."""
        v = self.v * jnp.asarray(factor).astype(_real(self.v))
        return dataclasses.replace(self, v=v)

    @property
    def flops(self) -> int:
        """Of one example's gradient; u and v have a leading axis of examples."""
        return self.form.flops(self)

    def total(self, u: Any, v: Any) -> jax.Array:
        """The sum over a leading axis; linear in v."""
        return _total(self.form, self.equation, self.steps, u, v)


def _total(form, equation, steps, u, v):
    if not steps:
        return form.total(equation, u, v)
    *before, last = steps
    inner = functools.partial(_total, form, equation, before)
    if isinstance(last, Layout):
        return last(inner(u, v))
    if last.stacks:
        return jax.vmap(inner, in_axes=1)(u, v)
    return inner(*(x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]) for x in (u, v)))


def dense(x: Any, written: Any = None) -> Term:
    """The term of one example's gradient whose entries are known."""
    return Term(DENSE, written, jnp.shape(x), jnp.zeros((0,)), x)


def all_dense(x: jax.Array) -> Term:
    """The term of the gradients of all examples, written out: [B, *shape]."""
    return Term(DENSE, None, x.shape[1:], jnp.zeros((len(x), 0)), x)


@dataclasses.dataclass(frozen=True)
class Gradient:
    """The gradients of B examples with respect to one parameter leaf, or to a part of one.

    Attributes:
      terms: they add up to the gradient; u and v have a leading axis [B].
      shape: of the leaf.
      weights: [B].
      chunk_bytes: memory for the gradients of a few examples that are written out at a time.
      known_mean: the mean gradient of the batch, where these are some examples of it.
      log: called with (what is asked, how it is found, FLOPs of one example, examples whose
        gradients are written out at a time); for `plan`.
    """

    terms: tuple[Term, ...]
    shape: tuple[int, ...]
    weights: Any
    chunk_bytes: int
    known_mean: Any = None
    log: Callable = lambda *what: None

    @functools.cached_property
    def dtype(self) -> Any:
        """float32 or wider."""
        return jnp.result_type(*(t.v.dtype for t in self.terms))

    @property
    def weight(self) -> jax.Array:
        """The total weight."""
        return jnp.sum(self.weights)

    @functools.cached_property
    def mean(self) -> jax.Array:
        """The weighted mean gradient: [*shape]; of the whole batch, if that is known."""
        return self.own_mean if self.known_mean is None else self.known_mean

    @functools.cached_property
    def own_mean(self) -> jax.Array:
        """The weighted mean gradient of these examples; 0 if all weights are 0."""
        return self.averaged(self.weighted_sum(self.weights))

    def averaged(self, summed: jax.Array) -> jax.Array:
        """A weighted sum over the examples as a mean; 0 if all weights are 0."""
        return summed / jnp.where(self.weight > 0, self.weight, 1).astype(_real(summed))

    def weighted_sum(self, c: jax.Array) -> jax.Array:
        """sum_i c_i g_i: [*shape] for c [B], [K, *shape] for c [K, B]."""
        if jnp.ndim(c) > 1:
            return jax.vmap(self.weighted_sum)(c)
        self.log("weighted sum", "contraction", self._flops, 0)
        parts = (t.total(t.u, t.v * rows(c.astype(_real(t.v)), t.v)) for t in self.terms)
        return functools.reduce(jnp.add, parts)

    def inner(self, d: jax.Array) -> jax.Array:
        """Real part of <g_i, d>: [B] for d [*shape], [B, K] for d [K, *shape]."""
        if jnp.ndim(d) > len(self.shape):
            return jax.vmap(self.inner, out_axes=1)(d)
        self.log("inner products", "contraction", self._flops, 0)
        d = jnp.conj(d).astype(self.dtype)
        return functools.reduce(jnp.add, (_inner(t, d) for t in self.terms))

    def sq_norms(self) -> jax.Array:
        """|g_i|^2: [B]."""
        kernel = norm_kernel(self.terms[0]) if len(self.terms) == 1 else None
        if kernel is not None:
            self.log("squared norms", kernel.name, kernel.flops, 0)
            return kernel.run(self.terms[0])
        return self.each(lambda g, _: sum_per_row(abs2(g)))

    def gram(self) -> jax.Array:
        """Real part of <g_i, g_j>: [B, B]."""

        def column(g, _):
            flat = g.reshape(len(g), -1)
            return self.each(
                lambda others, _: (jnp.conj(others.reshape(len(others), -1)) @ flat.T).real
            ).T

        return self.each(column)

    def each(self, f: Callable) -> Any:
        """`f(g [C, *shape], rows [C])` for a few examples at a time, concatenated.

        `rows` are the numbers of the examples; what f returns has a leading axis [C].
        """
        return self._chunked(f, None)

    def fold(self, f: Callable, merge: Callable) -> Any:
        """`f(g [C, *shape], rows [C])` for a few examples at a time, merged.

        A state of zeros must be that of no examples.
        """
        return self._chunked(f, merge)

    def sum_of_squares(self) -> jax.Array | None:
        """sum_i w_i |g_i|^2, entry by entry, if it needs no entries of single gradients."""
        t = self.terms[0]
        if len(self.terms) > 1 or not single_position(t):
            return None
        self.log("squares", "contraction of squares", t.flops, 0)
        v = abs2(t.v)
        return t.total(abs2(t.u), v * rows(self.weights.astype(v.dtype), v))

    def sum_of(self, f: Callable) -> Any:
        """sum_i w_i f(g_i) of a function of entries."""
        return self.fold(lambda g, k: weighted_sum(f(g), self.weights[k]), jnp.add)

    @property
    def size(self) -> int:
        """B."""
        return len(self.weights)

    @property
    def _is_known(self) -> bool:
        return all(t.form is DENSE and not t.steps for t in self.terms)

    @property
    def chunk(self) -> int:
        """How many examples are written out at a time."""
        if self._is_known:
            return self.size
        one = math.prod(self.shape) * jnp.dtype(self.dtype).itemsize
        return even(self.size, max(1, self.chunk_bytes // max(1, one)))

    @property
    def _flops(self) -> int:
        return sum(t.flops for t in self.terms)

    def _chunked(self, f, merge):
        written = 0 if self._is_known else self.chunk
        self.log(
            "entries", "entries" if not written else f"chunks of {written}", self._flops, written
        )
        data = ([(t.u, t.v) for t in self.terms], jnp.arange(self.size))
        return chunked(lambda part: f(self._entries(part[0]), part[1]), merge, data, self.chunk)

    def _entries(self, pairs) -> jax.Array:
        """The gradients of a few examples: [C, *shape]."""
        each = (
            jax.vmap(lambda u, v, t=t: t.total(u[None], v[None]))(u, v)
            for t, (u, v) in zip(self.terms, pairs, strict=True)
        )
        return functools.reduce(jnp.add, each)


def chunked(f: Callable, merge: Callable | None, data: Any, size: int) -> Any:
    """`f` of `size` rows of `data` at a time, under `lax.scan`: concatenated, or merged."""
    length = len(jax.tree.leaves(data)[0])
    count = length // size
    if count == 1 and length == size:
        return f(data)
    head = jax.tree.map(lambda x: x[: count * size].reshape(count, size, *x.shape[1:]), data)
    rest = jax.tree.map(lambda x: x[count * size :], data)
    if merge is None:
        _, stacked = jax.lax.scan(lambda carry, part: (carry, f(part)), (), head)
        found = jax.tree.map(lambda x: x.reshape(count * size, *x.shape[2:]), stacked)
        join = lambda x, y: jnp.concatenate([x, y])  # noqa: E731
        return found if count * size == length else jax.tree.map(join, found, f(rest))
    one = jax.tree.map(lambda x: x[0], head)
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(f, one))
    start = vary_like(empty, data)
    merge_trees = functools.partial(jax.tree.map, merge) if merge is jnp.add else merge
    found, _ = jax.lax.scan(lambda carry, part: (merge_trees(carry, f(part)), ()), start, head)
    return found if count * size == length else merge_trees(found, f(rest))


def even(size: int, chunk: int) -> int:
    """The largest divisor of `size` up to `chunk`, unless that is less than half of `chunk`.

    Without a remainder the program of a chunk is compiled once, not twice.

    >>> [even(512, 95), even(64, 100), even(7, 3)]
    [64, 64, 3]
    """
    chunk = min(size, chunk)
    divisor = next(c for c in range(chunk, 0, -1) if size % c == 0)
    return divisor if 2 * divisor >= chunk else chunk


def weighted_sum(x: Any, weights: Any) -> jax.Array:
    """sum_i w_i x_i as a matrix product: XLA's CPU sum over a leading axis is 10 times slower."""
    return jnp.tensordot(weights.astype(x.dtype), x, 1, precision=jax.lax.Precision.HIGHEST)


def _inner(term: Term, d: jax.Array) -> jax.Array:
    (back,) = jax.linear_transpose(functools.partial(term.total, term.u), term.v)(d)
    return sum_per_row((term.v * back).real)


def _real(x):
    return jnp.finfo(x.dtype).dtype
