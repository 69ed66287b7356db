"""A gradient held against a reference, leaf by leaf."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from .. import tables
from ..contract import Loss, checked_params, leaf_names, same_structure
from ..files import json_safe
from ..graph import UnsupportedPrimitive
from ..per_example import mean_gradient
from ..reference import value_and_grad

# Relative tolerance by dtype: about 84 unit roundoffs for float32, the rounding of sums of up to a
# thousand terms; 4500 for float64, exact to 12 digits; about 10 for the 16-bit types.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2, "bfloat16": 6e-2}

_ADVICE = {
    "agrees": "Every leaf agrees with the reference.",
    "differs": "A leaf differs: look at its worst element, and at the rules (custom_vjp, "
    "stop_gradient, a factor such as 1/B) between the loss and that parameter. If the inputs or "
    "parameters are far from 1 in size, compare in float64 (jax_enable_x64) to exclude rounding.",
    "not finite": "A gradient holds NaN or inf: jax_debug_nans shows where it is born; a division, "
    "log or sqrt at 0 behind a `where` is the usual cause.",
    "below resolution": "A leaf is too small beside the terms that are added to form it (see "
    "`resolution`): the comparison could not tell it from a wrong one. Near an optimum, take a "
    "batch with a larger loss (test data), or compare in float64 (jax_enable_x64).",
    "not audited": "The gradient of a leaf passes what the reference cannot follow (see the lines "
    "above). Give reference=, a function (params, batch, weights=None) -> (value, grads), to "
    "compare it with a derivation of your own.",
}
_WIDTH = 80  # columns of a terminal
_MOST_DECISIONS = 3
_WORST_FIRST = ("not finite", "differs", "not audited", "below resolution", "agrees")
# A leaf whose relative error would have to be larger than this to be noticed is not audited ...
_RESOLUTION = 1e-2
# ... unless it is zero by mathematics, which float64 shows as a value this much below its terms.
_ZERO = 1e-10


@dataclasses.dataclass(frozen=True)
class LeafCheck:
    """One parameter leaf: how far its gradient is from the reference.

    Attributes:
      leaf: the path, `params['layers'][0]['w']`.
      verdict: "agrees", "differs", "not finite" or "not audited".
      relative_error: max|a - b| / max(max|b|, m), with m the size of the terms that are added to
        form an element, where the reference knows it (0 otherwise).
      cosine_error: 1 - cos(a, b).
      worst_index: where |a - b| is largest.
      got: the value there of the gradient that was judged.
      expected: the value there of the reference.
      tolerance: what `relative_error` is held to.
      resolution: tolerance max(max|b|, m)/max|b|, the smallest change of the whole leaf that would
        be noticed. Above 0.01 a leaf that seems to agree is "not audited", unless it is zero by
        mathematics (a bias on attention keys), when it is judged by m alone.
      reason: of a leaf that was not compared, what the reference could not follow.
    """

    leaf: str
    verdict: str
    relative_error: float | None = None
    cosine_error: float | None = None
    worst_index: tuple[int, ...] | None = None
    got: float | complex | None = None
    expected: float | complex | None = None
    tolerance: float | None = None
    resolution: float | None = None
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class GradientCheck:
    """The result of `check_gradients`; `str` is a table with the worst element of each leaf.

    Attributes:
      leaves: one `LeafCheck` for each parameter leaf, in tree order.
      value: the mean loss of the batch.
      reference_value: the same by the reference, or None if it could not be evaluated.
      decisions: comparisons, selections and orders that float64 would have decided otherwise, one
        sentence each. The reference replayed the program's own: they are kinks close by.
    """

    leaves: tuple[LeafCheck, ...]
    value: float
    reference_value: float | None = None
    decisions: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True if every leaf was compared and agrees."""
        return all(leaf.verdict == "agrees" for leaf in self.leaves)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe; numbers that are not finite are None."""
        return json_safe({"ok": self.ok, **dataclasses.asdict(self)})

    def __str__(self):
        rows = [
            (
                _dotted(x.leaf),
                x.verdict,
                x.relative_error,
                "" if x.worst_index is None else ",".join(map(str, x.worst_index)),
                x.got,
                x.expected,
            )
            for x in self.leaves
        ]
        headers = ("leaf", "verdict", "relative", "worst at", "gradient", "reference")
        found = {_reason(leaf) for leaf in self.leaves} or {"agrees"}
        advice = next(_ADVICE[reason] for reason in _WORST_FIRST if reason in found)
        table = tables.text(rows, headers, width=_WIDTH)
        return "\n".join([table, *self._losses(), *self._remarks(), advice])

    def _losses(self):
        if self.reference_value is not None:
            numbers = (tables.number(x, 6) for x in (self.value, self.reference_value))
            yield "loss {}, by the reference {}".format(*numbers)

    def _remarks(self):
        yield from dict.fromkeys(leaf.reason for leaf in self.leaves if leaf.reason)
        yield from self.decisions[:_MOST_DECISIONS]
        if (more := len(self.decisions) - _MOST_DECISIONS) > 0:
            yield f"and {more} more decisions that float64 would take otherwise"


def _dotted(leaf: str) -> str:
    """`params['layers'][0]['w']` as `layers.0.w`, which leaves room for the numbers."""
    dotted = re.sub(r"\[['\"]?([^]'\"]*)['\"]?\]", r".\1", leaf).removeprefix("params")
    return dotted.lstrip(".") or leaf


def _reason(leaf: LeafCheck) -> str:
    below = leaf.verdict == "not audited" and leaf.resolution is not None
    return "below resolution" if below else leaf.verdict


def check_gradients(
    loss: Loss,
    params: chex.ArrayTree,
    batch: chex.ArrayTree,
    grads: chex.ArrayTree | None = None,
    *,
    weights: chex.Array | None = None,
    has_aux: bool = False,
    intended: Sequence[str] = (),
    reference: Callable | None = None,
) -> GradientCheck:
    """Hold the gradient of every parameter leaf against a reference.

    Agreement means max|a - b| <= tolerance max(max|b|, m) for each leaf, with a tolerance for its
    dtype (float64 1e-12, float32 1e-5, float16 1e-2, bfloat16 6e-2).

    Args:
      loss: `loss(params, example) -> scalar` of one example; `(scalar, aux)` with `has_aux=True`.
      params: pytree of float arrays.
      batch: pytree with a leading axis [B] on every leaf.
      grads: the gradient of the weighted mean loss to judge, from anywhere (arrays in the structure
        of `params`). None takes `jax.grad`, jitted, at matmul precision "highest" unless
        jax_default_matmul_precision is set.
      weights: [B], relative importances of the examples.
      has_aux: whether the loss returns `(scalar, aux)`.
      intended: names of intended departures from the chain rule. It must be empty so far: a
        comparison with a given reference cannot tell why a leaf differs.
      reference: `(params, batch, weights=None) -> (value, grads)`, independent of `jax.grad`. If it
        has a method `with_sizes` that also returns the tree of sizes m, they are used. None takes
        `funcbackprop.reference.value_and_grad`, which follows any loss; a leaf whose gradient
        passes something that it cannot follow (a callback, a kernel) is "not audited".

    Raises:
      ValueError: `grads`, or what the reference returns, has not the structure of `params`.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> loss = lambda w, x: 0.5 * jnp.sum((w - x) ** 2)
    >>> w, x = jnp.array([1.0, 2.0]), jnp.array([[0.0, 1.0], [2.0, 5.0]])
    >>> fb.check_gradients(loss, w, x).ok
    True
    >>> fb.check_gradients(loss, w, x, grads=2 * (w - x.mean(0))).ok
    False
    """
    if intended:
        raise ValueError(
            f"`check_gradients`: `intended` must be empty, got {tuple(intended)!r}: a comparison "
            "with a given reference cannot tell why a leaf differs"
        )
    (report,) = check_with([reference], loss, params, batch, grads, weights, has_aux)
    return report


def check_with(
    references: Sequence[Callable | None], loss: Loss, params, batch, grads, weights, has_aux
) -> list[GradientCheck]:
    """`check_gradients` by several references, with JAX's gradient computed once."""
    checked_params(params, "check_gradients")
    value, computed = _gradient(loss, has_aux, params, batch, weights)
    if grads is None:
        grads = computed
    same_structure(grads, params, "grads", "check_gradients")
    expected = (_reference(r, loss, has_aux, params, batch, weights) for r in references)
    return [_held_against(found, params, grads, value) for found in expected]


