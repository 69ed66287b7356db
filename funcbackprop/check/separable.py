"""Is a batch loss the mean of independent examples?"""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ..contract import batch_size, checked_params, checked_weights, leaf_names, one_example
from ..files import json_safe

# Two programs for batches of another size add in another order; coupling is far larger than this.
_TOLERANCE = {"float64": 1e-10, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
# Share of an example in a pair beyond which its partner has no weight to be measured against.
_ALL = 0.999

_EXPLANATION = {
    "separable": "The loss of a batch is the {mean} of the losses of its examples.",
    "summed": "The loss of a batch is the sum over its examples: gradients are B times those of "
    "the mean. Divide by the number of examples; funcbackprop.one_example is right as it is.",
    "mask-normalised": "The loss of a batch is a weighted mean of its examples, as when a mask is "
    "summed over the whole batch. Use funcbackprop.one_example with the weights in `.weights` (the "
    "token counts, usually).",
    "coupled": "The loss of a batch is no mean, weighted mean or sum over its examples. Either "
    "they act on each other (batch normalisation, in-batch negatives), and the mini-batch is the "
    "unit; or a sum over examples is added to a term that is not per example (weight decay).",
    "not finite": "The loss or a gradient is not finite there, so nothing can be said. A loss that "
    "is finite for several examples but not for one is coupled (the spread of a batch of one).",
}


@dataclasses.dataclass(frozen=True)
class Separability:
    """The result of `check_separable`.

    Attributes:
      verdict: "separable", "summed", "mask-normalised", "coupled" or "not finite".
      error: the largest difference from the mean of single examples, relative to the largest
        single example's; NaN for "not finite".
      leaf: the parameter leaf that differs most, or "the loss" if only that differs; for "not
        finite" at which number of examples it happened.
      weights: for "mask-normalised" the relative importances that explain it, the largest 1, one
        for each example that was compared: all but those of weight 0. None otherwise.
      weighted: whether weights were given.
    """

    verdict: str
    error: float
    leaf: str
    weights: tuple[float, ...] | None = None
    weighted: bool = False

    @property
    def ok(self) -> bool:
        """True if the loss is the mean of the losses of its examples."""
        return self.verdict == "separable"

    def explain(self) -> str:
        """The verdict as a sentence that says what to do."""
        mean = "mean, by the given weights," if self.weighted else "mean"
        return _EXPLANATION[self.verdict].format(mean=mean)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe; an error that is not finite is None."""
        return json_safe({"ok": self.ok, **dataclasses.asdict(self)})

    def __str__(self):
        return (
            f"{self.verdict}: largest difference {self.error:.2g} at {self.leaf}. {self.explain()}"
        )


def check_separable(
    batch_loss, params: chex.ArrayTree, batch: chex.ArrayTree, weights: chex.Array | None = None
) -> Separability:
    """Compare a batch loss and its gradient with the mean over single examples.

    The comparison is made for the first two examples and for the whole batch. It tells a coupled
    loss from a summed one and from one that divides by the mask of the whole batch.

    Args:
      batch_loss: `batch_loss(params, batch) -> scalar`.
      params: pytree of float arrays.
      batch: pytree with a leading axis of at least 2 examples on every leaf.
      weights: [B]; the mean is then sum_i w_i loss_i / sum_i w_i.

    Returns:
      `Separability`; `.ok` if `funcbackprop.one_example(batch_loss)` is the loss of one example.

    Raises:
      ValueError: fewer than two examples of positive weight, or leaves of unequal length.
      TypeError: `params` has leaves that are not floating-point.

    Cost: B gradients of single examples and one of the batch; of a loss that is neither mean nor
    sum also those of up to B pairs, rarely 4 B. Call it outside `jit`.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> x = jnp.array([[1.0], [2.0], [4.0]])
    >>> print(fb.check_separable(lambda w, x: jnp.sum((x @ w) ** 2), jnp.ones(1), x).verdict)
    summed
    """
    size = batch_size(batch, "check_separable")
    checked_params(params, "check_separable")
    if size < 2:
        raise ValueError("`check_separable`: `batch` must hold at least 2 examples, got 1")
    w = np.asarray(checked_weights(weights, size, "check_separable"), np.float64)
    kept = np.flatnonzero(w)
    if len(kept) < 2:
        raise ValueError(
            f"`check_separable`: at least 2 examples need a positive weight, got {len(kept)}"
        )
    batch, w, size = jax.tree.map(lambda x: jnp.asarray(x)[kept], batch), w[kept], len(kept)
    evaluate = _Evaluate(batch_loss, params, batch)
    singles = [evaluate.single(i) for i in range(size)]
    whole, pair = evaluate.rows(range(size)), evaluate.rows([0, 1])
    for count, values in ((size, whole), (2, pair), (1, singles)):
        if not all(np.isfinite(x).all() for x in jax.tree.leaves(values)):
            where = f"a batch of {count}"
            return Separability("not finite", float("nan"), where, weighted=weights is not None)

    def errors(factor):
        n = (2, size) if factor == "sum" else (1, 1)
        mean_pair, mean_whole = _mean(singles[:2], w[:2]), _mean(singles, w)
        return _worst(
            [
                evaluate.error(pair, [n[0] * x for x in mean_pair], singles),
                evaluate.error(whole, [n[1] * x for x in mean_whole], singles),
            ]
        )

    error, leaf = errors("mean")
    result = Separability("coupled", error, leaf, weighted=weights is not None)
    if error <= evaluate.tolerance:
        return dataclasses.replace(result, verdict="separable")
    if errors("sum")[0] <= evaluate.tolerance:
        return dataclasses.replace(result, verdict="summed")
    shares = _implied_weights(evaluate, singles, size)
    if shares is not None:
        fitted, _ = evaluate.error(whole, _mean(singles, shares), singles)
        if fitted <= evaluate.tolerance:
            implied = tuple(float(x) for x in shares / shares.max())
            return dataclasses.replace(result, verdict="mask-normalised", weights=implied)
    return result


class _Evaluate:
    """Value and gradient of a batch loss on chosen rows, as a flat list of float64 arrays."""

    def __init__(self, batch_loss, params, batch):
        self._params = params
        self._batch = jax.tree.map(jnp.asarray, batch)
        self._rows = jax.jit(jax.value_and_grad(batch_loss))
        self._single = jax.jit(jax.value_and_grad(one_example(batch_loss)))
        self.names = ["the loss", *leaf_names(params)]
        dtypes = [jnp.finfo(jnp.result_type(p)).dtype.name for p in jax.tree.leaves(params)]
        self.tolerance = max((_TOLERANCE[d] for d in dtypes), default=1e-4)

    def rows(self, index):
        index = np.asarray(list(index))
        return _flat(self._rows(self._params, jax.tree.map(lambda x: x[index], self._batch)))

    def single(self, i):
        return _flat(self._single(self._params, jax.tree.map(lambda x: x[i], self._batch)))

    def error(self, got, expected, singles):
        """`(largest relative error, where)`; a parameter leaf is named before the loss itself."""
        scales = [
            max(np.abs(x).max(initial=0.0) for x in leaf) for leaf in zip(*singles, strict=True)
        ]
        scales = [max(s, np.abs(e).max(initial=0.0)) for s, e in zip(scales, expected, strict=True)]
        errors = [
            np.abs(g - e).max(initial=0.0) / (scale or 1.0)
            for g, e, scale in zip(got, expected, scales, strict=True)
        ]
        leaf = int(np.argmax(errors[1:])) + 1 if max(errors[1:], default=0.0) > 0 else 0
        worst = leaf if errors[leaf] > self.tolerance else int(np.argmax(errors))
        return float(errors[worst]), self.names[worst]


def _implied_weights(evaluate, singles, size):
    """Weights [B] that make every pair a weighted mean of its singles; None if there are none."""
    for anchor in range(min(size, 4)):
        weights = np.ones(size)
        for i in set(range(size)) - {anchor}:
            pair = evaluate.rows([anchor, i])
            share = _share(pair, singles[anchor], singles[i])
            fit = _mean([singles[anchor], singles[i]], np.array([1 - share, share]))
            if evaluate.error(pair, fit, singles)[0] > evaluate.tolerance:
                return None
            weights[i] = share / (1 - share) if share < _ALL else np.inf
        if np.isfinite(weights).all() and (weights >= -evaluate.tolerance).all():
            return np.maximum(weights, 0.0)
    return None


def _share(pair, a, b) -> float:
    """The share s with pair = (1 - s) a + s b, by least squares."""
    numerator = sum(np.vdot(y - x, p - x).real for p, x, y in zip(pair, a, b, strict=True))
    denominator = sum(np.vdot(y - x, y - x).real for x, y in zip(a, b, strict=True))
    return float(numerator / denominator) if denominator else 0.5


def _mean(values, weights):
    return [
        np.tensordot(weights / weights.sum(), np.stack(x), 1) for x in zip(*values, strict=True)
    ]


def _worst(errors):
    return max(errors, key=lambda pair: pair[0])


def _flat(value_and_grad):
    def wide(x):
        x = np.asarray(x)
        return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)

    return [wide(x) for x in jax.tree.leaves(value_and_grad)]
