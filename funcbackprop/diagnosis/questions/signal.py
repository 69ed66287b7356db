"""Questions about the signal on its way through the layers, and what stops it."""

import math

import numpy as np

from ..facts import Facts, divide, number
from ..sign import LEAST, NOTHING, Sign
from ..spots import RECTIFIERS

# Of a signal from the first layer to the last, or back: a factor of 30.
_DECADES = 1.5


def _depth(f: Facts, row) -> tuple[float, float, str, str]:
    """(forward, backward, first, last): size of the signal at the last nonlinearity over the first;
    relative gradient of the front third of the matrices over that of the back third."""
    sizes = [(s["size"], s["source"]) for s in row["spots"] if s["kind"] != "softmax"]
    forward = divide(sizes[-1][0], sizes[0][0]) if len(sizes) > 1 else math.nan
    matrices = f.matrices(row)
    third = max(len(matrices) // 3, 1)
    if len(matrices) < 2:
        return forward, math.nan, "", ""
    front, back = (
        max(parts, key=lambda p: np.nan_to_num(p["relative"]))
        for parts in (matrices[:third], matrices[-third:])
    )
    return forward, divide(front["relative"], back["relative"]), front["name"], back["name"]


def _by_depth(f: Facts, sign: int) -> Sign | None:
    """The largest ratio over the depth, and the first step at which it is beyond the limit."""
    found = []
    for row in f.vitals:
        forward, backward, first, last = _depth(f, row)
        where = f"{first} against {last}"
        for ratio, what in (
            (forward, "signal, last / first layer"),
            (backward, "gradient, first / last layer"),
        ):
            if ratio > 0 and math.isfinite(ratio):
                found.append((sign * math.log10(ratio), what, ratio, where, row["step"]))
    beyond = [x for x in found if x[0] >= _DECADES]
    if not beyond:
        return None
    worst = max(beyond, key=lambda x: x[0])
    severity = _if_it_costs(f, (worst[0] - 1) / 1.5, beyond[0][4])
    return Sign(severity, {worst[1]: worst[2]}, worst[3], beyond[0][4])


def _if_it_costs(f: Facts, severity: float, step: int) -> float:
    """What arises in training while the run learns is worth a look and no more, and stands behind
    all that was measured to cost: the cells of an LSTM saturate as it learns."""
    return severity if step == 0 or not f.progress >= NOTHING else min(severity, LEAST)


def vanishing(f: Facts) -> Sign | None:
    return _by_depth(f, -1)


def exploding(f: Facts) -> Sign | None:
    return _by_depth(f, +1)


def _shares(f: Facts, kinds, least: float) -> Sign | None:
    spots = f.spots(*kinds)
    seen = [(number(s["share"]), s["source"], s["kind"], step) for step, s in spots]
    beyond = [x for x in seen if x[0] >= least]
    if not beyond:
        return None
    worst = max(beyond, key=lambda x: x[0])
    step = next(step for share, _, _, step in beyond if share >= worst[0] / 2)
    severity = _if_it_costs(f, worst[0] / 0.6, step)
    return Sign(severity, {f"share ({worst[2]})": worst[0]}, worst[1], step)


def dead_units(f: Facts) -> Sign | None:
    return _shares(f, RECTIFIERS, 0.3)


def saturated(f: Facts) -> Sign | None:
    return _shares(f, ("tanh", "sigmoid", "softmax"), 0.3)


def never_changes(f: Facts) -> Sign | None:
    if len(f.vitals) < 2:
        return None
    still: dict[str, list] = {}
    for row in f.vitals:
        for part in f.parts(row):
            still.setdefault(part["name"], []).append(part)
    stuck = {name: p for name, p in still.items() if all(x["update"] == 0 for x in p)}
    total = sum(p[0]["size"] for p in still.values())
    if not stuck or len(stuck) == len(still):
        return None
    share = sum(p[0]["size"] for p in stuck.values()) / total
    no_gradient = [n for n, p in stuck.items() if all(x["gradient"] == 0 for x in p)]
    unused = [n for n, p in stuck.items() if p[0]["order"] is None]
    evidence = {
        "share of the parameters": share,
        "leaves": len(stuck),
        "with a gradient of 0": len(no_gradient),
        "not used by the loss": len(unused),
    }
    name = max(stuck, key=lambda n: stuck[n][0]["size"])
    return Sign(0.5 + share, evidence, name, 0)
