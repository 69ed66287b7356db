"""Vectors of real numbers that keep the shapes of a tree's leaves, and the Hessian on them.

A vector is a list of arrays. Nothing is put end to end: leaves that lie in parts on several devices
stay where they are, and only sums of products are exchanged.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from ..contract import Loss, vary_like
from ..graph import laid_out_like
from .hvp import hessian

# A direction shorter than this many roundings of what it was made from is rounding itself.
BREAKDOWN = 50

# An accelerator's default keeps only some of the digits of float32, and bases lose their right
# angles.
_FULL = jax.lax.Precision.HIGHEST

Vector = list[jax.Array]


class Space(NamedTuple):
    """The vectors of trees of one form; a complex number is two coordinates.

    Attributes:
      size: P.
      dtype: of all arrays of a vector, float32 at least.
      shapes: of the arrays of a vector; a complex leaf is one with a first axis of length 2.
      pack: tree -> vector.
      unpack: vector -> tree, in the dtypes of its leaves.
      like: a tree that varies over the mesh axes over which vectors do inside `shard_map`.
    """

    size: int
    dtype: Any
    shapes: list[tuple[int, ...]]
    pack: Callable[[Any], Vector]
    unpack: Callable[[Vector], Any]
    like: Any

    def normal(self, key: chex.PRNGKey) -> Vector:
        """Standard normal numbers."""
        return self._drawn(jax.random.normal, key)

    def signs(self, key: chex.PRNGKey) -> Vector:
        """+1 or -1 with equal probability (Rademacher)."""
        return self._drawn(jax.random.rademacher, key)

    def _drawn(self, draw, key):
        keys = jax.random.split(key, len(self.shapes))
        x: Any = [draw(k, shape, self.dtype) for k, shape in zip(keys, self.shapes, strict=True)]
        return self.laid_out(x)

    def laid_out(self, x: Vector) -> Vector:
        """The vector, lying over devices as the tree does: XLA would keep what is made from random
        numbers, and with it a whole basis, on every device."""
        varying: Any = vary_like(x, self.like)
        pairs = zip(varying, self.pack(self.like), strict=True)
        return [laid_out_like(a, b) for a, b in pairs]


def space_of(tree: chex.ArrayTree, name: str, caller: str) -> Space:
    """The vectors of trees like `tree`; ValueError if it has no numbers."""
    leaves, treedef = jax.tree.flatten(tree)
    dtypes = [jnp.result_type(x) for x in leaves]
    shapes = [
        (2, *jnp.shape(x)) if jnp.issubdtype(d, jnp.complexfloating) else jnp.shape(x)
        for x, d in zip(leaves, dtypes, strict=True)
    ]
    size = sum(map(math.prod, shapes))
    if size == 0:
        raise ValueError(
            f"`{caller}`: `{name}` expected at least one number, got a tree without any; there is "
            "no curvature to measure"
        )
    dtype = jnp.result_type(jnp.float32, *(jnp.finfo(d).dtype for d in dtypes))

    def pack(tree):
        return [_real(x).astype(dtype) for x in jax.tree.leaves(tree)]

    def unpack(x):
        return treedef.unflatten(map(_leaf, x, dtypes))

    return Space(size, dtype, shapes, pack, unpack, tree)


def _real(x):
    return jnp.stack([x.real, x.imag]) if jnp.iscomplexobj(x) else jnp.asarray(x)


def _leaf(x, dtype):
    if jnp.issubdtype(dtype, jnp.complexfloating):
        x = jax.lax.complex(*x)
    return x.astype(dtype)


def hessian_on_vectors(
    loss: Loss,
    params: chex.ArrayTree,
    batch: chex.ArrayTree,
    weights: Any,
    chunk_size: int | None,
    caller: str,
) -> tuple[chex.ArrayTree, Space, Callable[[Vector], Vector]]:
    """`(params without what is not differentiated, their vectors, x -> H x)`."""
    kept, product = hessian(loss, params, batch, weights, chunk_size, caller)
    known = space_of(kept, "params", caller)

    def multiply(x):
        # JAX's gradient is conjugated; its conjugate holds the derivatives by both parts.
        return known.laid_out(known.pack(jax.tree.map(jnp.conj, product(known.unpack(x)))))

    return kept, known, multiply


def dot(x: Vector, y: Vector) -> jax.Array:
    """x' y."""
    # Not `vdot`, which would reshape leaves that lie in parts on several devices.
    return _total(jnp.sum(a * b) for a, b in zip(x, y, strict=True))


def _total(parts):
    return functools.reduce(operator.add, parts)


def norm(x: Vector) -> jax.Array:
    """|x|."""
    return jnp.sqrt(dot(x, x))


def scaled(c: Any, x: Vector) -> Vector:
    """c x."""
    return [c * a for a in x]


def minus(x: Vector, y: Vector) -> Vector:
    """x - y."""
    return [a - b for a, b in zip(x, y, strict=True)]


def along(rows: Vector, x: Vector) -> jax.Array:
    """Rows [k, ...] times x: [k]."""
    axes = lambda a: (tuple(range(1, a.ndim)), tuple(range(a.ndim - 1)))  # noqa: E731
    pairs = zip(rows, x, strict=True)
    return _total(jnp.tensordot(a, b, axes(a), precision=_FULL) for a, b in pairs)


def combined(c: jax.Array, rows: Vector) -> Vector:
    """sum_j c_j row_j."""
    return [jnp.tensordot(c, a, 1, precision=_FULL) for a in rows]


def without(rows: Vector, x: Vector) -> Vector:
    """x without its part along orthonormal rows; what rounding leaves goes if it is done twice."""
    return minus(x, combined(along(rows, x), rows))


def unit(x: Vector, length: Any, least: Any) -> Vector:
    """x/|x|; zero if it is no longer than `least`, or not finite."""
    kept = (length > least) & jnp.isfinite(length)
    return [jnp.where(kept, a / jnp.where(kept, length, 1), 0) for a in x]


def orthonormal(rows: Vector, like: Any) -> Vector:
    """Orthonormal rows [k, ...] that span the same, by Gram and Schmidt; zero where one is spare,
    NaN where one is not finite. `like` as in `Space`."""

    def add(basis, given):
        j, row = given
        rest, size = without(basis, without(basis, row)), norm(row)
        new = unit(rest, norm(rest), BREAKDOWN * jnp.finfo(row[0].dtype).eps * size)
        new = [jnp.where(jnp.isfinite(size), x, jnp.nan) for x in new]
        return [b.at[j].set(x) for b, x in zip(basis, new, strict=True)], None

    start: Any = vary_like([jnp.zeros_like(a) for a in rows], like)
    return jax.lax.scan(add, start, (jnp.arange(len(rows[0])), rows))[0]
