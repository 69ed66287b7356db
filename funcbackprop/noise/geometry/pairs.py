"""The inner products of all pairs of gradients, and the same about their mean."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...contract import checked_weights, wide
from ...per_example import total
from ..leave_one_out import spread_status
from ..moments import moments, scaled


class Pairs(NamedTuple):
    """Inner products, padding made 0.

    Attributes:
      weights: [B], the largest 1.
      gram: <g_i, g_j>, [B, B].
      centred: <g_i - gbar, g_j - gbar>, [B, B].
      along: <g_i - gbar, gbar>, [B].
      sq_mean: |gbar|^2.
      S: unbiased tr(Sigma).
      examples: the number of rows kept.
      unequal: whether the weights above 0 differ.
      status: of S.
    """

    weights: jax.Array
    gram: jax.Array
    centred: jax.Array
    along: jax.Array
    sq_mean: jax.Array
    S: jax.Array
    examples: jax.Array
    unequal: jax.Array
    status: jax.Array

    @property
    def kept(self):
        return self.weights > 0


def pairs(caller: str, gram: Any, weights: Any) -> Pairs:
    """From `funcbackprop.Gram()`: [B, B], or a tree of them; ValueError for another form."""
    shapes = sorted({jnp.shape(leaf) for leaf in jax.tree.leaves(gram)})
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][0] != shapes[0][1]:
        raise ValueError(
            f"`{caller}`: `gram` must be the inner products of all pairs, [B, B], from "
            f"funcbackprop.Gram(), or a tree with such leaves; got shapes {shapes}"
        )
    return _pairs(gram, checked_weights(weights, shapes[0][0], caller))


@jax.jit
def _pairs(gram, weights):
    w = scaled(weights)
    kept = w > 0
    both = kept[:, None] & kept[None]
    K = jnp.where(both, total(jax.tree.map(wide, gram)), 0)
    share = (w / jnp.sum(w)).astype(K.dtype)
    # Twice: what rounding leaves of the mean the first time goes the second time.
    centred = _centred(_centred(K, share, both), share, both)
    with_mean = K @ share
    sq_mean = share @ with_mean
    divisor = jnp.sum(w) - jnp.sum(w**2) / jnp.sum(w)
    S = jnp.sum(w * jnp.diagonal(centred)) / divisor
    status = spread_status(moments(jnp.sqrt(jnp.maximum(sq_mean, 0)), jnp.diagonal(K), weights=w))
    along = jnp.where(kept, with_mean - sq_mean, 0)
    unequal = jnp.any(kept & (w < 1))
    return Pairs(w, K, centred, along, sq_mean, S, jnp.sum(kept), unequal, status)


def _centred(K, share, both):
    with_mean = K @ share
    C = K - with_mean[:, None] - with_mean[None] + share @ with_mean
    return jnp.where(both, C, 0)
