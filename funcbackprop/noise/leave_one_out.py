"""The numbers of each example, and the delete-one jackknife of what follows from them.

With W = sum w, a_j = w_j/(W - w_j), d_j = <g_j - gbar, gbar> and e_j = |g_j - gbar|^2, leaving
example j out gives

    |gbar_-j|^2 = |gbar|^2 - 2 a_j d_j + a_j^2 e_j,

and `design` has S and the unbiased |G|^2: nothing of the size of the mean cancels, and all n values
cost O(n).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..contract import checked_weights, same_structure, wide
from ..per_example import total
from .design import S_moves, of_examples, safe, scaled, sq_norm_moves
from .estimate import Estimate, on_log_scale, student
from .moments import Moments, moments
from .moments import sq_norm as sq_norm_of_leaf
from .status import code, first_problem

# A sum that cancels to fewer than this many unit roundoffs has lost two digits or more.
_RESOLVED = 256


class Rows(NamedTuple):
    """What is known of each example, padding made 0.

    Attributes:
      weights: [B], the largest 1.
      sq_mean: |gbar|^2.
      moments: of all examples.
      along: d_i, [B]; None without `inner`.
      sq_deviations: e_i, [B]; None if they do not follow from what was given.
      sq_norms: |g_i|^2, [B]; None if they were not given.
      given: name -> statistic, the totals [B] that were given, and S as `variance`.
    """

    weights: jax.Array
    sq_mean: jax.Array
    moments: Moments
    along: Any = None
    sq_deviations: Any = None
    sq_norms: Any = None
    given: Any = None

    @property
    def by_pairs(self):
        """Whether the moments' |G|^2 is the weighted mean over pairs, as from `sq_norms`.

        The other form, |gbar|^2 - S sum w^2/(sum w)^2, differs from it if the weights are unequal.
        """
        return self.given.keys().isdisjoint({"variance", "sq_deviations"})

    @property
    def kept(self):
        return self.weights > 0


class LeftOut(NamedTuple):
    """S, |gbar|^2 and the unbiased |G|^2 with one example left out, each [B]."""

    S: jax.Array
    sq_mean: jax.Array
    sq_gradient_norm: jax.Array


def rows(caller: str, mean: Any, *, inner: Any = None, weights: Any = None, **spread: Any) -> Rows:
    """The checked numbers of each example; `spread` as in `moments`."""
    given = {name: tree for name, tree in spread.items() if tree is not None}
    if not given:
        raise ValueError(
            f"`{caller}`: the spread of the gradients is needed: pass `sq_norms`, `sq_deviations` "
            "or `variance`, measured with funcbackprop.gradient_statistics"
        )
    variance = given.pop("variance", None)
    columns = given if inner is None else {**given, "inner": inner}
    columns = {name: per_example(caller, name, tree, mean) for name, tree in columns.items()}
    weights = common_weights(caller, columns, weights)
    if variance is not None:
        same_structure(variance, mean, "variance", caller)
    return _rows(mean, columns, variance, weights)


@jax.jit
def _rows(mean: Any, columns: Any, variance: Any, weights: Any) -> Rows:
    kept = weights > 0
    columns = {name: jnp.where(kept, x, 0) for name, x in columns.items()}
    sq_mean = sq_norm(mean)
    along = jnp.where(kept, columns["inner"] - sq_mean, 0) if "inner" in columns else None
    deviations = columns.get("sq_deviations")
    if deviations is None and along is not None and "sq_norms" in columns:
        deviations = jnp.where(kept, columns["sq_norms"] - sq_mean - 2 * along, 0)
    sq_norms = columns.get("sq_norms")
    spread: Any = {name: x for name, x in columns.items() if name != "inner"}
    if variance is not None:
        spread["variance"] = variance
    found = moments(mean, weights=weights, **spread)._replace(per_leaf=None)
    if variance is not None and "sq_deviations" not in columns:
        columns["variance"] = found.S
    return Rows(scaled(weights), sq_mean, found, along, deviations, sq_norms, columns)


@jax.jit
def left_out(r: Rows) -> LeftOut | None:
    """The moments with each example left out; None where `along` or `sq_deviations` is missing."""
    if r.along is None or r.sq_deviations is None:
        return None
    w, d, e = r.weights, r.along, r.sq_deviations
    design = of_examples(w)
    W, squares = jnp.sum(w), jnp.sum(w**2)
    rest = W - w
    a = w / rest
    sq_mean = resolved(r.sq_mean, -2 * a * d, a**2 * e)
    S = S_left_out(design, r.moments.S, e)
    if not r.by_pairs:
        return LeftOut(S, sq_mean, sq_mean - S * (squares - w**2) / rest**2)
    excess = jnp.sum(w**2 * (e + 2 * d)) / safe(W**2 - squares)
    left = r.sq_mean - excess + sq_norm_moves(design, excess, e, d)
    return LeftOut(S, sq_mean, jnp.where(design.enough, left, jnp.nan))


def S_left_out(design: Any, S: Any, deviations: Any) -> jax.Array:
    """S with each example left out, [B]; NaN where too few are left, or rounding."""
    left = resolved(S, S_moves(design, S, deviations))
    return jnp.where(design.enough, left, jnp.nan)


def resolved(*terms: Any) -> jax.Array:
    """The sum of terms; NaN where they cancel so far that rounding is left.

    So it is if one example is all of the spread, or of the mean, and is left out.
    """
    value, size = sum(terms), sum(map(jnp.abs, terms))
    rounding = _RESOLVED * jnp.finfo(jnp.result_type(value)).eps * size
    return jnp.where(jnp.abs(value) < rounding, jnp.nan, value)


def delete_one(whole: Any, values: Any, kept: Any) -> jax.Array:
    """Jackknife standard error of `whole` from `values` [B], those with one example left out.

    ((n - 1)/n sum_j (t_-j - mean t_-)^2)^(1/2) over the n rows kept, as for examples that are drawn
    together with their weights. NaN for fewer than two.
    """
    n = jnp.sum(kept)
    change = jnp.where(kept, values - whole, 0)
    centred = jnp.where(kept, change - jnp.sum(change) / n, 0)
    return jnp.sqrt(jnp.where(n > 1, (n - 1) / n * jnp.sum(centred**2), jnp.nan))


@jax.jit
def plain(value: Any, values: Any, kept: Any, status: Any) -> Estimate:
    """value -/+ Student's quantile times the jackknife error; `values` None: no error is known."""
    return symmetric(value, _error(value, values, kept), jnp.sum(kept) - 1, status)


