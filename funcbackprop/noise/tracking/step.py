"""S and |G|^2 of one step, both unbiased, from gradients of its parts.

Part j is an example, a micro-batch of m_j examples or a replica, with the mean gradient g_j and the
share w_j of the step's mean gradient gbar = sum w g/W, W = sum w. Then

    S = (sum w |g_j|^2 - W |gbar|^2)/divisor,
    |G|^2 = (W^2 |gbar|^2 - sum w^2 |g_j|^2)/(W^2 - sum w^2).

The variance of a part of m examples is Sigma/m: with w = m the divisor is k - 1. Weights of
examples are relative importances, of one variance Sigma: the divisor is W - sum w^2/W.
"""

import functools
import operator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from ...contract import batch_size, checked_weights, rows, same_structure, vary_like, wide
from ...graph import is_concrete, varying_axes
from ...per_example.numbers import abs2, sum_per_row
from .. import status as statuses
from ..design import safe
from ..moments import ROUNDING_FACTOR, SINGLE, Moments, scaled, sq_norm


class Step(NamedTuple):
    """What one step says of the noise; scalars.

    Attributes:
      S, sq_gradient_norm: unbiased; NaN where fewer than two parts are left.
      rounding: of S, where it is a difference of larger terms; else 0.
    """

    S: chex.Array
    sq_gradient_norm: chex.Array
    rounding: chex.Array


class Given(NamedTuple):
    """What a step was given beside its source; and for messages, by whom, and how it is called."""

    updates: Any = None
    weights: Any = None
    micro_size: Any = None
    axis_name: Any = None
    caller: str = "tracker.update"
    example: str = "tracker.update(state, gradient, sq_norms=sq_norms)"


def observe(sources: dict[str, Any], given: Given) -> tuple[Step, jax.Array]:
    """The step, and how many of its parts were left out because they are not finite (int32).

    Args:
      sources: name -> value; all but one are None.
    """
    there = {name: x for name, x in sources.items() if x is not None}
    if len(there) != 1:
        names = ", ".join(f"`{name}`" for name in sources)
        raise ValueError(
            f"`{given.caller}`: exactly one of {names} is needed, got "
            f"{', '.join(f'`{name}`' for name in there) or 'none'}. Squared norms come from "
            "funcbackprop.SquaredNorms(), or from each micro-batch's gradient, optax.tree.norm("
            f"gradient, squared=True): {given.example}"
        )
    ((name, value),) = there.items()
    source = SOURCES[name]
    for needed in source.needs:
        if getattr(given, needed) is None:
            raise ValueError(f"`{given.caller}`: `{name}` needs `{needed}` too: {_NEEDED[needed]}")
    for refused in {"weights", "axis_name"} - set(source.needs) - set(source.takes):
        if getattr(given, refused) is not None:
            raise ValueError(f"`{given.caller}`: `{refused}` does not go with `{name}`")
    return source.observe(value, given)


_NEEDED = {
    "updates": "the mean gradient of the step",
    "micro_size": "the number of examples in each micro-batch or replica",
    "axis_name": "that of the mapped axis of devices",
}


def _of_examples(sq_norms, given):
    leaves = jax.tree.leaves(sq_norms)
    shapes = {jnp.shape(x) for x in leaves}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise ValueError(
            f"`{given.caller}`: `sq_norms` must be one array [B] of squared norms, or a tree with "
            f"leaves [B], got the shapes {sorted(shapes)}"
        )
    s = functools.reduce(operator.add, map(wide, leaves))
    _at_least_two(len(s), "sq_norms", "example", given)
    w = checked_weights(given.weights, len(s), given.caller)
    w = scaled(w) if given.axis_name is None else w
    return _of_norms(s, w, given, lambda n, W, squares: W - squares / safe(W))


def _of_micro_norms(sq_norms, given):
    s = wide(sq_norms)
    if s.ndim != 1:
        raise ValueError(
            f"`{given.caller}`: `micro_sq_norms` must have shape [k], the squared norm of the mean "
            f"gradient of each micro-batch, got shape {s.shape}"
        )
    _at_least_two(len(s), "micro_sq_norms", "micro-batch", given)
    return _of_norms(s, _sizes(len(s), given), given, lambda n, W, squares: n - 1)


