"""Rows that are added at indices, as of an embedding: most entries of a gradient are zero.

T positions, at each of which a row [N] is added to one of R rows of the leaf. Rows of an example at
equal indices are added up first, at the first of them; then entries can be squared.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..contract import rows
from .layouts import Loop
from .numbers import abs2, real


class Rows(NamedTuple):
    """Attributes:
    index: [B, T], from 0 to R - 1; R for what is added to no row.
    values: [B, T, N], 0 where `index` is R.
    count: R.
    place: `[R, N] -> [*shape]` of the leaf.
    """

    index: jax.Array
    values: jax.Array
    count: int
    place: Callable

    def apart(self) -> "Rows":
        """With different indices in each example."""
        same = self.index[:, :, None] == self.index[:, None]
        first = jnp.argmax(same, axis=-1)
        add = lambda at, values: jnp.zeros_like(values).at[at].add(values)  # noqa: E731
        values = jax.vmap(add)(first, self.values)
        is_first = first == jnp.arange(first.shape[1])[None]
        return self._replace(index=jnp.where(is_first, self.index, self.count), values=values)

    def added(self, values: jax.Array) -> jax.Array:
        """[R, ...]: `values` [B, T, ...] added up at their indices."""
        total = jnp.zeros((self.count, *values.shape[2:]), values.dtype)
        flat = values.reshape(-1, *values.shape[2:])
        return total.at[self.index.reshape(-1)].add(flat, mode="drop")


def flops(g: Any) -> int | None:
    """A few operations on every entry of the rows; None for a gradient of another form."""
    (term, *more) = g.terms
    if more or term.form.name != "rows" or term.equation.name != "scatter-add":
        return None
    if not term.permutes or any(isinstance(step, Loop) for step in term.steps):
        return None
    d, shape, window = term.equation.params["dimension_numbers"], *_window(term)
    starts = d.scatter_dims_to_operand_dims
    whole_or_one = all(
        window[a] == n or (window[a] == 1 and a in starts) for a, n in enumerate(shape)
    )
    if d.operand_batching_dims or not whole_or_one:
        return None
    return 8 * math.prod(term.v.shape[1:])


def _window(term) -> tuple[tuple, list]:
    """Sizes of the axes of the leaf, and how much of each is written at an index."""
    d, shape = term.equation.params["dimension_numbers"], term.equation.outputs[0].shape
    sizes = iter([term.v.shape[a + 1] for a in d.update_window_dims])
    left_out = (*d.inserted_window_dims, *d.operand_batching_dims)
    return shape, [1 if a in left_out else next(sizes) for a in range(len(shape))]


def rows_of(g: Any) -> Rows:
    """The rows of a gradient that has this form."""
    (term,) = g.terms
    d, shape, window = term.equation.params["dimension_numbers"], *_window(term)
    indexed = [a for a in sorted(d.scatter_dims_to_operand_dims) if window[a] == 1]
    others = [a for a in range(len(shape)) if a not in indexed]
    count = math.prod(shape[a] for a in indexed)

    def place(x):
        x = x.reshape(*(shape[a] for a in (*indexed, *others)))
        x = jnp.moveaxis(x, range(len(shape)), (*indexed, *others))
        for layout in term.steps:
            x = layout(x)
        return x

    starts = [shape[a] - window[a] + 1 for a in d.scatter_dims_to_operand_dims]
    index = _numbers(term, starts, count)
    axes = [a + 1 for a in d.update_window_dims]
    values = jnp.moveaxis(term.v, axes, range(-len(axes), 0))
    values = values.reshape(len(values), index.shape[1], math.prod(shape[a] for a in others))
    return Rows(index, jnp.where(index[..., None] < count, values, 0), count, place)


def _numbers(term, sizes, count):
    """The numbers of the rows [B, T]; `count` for those out of range.

    Args:
      sizes: of the range of each index.
    """
    d = term.equation.params["dimension_numbers"]
    index = term.u.reshape(len(term.u), -1, term.u.shape[-1])
    limits = jnp.asarray(sizes)[None, None]
    if term.equation.params["mode"].name == "CLIP":
        index = jnp.clip(index, 0, limits - 1)
    inside = jnp.all((index >= 0) & (index < limits), axis=-1)
    order = sorted(range(len(sizes)), key=lambda k: d.scatter_dims_to_operand_dims[k])
    number = jnp.zeros(index.shape[:2], index.dtype)
    for k in order:
        number = number * sizes[k] + index[..., k]
    return jnp.where(inside, number, count)


def sq_norms(g, ask, found: Rows) -> jax.Array:
    return jnp.sum(abs2(found.apart().values), axis=(1, 2))


def mean_of(g, ask, found: Rows) -> jax.Array:
    """f(0) for all, and the difference where there is a row."""
    found = found.apart()
    values = ask.f(found.values)
    none = ask.f(jnp.zeros((), found.values.dtype))
    shares = rows(g.shares.astype(real(values.dtype)), values)
    added = found.added(shares * (values - none))
    return found.place(added + jnp.sum(g.shares).astype(real(values.dtype)) * none)


def deviations(g, ask, found: Rows) -> tuple:
    """Examples without a row deviate by the mean itself."""
    found = found.apart()
    w = g.shares.astype(real(found.values.dtype))
    mean = found.added(found.values * rows(w, found.values))
    near = mean.at[found.index].get(mode="fill", fill_value=0)
    squares = found.added(abs2(found.values - near) * rows(w, found.values))
    with_row = jnp.where(found.index < found.count, rows(w, found.index), 0)
    every = found.added(jnp.where(found.index < found.count, 1, 0)) == g.size
    without = jnp.where(every, 0, jnp.sum(w) - found.added(with_row))
    squares = squares + rows(without, squares) * abs2(mean)
    return found.place(mean), found.place(jnp.asarray(ask.scale).astype(w.dtype) * squares)
