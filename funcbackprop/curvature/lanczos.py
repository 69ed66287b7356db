"""The Lanczos process: a symmetric matrix on a Krylov space, from products alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from ..contract import vary_like
from .arguments import checked_count
from .status import KNOWN
from .vectors import BREAKDOWN, Space, Vector, dot, minus, norm, scaled, space_of, unit, without


class Lanczos(NamedTuple):
    """A tridiagonal matrix T = V A V', with the vectors of an orthonormal basis as rows of V.

    Attributes:
      alphas: [k], the diagonal of T. Units of A.
      betas: [k]; betas[j] stands beside alphas[j] and alphas[j + 1]. The one at `steps_taken` - 1
        is the norm of what A makes outside of the space. Units of A.
      basis: V, a tree like `start` with an axis [k] before the others of every leaf.
      steps_taken: int32; less than k if the space is invariant. Rows from there on are zero.
    """

    alphas: jax.Array
    betas: jax.Array
    basis: Any
    steps_taken: jax.Array

    def to_dict(self) -> dict:
        """JSON-safe: numbers that are not finite are None. Without the basis."""
        return KNOWN.to_dict(self, "basis")

    def __str__(self):
        return KNOWN.text(self, "basis")


def lanczos(
    matvec: Callable[[chex.ArrayTree], chex.ArrayTree], start: chex.ArrayTree, steps: int
) -> Lanczos:
    """k steps of the Lanczos process with full reorthogonalisation, done twice.

    A v_j = beta_(j-1) v_(j-1) + alpha_j v_j + beta_j v_(j+1), v_1 = start/|start|.

    Args:
      matvec: v -> A v for trees like `start`; A must be symmetric.
      start: a tree of real arrays. Where it is zero, no step is taken.
      steps: k.

    Returns:
      `Lanczos`. Pure; works under `jit` and `vmap`.

    Raises:
      TypeError: `start` holds complex numbers or integers.
      ValueError: `steps` is not a positive integer; `start` is empty.

    Cost: k products, O(k^2 P) beside them, memory 2 k P. Leaves of `start` that lie in parts on
    several devices stay in parts, and so does the basis.

    Source: Lanczos 1950; Parlett 1998, The symmetric eigenvalue problem, chapter 13.

    >>> import jax.numpy as jnp
    >>> found = lanczos(lambda v: jnp.array([1.0, 3.0]) * v, jnp.ones(2), 4)
    >>> print(found.alphas.round(3), found.steps_taken)
    [2. 2. 0. 0.] 2
    """
    steps = checked_count(steps, "steps", "lanczos")
    for leaf in jax.tree.leaves(start):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                "`lanczos`: `start` expected real floating-point arrays, got "
                f"{jnp.result_type(leaf)}; pass real and imaginary parts as two leaves"
            )
    known = space_of(start, "start", "lanczos")

    def multiply(x):
        product = matvec(known.unpack(x))
        if jax.tree.map(jnp.shape, product) != jax.tree.map(jnp.shape, start):
            raise ValueError(
                "`lanczos`: `matvec` expected to return the structure and shapes of `start`, got "
                f"{jax.tree.map(jnp.shape, product)}; pass v -> A v"
            )
        return known.pack(product)

    found = run(multiply, known.pack(start), steps, known)
    return found._replace(basis=jax.tree.unflatten(jax.tree.structure(start), found.basis))


def run(multiply: Callable, start: Vector, steps: int, known: Space) -> Lanczos:
    """`lanczos` on vectors; the basis is one too, with rows before its axes."""
    rounding = BREAKDOWN * jnp.finfo(known.dtype).eps

    def step(carry, j):
        basis, v, size = carry
        alive = dot(v, v) > 0
        product = multiply(v)
        alpha = dot(v, product)
        rest = minus(product, scaled(alpha, v))
        for _ in range(2):
            # Read before v is written to it, the basis is copied once, not three times.
            rest = minus(without(basis, rest), scaled(dot(v, rest), v))
        basis = [b.at[j].set(a) for b, a in zip(basis, v, strict=True)]
        size = jnp.maximum(size, norm(product))
        beta = norm(rest)
        return (basis, unit(rest, beta, rounding * size), size), (alpha, beta, alive)

    basis = [jnp.zeros((steps, *shape), known.dtype) for shape in known.shapes]
    first: Any = basis, unit(start, norm(start), 0), jnp.zeros((), known.dtype)
    first = vary_like(first, (start, known.like))
    last, (alphas, betas, alive) = jax.lax.scan(step, first, jnp.arange(steps))
    return Lanczos(alphas, betas, last[0], jnp.sum(alive, dtype=jnp.int32))


def tridiagonal(found: Lanczos) -> jax.Array:
    """T, [k, k].

    From `steps_taken` on its diagonal is above all eigenvalues of the part before, and nothing
    couples the two: the first `steps_taken` eigenvalues, rising, are those of the process.
    """
    j = jnp.arange(len(found.alphas))
    size = jnp.max(jnp.abs(found.alphas)) + jnp.max(jnp.abs(found.betas))
    above = jnp.where(size > 0, 4 * size, 1)
    diagonal = jnp.where(j < found.steps_taken, found.alphas, above)
    beside = jnp.where(j[1:] < found.steps_taken, found.betas[:-1], 0)
    return jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)


class Ritz(NamedTuple):
    """Eigenvalues [k], rising, and eigenvectors [k, k] (columns) of T.

    Attributes:
      valid: [k], whether an eigenvalue is one of the process.
      finite: whether all entries of T are; the rest is meaningless if not.
    """

    values: jax.Array
    vectors: jax.Array
    valid: jax.Array
    finite: jax.Array


def ritz(found: Lanczos) -> Ritz:
    """The eigenvalues of T, and which of them count."""
    T = tridiagonal(found)
    finite = jnp.all(jnp.isfinite(found.alphas)) & jnp.all(jnp.isfinite(found.betas))
    values, vectors = jnp.linalg.eigh(jnp.where(finite, T, jnp.eye(len(T), dtype=T.dtype)))
    return Ritz(values, vectors, jnp.arange(len(T)) < found.steps_taken, finite)