def _held_against(found: "_Expected", params, grads, value: float) -> GradientCheck:
    same_structure(found.grads, params, "the gradient of `reference`", "check_gradients")
    columns = (jax.tree.leaves(tree) for tree in (params, grads, found.grads, found.sizes))
    leaves = tuple(
        _compare(name, *row)
        if name not in found.unaudited
        else LeafCheck(name, "not audited", reason=found.unaudited[name])
        for name, *row in zip(leaf_names(params), *columns, strict=True)
    )
    reference_value = None if found.value is None else float(found.value)
    return GradientCheck(leaves, value, reference_value, found.decisions)


def _gradient(loss, has_aux, params, batch, weights):
    """`(weighted mean loss, grads)` by `jax.grad`."""
    chosen = jax.config.values["jax_default_matmul_precision"] is not None
    precision = contextlib.nullcontext() if chosen else jax.default_matmul_precision("highest")
    with precision:
        gradient = jax.jit(mean_gradient(loss, has_aux=has_aux, caller="check_gradients"))
        losses, _, grads = gradient(params, batch, weights)
    return float(np.average(np.asarray(losses, np.float64), weights=weights)), grads


class _Expected(NamedTuple):
    """What a reference says; of the leaves in `unaudited` it says nothing."""

    value: Any
    grads: Any
    sizes: Any
    unaudited: Mapping[str, str] = {}
    decisions: tuple[str, ...] = ()


