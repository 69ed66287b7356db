"""The trace of the Hessian from random vectors."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from ..contract import Loss
from .arguments import WHOLE, checked_count, on_mesh, seeded
from .status import KNOWN
from .vectors import dot, hessian_on_vectors, orthonormal, without

METHODS = ("hutchinson", "hutch++")


class Trace(NamedTuple):
    """An unbiased estimate of the trace.

    Attributes:
      value: loss/parameter^2.
      standard_error: from the spread of the samples, in the same units.
      products: int32, products with the Hessian.
      status: int32, a code of `funcbackprop.curvature.STATUS`.
    """

    value: jax.Array
    standard_error: jax.Array
    products: jax.Array
    status: jax.Array

    def explain(self) -> str:
        """What the status means, as a sentence (on the host)."""
        return KNOWN.sentences(self.status)

    def to_dict(self) -> dict:
        """JSON-safe: numbers that are not finite are None, the status is its name."""
        return KNOWN.to_dict(self)

    def __str__(self):
        return KNOWN.text(self)


def trace(
    loss: Loss,
    params: chex.ArrayTree,
    batch: chex.ArrayTree,
    *,
    weights: Any = None,
    chunk_size: int | None = None,
    samples: int = 32,
    method: str = "hutchinson",
    key: chex.PRNGKey | None = None,
) -> Trace:
    """tr(H), H the Hessian of the weighted mean loss, from `samples` products.

    Hutchinson: the mean of z' H z over vectors z of random signs. Hutch++ spends a third of the
    products on a basis Q of H S for normal random S, a third on the exact tr(Q' H Q), and the rest
    on Hutchinson for what is outside of Q: its error is much smaller where few eigenvalues
    dominate, and rounding if the rank is at most samples/3.

    Args:
      loss: `loss(params, example) -> scalar` of one example, differentiable twice.
      params: a tree; integers, booleans and random keys in it are not differentiated.
      batch: a tree with a leading axis [B] on every leaf.
      weights: [B], relative importances; a row of weight 0 is padding.
      chunk_size: examples that are worked on at a time, as in `hvp`; None is all of them.
      samples: products with the Hessian; at least 3 for "hutch++".
      method: "hutchinson" or "hutch++".
      key: None is a fixed one.

    Returns:
      `Trace`. The standard error of "hutch++" is that given Q, of which the value is unbiased too.
      Pure; works under `jit`.

    Raises:
      TypeError, ValueError: an argument has the wrong form.

    Cost: `samples` products, one after the other; "hutch++" has memory 2 P samples/3.

    Source: Hutchinson 1990; Meyer, Musco, Musco and Woodruff 2021, Hutch++: optimal stochastic
    trace estimation, arXiv:2010.09649. Theirs is for positive semidefinite matrices; unbiased it is
    for all.

    >>> import jax.numpy as jnp
    >>> loss = lambda w, x: 0.5 * jnp.sum(x * w**2)  # Hessian diag(x)
    >>> found = trace(loss, jnp.zeros(2), jnp.array([[3.0, 4.0]]))
    >>> print(f"{found.value:.3f} {found.standard_error:.3f}")
    7.000 0.000
    """
    if method not in METHODS:
        raise ValueError(
            f"`trace`: `method` expected one of {', '.join(METHODS)}, got {method!r}; "
            '"hutch++" is better where few eigenvalues dominate'
        )
    samples = checked_count(samples, "samples", "trace", 3 if method == "hutch++" else 1)

    def measured(params, batch, weights, key):
        known = hessian_on_vectors(loss, params, batch, weights, chunk_size, "trace")
        return _estimate(*known[1:], samples, method, key)

    return on_mesh(measured, Trace(*[WHOLE] * 4), params, batch, weights, seeded(key))


def _estimate(known, multiply, samples, method, key) -> Trace:
    if method == "hutchinson":
        exact, spent, project = jnp.zeros((), known.dtype), 0, lambda z: z
    else:
        key, other = jax.random.split(key)
        exact, spent, project = _deflated(multiply, other, samples // 3, known)

    def one(key):
        z = project(known.signs(key))
        return dot(z, multiply(z))

    found = jax.lax.map(one, jax.random.split(key, samples - spent))
    value, count = exact + jnp.mean(found), len(found)
    error = jnp.std(found, ddof=1) / count**0.5 if count > 1 else jnp.full_like(value, jnp.nan)
    finite = jnp.isfinite(value)
    status = KNOWN.first_that_holds((~finite, "not finite"), (count == 1, "one sample"))
    return Trace(jnp.where(finite, value, jnp.nan), error, jnp.int32(samples), status)


def _deflated(multiply, key, rank, known):
    """`(tr(Q' H Q), products, z -> z - Q Q' z)`."""
    rank = min(rank, known.size)
    draw = lambda key: multiply(known.normal(key))  # noqa: E731
    Q = orthonormal(jax.lax.map(draw, jax.random.split(key, rank)), known.like)
    exact = jnp.sum(jax.lax.map(lambda q: dot(q, multiply(q)), Q))
    return exact, 2 * rank, lambda z: without(Q, z)
