"""Questions about the step: its length, and the noise in it."""

import math

import numpy as np

from ..facts import Facts, divide, number, overshoot_of
from ..sign import NOTHING, SURE, Sign

# Below SEVERE: what slows training but does not stop it.
_SLOWED = 0.95
# A trial that gains this much of a loss that did not move has found why. (A short run of a large
# model has not moved far either.)
_RESCUES = 0.2
# A gain of log 2 is half the loss.
_HALF = math.log(2)
# An update of one matrix beside the median of the others, and beside its weights.
_APART, _MOVES = 10, 0.05
# From here on all of them move too far, which is the rate and not one layer.
_ALL_MOVE = 0.5


def rate_too_large(f: Facts) -> Sign | None:
    gain = f.best("rate / 4", "rate / 64")
    evidence = {
        "overshoot": f.overshoot,
        "largest overshoot": f.largest_overshoot,
        "gain of rate / 4": f.gain("rate / 4"),
        **_curvature(f),
    }
    if "rate / 64" in f.trials:
        evidence["gain of rate / 64"] = f.gain("rate / 64")
    step = _first_overshoot(f)
    if math.isnan(gain):
        fails = f.not_finite is not None or f.end > f.start
        if f.largest_overshoot > 1 and fails:
            return Sign(2.0, evidence, step=step)
        if f.overshoot > 1:
            return Sign(min(0.3 * f.overshoot, _SLOWED), evidence, step=step)
        return None
    if gain > NOTHING and gain > f.best("rate x 4"):
        return Sign(_cost(f, _calmer(f)) * (1.0 if _overshoots(f) else 0.6), evidence, step=step)
    return None


def _curvature(f):
    ratio = f.sharpness_over_threshold
    return {} if math.isnan(ratio) else {"sharpness / stability threshold": ratio}


def _overshoots(f):
    """Whether steps are too long for the batch that makes them: noise has no part in that."""
    return f.largest_overshoot > 1 or f.overshoot > 0.5


def _calmer(f):
    return f.best("rate / 4", "rate / 64", "batch x 4")


def _first_overshoot(f):
    return next((r["step"] for r in f.vitals if overshoot_of(r) > 1), None)


def _cost(f: Facts, gain: float) -> float:
    """The severity of what a trial gains: 0.6 for half the loss; from 1 on only if the run goes
    nowhere as it is and the trial does."""
    if f.nowhere and gain > _RESCUES:
        return 1 + min(gain, 1)
    return min(0.5 * gain / _HALF + 0.1, _SLOWED)


def rate_too_small(f: Facts) -> Sign | None:
    gain, over = f.best("rate x 4", "rate x 64"), f.overshoot
    evidence = {"gain of rate x 4": f.gain("rate x 4"), "overshoot": over, **_curvature(f)}
    if "rate x 64" in f.trials:
        evidence["gain of rate x 64"] = f.gain("rate x 64")
    if gain > NOTHING and not over > 0.5 and f.end <= f.start + NOTHING * abs(f.start):
        return Sign(_cost(f, gain), evidence)
    return None


def noise_dominated(f: Facts) -> Sign | None:
    gain, transfer = f.gain("batch x 4"), f.transfer
    scales = [divide(r["S"], r["G2"]) for r in f.vitals if number(r["G2"]) > 0]
    evidence = {
        "decrease elsewhere / on its own batch": transfer,
        "noise scale": float(np.median(scales)) if scales else math.nan,
        "batch size": f.data.get("batch"),
        "gain of batch x 4": gain,
    }
    if math.isnan(gain):
        return Sign(SURE, evidence) if transfer < 0.1 else None
    if gain > NOTHING and transfer < 0.5:
        return Sign(_cost(f, _calmer(f)) * (0.6 if _overshoots(f) else 1.0), evidence)
    return None


def update_ratio(f: Facts) -> Sign | None:
    """One matrix that moves far more, in proportion, than the others, from the first update on."""
    for row in f.vitals:
        ratios = [(p["ratio"], p["name"]) for p in f.matrices(row) if p["ratio"] > 0]
        if len(ratios) < 2:
            continue
        top, name = max(ratios)
        others = float(np.median([r for r, other in ratios if other != name]))
        if top < _APART * others or top < _MOVES or others > _ALL_MOVE:
            return None
        evidence = {"update / weight": top, "of the others": others}
        return Sign(0.5 * math.log10(top / others), evidence, name, row["step"])
    return None