def _reference(reference, loss, has_aux, params, batch, weights) -> _Expected:
    """Sizes are 0 where the reference does not know them."""
    if reference is None:
        return _by_chain_rule(loss, has_aux, params, batch, weights)
    if hasattr(reference, "with_sizes"):
        return _Expected(*reference.with_sizes(params, batch, weights))
    out = reference(params, batch, weights)
    if not (isinstance(out, tuple) and len(out) == 2):
        raise ValueError(
            f"`check_gradients`: `reference` must return (value, grads), got {type(out).__name__}"
        )
    return _Expected(*out, jax.tree.map(lambda p: 0.0, params))


def _by_chain_rule(loss, has_aux, params, batch, weights) -> _Expected:
    try:
        found = value_and_grad(loss, has_aux).details(params, batch, weights)
    except UnsupportedPrimitive as error:
        nothing = jax.tree.map(jnp.zeros_like, params)
        reasons = dict.fromkeys(leaf_names(params), str(error))
        return _Expected(None, nothing, nothing, reasons)
    unaudited = {leaf: "; ".join(reasons) for leaf, reasons in found.unaudited.items()}
    decisions = tuple(map(str, found.decisions))
    return _Expected(found.value, found.grads, found.sizes, unaudited, decisions)


def _compare(name, param, grad, expected, size) -> LeafCheck:
    a, b = np.asarray(grad), np.asarray(expected)
    dtypes = (jnp.result_type(param), a.dtype)
    tolerance = max(TOLERANCE.get(jnp.finfo(d).dtype.name, 0.0) for d in dtypes)
    wide = np.complex128 if np.iscomplexobj(a) or np.iscomplexobj(b) else np.float64
    a, b = a.astype(wide), b.astype(wide)
    if a.size == 0:
        return LeafCheck(name, "agrees", 0.0, 0.0, tolerance=tolerance)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        bad = ~(np.isfinite(a) & np.isfinite(b))
        at = tuple(int(i) for i in np.unravel_index(np.argmax(bad), a.shape))
        return LeafCheck(name, "not finite", None, None, at, a[at].item(), b[at].item(), tolerance)
    difference = np.abs(a - b)
    at = tuple(int(i) for i in np.unravel_index(np.argmax(difference), a.shape))
    scale = max(np.abs(b).max(), float(np.max(size)))
    # A leaf that is zero by structure (scale 0) must be exactly zero.
    error = float(difference[at] / scale) if scale else (np.inf if difference[at] > 0 else 0.0)
    largest = float(np.abs(b).max())
    zero = largest <= _ZERO * scale
    resolution = tolerance if zero else tolerance * scale / largest
    verdict = "agrees" if error <= tolerance else "differs"
    if verdict == "agrees" and resolution > _RESOLUTION:
        verdict = "not audited"
    values = (a[at].item(), b[at].item())
    return LeafCheck(
        *(name, verdict, error, _cosine_error(a, b), at, *values, tolerance, resolution)
    )


def _cosine_error(a, b) -> float:
    """1 - cos(a, b) = |a/|a| - b/|b||^2 / 2, which keeps its digits; 0 if both are zero."""
    a, b = a.ravel(), b.ravel()
    norms = np.linalg.norm(a), np.linalg.norm(b)
    if not all(norms):
        return float(any(norms))
    return float(np.sum(np.abs(a / norms[0] - b / norms[1]) ** 2) / 2)
