"""How far rounding may take a program's own gradient from that of the reference.

A gradient computed in float32 (or in 16 bits, or with TF32 products) differs from the one in
float64 for two reasons, which are followed separately:

forward    The program's own values differ from those in float64. Both are on the tape, so the
           difference that they make to each local derivative is computed, not estimated: it travels
           as `drift`, with its sign, and its square enters the `spread`.
backward   Every product and sum of the backward pass rounds again: relative to the root of the sum
           of squares of its terms, with the unit roundoff of the equation, as if the roundings were
           independent. Their variance travels as `spread`, through the squares of the local
           derivatives.

The sum of n independent roundings of relative size u stays below lambda sqrt(n) u with probability
1 - 2 exp(-lambda^2 / 2) (Higham & Mary, 2019, SIAM J. Sci. Comput. 41(5)); see `check`, which takes
the lambda. A float64 program has no wider values: it is followed by a shadow of itself, whose every
operation is made to round 128 times more coarsely, and what is found is scaled down.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..graph import Equation, is_key, wide_dtype, widen
from .rules.kinds import Array, Local, Rule

# Multiply-adds with which a derivative is typically computed, beside the sums over broadcast axes.
_OPERATIONS = 1
# Primitives that move values to places, several of them to one.
_SCATTERED = ("gather", "dynamic_slice", "dynamic_update_slice", "scatter")
# Primitives whose derivative adds along an axis, although inputs and outputs are of one size.
_ALONG_AN_AXIS = ("cum", "reduce_window", "fft")
# Entries this many times larger than the median do not count for what is typical.
_OUTLIER = 100.0
# Sums of n terms of one sign round to the same side again and again: n u times this share of the
# sum. Measured for equal terms with XLA on a CPU: up to 0.08 n u, where 7 times 0.05 leaves room.
# Scatter-add, and what is added to again and again in a loop, is strictly one after the other.
_SYSTEMATIC = 0.05
ONE_BY_ONE = 0.1
# Terms that cancel in an order: the same share of their absolute sum, over a block at most.
_ORDERED = 0.02
_BLOCK = 1024
# The bound of a float64 program in units of that of its shadow, and the shadow's unit roundoff.
SHADOW_SCALE = 2.0**-7
SHADOW_UNIT = 2.0**-46
# Sums of products, and significant bits of their operands by algorithm.
_PRODUCTS = ("dot_general", "conv_general_dilated", "ragged_dot_general")
_ALGORITHMS = {"bf16": 8, "tf32": 11, "f16": 11, "any_f8": 4}


class Roundings(NamedTuple):
    """What is known of the roundings at one step.

    Attributes:
      dtypes: of the inputs in the program: its contributions are rounded to them.
      terms: about how many terms are added to form an element of each contribution.
      product_unit: unit roundoff of the operands of a product, 0 if they are not rounded.
      own: the `Local` of the program's own values, in their dtypes; None if they are no others.
      is_shadow: whether those are the values of a float64 program's shadow.
      depends: whether the derivative there is another than in float64.
    """

    dtypes: tuple[Any, ...]
    terms: tuple[int, ...]
    product_unit: float
    own: Local | None
    is_shadow: bool = False
    depends: bool = True

    def unit(self, k: int) -> float:
        """The unit roundoff of contribution k."""
        return SHADOW_UNIT if self.is_shadow and unit(self.dtypes[k]) else unit(self.dtypes[k])

    def typical(self, local: Local) -> Local:
        """`local` with every value off by as much as is typical for its array, to either side."""
        if self.own is None:
            return local
        x, y = (tuple(map(_off, *pair)) for pair in ((self.own.x, local.x), (self.own.y, local.y)))
        return local._replace(x=x, y=y)

    @property
    def shadow(self) -> Local | None:
        """The local values of the program itself, in float64."""
        if self.own is None:
            return None
        x, y = (tuple(map(widen, values)) for values in (self.own.x, self.own.y))
        return self.own._replace(x=x, y=y)


NOT_FOLLOWED = Roundings((), (), 0.0, None, depends=False)


def unit(dtype: Any) -> float:
    """The unit roundoff of a dtype: half the distance of 1 to the next larger number.

    >>> unit(np.float32) == 2.0**-24, unit(np.int32)
    (True, 0.0)
    """
    if wide_dtype(dtype) is None:
        return 0.0
    return float(jax.numpy.finfo(dtype).eps) / 2


def unit_of(value: Any) -> float:
    """The unit roundoff of a value on the tape."""
    return unit(value.own.dtype) if value.rough is None else SHADOW_UNIT


def smallest(dtype: Any) -> float:
    """Below this, a dtype loses all digits: CPUs and GPUs flush float32 subnormals to zero."""
    if wide_dtype(dtype) is None:
        return 0.0
    info = jax.numpy.finfo(dtype)
    return float(info.smallest_subnormal if info.bits == 16 else info.tiny)


def product_bits(equation: Equation, bits: Mapping[str, int]) -> int | None:
    """Significant bits that the operands of a product are rounded to; None if to none.

    Args:
      bits: those of each precision that a product can ask for; see `precisions`.
    """
    if equation.name not in _PRODUCTS or any(x.dtype != np.float32 for x in _floats(equation)):
        return None
    asked = equation.params.get("precision")
    asked = asked if isinstance(asked, tuple) else (asked,)
    names = {"default" if p is None else str(getattr(p, "name", p)).lower() for p in asked}
    found = [n for name in names for key, n in bits.items() if name.startswith(key)]
    return min(found, default=None)


def precisions(platform: str) -> dict[str, int]:
    """Name of a precision -> significant bits of float32 operands, on a platform.

    "default" is TF32 on GPUs since Ampere and bfloat16 on TPUs; the CPU does not round operands.
    `jax_default_matmul_precision`, and the algorithms of `jax.lax.DotAlgorithmPreset`, go before.
    """
    gpu = {"default": 11, "high": 11}
    found = {"gpu": gpu, "cuda": gpu, "rocm": gpu, "tpu": {"default": 8, "high": 16}}
    chosen = {"bfloat16": {"default": 8}, "tensorfloat32": {"high": 11}}
    name = str(jax.config.values["jax_default_matmul_precision"]).lower()
    return {**_ALGORITHMS, **found.get(platform, {}), **chosen.get(name, {})}


def _floats(equation):
    return (x for x in equation.inputs if wide_dtype(x.dtype) is not None)


def rounded(x: Array, bits: int) -> Array:
    """x with this many significant bits, in its own dtype.

    >>> float(rounded(np.float32(1 + 2**-9), 8))
    1.0
    """
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(mantissa * 2.0**bits) * 2.0**-bits, exponent).astype(x.dtype)


def typical(own: Array, wide: Array) -> Array:
    """How far rounding typically takes each entry of an array from float64.

    The difference of one evaluation may be small by accident in one entry; so it is the root mean
    square over the array, of entries that were rounded at all, and at least one rounding. Entries
    much larger than most, such as a mask of -1e9, do not count for the others.
    """
    own, size = widen(own), np.abs(wide)
    with np.errstate(all="ignore"):
        difference = np.abs(own - wide)
        difference = np.where(np.isfinite(difference), difference, 0.0)
        moved = difference > 0
        if not moved.any():
            return difference
        ordinary = moved & (size <= _OUTLIER * np.median(size[moved]))
        mean = np.sqrt(np.mean(difference[ordinary] ** 2))
        return np.where(moved, np.maximum(np.where(ordinary, mean, 0.0), difference), 0.0)


def _off(own, wide):
    if own is wide or is_key(wide) or wide_dtype(wide.dtype) is None or np.size(wide) == 0:
        return wide
    off = wide + _signs(wide) * typical(own, wide)
    return np.where(np.isfinite(wide), off, wide)


def shaken(x: Array, seed: int) -> Array:
    """x with every entry rounded as the shadow of a float64 program rounds."""
    signs = np.random.default_rng((seed, np.size(x))).uniform(-2, 2, np.shape(x))
    return x * (1 + SHADOW_UNIT * signs)


def once(value: Array, unit: float) -> Array:
    """Variance of one rounding of each element."""
    return (unit * np.abs(value)) ** 2


def added(a: Array | None, b: Array | None) -> Array | None:
    """The sum of two drifts."""
    if a is None or b is None:
        return b if a is None else a
    return a + b


def deviation(spread: Array, drift: Array | None) -> Array:
    """sqrt(V (1 + sum D^2 / sum V) + D^2): standard deviation of each element.

    D is one sample of an error of unknown size, which may be small by accident in one element: its
    mean square over the leaf, spread over the elements as V is, stands beside its own square.
    """
    spread = np.asarray(spread)
    if drift is None:
        return np.sqrt(spread)
    with np.errstate(all="ignore"):
        square = np.abs(drift) ** 2
        total = np.sum(spread)
        level = 1 + np.sum(square) / total if 0 < total < np.inf else 1.0
        return np.sqrt(spread * level + square)


def pulled(step, local, reached, dys, values) -> Sequence[tuple[Array, Array | None]]:
    """(spread, drift) of the contribution to each input of a step.

    Args:
      step: the step; `step.rounding` says how it rounds.
      local: where it was pulled back.
      reached: the cotangents of its outputs, dys their values.
      values: what its rule made of dys.
    """
    r, cancels = step.rounding, step.rule.cancels
    spreads, drifts = _incoming(reached, dys)
    drift, arisen = _drift(step, local, dys, drifts, values)
    typical = step.rule.pull(r.typical(local), dys) if r.depends else values
    variance = _variances(step, local, spreads, dys, values)
    found = []
    for k, value in enumerate(values):
        if value is None or not local.active[k]:
            found.append((np.zeros(np.shape(local.x[k])), None))
            continue
        unit = r.unit(k)
        parts = [
            variance(k),
            0.0 if r.is_shadow else smallest(r.dtypes[k]) ** 2,
            _of_sums(step, local, k, dys, value),
            0.0 if typical is values else _squared(_minus(typical[k], value)),
            _squared(arisen[k]),
            0.0 if cancels is None else once(cancels(local, dys), unit),
        ]
        found.append((sum(parts), drift[k]))
    return found


def _squared(x):
    return 0.0 if x is None else np.abs(x) ** 2


def _of_sums(step, local, k, dys, value) -> Array:
    """Variance of the sums that form contribution k, beside that of their terms."""
    n, r = step.rounding.terms[k], step.rounding
    if n == 1:
        return 0.0
    share = _SYSTEMATIC
    if step.rule.exact and step.equation.name.startswith(_SCATTERED):
        n, share = step.rule.pull(local, [np.ones_like(dy) for dy in dys])[k], ONE_BY_ONE
    return (n + (share * n) ** 2) * once(value, r.unit(k))


def _incoming(reached, dys):
    """Spread and drift of each output's cotangent; no drift at all is None."""
    spreads = [
        None if dy is None else (np.zeros(np.shape(dy)) if out is None else out.variance)
        for out, dy in zip(reached, dys, strict=True)
    ]
    drifts = [None if out is None else out.drift for out in reached]
    if all(drift is None for drift in drifts):
        return spreads, None
    return spreads, [
        None if dy is None else (np.zeros_like(dy) if drift is None else drift)
        for drift, dy in zip(drifts, dys, strict=True)
    ]


