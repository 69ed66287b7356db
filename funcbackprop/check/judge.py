"""From differences to verdicts: each leaf, and for those that are wrong, where and why."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..contract import batch_size, leaf_names
from ..graph import Equation, Source
from ..tables import percent
from . import finite, kinks, patterns, structure, where
from .audit import Audit, cut
from .compare import Difference, Expected, compare, widened, worst
from .local import Fault, first_fault, wrong_rules
from .result import GradientCheck, LeafCheck
from .suspects import Suspicion, suspects


class Judged(NamedTuple):
    """What is to be judged.

    Attributes:
      params, batch, weights: at which point.
      grads: the gradient, in the structure of `params`.
      given: whether it came from elsewhere than JAX, here.
      intended: what is meant to depart from the chain rule.
      eager: computes JAX's gradient without jit.
    """

    params: Any
    batch: Any
    weights: Any
    grads: Any
    given: bool
    intended: tuple[str, ...]
    eager: Callable[[], Any]


class Verdict(NamedTuple):
    """Of one leaf; the numbers come from `compare`."""

    verdict: str
    reason: str | None = None
    equation: Equation | None = None
    suspects: str | None = None

    @property
    def source(self) -> Source | None:
        """The user's line."""
        return None if self.equation is None else self.equation.source


def judge(audit: Audit, judged: Judged, given: Any, value: float) -> GradientCheck:
    """The report of a loss that could be followed.

    Args:
      given: `(value, expected leaves)` of a reference of the user's; None takes the audit's own.
      value: the mean loss by JAX.
    """
    return _Judge(audit, judged, given, value).report()


def plain(names, judged: Judged, expected: Sequence[Expected]) -> tuple[LeafCheck, ...]:
    """The differences alone, of a loss that could not be followed."""
    rows = zip(names, *map(jax.tree.leaves, (judged.params, judged.grads)), expected, strict=True)
    return tuple(
        _not_compared(name, g, e, Verdict("not finite"))
        if _has_bad(g, e)
        else _compared(name, compare(g, e, jnp.result_type(p)), None)
        for name, p, g, e in rows
    )


