"""Small pieces of arithmetic that several modules of this room need."""

from typing import Any

import jax
import jax.numpy as jnp

from ..contract import rows, wide


def abs2(x: Any) -> Any:
    """|x|^2, in float32 or wider."""
    x = wide(x)
    return (x * jnp.conj(x)).real if jnp.iscomplexobj(x) else x * x


def sum_per_row(x: Any) -> Any:
    """Sums over all axes but the first."""
    return jnp.sum(x.reshape(x.shape[0], -1), axis=1) if x.size else jnp.zeros(x.shape[:1], x.dtype)


def real(dtype: Any) -> Any:
    return jnp.finfo(dtype).dtype


def ratio(a: Any, b: Any) -> jax.Array:
    """a/b, and 0 where b = 0; b is a scalar."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)


def join_deviations(weights: Any, means: Any, deviations: Any) -> tuple:
    """`(mean, sum of squared deviations)` of several groups, behind a leading axis, as of one.

    Two sums over that axis, which on several devices is one reduction each.
    """
    shares = rows((ratio(1, jnp.sum(weights)) * weights).astype(real(means.dtype)), means)
    mean = jnp.sum(shares * means, axis=0)
    between = rows(weights.astype(deviations.dtype), means) * abs2(means - mean[None])
    return mean, jnp.sum(deviations + between, axis=0)
