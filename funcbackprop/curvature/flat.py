"""The Hessian on vectors of real coordinates, [P], whatever tree the parameters are."""

import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from ..contract import Loss
from .hvp import hessian


class Coordinates(NamedTuple):
    """A tree of arrays as one real vector; a complex number is two coordinates.

    Attributes:
      size: P.
      dtype: of the vector, float32 at least.
      pack: tree -> [P].
      unpack: [P] -> tree, in the dtypes of its leaves.
    """

    size: int
    dtype: Any
    pack: Callable
    unpack: Callable


def coordinates(tree: chex.ArrayTree, name: str, caller: str) -> Coordinates:
    """How trees like `tree` become vectors; ValueError if it has no numbers."""
    leaves, treedef = jax.tree.flatten(tree)
    shapes = [jnp.shape(x) for x in leaves]
    dtypes = [jnp.result_type(x) for x in leaves]
    twice = [jnp.issubdtype(d, jnp.complexfloating) for d in dtypes]
    sizes = [math.prod(s) * (1 + c) for s, c in zip(shapes, twice, strict=True)]
    if sum(sizes) == 0:
        raise ValueError(
            f"`{caller}`: `{name}` expected at least one number, got a tree without any; there is "
            "no curvature to measure"
        )
    dtype = jnp.result_type(jnp.float32, *(jnp.finfo(d).dtype for d in dtypes))

    def pack(tree):
        parts = [_real(x).astype(dtype) for x in jax.tree.leaves(tree)]
        return jnp.concatenate(parts)

    def unpack(x):
        ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
        parts = [x[end - size : end] for end, size in zip(ends, sizes, strict=True)]
        return treedef.unflatten(map(_leaf, parts, shapes, dtypes))

    return Coordinates(sum(sizes), dtype, pack, unpack)


def _real(x):
    x = jnp.asarray(x)
    if jnp.iscomplexobj(x):
        return jnp.concatenate([x.real.ravel(), x.imag.ravel()])
    return x.ravel()


def _leaf(part, shape, dtype):
    if jnp.issubdtype(dtype, jnp.complexfloating):
        real, imag = part.reshape((2, *shape))
        part = jax.lax.complex(real, imag)
    return part.reshape(shape).astype(dtype)


def flat_hessian(
    loss: Loss, params: chex.ArrayTree, batch: chex.ArrayTree, weights: Any, caller: str
) -> tuple[chex.ArrayTree, Coordinates, Callable]:
    """`(params without what is not differentiated, coordinates, x -> H x)` with x [P]."""
    kept, product = hessian(loss, params, batch, weights, caller)
    known = coordinates(kept, "params", caller)

    def multiply(x):
        # JAX's gradient is conjugated; its conjugate holds the derivatives by both parts.
        return known.pack(jax.tree.map(jnp.conj, product(known.unpack(x))))

    return kept, known, multiply


def checked_count(value: Any, name: str, caller: str, at_least: int = 1) -> int:
    """`value` as an int, if it is one."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < at_least:
        raise ValueError(
            f"`{caller}`: `{name}` expected an integer of at least {at_least}, got {value!r}; it "
            "fixes the number of products before the program runs"
        )
    return int(value)


def seeded(key: Any) -> Any:
    """`key`, or the default one."""
    return jax.random.key(0) if key is None else key


def sign_vector(key: chex.PRNGKey, known: Coordinates) -> jax.Array:
    """[P], +1 or -1 with equal probability (Rademacher)."""
    return jax.random.rademacher(key, (known.size,), known.dtype)