def _drift(step, local, dys, drifts, values):
    """For each input: the drift of its contribution, and the part of it that arose here."""
    nothing = [None] * len(values)
    carried = nothing if drifts is None else step.rule.pull(local, drifts)
    if not step.rounding.depends:
        return carried, nothing
    shadow = step.rounding.shadow
    full = dys if drifts is None else list(map(_plus, dys, drifts))
    drift = list(map(_minus, step.rule.pull(shadow, full), values))
    return drift, list(map(_minus, drift, carried))


def _variances(step, local, spreads, dys, values):
    """k -> variance of contribution k that comes from its terms.

    Each of the n terms of an element passes on its own variance and adds c times its square.
    """
    rule, r = step.rule, step.rounding
    factors = [_of_terms(step, k) for k in range(len(r.terms))]
    if rule.square is None:
        return _probed(step, local, spreads, dys, values, max(factors, default=0.0))
    cache = {}

    def of(k):
        c = factors[k]
        if c not in cache:
            inflow = [
                None if dy is None else v + c * np.abs(dy) ** 2
                for v, dy in zip(spreads, dys, strict=True)
            ]
            cache[c] = rule.square(local, inflow)
        return cache[c][k]

    return of


def _of_terms(step, k) -> float:
    """c = n a^2 (1 + (s n)^2) + operations u^2 + 2 p^2, with a the unit in which terms are added.

    s n stands for terms that come in an order, so that partial sums grow and round to one side; p
    is the unit of the operands of a product. Products in 16 bits are added in float32.
    """
    rule, r, n = step.rule, step.rounding, step.rounding.terms[k]
    if rule.exact and n == 1:
        return 0.0
    u = r.unit(k)
    added_in = min(u, unit(np.float32)) if step.equation.name in _PRODUCTS else u
    ordered = _ORDERED * min(n, _BLOCK)
    operations = 0 if rule.exact else _OPERATIONS
    return n * added_in**2 * (1 + ordered**2) + operations * u**2 + 2 * r.product_unit**2


