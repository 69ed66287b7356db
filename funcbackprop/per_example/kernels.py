"""Squared norms of the gradients of all examples, straight from their factors.

B examples, T positions at which a weight is used, weight [G, M, N]: G_i = sum_t u_it (x) v_it for
each of G groups. A kernel is chosen where it costs less than writing the gradients out.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from ..contract import wide
from .layouts import Loop

# A product of positions is preferred to writing the gradient out if T^2 (M + N) <= this * M N:
# writing out costs memory traffic beside its T M N products.
POSITIONS = 20


class Kernel(NamedTuple):
    """A way to the squared norms of a term.

    Attributes:
      name: in the plan.
      run: `term -> |g_i|^2 [B]`.
      flops: for one example.
    """

    name: str
    run: Callable
    flops: int


def norm_kernel(term: Any) -> Kernel | None:
    """The kernel for a term; None where its entries must be written out."""
    keeps = all(step.permutes for step in term.steps)
    choose = _CHOICES.get(term.form.name)
    return choose(term) if keeps and choose is not None else None


def single_position(term: Any) -> bool:
    """Whether a weight is used once: |g_i|^2, entry by entry, is made of |u_i|^2 and |v_i|^2."""
    if term.form.name != "outer products" or not all(step.permutes for step in term.steps):
        return False
    u, _ = outer(term)
    return u.shape[2] == 1


# --- entries --------------------------------------------------------------------------------------


def _of_entries(term):
    if any(isinstance(step, Loop) for step in term.steps):
        return None
    return Kernel("entries", lambda t: sum_per_row(abs2(t.v)), math.prod(term.shape))


# --- outer products -------------------------------------------------------------------------------


class Outer(NamedTuple):
    """u [B, G, T, M] and v [B, G, T, N]."""

    u: Any
    v: Any


def outer(term: Any) -> Outer:
    """The factors of a product with loops around it, in one layout.

    A loop that stacks is a group more, a loop that adds up makes positions.
    """
    loops = [step.stacks for step in term.steps if isinstance(step, Loop)][::-1]
    stacked = [1 + k for k, stacks in enumerate(loops) if stacks]
    summed = [1 + k for k, stacks in enumerate(loops) if not stacks]
    contracted, batch = term.equation.params["dimension_numbers"]
    return Outer(
        *(
            _four_axes(x, stacked, summed, *([a + 1 + len(loops) for a in axes] for axes in own))
            for x, own in zip((term.u, term.v), zip(batch, contracted, strict=True), strict=True)
        )
    )


def _four_axes(x, stacked, summed, batch, contracted):
    groups, positions = [*stacked, *batch], [*summed, *contracted]
    free = [a for a in range(1, x.ndim) if a not in (*groups, *positions)]
    x = jnp.transpose(x, (0, *groups, *positions, *free))
    g, t = len(groups), len(positions)
    cuts = (x.shape[1 : 1 + g], x.shape[1 + g : 1 + g + t], x.shape[1 + g + t :])
    return x.reshape(len(x), *map(math.prod, cuts))


def _of_outer(term):
    u, v = outer(term)
    _, groups, positions, m = u.shape
    n = v.shape[-1]
    if positions == 1:
        return Kernel("product of norms", _norms_of_rows, groups * (m + n))
    if positions**2 * (m + n) > POSITIONS * m * n:
        return None
    return Kernel("products of positions", _by_positions, 2 * groups * positions**2 * (m + n))


def _norms_of_rows(term):
    u, v = outer(term)
    return jnp.sum(jnp.sum(abs2(u[:, :, 0]), -1) * jnp.sum(abs2(v[:, :, 0]), -1), axis=1)


def _by_positions(term):
    products = [
        jnp.einsum("bgtm,bgsm->bgts", x, jnp.conj(x), precision=term.equation.params["precision"])
        for x in outer(term)
    ]
    return sum_per_row((products[0] * products[1]).real)


# --- rows at indices ------------------------------------------------------------------------------


def _of_rows(term):
    """Rows at equal indices meet; the others do not."""
    if term.equation.name != "scatter-add" or any(isinstance(s, Loop) for s in term.steps):
        return None
    d = term.equation.params["dimension_numbers"]
    whole_rows = set(d.scatter_dims_to_operand_dims) == set(d.inserted_window_dims)
    if not whole_rows or d.operand_batching_dims:
        return None
    rows = math.prod(term.u.shape[1:-1])
    width = math.prod(term.v.shape[1:]) // max(rows, 1)
    if rows > 2 * math.prod(term.shape) // max(width, 1):
        return None
    return Kernel("equal indices", _by_indices, rows**2 * width)


def _by_indices(term):
    d = term.equation.params["dimension_numbers"]
    window = [a + 1 for a in d.update_window_dims]
    places = [a for a in range(1, term.v.ndim) if a not in window]
    v = jnp.transpose(term.v, (0, *places, *window)).reshape(len(term.v), -1, _width(term, window))
    index = term.u.reshape(len(term.u), -1, term.u.shape[-1])
    sizes = jnp.array([term.equation.outputs[0].shape[a] for a in d.scatter_dims_to_operand_dims])
    if term.equation.params["mode"].name == "CLIP":
        index = jnp.clip(index, 0, sizes[None, None] - 1)
    inside = jnp.all((index >= 0) & (index < sizes[None, None]), axis=-1)
    v = jnp.where(inside[..., None], v, 0)
    meet = jnp.all(index[:, :, None] == index[:, None], axis=-1)
    products = jnp.einsum("btn,bsn->bts", v, jnp.conj(v), precision="highest").real
    return sum_per_row(jnp.where(meet, products, 0))


def _width(term, window):
    return math.prod(term.v.shape[a] for a in window)


# Name of a form -> its kernel for a term, or None.
_CHOICES = {"entries": _of_entries, "outer products": _of_outer, "rows": _of_rows}


def abs2(x: Any) -> Any:
    """|x|^2, in float32 or wider."""
    x = wide(x)
    return (x * jnp.conj(x)).real if jnp.iscomplexobj(x) else x * x


def sum_per_row(x: Any) -> Any:
    """Sums over all axes but the first."""
    return jnp.sum(x.reshape(x.shape[0], -1), axis=1) if x.size else jnp.zeros(x.shape[:1], x.dtype)
