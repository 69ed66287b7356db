"""What each criterion says about the batch size, from one set of statistics, side by side."""

import math
import textwrap
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from ... import tables
from ...files import json_safe
from ...results import is_traced
from .. import status as statuses
from ..estimate import Estimate
from ..geometry.directions import diversity_of
from ..geometry.pairs import pairs
from ..leave_one_out import above_zero, common_weights, per_example, rows
from ..scale.examples import of_totals
from .criteria import inner_product_test_of, norm_test_of, orthogonality_test_of
from .schedules import cabs_of


class _Criterion(NamedTuple):
    """A row of the table.

    Attributes:
      label: what it is called.
      question: that it answers.
      needs: what must be given for it, where that is more than the least.
      interval: what must be given for its interval.
      meaning: of its number.
    """

    label: str
    question: str
    needs: str
    interval: str
    meaning: str


_SPEED = "Up to which size does a larger batch save steps?"
_DIRECTION = "From which size on is the mean gradient good enough for this step?"
_RATE = "Which size fits this learning rate and this loss?"

_INNER = "`inner` from funcbackprop.InnerWithMean()"
_GRAM = "`gram` from funcbackprop.Gram()"
_NORMS = "`inner` from funcbackprop.InnerWithMean() and `sq_norms` from funcbackprop.SquaredNorms()"
# In the order of the table. Only rows with the same question can be compared.
_CRITERIA = {
    "noise_scale": _Criterion(
        "noise scale S/|G|^2",
        _SPEED,
        "",
        _INNER,
        "here noise and signal are equal; doubling a batch far below it almost halves the steps, "
        "doubling one far above it saves almost none",
    ),
    "diversity_bound": _Criterion(
        "n times diversity",
        _SPEED,
        "`sq_norms` from funcbackprop.SquaredNorms()",
        _INNER,
        "the noise scale plus 1, but with |gbar|^2, which holds noise, in place of |G|^2: it "
        "cannot see beyond the examples in hand, and is far too small where they are few",
    ),
    "norm_test": _Criterion(
        "norm test",
        _DIRECTION,
        "",
        _INNER,
        "the error of the mean gradient is `theta` of its length; it counts all noise, and "
        "|gbar|^2 holds noise as above",
    ),
    "inner_product_test": _Criterion(
        "inner-product test",
        _DIRECTION,
        _NORMS,
        _GRAM,
        "the step descends most of the time; it counts noise along the gradient only, so it asks "
        "for less than the norm test",
    ),
    "orthogonality_test": _Criterion(
        "orthogonality test",
        _DIRECTION,
        _NORMS,
        _GRAM,
        "noise across the gradient is at most `nu` of its length; it goes with the inner-product "
        "test, and the larger of the two counts",
    ),
    "cabs": _Criterion(
        "CABS",
        _RATE,
        "`losses`, which funcbackprop.gradient_statistics returns, and `learning_rate`",
        _INNER,
        "eta S/(loss - optimum): for plain SGD only, and right only as far as the loss is in units "
        "of a quadratic with unit curvature",
    ),
}


class Recommendation(NamedTuple):
    """Batch sizes in examples, each from one criterion; None where its input was not given.

    Attributes:
      noise_scale: S/|G|^2, the critical batch size.
      diversity_bound: mean |g_i|^2/|gbar|^2.
      norm_test, inner_product_test, orthogonality_test: the smallest size that passes.
      cabs: eta S/(loss - optimum).
      examples: that were measured, the effective number.
      status: int32, a code of `funcbackprop.noise.STATUS`, of S and |G|^2.
    """

    noise_scale: Estimate
    diversity_bound: Estimate | None
    norm_test: Estimate
    inner_product_test: Estimate | None
    orthogonality_test: Estimate | None
    cabs: Estimate | None
    examples: chex.Array
    status: chex.Array

    def explain(self) -> str:
        """How sure the numbers are and what they mean, in sentences (on the host)."""
        return "\n".join(_sentences(self))

    def to_dict(self) -> dict:
        """JSON-safe: the criteria, what is missing for the others, and the sentences."""
        found = {**statuses.to_dict(self), "missing": _missing(self)}
        single = np.ndim(self.status) == 0
        return json_safe({**found, "sentences": _sentences(self) if single else []})

    def __str__(self):
        if is_traced(self):
            return "Recommendation(traced)"
        if np.ndim(self.status):
            return f"Recommendation of {np.size(self.status)} batches: print them one by one"
        wrapped = (textwrap.fill(x, 100, subsequent_indent="    ") for x in _sentences(self))
        return "\n".join([_table(self), *wrapped])


