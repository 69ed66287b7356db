"""What every number follows from: sums over the groups, for all data and without each group.

Arrays are [1 + g, L + 1]: all data first, then without each group; the leaves, then their total.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ...per_example import total
from ...per_example.numbers import abs2
from .sampling import Sampling
from .tally import Divisors, Tally


class Parts(NamedTuple):
    """What every number follows from, [1 + g, L + 1].

    Attributes:
      gaussian_error: relative standard error that `from_batches` has at least if the mini-batch
        means are Gaussian, [L + 1].
      between, within: parts of S; with one draw `between` is all of it and `within` 0.
      from_batches: `between`, from the spread of the mini-batch means.
      sq_gradient_norm: |G|^2.
      ratios, coordinates: sum of V_k/E[g_k^2] over the coordinates that have one, and how many.
    """

    between: Any
    within: Any
    from_batches: Any
    sq_gradient_norm: Any
    ratios: Any
    coordinates: Any
    gaussian_error: Any


class Setup(NamedTuple):
    """What the estimates are for, and how sure.

    Attributes:
      batches: how many were seen.
      size: of a mini-batch, B.
      factor: variance of its mean in units of the part between examples.
      draws: K.
      weights: of the groups [g], as shares, for the jackknife.
      error_factor: see `Tally.error_factor`.
      alone: whether there is only one example, or one unit.
      coupled: whether a mini-batch is the unit.
    """

    batches: int
    size: float
    factor: float
    draws: int
    weights: Any
    error_factor: float
    alone: bool
    coupled: bool = False


def setup(
    tally: Tally,
    sampling: Sampling,
    draws: int = 1,
    *,
    coupled: bool = False,
    random: bool = False,
) -> Setup:
    """At the mean effective size of the mini-batches that went by.

    Args:
      random: whether the loss draws random numbers. They are new in every epoch, so that a whole
        epoch has an error, which the factor of a finite population would hide.
    """
    size = tally.effective / tally.batches
    error_factor = 1.0 if random else tally.error_factor()
    return Setup(
        batches=tally.batches,
        size=size,
        factor=max(sampling.factor(size), 0.0),
        draws=draws,
        weights=tally.weight[: tally.groups] / tally.weight.sum(),
        error_factor=error_factor,
        alone=tally.examples < 2,
        coupled=coupled,
    )


def jitted(f: Callable) -> Callable:
    """`f(setup, *args)`, pure, compiled once for all data of the same shapes."""
    static = ("draws", "coupled")

    @partial(jax.jit, static_argnames=static)
    def compiled(numbers, *args, draws, coupled):
        return f(Setup(**numbers, draws=draws, coupled=coupled), *args)

    def call(setup, *args):
        numbers = {k: v for k, v in setup._asdict().items() if k not in static}
        return compiled(numbers, *args, draws=setup.draws, coupled=setup.coupled)

    return call


def parts(groups: dict, divisors: Divisors, setup: Setup) -> tuple[Parts, chex.ArrayTree]:
    """`Parts`, and the elementwise variance of one example as a tree; pure.

    Args:
      groups: states behind a leading axis [g] or longer; those after the first g are not used.
    """
    g = len(setup.weights)
    kept = np.concatenate([np.ones((1, g)), 1 - np.eye(g)])[: len(divisors.mean)]
    shares = jnp.asarray(kept * setup.weights[None], jnp.result_type(float))
    shares = shares / jnp.sum(shares, 1, keepdims=True)
    rows = Divisors(*(jnp.asarray(x, shares.dtype) for x in divisors))
    leaves = _leaves(jax.tree.map(lambda x: x[:g], groups))

    def of_all_leaves(_, given):
        shares, row = given
        found = [_of_leaf(leaf, shares, row, setup) for leaf in leaves]
        numbers, variance = zip(*found, strict=True)
        return variance, {k: jnp.stack([x[k] for x in numbers]) for k in numbers[0]}

    # Backwards, so that the variance which is left at the end is that of all data.
    start = tuple(jnp.zeros_like(leaf["variance"][0]) for leaf in leaves)
    variance, numbers = jax.lax.scan(of_all_leaves, start, (shares, rows), reverse=True)
    numbers = {k: jnp.concatenate([x, jnp.sum(x, 1, keepdims=True)], 1) for k, x in numbers.items()}
    grams = [_gram(leaf["mean"], shares[0]) for leaf in leaves]
    error = _gaussian_error([*grams, total(grams)], setup.batches)
    tree = jax.tree.unflatten(jax.tree.structure(groups["mean"]), variance)
    return Parts(**numbers, gaussian_error=error), tree


def _gaussian_error(grams, batches):
    """sqrt(2 tr(Sigma^2)/(tr(Sigma)^2 (b - 1))) of each, from Gram matrices [g, g] of group means.

    Their tr(K^2) is too large on average, by (tr K)^2/(g - 1): the error errs on the large side.
    """
    squares = jnp.stack([jnp.sum(K**2) for K in grams])
    traces = jnp.stack([jnp.trace(K) for K in grams])
    share = squares / jnp.where(traces > 0, traces, 1) ** 2
    return jnp.sqrt(2 / jnp.maximum(batches - 1.0, 1.0) * share)


def _leaves(groups):
    """One dict for each leaf, in place of one tree for each name."""
    names = ("mean", "variance", "batches", "within")
    flat = {name: jax.tree.leaves(groups[name]) for name in names}
    flat["within"] = flat["within"] or list(map(jnp.zeros_like, flat["variance"]))
    rest = groups["concentration"]
    columns = zip(*(flat[name] for name in names), strict=True)
    return [dict(zip(names, x, strict=True), concentration=rest) for x in columns]


def _of_leaf(leaf, shares, row, setup):
    """Parts of one leaf as scalars, and its elementwise variance."""
    shares = shares.astype(leaf["variance"].dtype)
    row = Divisors(*(x.astype(shares.dtype) for x in row))
    apart = _apart(leaf["mean"], shares)
    mean = leaf["mean"][0] - apart[0]
    between_groups = _average(shares, abs2(apart))
    own = shares * (1 - leaf["concentration"].astype(shares.dtype))
    mean_square = _average(own, leaf["variance"]) + between_groups
    within = _average(shares, leaf["within"])
    within = jnp.broadcast_to(within, mean_square.shape)
    of_draws = within / setup.draws
    between = (mean_square - of_draws * row.examples_iid) / row.examples
    of_batches = _average(shares, leaf["batches"]) + jnp.sum(between_groups)
    sq_norm = abs2(mean) - between * row.mean - of_draws * row.mean_iid
    ratio, known = _normalised(
        sq_norm, between * setup.factor + within / setup.size, row.mean > setup.factor
    )
    of_batch_draws = jnp.sum(of_draws) * row.batches_iid
    found = {
        "between": jnp.sum(between),
        "within": jnp.sum(within),
        "from_batches": (of_batches - of_batch_draws) / row.batches,
        "sq_gradient_norm": jnp.sum(sq_norm),
        "ratios": jnp.sum(ratio),
        "coordinates": jnp.sum(known, dtype=ratio.dtype),
    }
    return found, between + within


def _average(shares, x):
    return jnp.tensordot(shares.astype(x.dtype), x, 1)


def _apart(means, shares):
    """The groups' deviations from their mean."""
    # About the first group, so that a mean far larger than the spread does not cancel.
    from_first = means - means[:1]
    return from_first - _average(shares, from_first)[None]


def _gram(means, shares):
    """Inner products of the groups' deviations, each scaled by the root of its share."""
    flat = _apart(means, shares).reshape(len(shares), -1)
    flat = flat * jnp.sqrt(shares).astype(flat.dtype)[:, None]
    return (flat @ jnp.conj(flat).T).real


def _normalised(sq_norm, variance, few):
    """V/E[g^2] where it is not 0/0, and where that is.

    `few`: the data weigh less than one mini-batch of the mean size (one weight dwarfs all others),
    so that E[g^2] may come out negative. It is V at least.
    """
    second_moment = sq_norm + variance
    second_moment = jnp.where(few, jnp.maximum(second_moment, variance), second_moment)
    known = (variance != 0) | (second_moment != 0)
    return jnp.where(known, variance / jnp.where(known, second_moment, 1), 0), known
