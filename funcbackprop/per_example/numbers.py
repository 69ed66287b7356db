"""Small pieces of arithmetic that several modules of this room need."""

from typing import Any

import jax
import jax.numpy as jnp

from ..contract import wide


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


def join_deviations(states: tuple) -> tuple:
    """The same of several groups, behind a leading axis, as one."""
    weights, means, deviations = states
    weight = jnp.sum(weights)
    shares = ratio(1, weight) * weights

    def summed(c, x):
        return jnp.tensordot(c.astype(real(x.dtype)), x, 1, precision="highest")

    mean = summed(shares, means)
    return weight, mean, jnp.sum(deviations, 0) + summed(weights, abs2(means - mean[None]))
