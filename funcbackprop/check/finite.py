"""Why a gradient is not finite: the first equation at which it happens, and the cure."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ..graph import Equation, is_key, wide_dtype, widen
from ..reference.backward import Seen
from .audit import Audit
from .compare import worst
from .local import Fault, first_not_finite, iterations

_DOUBLE_WHERE = (
    "use a double where: replace the argument by a harmless one where the result is not used, "
    "y = where(ok, f(where(ok, x, 1)), other)"
)
# What to do about a derivative that is infinite, by primitive. A cotangent of 0 that meets it comes
# from a `where` (or a product with 0) downstream.
_CURES = {
    "sqrt": "a safe norm: sqrt(x + eps), eps inside the root, or a double where",
    "rsqrt": "put eps inside: rsqrt(x + eps)",
    "cbrt": "a double where around the root",
    "log": "log(x + eps), jnp.log1p, log_softmax or logsumexp instead of log of a small number",
    "log1p": "keep the argument above -1, or use log_softmax or logsumexp",
    "div": "a double where around the denominator, or eps in it",
    "pow": "keep the base positive (x + eps), use an integer exponent, or a double where",
    "integer_pow": "keep the base away from 0, or use a double where",
    "acos": "clip the argument inside (-1, 1), or use arctan2",
    "asin": "clip the argument inside (-1, 1), or use arctan2",
    "acosh": "keep the argument above 1",
    "atanh": "clip the argument inside (-1, 1)",
    "atan2": "a double where around the arguments where both are 0",
    "exp": "subtract the maximum first (logsumexp, softmax), or clip the argument",
    "abs": "a double where around the modulus of a complex 0",
    "eigh": "the derivative needs distinct eigenvalues",
    "svd": "the derivative needs distinct singular values that are not 0",
}


class Trouble(NamedTuple):
    """Where a gradient stops being finite, in words and as an equation."""

    sentence: str
    equation: Equation | None


def explain(audit: Audit, bits: int, meant, value: float) -> Trouble:
    """Why the gradient of some leaves is not finite.

    Args:
      bits: the leaves.
      meant: the reference's gradient of one of them with a cotangent of 0 ending every path.
      value: the mean loss by JAX.
    """
    if not np.isfinite(value):
        found = _forward(audit)
        if found is not None:
            return Trouble(f"The loss itself is {value:g}. {found.sentence}", found.equation)
    meeting = _first_in_reference(audit, bits)
    if meeting is not None:
        step = meeting.seen.step
        where = _at(step.equation, step.where)
        return Trouble(
            f"{where}: {meeting}. {_meant(meant)} {_cure_of(step.equation.name)}", step.equation
        )
    fault = first_not_finite(audit, bits)
    if fault is not None:
        return _by_jax(fault, meant)
    found = _forward(audit)
    if found is not None:
        return found
    return Trouble(
        f"The reference is finite, and so is JAX's derivative of every equation. {_meant(meant)} "
        "Look at how this gradient was computed.",
        None,
    )


class _Birth(NamedTuple):
    """The first equation whose value is not finite although its inputs are."""

    kind: str
    equation: Equation
    where: tuple[tuple[str, int], ...]
    inputs: list[Any]
    own: Any
    wide: Any

    def __str__(self):
        place = _at(self.equation, self.where)
        if np.isfinite(self.wide).all():
            dtype, largest = self.own.dtype, np.abs(self.wide).max(initial=0.0)
            if largest > _largest(dtype):
                return (
                    f"{dtype} overflows at {place}: the value is {largest:.3g}, its largest "
                    f"number is {_largest(dtype):.3g}. Scale it down, or compute this in float32"
                )
            return f"{self.kind} arises at {place}{self._of()}, by rounding in {dtype}"
        return f"{self.kind} arises at {place}{self._of()}"

    def _of(self):
        bad = worst(~np.isfinite(widen(self.own)))
        same = (x for x in self.inputs if np.shape(x) == np.shape(self.own))
        values = [f"{np.asarray(x)[bad]:.4g}" for x in same if wide_dtype(x.dtype) is not None]
        return f", of {' and '.join(values)}" if values else ""


def _forward(audit: Audit) -> Trouble | None:
    """Where the program's own values stop being finite: where NaN is born, else infinity."""
    births: dict[str, _Birth] = {}

    def observe(equation, inputs, outputs, where):
        own = [v.own for v in outputs]
        for kind, is_bad in (("nan", np.isnan), ("inf", np.isinf)):
            if kind in births or not _any(is_bad, own) or _any(is_bad, [v.own for v in inputs]):
                continue
            k = next(k for k, y in enumerate(own) if _any(is_bad, [y]))
            values = [v.own for v in inputs]
            births[kind] = _Birth(kind, equation, where, values, own[k], outputs[k].wide)

    audit.again(observe=observe)
    birth = births.get("nan") or births.get("inf")
    if birth is None:
        return None
    origin = births.get("inf")
    if origin is not None and origin is not birth:
        text = f"{birth}. The infinity is born before: {origin}. {_cure_of(origin.equation.name)}"
        return Trouble(text, origin.equation)
    return Trouble(f"{birth}. {_cure_of(birth.equation.name)}", birth.equation)