def _of_norms(s, w, given, divisor):
    """From |g_j|^2 [k] and the mean gradient, of this device if there are several."""
    if given.axis_name is not None:
        _on_devices(given)
    finite = jnp.isfinite(s)
    bad, kept = (w != 0) & ~finite, (w != 0) & finite
    w, s = jnp.where(kept, w, 0).astype(s.dtype), jnp.where(kept, s, 0)
    n, W, squares, ws, w2s, bad = _everywhere(
        [jnp.sum(x).astype(s.dtype) for x in (kept, w, w**2, w * s, w**2 * s, bad)],
        given.axis_name,
    )
    step = of_sums(tree_sq_norm(given.updates), (W, squares, ws, w2s), divisor(n, W, squares))
    rounding = rounding_of(given.updates, ws, safe(divisor(n, W, squares)))
    return step._replace(rounding=rounding), bad.astype(jnp.int32)


def rounding_of(mean: Any, ws: Any, divisor: Any) -> Any:
    """Of S as a difference of sum w |g|^2 and W |gbar|^2, in the dtypes of both."""
    eps = [float(jnp.finfo(jnp.result_type(x)).eps) for x in (*jax.tree.leaves(mean), ws)]
    return ROUNDING_FACTOR * max(eps) * ws / divisor


def of_sums(sq_mean: Any, sums: tuple, divisor: Any) -> Step:
    """From |gbar|^2 and (sum w, sum w^2, sum w |g|^2, sum w^2 |g|^2)."""
    W, squares, ws, w2s = sums
    several = squares * (1 + SINGLE) < W**2
    S = (ws - W * sq_mean) / safe(divisor)
    pairs = (W**2 * sq_mean - w2s) / safe(W**2 - squares)
    S, pairs = (jnp.where(several, x, jnp.nan) for x in (S, pairs))
    return Step(S, pairs, jnp.zeros_like(S))


def _of_micro_gradients(gradients, given):
    k = batch_size(gradients, given.caller)
    _at_least_two(k, "micro_gradients", "micro-batch", given)
    leaves = [wide(g) for g in jax.tree.leaves(gradients)]
    s = functools.reduce(operator.add, [sum_per_row(abs2(g)) for g in leaves])
    sizes = _sizes(k, given)
    finite = jnp.isfinite(s)
    w = jnp.where(finite, sizes, 0).astype(s.dtype)
    kept = w != 0
    W, squares, divisor = jnp.sum(w), jnp.sum(w**2), jnp.sum(kept).astype(s.dtype) - 1
    sq_mean = deviations = jnp.zeros((), s.dtype)
    for g in leaves:
        g = jnp.where(rows(kept, g), g, 0)
        mean = jnp.sum(rows(w / safe(W), g).astype(g.dtype) * g, axis=0)
        sq_mean += jnp.sum(abs2(mean))
        deviations += jnp.sum(w * sum_per_row(abs2(g - mean[None])))
    w2s = jnp.sum(jnp.where(kept, w**2 * s, 0))
    step = of_sums(sq_mean, (W, squares, W * sq_mean + deviations, w2s), divisor)
    # Centred, so that nothing cancels where the mean dominates.
    S = jnp.where(jnp.isnan(step.S), step.S, deviations / safe(divisor))
    return step._replace(S=S), jnp.sum((sizes != 0) & ~finite).astype(jnp.int32)


def _of_replica(gradient, given):
    """|g_j - gbar|^2, which does not cancel, and |gbar|^2 are added up over devices."""
    same_structure(gradient, given.updates, "replica_gradient", given.caller)
    _on_devices(given, gradient)
    k = jax.lax.psum(1, given.axis_name)
    if k < 2:
        raise ValueError(
            f"`{given.caller}`: `replica_gradient` needs two devices or more on the axis "
            f"{given.axis_name!r}, which has one; give `sq_norms` or `micro_sq_norms`"
        )
    pairs = jax.tree.map(_deviation_and_mean, gradient, vary_like(given.updates, gradient))
    own = functools.reduce(operator.add, jax.tree.leaves(pairs), jnp.zeros(2))
    deviations, sq_mean = jax.lax.psum(own, given.axis_name)
    m, sq_mean = _sizes(None, given).astype(own.dtype), sq_mean / k
    S = m * deviations / (k - 1)
    return Step(S, sq_mean - S / (k * m), jnp.zeros_like(S)), jnp.int32(0)