def _probed(step, local, spreads, dys, values, c):
    """k -> variance of contribution k, where the partial derivatives are not known one by one.

    The cotangents are moved by their rounding, with random signs, and pulled back: what comes out
    knows the condition of a solve. To it comes the relative error of the value itself, which a
    factorization passes on to its derivative.
    """
    pairs = zip(dys, spreads, strict=True)
    moved = [None if dy is None else _shaken(dy, v + c * np.abs(dy) ** 2) for dy, v in pairs]
    probe = step.rule.pull(local, moved)
    relative = _relative_error(step, local)

    def of(k):
        difference = np.abs(probe[k] - values[k]) ** 2
        # Nine times the variance: the derivative of a factorization takes several solves.
        return 9 * (difference + np.mean(difference) + (relative + c) * _mean_square(values[k]))

    return of


def _relative_error(step, local):
    """Square of the relative error that the value of a step has in the program."""
    own = step.rounding.shadow
    if own is None:
        return 0.0
    pairs = zip(own.y, local.y, strict=True)
    floats = [(a, b) for a, b in pairs if wide_dtype(b.dtype) is not None and np.size(b)]
    sizes = [(_mean_square(a - b), _mean_square(b)) for a, b in floats]
    return max((a / b for a, b in sizes if 0 < b < np.inf and np.isfinite(a)), default=0.0)