def symmetric(value: Any, error: Any, freedom: Any, status: Any) -> Estimate:
    half = student(freedom) * error
    return estimate(value, error, value - half, value + half, status)


@jax.jit
def positive(value: Any, values: Any, kept: Any, status: Any) -> Estimate:
    """The same on the log scale, for what cannot be negative and is skewed to the right.

    Where an estimate, with all examples or with one left out, is not above 0: `plain`.
    """
    known = plain(value, values, kept, status)
    if values is None:
        return known
    usable = (value > 0) & jnp.all(jnp.where(kept, values > 0, True))
    log = lambda x: jnp.log(jnp.where(usable & (x > 0), x, 1))  # noqa: E731
    error = delete_one(log(value), log(values), kept)
    lower, upper = on_log_scale(value, student(jnp.sum(kept) - 1) * error)
    on_logs = estimate(value, value * error, lower, upper, status)
    return choose(usable, on_logs, known)


def choose(condition: Any, a: Estimate, b: Estimate) -> Estimate:
    """`a` where the condition holds, else `b`."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def _error(whole, values, kept):
    return (
        jnp.full(jnp.shape(whole), jnp.nan) if values is None else delete_one(whole, values, kept)
    )


def estimate(value: Any, error: Any, lower: Any, upper: Any, status: Any) -> Estimate:
    """An `Estimate`; status `error not known` where there is a value without an error."""
    return Estimate(
        value, error, lower, upper, first_problem(status, (jnp.isnan(error), "error not known"))
    )


def scaled_by(factor: Any, e: Estimate) -> Estimate:
    """An estimate in another unit; `factor` is above 0."""
    numbers = (factor * x for x in (e.value, e.standard_error, e.lower, e.upper))
    value, standard_error, lower, upper = numbers
    return Estimate(value, standard_error, lower, upper, e.status)


def spread_status(m: Moments) -> jax.Array:
    """The status of S alone: a |G|^2 that is not above zero is no fault of the spread."""
    return jnp.where(m.status == code("gradient not above zero"), 0, m.status)


def per_example(caller: str, name: str, tree: Any, mean: Any) -> jax.Array:
    """One number for each example, [B], added up over leaves; ValueError for another form."""
    shapes = sorted({jnp.shape(leaf) for leaf in jax.tree.leaves(tree)})
    like_mean = jax.tree.structure(tree) == jax.tree.structure(mean)
    if len(shapes) != 1 or len(shapes[0]) != 1 or not (like_mean or _one_leaf(tree)):
        raise ValueError(
            f"`{caller}`: `{name}` must be one array [B] or a tree like `mean` with leaves [B], "
            f"got leaves of shapes {shapes}"
        )
    return jnp.asarray(total(jax.tree.map(wide, tree)))


def common_weights(caller: str, columns: dict, weights: Any) -> jax.Array:
    """The checked weights [B]; ValueError where the numbers of examples differ."""
    sizes = {name: len(x) for name, x in columns.items()}
    if weights is not None:
        sizes["weights"] = len(jnp.asarray(weights))
    if len(set(sizes.values())) != 1:
        raise ValueError(
            f"`{caller}`: the number of examples B must be the same everywhere, got {sizes}"
            if sizes
            else f"`{caller}`: `variance` does not tell the number of examples; pass `weights` too "
            "(ones [B] if the examples count alike)"
        )
    return jnp.asarray(checked_weights(weights, next(iter(sizes.values())), caller))


def sq_norm(tree: Any) -> jax.Array:
    """|g|^2 over all leaves."""
    return jnp.asarray(total(jax.tree.map(sq_norm_of_leaf, tree)))


def _one_leaf(tree):
    return jax.tree_util.all_leaves([tree])


def above_zero(caller: str, **values: Any) -> None:
    """ValueError where a number (one that is not traced) is not above 0."""
    for name, x in values.items():
        if isinstance(x, int | float) and not x > 0:
            raise ValueError(f"`{caller}`: `{name}` must be above 0, got {x!r}")
