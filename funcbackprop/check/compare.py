"""One leaf against its reference: by how much they differ, in units of what rounding explains."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ..reference.rounding import smallest, unit

# A sum of n independent roundings stays below LAMBDA standard deviations except with probability
# 2 exp(-LAMBDA^2 / 2) = 5e-11 per element (Higham & Mary, 2019).
LAMBDA = 7.0
# Of a leaf that could change by this factor without being noticed it is not said that it agrees:
# a tenth, or 64 unit roundoffs, which is a quarter for bfloat16.
_RESOLUTION = 0.1
_RESOLUTION_UNITS = 64
# A leaf depends on a kink if the other subgradients differ by this much of its largest element.
_KINK = 0.01
# Where nothing bounds the rounding of a leaf: relative tolerance by dtype.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2, "bfloat16": 6e-2}


class Expected(NamedTuple):
    """What the reference says of one leaf.

    Attributes:
      value: the gradient, float64.
      deviation: standard deviation of the rounding of each element; None if unknown.
      low, high: smallest and largest element among the subgradients; None without kinks.
    """

    value: np.ndarray
    deviation: np.ndarray | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None


class Difference(NamedTuple):
    """How far a leaf is from its reference; the fields are those of `LeafCheck`."""

    relative_error: float
    cosine_error: float
    worst_index: tuple[int, ...] | None
    got: Any
    expected: Any
    error_in_bounds: float
    resolution: float | None
    verdict: str


def compare(grad: Any, expected: Expected, dtype: Any) -> Difference:
    """The difference of a leaf from its reference, and a verdict: agrees, differs, ...

    Args:
      grad: the gradient that is judged, finite.
      dtype: of the parameter.
    """
    a, b = widened(grad), widened(expected.value)
    if a.size == 0:
        return Difference(0.0, 0.0, None, None, None, 0.0, None, "agrees")
    dtypes = dtype, jnp.asarray(grad).dtype
    bound = _bound(expected, b, dtypes)
    outside = _outside(a, b, expected)
    with np.errstate(all="ignore"):
        ratio = np.where(outside > 0, outside / bound, 0.0)
    at = worst(np.maximum(ratio, 1e-300 * outside))
    largest = float(np.abs(b).max())
    scale = max(largest, float(bound.max()))
    relative = float(np.abs(a - b).max() / scale) if scale else float(np.any(a != b))
    zero = _is_zero(b, bound, dtypes)
    resolution = None if zero else _resolution(b, bound)
    verdict = "agrees"
    if ratio[at] > 1:
        verdict = "differs"
    elif _width(expected) > _KINK * largest and _width(expected) > bound.max():
        verdict = "kink or tie"
    elif resolution is not None and resolution > _coarsest(dtypes):
        verdict = "precision"
    values = a[at].item(), b[at].item()
    cosine = cosine_error(a, b)
    return Difference(relative, cosine, at, *values, float(ratio[at]), resolution, verdict)


def widened(x: Any) -> np.ndarray:
    """x in float64 or complex128."""
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def worst(x: np.ndarray) -> tuple[int, ...]:
    """Index of the largest element."""
    return tuple(int(i) for i in np.unravel_index(np.argmax(x), x.shape))


def cosine_error(a, b) -> float:
    """1 - cos(a, b) = |a/|a| - b/|b||^2 / 2, which keeps its digits; 0 if both are zero."""
    a, b = a.ravel(), b.ravel()
    norms = np.linalg.norm(a), np.linalg.norm(b)
    if not all(norms):
        return float(any(norms))
    return float(np.sum(np.abs(a / norms[0] - b / norms[1]) ** 2) / 2)


def _bound(expected, b, dtypes):
    """What rounding explains, element by element; also that of a narrower dtype of the gradient."""
    last = max(map(unit, dtypes))
    floor = max(map(smallest, dtypes))
    if expected.deviation is None:
        relative = max(TOLERANCE.get(jnp.finfo(d).dtype.name, 0.0) for d in dtypes)
        return np.full(b.shape, relative * np.abs(b).max() + floor)
    return LAMBDA * np.asarray(expected.deviation) + 2 * last * np.abs(b) + floor


def _outside(a, b, expected):
    """Distance to the reference, or to the interval of subgradients."""
    if expected.low is None or np.iscomplexobj(a) or np.iscomplexobj(b):
        return np.abs(a - b)
    return np.maximum(np.maximum(expected.low - a, a - expected.high), 0.0)


def _width(expected) -> float:
    return 0.0 if expected.low is None else float(np.max(expected.high - expected.low, initial=0))


def _resolution(b, bound) -> float:
    """The smallest change of the whole leaf, by a factor, that would be noticed."""
    with np.errstate(all="ignore"):
        clearest = np.max(np.abs(b) / bound)
    return float(1 / clearest) if clearest > 0 else float("inf")


def _is_zero(b, bound, dtypes) -> bool:
    """Whether the reference is zero as far as float64 can tell, as a bias on attention keys is."""
    return bool(np.all(np.abs(b) <= bound * 2.0**-53 / max(map(unit, dtypes))))


def _coarsest(dtypes) -> float:
    return max(_RESOLUTION, _RESOLUTION_UNITS * max(map(unit, dtypes)))