def _shaken(dy, variance):
    return dy + _signs(dy) * np.sqrt(variance)


def _signs(x):
    """Random signs, the same ones for arrays of one size."""
    return np.random.default_rng(np.size(x)).choice([-1.0, 1.0], np.shape(x))


def _mean_square(x):
    return float(np.mean(np.abs(x) ** 2)) if np.size(x) else 0.0


def _plus(a, b):
    return a if b is None else (b if a is None else a + b)


def _minus(a, b):
    return a if b is None else (None if a is None else a - b)


def number_of_terms(
    equation: Equation, rule: Rule, inputs: Sequence[Array], outputs: Sequence[Array]
) -> tuple[int, ...]:
    """About how many terms are added to form an element of each contribution."""
    sizes = [max(1, np.size(x)) for x in inputs]
    total = max((max(1, np.size(y)) for y in outputs), default=1)
    if len(rule.operands) == 2:  # products summed over the axes that two of three arrays share
        a, b = (float(sizes[k]) for k in rule.operands)
        total = max(total, int(np.sqrt(a * b * total)))
    along = 1
    if rule.square is None or equation.name.startswith(_ALONG_AN_AXIS):
        along = max((n for x in (*inputs, *outputs) for n in np.shape(x)), default=1)
    return tuple(max(along, total // size) for size in sizes)