class _Judge:
    def __init__(self, audit: Audit, judged: Judged, given, value: float):
        self.audit, self.judged, self.value = audit, judged, value
        self.names = leaf_names(judged.params)
        self.params = jax.tree.leaves(judged.params)
        self.dtypes = [jnp.result_type(p) for p in self.params]
        self.grads = jax.tree.leaves(judged.grads)
        self.notes: list[str] = []
        self.has_reference = given is not None
        self.sides = kinks.sides(audit)
        self.expected = self._expected(given)
        self.reference_value = audit.value if given is None else given[0]

    def report(self) -> GradientCheck:
        verdicts = [self._verdict(k) for k in range(len(self.names))]
        leaves = tuple(self._leaf(k, verdict) for k, verdict in enumerate(verdicts))
        self.notes += structure.cut_by_gates(self.audit, self.judged.intended)
        self.notes += _intentions(self.judged.intended, self.audit.matched)
        self.notes += [
            f"{fault.name} at {fault.equation.source}{fault.loops} is not the derivative of its "
            f"body{_but(fault.pattern)}"
            for fault in self.wrong_rules
            if not fault.in_jax and not any(leaf.verdict == "wrong rule" for leaf in leaves)
        ]
        return GradientCheck(
            *(leaves, self.value, self.reference_value, tuple(self.notes)),
            tuple(map(str, self.audit.mean.recording.pullback.decisions)),
            self.audit.program,
            where.annotations(self.audit, leaves, [v and v.equation for v in verdicts]),
        )

    # --- what is expected ------------------------------------------------------------------------

    def _expected(self, given) -> list[Expected]:
        found = self.audit.leaves
        if not all(np.isfinite(c.value).all() for c in found):
            found = self.audit.gradients(variant=cut, bounds=True)
        self.meant = [c.value for c in found]
        expected = [
            kinks.interval(c.value, self.audit.scale * c.deviation, [s[k] for s in self.sides])
            for k, c in enumerate(found)
        ]
        if given is None:
            return expected
        self._compare_references(expected, given[1])
        return [
            g if c.unaudited else e._replace(value=g.value)
            for c, e, g in zip(found, expected, given[1], strict=True)
        ]

    def _compare_references(self, expected, given):
        """Note where a given reference is not the chain rule."""
        for name, e, g, dtype in zip(self.names, expected, given, self.dtypes, strict=True):
            both = np.isfinite(widened(g.value)).all() and np.isfinite(e.value).all()
            if both and np.size(e.value):
                found = compare(g.value, e, dtype)
                if found.verdict == "differs":
                    self.notes.append(
                        f"{name}: the given reference differs from the chain rule, by "
                        f"{percent(found.relative_error)}"
                    )

    # --- one leaf --------------------------------------------------------------------------------

    def _verdict(self, k: int) -> Verdict | None:
        """Of leaf k; None leaves it to the difference alone."""
        c, grad = self.audit.leaves[k], widened(self.grads[k])
        if c.unaudited and not self.has_reference:
            return Verdict("not audited", "; ".join(sorted(c.unaudited)))
        if grad.size == 0:
            return None
        if not np.isfinite(grad).all():
            return self._not_finite(k)
        if not np.isfinite(self.expected[k].value).all():
            if np.isfinite(self.meant[k]).all():
                return Verdict("not audited", "the given reference is not finite")
            trouble = self._trouble(k)
            verdict = "not audited" if not self.judged.given else "not finite"
            return Verdict(
                verdict,
                f"this gradient is finite, that of the reference is not. {trouble.sentence}",
                trouble.equation,
            )
        blocked = structure.verdict(self.audit, k, self.judged.intended)
        if blocked is not None and not np.any(grad):
            self.notes += [blocked.reason] if blocked.verdict == "agrees" else []
            return Verdict(*blocked)
        found = self._difference(k)
        if found.verdict in ("differs", "precision") and not np.isfinite(self.value):
            return self._not_finite(k)
        if found.verdict == "differs":
            return self._wrong(k)
        if found.verdict == "kink or tie":
            return Verdict("kink or tie", *kinks.describe(self.audit, k, self.expected[k], grad))
        if found.verdict == "precision":
            return Verdict("precision", *where.digits(self.audit, k, found.resolution))
        if not np.any(grad):
            self.notes.append(f"{self.names[k]}: the gradient is exactly zero on this batch")
        return None

    def _not_finite(self, k) -> Verdict:
        trouble = self._trouble(k)
        return Verdict("not finite", trouble.sentence, trouble.equation)

    @functools.cache  # noqa: B019
    def _trouble(self, k):
        return finite.explain(self.audit, 1 << k, self.meant[k], self.value)

    def _leaf(self, k, verdict: Verdict | None) -> LeafCheck:
        """The numbers of leaf k, and its verdict."""
        name, grad, expected = self.names[k], self.grads[k], self.expected[k]
        if verdict is not None and verdict.verdict == "not audited":
            return LeafCheck(name, "not audited", reason=verdict.reason, source=verdict.source)
        if _has_bad(grad, expected):
            return _not_compared(name, grad, expected, verdict or Verdict("not finite"))
        return _compared(name, self._difference(k), verdict)

    # --- a leaf that differs ---------------------------------------------------------------------

    @functools.cached_property
    def wrong_rules(self) -> list[Fault]:
        return wrong_rules(self.audit, self.judged.intended)

    def _wrong(self, k: int) -> Verdict:
        if self.has_reference and self._agrees_with_the_chain_rule(k):
            return Verdict(
                "differs",
                "this gradient is that of the chain rule; it is the given reference that is not",
            )
        for fault in self.wrong_rules:
            below = self.audit.reach.get(fault.id, 0) >> k & 1
            if below and self._fits(k, self.grads[k], self._by_the_rules[k]):
                return Verdict("wrong rule", _sentence(fault), fault.equation)
        if not self.judged.given:
            fault = self._first_fault(self._wrong_bits)
            if fault is not None and self.audit.reach.get(fault.id, 0) >> k & 1:
                return Verdict("wrong rule", _sentence(fault), fault.equation)
            if self._fits(k, self._eager[k], self.expected[k]):
                return Verdict("jit differs from eager", "the gradient without jit agrees")
        pattern = self._pattern(k)
        sentence, equation = self._suspects(k)
        return Verdict("differs", pattern or None, equation, sentence or None)

    @functools.cache  # noqa: B019
    def _suspects(self, k) -> Suspicion:
        errors = {
            j: widened(g) - self.meant[j]
            for j, g in enumerate(self.grads)
            if self._wrong_bits >> j & 1 and self._is_finite(j)
        }
        return suspects(self.audit, errors, self._right_bits, k)

    @functools.cache  # noqa: B019
    def _difference(self, k) -> Difference:
        """Of the gradient that is judged, which is finite there."""
        return compare(self.grads[k], self.expected[k], self.dtypes[k])

    def _fits(self, k, grad, expected: Expected) -> bool:
        """Whether rounding explains how a gradient of leaf k differs."""
        known = bool(np.isfinite(widened(grad)).all())
        return known and compare(grad, expected, self.dtypes[k]).verdict != "differs"

    def _agrees_with_the_chain_rule(self, k) -> bool:
        c = self.audit.leaves[k]
        own = Expected(self.meant[k], self.audit.scale * c.deviation)
        return not c.unaudited and self._fits(k, self.grads[k], own)

    @functools.cached_property
    def _eager(self):
        return jax.tree.leaves(self.judged.eager())

    @functools.cached_property
    def _by_the_rules(self):
        """The gradient with every wrong rule taken as it is."""
        names = {fault.function for fault in self.wrong_rules}
        again = self.audit.again(intended=(*self.judged.intended, *names))
        return [Expected(c.value, again.scale * c.deviation) for c in again.leaves]

    @functools.cache  # noqa: B019
    def _first_fault(self, bits):
        return first_fault(self.audit, bits)

    @functools.cached_property
    def _wrong_bits(self) -> int:
        return self._bits(lambda k: not self._is_finite(k) or self._differs(k))

    @functools.cached_property
    def _right_bits(self) -> int:
        """The leaves that agree, and would not if a fault reached them."""
        return self._bits(self._clearly_agrees)

    def _is_finite(self, k) -> bool:
        return bool(np.isfinite(widened(self.grads[k])).all())

    def _differs(self, k) -> bool:
        return self._difference(k).verdict == "differs"

    def _clearly_agrees(self, k) -> bool:
        if not self._is_finite(k):
            return False
        found = self._difference(k)
        return found.verdict == "agrees" and found.resolution is not None

    def _bits(self, condition) -> int:
        return sum(1 << k for k, g in enumerate(self.grads) if np.size(g) and condition(k))

    # --- in which way ----------------------------------------------------------------------------

    def _pattern(self, k: int) -> str:
        got, expected = widened(self.grads[k]), self.expected[k].value
        return patterns.describe(
            *(got, expected),
            factors=self._factors,
            arrays=self._arrays,
            parts=self._parts(k),
            others=self._others(k),
        )

    @functools.cached_property
    def _factors(self) -> dict[str, float]:
        size = batch_size(self.judged.batch, "check_gradients")
        total = size if self.judged.weights is None else float(np.sum(self.judged.weights))
        named = {"B": size, "1/B": 1 / size, "-B": -size, "-1/B": -1 / size}
        if total != size:
            named |= {"the sum of the weights": total, "1 / the sum of the weights": 1 / total}
        return {name: value for name, value in named.items() if abs(value) != 1}

    @functools.cached_property
    def _arrays(self) -> dict[str, Any]:
        return {
            name: widened(p)
            for name, p in zip(self.names, self.params, strict=True)
            if np.ndim(p) == 1
        }

    def _parts(self, k):
        """The terms of a leaf by the user's line."""
        parts: dict[str, Any] = {}
        for step, value in self.audit.parts.get(self.audit.inputs[k].id, []):
            name = f"{step.equation.source}"
            parts[name] = parts.get(name, 0) + value
        return list(parts.items())

    def _others(self, k) -> dict[str, Any]:
        if self.judged.weights is None or not self.judged.given:
            return {}
        return {"the gradient without the weights": self._unweighted[k].value}

    @functools.cached_property
    def _unweighted(self):
        ones = np.ones(np.shape(self.judged.weights))
        return self.audit.again(weights=ones).leaves


