"""Gradients that are zero because no path leads to a leaf, and paths that are cut on purpose."""

from typing import NamedTuple

import numpy as np

from ..graph import Equation
from ..tables import some
from .audit import Audit, opened
from .compare import LAMBDA

# A stop_gradient is worth a note if it takes this share of a leaf's gradient away.
_SHARE = 1e-3
_MOST = 3


class Blocked(NamedTuple):
    """The verdict on a leaf that no gradient can reach."""

    verdict: str
    reason: str
    equation: Equation | None


def verdict(audit: Audit, k: int, intended) -> Blocked | None:
    """Of leaf k, if no path leads from it to the loss; None if one does."""
    name = audit.names[k]
    if audit.is_reached(k):
        return None
    blockers = audit.blockers(k)
    declared = [x for x in intended if x == name or x in {b.name for b in blockers}]
    audit.matched.update(dict.fromkeys(declared))
    if not blockers:
        reason = "the loss never reads it"
        if name in intended:
            return Blocked("agrees", f"{name}: {reason}, as intended", None)
        return Blocked("disconnected", reason, None)
    places = [_described(b) for b in blockers]
    reason = f"every path is blocked, by {some(places, _MOST)}"
    if name in intended or all(b.name in intended for b in blockers):
        return Blocked("agrees", f"{name}: {reason}, as intended", blockers[0])
    return Blocked("zero by structure", reason, blockers[0])


def _described(equation: Equation) -> str:
    kind = getattr(equation.outputs[0].dtype, "name", "") if equation.outputs else ""
    cast = f" to {kind}" if equation.name == "convert_element_type" else ""
    return f"`{equation.name}`{cast} at {equation.source}"


def cut_by_gates(audit: Audit, intended) -> list[str]:
    """Sentences on the stop_gradients that take away a part of a leaf's gradient."""
    gates = audit.gates()
    if not gates:
        return []
    places = ", ".join(dict.fromkeys(str(gate.equation.source) for gate in gates))
    parts = []
    for k, (c, o) in enumerate(zip(audit.leaves, audit.gradients(variant=opened), strict=True)):
        if not audit.is_reached(k) or not np.isfinite(o.value).all():
            continue
        difference, size = np.linalg.norm(o.value - c.value), np.linalg.norm(o.value)
        rounding = LAMBDA * audit.scale * np.linalg.norm(c.deviation)
        if difference > max(rounding, _SHARE * max(size, np.linalg.norm(c.value))):
            parts.append(f"{audit.names[k]} ({difference / max(size, 1e-300):.0%})")
    if not parts:
        return []
    as_intended = ""
    if "stop_gradient" in intended:
        audit.matched["stop_gradient"] = None
        as_intended = ", as intended"
    return [
        f"stop_gradient at {places} takes a part of the gradient away from "
        f"{some(parts, _MOST)}{as_intended}"
    ]
