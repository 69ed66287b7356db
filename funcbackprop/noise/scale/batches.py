"""The noise scale from gradients of parts of a batch: micro-batches, or one for each device."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from ...contract import batch_size, rows, wide
from ..design import of_parts
from .examples import Sums, assembled, excess
from .result import NoiseScale


def noise_scale_of_batches(
    gradients: chex.ArrayTree,
    examples: Any,
    *,
    axis_name: Any = None,
    groups: Callable[[str], Any] | None = None,
) -> NoiseScale:
    """The noise scale B_simple = S/|G|^2 with its interval, from the mean gradients of k batches.

    With batches of m_j of N examples and their mean gradients g_j, gbar = sum m_j g_j/N,

        S = sum_j m_j |g_j - gbar|^2/(k - 1),
        |G|^2 = mean of <g_i, g_j> over pairs i != j, weighted with m_i m_j,

    both unbiased for independent examples. With equal sizes m, |G|^2 = |gbar|^2 - S/N and this is
    the estimator with two batch sizes, S = (mean |g_j|^2 - |gbar|^2)/(1/m - 1/N), written so that
    nothing cancels; it uses all k small batches. Standard errors by the jackknife over batches;
    intervals as in `noise_scale`.

    Args:
      gradients: the mean gradients, a tree with leaves [k, ...]. With `axis_name`: the gradient of
        this device, a tree like `params`.
      examples: m, the number of examples in each batch; or [k] numbers, 0 for a batch to leave out.
        With `axis_name`: that of this device.
      axis_name: of the mapped axis (`pmap`, `vmap`, `shard_map`) of devices. Inside `shard_map`,
        cast replicated parameters to varying before taking the gradient, or use
        `funcbackprop.gradient_statistics`, which does: JAX otherwise sums it over the devices.
      groups: as in `noise_scale`.

    Returns:
      `NoiseScale`, the same on all devices. With one batch all is NaN, with the status "one part";
      with two there are values, but no standard errors.

    Raises:
      ValueError: the leaves have no common leading axis, or `examples` another form.

    Cost: one pass over `gradients`; with `axis_name` one sum of the gradient over devices. The
    variance of S is that of k numbers: `noise_scale` on single examples has by far the smallest
    (Gray et al. 2024, arXiv 2411.00999).

    Source: McCandlish, Kaplan and Amodei 2018 (arXiv 1812.06162), appendix A.1.

    >>> import jax.numpy as jnp
    >>> print(noise_scale_of_batches(jnp.array([[1.0], [3.0]]), 4).S.value)
    8.0
    """
    leaves = jax.tree.leaves(gradients)
    if axis_name is None:
        k = batch_size(gradients, "noise_scale_of_batches")
        sizes = _sizes(examples, (k,))
        sums = [_sums_of_rows(wide(g), sizes) for g in leaves]
    else:
        own = _sizes(examples, ())
        sizes = _everywhere(own, axis_name)
        sums = [_sums_of_devices(wide(g), own, sizes, axis_name) for g in leaves]
    design = of_parts(sizes)
    return assembled(sums, gradients, design, jnp.sum(sizes), groups, "noise_scale_of_batches")


@jax.jit
def _sums_of_rows(g, sizes):
    g = jnp.where(rows(sizes > 0, g), g, 0).reshape(len(g), -1)
    share = (sizes / jnp.sum(sizes)).astype(g.dtype)
    mean = jnp.sum(share[:, None] * g, axis=0)
    apart = g - mean[None]
    return _sums(_dot(mean, mean), _dot(apart, apart), _dot(apart, mean[None]), sizes)


def _sums_of_devices(g, own, sizes, axis_name):
    g = jnp.where(own > 0, g, 0).reshape(-1)
    mean = jax.lax.psum(g * (own / jnp.sum(sizes)).astype(g.dtype), axis_name)
    apart = g - mean
    deviations, inner = (_everywhere(_dot(apart, x), axis_name) for x in (apart, mean))
    return _sums(_dot(mean, mean), deviations, inner, sizes)


def _sums(sq_mean, deviations, inner, sizes):
    spread = jnp.sum(sizes * deviations)
    return Sums(sq_mean, spread, excess(sizes, spread, deviations, inner), deviations, inner)


def _dot(x, y):
    return jnp.sum((x * jnp.conj(y)).real, axis=-1)


def _everywhere(x, axis_name):
    """[k]: the number of each device, on all devices. A sum, so that JAX knows it is the same."""
    k = jax.lax.psum(1, axis_name)
    place = jnp.arange(k) == jax.lax.axis_index(axis_name)
    return jax.lax.psum(jnp.where(place, x, 0), axis_name)


def _sizes(examples, shape):
    """`examples` as floats of this shape; a negative number becomes NaN."""
    sizes = jnp.asarray(examples)
    if sizes.shape not in ((), shape):
        raise ValueError(
            "`noise_scale_of_batches`: `examples` must be a number"
            + (f" or have shape {shape}, one for each batch" if shape else " for this device")
            + f", got shape {sizes.shape}"
        )
    sizes = jnp.broadcast_to(sizes, shape).astype(jnp.result_type(float))
    return jnp.where(sizes >= 0, sizes, jnp.nan)