def _has_bad(grad, expected: Expected) -> bool:
    return not (np.isfinite(widened(grad)).all() and np.isfinite(widened(expected.value)).all())


def _not_compared(name, grad, expected: Expected, verdict: Verdict) -> LeafCheck:
    """A leaf with NaN or inf: the first such element."""
    a, b = widened(grad), widened(expected.value)
    at = worst(~(np.isfinite(a) & np.isfinite(b)))
    return LeafCheck(
        *(name, verdict.verdict, None, None, at, a[at].item(), b[at].item()),
        reason=verdict.reason,
        source=verdict.source,
    )


def _compared(name, found: Difference, verdict: Verdict | None) -> LeafCheck:
    verdict = verdict or Verdict(found.verdict)
    said = verdict.reason, verdict.source, verdict.suspects
    return LeafCheck(name, verdict.verdict, *found[:-1], *said)


def _sentence(fault: Fault) -> str:
    return (
        f"{fault.name} at {fault.equation.source}{fault.loops} is not the derivative of what it "
        f"computes{_but(fault.pattern)}"
    )


def _but(pattern: str) -> str:
    return f": {pattern}" if pattern else ""


def _intentions(intended, matched) -> list[str]:
    """What was taken as right, and what matched nothing."""
    taken = [
        f"the rule of `{name}` at {equation.source} is taken as right, as intended"
        for name, equation in matched.items()
        if equation is not None
    ]
    missing = [name for name in intended if name not in matched]
    return taken + [f"intended {name!r} matched nothing that a gradient passes" for name in missing]