def _deviation_and_mean(g, mean):
    """|g - mean|^2 and |mean|^2 [2], in one pass, as XLA's CPU compiler would not merge two."""
    g, mean = wide(g), wide(mean)
    squares = abs2(g - mean), abs2(mean)
    zero = vary_like(jnp.zeros((), squares[0].dtype), squares[0])
    add = lambda x, y: (x[0] + y[0], x[1] + y[1])  # noqa: E731
    return jnp.stack(jax.lax.reduce(squares, (zero, zero), add, tuple(range(g.ndim))))


def _on_devices(given, gradient=None):
    """ValueError where JAX knows that `updates` is no mean over devices, or each gradient is."""
    axes = varying_axes(jax.lax.axis_index(given.axis_name))  # none where JAX does not keep account
    if any(axes & varying_axes(x) for x in jax.tree.leaves(given.updates)):
        raise ValueError(
            f"`{given.caller}`: `updates` differs between the devices of the axis "
            f"{given.axis_name!r}: it must be the mean over them, by jax.lax.pmean"
        )
    own = jax.tree.leaves(gradient)
    if axes and own and not any(axes & varying_axes(x) for x in own):
        raise ValueError(
            f"`{given.caller}`: `replica_gradient` is the same on all devices of the axis "
            f"{given.axis_name!r}: inside `shard_map`, JAX adds up the gradient of replicated "
            'parameters. Cast them first, jax.lax.pcast(params, axis_name, to="varying"), or '
            "use funcbackprop.gradient_statistics, which does"
        )


def _of_moments(moments: Moments, given):
    S = moments.S
    if jnp.ndim(S):
        raise ValueError(
            f"`{given.caller}`: `moments` must be those of one step, got S of shape "
            f"{jnp.shape(S)}; go through them with jax.lax.scan"
        )
    lost = jnp.asarray(moments.status) == statuses.code("below rounding")
    # More than S itself, so that averages of such steps are seen to be rounding.
    rounding = jnp.where(lost, 2 * jnp.abs(S) + jnp.finfo(jnp.result_type(S)).tiny, 0)
    return Step(S, moments.sq_gradient_norm, rounding), jnp.int32(0)


class Source(NamedTuple):
    """How a step is observed: `observe(value, given)`, what else it needs, and what it takes."""

    observe: Any
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


SOURCES = {
    "sq_norms": Source(_of_examples, ("updates",), ("weights", "axis_name")),
    "micro_sq_norms": Source(_of_micro_norms, ("updates", "micro_size"), ("axis_name",)),
    "micro_gradients": Source(_of_micro_gradients, ("micro_size",)),
    "replica_gradient": Source(_of_replica, ("updates", "micro_size", "axis_name")),
    "moments": Source(_of_moments),
}


def tree_sq_norm(tree: Any) -> jax.Array:
    """|x|^2 over all leaves, in float32 or wider."""
    return functools.reduce(operator.add, map(sq_norm, jax.tree.leaves(tree)), jnp.zeros(()))


def _sizes(k, given):
    """m [k], or a scalar if k is None; 0 leaves one out, a negative one becomes NaN."""
    shape = () if k is None else (k,)
    sizes = jnp.asarray(given.micro_size)
    if sizes.shape not in ((), shape):
        raise ValueError(
            f"`{given.caller}`: `micro_size` must be a number"
            + (f", or have shape {shape}, one for each micro-batch" if shape else "")
            + f"; got shape {sizes.shape}"
        )
    if is_concrete(sizes) and bool((sizes < 0).any()):
        raise ValueError(
            f"`{given.caller}`: `micro_size` must not be negative, got {given.micro_size}"
        )
    sizes = jnp.broadcast_to(sizes, shape).astype(jnp.result_type(float))
    return jnp.where(sizes >= 0, sizes, jnp.nan)


def _at_least_two(k, name, part, given):
    if k < 2 and given.axis_name is None:
        raise ValueError(
            f"`{given.caller}`: `{name}` holds {k} {part}, and a spread needs two or more. "
            "Accumulate over more micro-batches, or measure funcbackprop.SquaredNorms()"
        )


def _everywhere(numbers, axis_name):
    """Added up over devices in one all-reduce."""
    return numbers if axis_name is None else list(jax.lax.psum(jnp.stack(numbers), axis_name))
