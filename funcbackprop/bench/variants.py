"""What is compared: one table, name -> a function `(params, batch)` made from a loss.

To add a variant: one row in `VARIANTS`, and its name in `ON_REQUEST` if it is measured with `--all`
alone. A row that is missing here is left out and named.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ..contract import Loss, differentiable
from ..per_example import (
    ClippedMean,
    Gram,
    InnerWithMean,
    Mean,
    MeanOf,
    Projection,
    SquaredDeviations,
    SquaredNorms,
    Variance,
    gradient_statistics,
)

# The norm to which `ClippedMean` and jax-privacy clip; the work does not depend on it.
_MAX_NORM = 1.0

PLAIN = "plain"
AGAIN = "plain, once more"  # what a ratio of 1 looks like on this machine
DEFINITION = "mean + norms by vmap(grad)"


class Missing(Exception):
    """A package that a variant needs is not there."""


class Found(NamedTuple):
    """What a variant computes and can be compared; None where it has no such result."""

    mean: object = None  # the mean gradient, as `params`
    sq_norms: object = None  # [B]


class Variant(NamedTuple):
    """How to compute something, and how to read its output.

    Attributes:
      make: `(loss, examples) -> f(params, batch)`; raises Missing.
      read: output of f -> Found.
    """

    make: Callable[[Loss, int], Callable]
    read: Callable[..., Found]


def _plain(loss: Loss, examples: int) -> Callable:
    def mean_loss(params, batch):
        return jnp.mean(jax.vmap(loss, (None, 0))(params, batch))

    return jax.value_and_grad(mean_loss)


def _statistics(**stats) -> Callable:
    return lambda loss, examples: gradient_statistics(loss, stats)


def _projection(loss: Loss, examples: int) -> Callable:
    """On one direction, in which all entries are 1."""

    def f(params, batch):
        ones = jax.tree.map(jnp.ones_like, differentiable(params, "Projection")[0])
        return gradient_statistics(loss, {"projection": Projection(ones)})(params, batch)

    return f


def _by_definition(loss: Loss, examples: int) -> Callable:
    def f(params, batch):
        losses, grads = jax.vmap(jax.value_and_grad(loss), (None, 0))(params, batch)
        return losses, jax.tree.map(lambda g: jnp.mean(g, 0), grads), jax.vmap(_sq_norm)(grads)

    return f


def _micro_grad(at_a_time: int | None) -> Callable:
    def make(loss: Loss, examples: int) -> Callable:
        micro: Any = getattr(optax, "microbatching", None)
        if not hasattr(micro, "micro_grad"):
            raise Missing(f"optax {optax.__version__} has no `microbatching.micro_grad`")
        if at_a_time is not None and examples % at_a_time:
            raise Missing(f"B = {examples} is no multiple of {at_a_time}")
        return micro.micro_grad(
            loss,
            keep_batch_dim=False,
            microbatch_size=at_a_time,
            accumulator=micro.AccumulationType.MEAN,
            metrics_fn=_sq_norm,
        )

    return make


def _clipped_grad(loss: Loss, examples: int) -> Callable:
    try:
        jax_privacy = importlib.import_module("jax_privacy")
    except ImportError as error:
        raise Missing(f"cannot import jax_privacy ({error})") from error
    return jax_privacy.clipped_grad(
        *(loss, 0),
        l2_clip_norm=_MAX_NORM,
        normalize_by=examples,
        keep_batch_dim=False,
        return_values=True,
    )


def _sq_norm(tree):
    """Squared norm over all leaves, in float32 or wider."""
    wide = (g.astype(jnp.promote_types(g.dtype, jnp.float32)) for g in jax.tree.leaves(tree))
    return sum(jnp.sum(jnp.abs(g) ** 2) for g in wide)


def _found(out) -> Found:
    """Of `gradient_statistics`."""
    norms = out[1].get("sq_norms")
    return Found(out[1].get("mean"), None if norms is None else sum(jax.tree.leaves(norms)))


_MICRO = lambda out: Found(out[0], out[1].metrics)  # noqa: E731

VARIANTS: dict[str, Variant] = {
    PLAIN: Variant(_plain, lambda out: Found(out[1])),
    AGAIN: Variant(_plain, lambda out: Found(out[1])),
    "Mean": Variant(_statistics(mean=Mean()), _found),
    "Mean + SquaredNorms": Variant(_statistics(mean=Mean(), sq_norms=SquaredNorms()), _found),
    "Mean + Variance": Variant(_statistics(mean=Mean(), variance=Variance()), _found),
    "Mean + Variance(centred)": Variant(
        _statistics(mean=Mean(), variance=Variance(centred=True)), _found
    ),
    "ClippedMean": Variant(_statistics(clipped=ClippedMean(_MAX_NORM)), _found),
    "Gram": Variant(_statistics(gram=Gram()), _found),
    "Projection": Variant(_projection, _found),
    "InnerWithMean": Variant(_statistics(inner=InnerWithMean()), _found),
    "SquaredDeviations": Variant(_statistics(deviations=SquaredDeviations()), _found),
    "MeanOf(jnp.sign)": Variant(_statistics(signs=MeanOf(jnp.sign)), _found),
    DEFINITION: Variant(_by_definition, lambda out: Found(out[1], out[2])),
    "optax micro_grad": Variant(_micro_grad(None), _MICRO),
    "optax micro_grad, 4 at a time": Variant(_micro_grad(4), _MICRO),
    "jax-privacy clipped_grad": Variant(_clipped_grad, lambda out: Found()),
}

# Measured with `--all` alone.
ON_REQUEST = ("Gram", "Projection", "InnerWithMean", "SquaredDeviations", "MeanOf(jnp.sign)")
STANDARD = tuple(name for name in VARIANTS if name not in ON_REQUEST)
# Those of the table of growth.
GROWTH = (PLAIN, "Mean + SquaredNorms", "Mean + Variance", DEFINITION)
# Those that are `gradient_statistics`, and have targets.
OURS = tuple(name for name, variant in VARIANTS.items() if variant.read is _found)