def recommend_batch_size(
    mean: chex.ArrayTree,
    sq_norms: chex.ArrayTree | None = None,
    inner: chex.ArrayTree | None = None,
    *,
    sq_deviations: chex.ArrayTree | None = None,
    variance: chex.ArrayTree | None = None,
    gram: chex.ArrayTree | None = None,
    losses: chex.Array | None = None,
    learning_rate: Any = None,
    optimum: Any = 0.0,
    theta: float = 0.9,
    nu: float = 5.84,
    weights: chex.Array | None = None,
) -> Recommendation:
    """What each criterion says about the batch size, side by side, and how sure it is.

    Args:
      mean: the mean gradient, from `funcbackprop.Mean()`.
      sq_norms: from `funcbackprop.SquaredNorms()`: a tree like `mean` with leaves [B], or one array
        [B]; or `sq_deviations` or `variance`, as in `moments`. One of the three is needed.
      inner: from `funcbackprop.InnerWithMean()`; gives the intervals, and two more criteria.
      gram: from `funcbackprop.Gram()`; gives the intervals of those two.
      losses: [B]; with `learning_rate` (and `optimum`, the smallest mean loss) it gives CABS.
      theta, nu: `theta` of `norm_test` and `inner_product_test`, `nu` of `orthogonality_test`.
      weights: [B], those that the statistics were measured with. Any weights.

    Returns:
      `Recommendation`; `str` of it is the table with its sentences. Pure; works under `jit`. The
      noise scale is unbounded above where |G|^2 is not significantly above 0.

    Raises:
      ValueError: no spread was given, forms disagree, or `theta`, `nu` or `learning_rate` is not
        positive.

    Cost: O(B), with `gram` O(B^2). Sources: those of each criterion's own function.

    >>> import jax, jax.numpy as jnp
    >>> g = 1 + jax.random.normal(jax.random.key(0), (100, 1))  # S = 1, |G|^2 = 1
    >>> found = recommend_batch_size(g.mean(0), jnp.sum(g**2, 1), g @ g.mean(0))
    >>> print(found.noise_scale.lower < 1 < found.noise_scale.upper)
    True
    """
    caller = "recommend_batch_size"
    above_zero(caller, theta=theta, nu=nu, learning_rate=learning_rate)
    spread: Any = {"sq_norms": sq_norms, "sq_deviations": sq_deviations, "variance": variance}
    if losses is not None:
        losses = per_example(caller, "losses", losses, None)
        weights = common_weights(caller, {"losses": losses}, weights)
    r = rows(caller, mean, inner=inner, weights=weights, **spread)
    both = None if gram is None else pairs(caller, gram, r.weights)
    rate = None if losses is None or learning_rate is None else (losses, learning_rate, optimum)
    return _criteria(mean, r, both, rate, theta, nu)


@jax.jit
def _criteria(mean, r, both, rate, theta, nu):
    along = r.along is not None
    return Recommendation(
        noise_scale=of_totals(mean, r.weights, r.given).B_simple,
        diversity_bound=None if r.sq_norms is None else diversity_of(r).batch_size_bound,
        norm_test=norm_test_of(r, theta).batch_size,
        inner_product_test=inner_product_test_of(r, theta, both).batch_size if along else None,
        orthogonality_test=orthogonality_test_of(r, nu, both).batch_size if along else None,
        cabs=None if rate is None else cabs_of(r, *rate),
        examples=r.moments.examples,
        status=r.moments.status,
    )


def _missing(result):
    return {
        name: criterion.needs
        for name, criterion in _CRITERIA.items()
        if getattr(result, name) is None
    }


def _table(result):
    cells = []
    for name, criterion in _CRITERIA.items():
        found = getattr(result, name)
        if found is not None:
            interval = f"{_size(found.lower)} to {_size(found.upper)}"
            unknown = np.isnan(found.lower) and np.isnan(found.upper)
            cells.append(
                [criterion.label, _size(found.value), "not known" if unknown else interval]
            )
    return tables.text(cells, ["criterion", "batch size", "95 % interval"])


def _size(x):
    return "unbounded" if np.isinf(x) else tables.number(float(x))


def _sentences(result):
    """What the numbers mean, question by question, and how sure they are."""
    n = float(result.examples)
    lines = [f"Measured on {tables.number(n)} examples. {_headline(result.noise_scale)}"]
    if int(result.status):
        lines.append(statuses.sentences(result.status))
    for question in dict.fromkeys(c.question for c in _CRITERIA.values()):
        lines += _about(result, question)
    for name, needs in _missing(result).items():
        lines.append(f"Not given, {_CRITERIA[name].label}: it needs {needs}.")
    return lines


def _about(result, question):
    rows_of_question = [
        (c, getattr(result, name))
        for name, c in _CRITERIA.items()
        if c.question == question and getattr(result, name) is not None
    ]
    if not rows_of_question:
        return []
    lines = [question]
    lines += [f"  {c.label}: {c.meaning}. {_how_sure(c, e)}" for c, e in rows_of_question]
    return lines


# Statuses of a number without an error.
_WITHOUT_ERROR = ("error not known", "no inner products", "too few to leave one out")
# Widths upper/lower of an interval, and what to call them.
_WIDTHS = ((1.5, "Well known"), (4.0, "Roughly known"), (math.inf, "Hardly known"))


def _how_sure(criterion: _Criterion, e: Estimate) -> str:
    lower, upper = float(e.lower), float(e.upper)
    name = statuses.names(e.status)
    if name in _WITHOUT_ERROR:
        return f"Its interval needs {criterion.interval}, and at least three examples."
    if np.isinf(upper):
        return "Not bounded above by these examples."
    if np.isnan(lower) or lower <= 0:
        return statuses.sentences(e.status)
    width = upper / lower
    words = next(text for most, text in _WIDTHS if width < most)
    return f"{words}: the interval spans a factor of {tables.number(width, 2)}."


def _headline(e: Estimate) -> str:
    """What the first row says, in a sentence."""
    lower, upper = float(e.lower), float(e.upper)
    if np.isnan(lower) and np.isnan(upper):
        value = float(e.value)
        if not np.isfinite(value):
            return "Up to which size a larger batch saves steps, they do not tell."
        return (
            f"A larger batch saves steps up to about {_size(value)} examples; how sure that is, "
            "is not known."
        )
    if np.isinf(upper):
        bound = f"it is at least {_size(lower)}" if np.isfinite(lower) else "it is beyond them"
        return (
            "They do not bound from above the size up to which a larger batch saves steps: "
            f"{bound}. Measure more."
        )
    return (
        f"A larger batch saves steps up to about {_size(e.value)} examples "
        f"({_size(lower)} to {_size(upper)})."
    )