def _any(is_bad, arrays) -> bool:
    floats = (widen(x) for x in arrays if not is_key(x) and wide_dtype(x.dtype) is not None)
    return any(np.any(is_bad(x)) for x in floats)


class _Meeting(NamedTuple):
    """A step at which finite cotangents meet a derivative that is not finite.

    Attributes:
      seen: the step.
      input: number of the input whose contribution is not finite.
      at: index of the first such element.
    """

    seen: Seen
    input: int
    at: tuple[int, ...]

    def __str__(self):
        x = self.seen.step.local.x[self.input]
        dys = (d for d in self.seen.dys if d is not None and np.shape(d) == np.shape(x))
        dy, value = next(dys, None), f"its input is {np.asarray(x)[self.at]:.4g}"
        if dy is None:
            return f"the derivative is not finite where {value}"
        if dy[self.at] == 0:
            return f"0 x inf: a cotangent of 0 meets an infinite derivative, where {value}"
        return f"a cotangent of {dy[self.at]:.4g} meets an infinite derivative, where {value}"


def _first_in_reference(audit: Audit, bits: int) -> _Meeting | None:
    """Where the reference's own cotangent stops being finite, backwards."""
    found: list[_Meeting] = []

    def watch(seen: Seen):
        known = all(dy is None or np.isfinite(dy).all() for dy in seen.dys)
        if found or not known or not audit.bits(seen.step) & bits:
            return
        for k, term in enumerate(seen.terms):
            if term is not None and not np.isfinite(term.value).all():
                found.append(_Meeting(seen, k, worst(~np.isfinite(term.value))))
                return

    audit.gradients(watch=watch)
    return found[0] if found else None


def _by_jax(fault: Fault, meant) -> Trouble:
    equation = fault.equation
    return Trouble(
        f"{_at(equation, fault.where)}: JAX's derivative of `{equation.name}` is not finite "
        f"there, or too large for its dtype ({equation.inputs[fault.input].dtype}, largest number "
        f"{_largest(equation.inputs[fault.input].dtype):.3g}). {_meant(meant)} "
        f"{_cure_of(equation.name)}",
        equation,
    )


def _largest(dtype) -> float:
    return float(jnp.finfo(dtype).max)


def _meant(meant) -> str:
    if not np.isfinite(meant).all():
        return "The derivative is truly infinite or undefined there."
    return "The meant gradient is finite."


def _cure_of(name: str) -> str:
    cure = _CURES.get(name.removeprefix("jax:").strip("_"))
    if cure is None:
        return f"Cure: {_DOUBLE_WHERE}."
    return f"Cure: {cure}." if "double where" in cure else f"Cure: {cure}; or {_DOUBLE_WHERE}."


def _at(equation: Equation, where) -> str:
    return f"`{equation.name}` at {equation.source}{iterations(where)}"
