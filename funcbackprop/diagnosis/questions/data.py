"""Questions about the data and about what is asked of them."""

import math

from ..data import LOOKED_AT
from ..facts import Facts, divide, largest, number
from ..sign import SURE, Sign

# Below SEVERE: what slows training but does not stop it.
_SLOWED = 0.95


def loss_summed(f: Facts) -> Sign | None:
    labels = f.data.get("labels", {})
    if not f.vitals or "entropy" not in labels:
        return None
    row = f.vitals[0]
    expected = math.log(max(labels["classes"], 2))
    ratio, spread = number(row["loss"]) / expected, divide(row["spread"], row["loss"])
    counts = {
        "the batch size": f.data.get("batch"),
        "the number of examples": f.data.get("examples"),
        "the number of outputs of an example": labels.get("outputs"),
        "the number of classes": labels.get("classes"),
    }
    if f.data.get("batch") is not None:
        counts["outputs of a batch"] = f.data["batch"] * labels.get("outputs", 1)
    near = [
        (abs(math.log(ratio / c)), what, c)
        for what, c in counts.items()
        if c is not None and c >= 4 and ratio > 0
    ]
    best = min(near, default=None)
    if best is None or best[0] > 0.3 or spread > 1:
        return None
    evidence = {"loss at the start / log K": ratio, best[1]: best[2]}
    free = f.data.get("scale_free", False)
    evidence["the optimizer undoes the scale"] = bool(free)
    return Sign(SURE if free else 1.2, evidence, step=0)


def labels_constant(f: Facts) -> Sign | None:
    labels = f.data.get("labels", {})
    top, std = number(labels.get("top")), labels.get("std")
    if top > 0.99 or (std is not None and std == 0):
        return Sign(2.5, {"share of the most frequent label": top}, "labels", 0)
    return None


def labels_shuffled(f: Facts) -> Sign | None:
    told = f.data.get("told")
    if not told or labels_constant(f):
        return None
    z, wrong = number(told["z"]), number(told.get("contradicted"))
    strength = divide(number(told["agree"]) - told["chance"], 1 - told["chance"])
    evidence = {"agreement": told["agree"], "by chance": told["chance"], "z": z, "how": told["how"]}
    if z < 3:
        return Sign(2.0, evidence, "labels", 0)
    size = min(f.data.get("examples") or 1, LOOKED_AT)
    if wrong > 0.02 + 3 * math.sqrt(0.02 / size):
        evidence["share of the labels that are contradicted"] = wrong
        return Sign(min(SURE + 2 * wrong, _SLOWED), evidence, "labels", 0)
    if told["chance"] >= 0 and strength < 0.35 and f.progress < 0.35:
        return Sign(0.7, evidence | {"share of the loss that is gone": f.progress}, "labels", 0)
    return None


def inputs_unscaled(f: Facts) -> Sign | None:
    x = f.data.get("inputs")
    if not x:
        return None
    sizes = {
        "root mean square": (number(x["rms"]), 10.0, 1 / 30),
        "mean / standard deviation": (number(x["offset"]), 5.0, 0.0),
        "largest / smallest scale of a feature": (number(x["ratio_of_scales"]), 300.0, 0.0),
    }
    found = []
    for what, (value, high, low) in sizes.items():
        beyond = max(divide(value, high), divide(low, value) if low else 0)
        found.append((beyond, what, value))
    worst = largest(found)
    if worst is None or worst[0] < 1:
        return None
    return Sign(0.7 + 0.5 * math.log10(worst[0]), {worst[1]: worst[2]}, "inputs", 0)
