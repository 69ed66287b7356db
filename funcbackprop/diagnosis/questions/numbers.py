"""Questions about numbers: precision, the optimizer's state, what is not finite."""

import math

from ..facts import Facts, divide, largest, number
from ..sign import SURE, Sign


def underflow(f: Facts) -> Sign | None:
    found = [
        (number(part["underflow"]), part["name"], row["step"])
        for row in f.vitals
        for part in f.parts(row)
        if "underflow" in part
    ]
    worst = largest(found)
    if worst is None or worst[0] < 0.05:
        return None
    return Sign(0.5 + worst[0], {"share of the gradient's square": worst[0]}, worst[1], worst[2])


def update_lost(f: Facts) -> Sign | None:
    found = []
    for row in f.vitals:
        parts = [p for p in f.parts(row) if p["dtype"] in ("bfloat16", "float16")]
        parts = [p for p in parts if p["rank"] >= 2 and p["update"] != 0]
        if parts:
            share = sum(number(p["still"]) * p["size"] for p in parts) / sum(
                p["size"] for p in parts
            )
            worst = max(parts, key=lambda p: number(p["still"]))
            square = sum(number(p["lost"]) * p["update"] ** 2 for p in parts)
            square /= sum(p["update"] ** 2 for p in parts)
            found.append((share, square, worst["name"], row["step"], worst["dtype"]))
    worst = largest(found)
    if worst is None or worst[0] < 0.25:
        return None
    evidence = {"share of the weights": worst[0], "of the update's square": worst[1]}
    return Sign(SURE + 0.6 * worst[0], evidence | {"type": worst[4]}, worst[2], worst[3])


def optimizer_state(f: Facts) -> Sign | None:
    for row in f.vitals:
        if number(row["state"]["not_finite"]) > 0:
            return Sign(2.0, {"entries not finite": row["state"]["not_finite"]}, step=row["step"])
    # A gradient that falls as training goes on leaves its old size behind; that is no fault.
    found = []
    for row in f.vitals:
        ratio = number(row["state"].get("divisor"))
        fall = divide(f.vitals[0]["grad_norm"], row["grad_norm"])
        found.append((divide(ratio, max(fall, 1.0)), ratio, row["step"]))
    worst = largest(found)
    if worst is None or worst[0] < 10:
        return None
    evidence = {"second moment's root / gradient": worst[1]}
    return Sign(0.6 * math.log10(worst[0]), evidence, step=worst[2])


def not_finite(f: Facts) -> Sign | None:
    row = f.not_finite
    if row is None:
        return None
    evidence = {k: row[k] for k in ("examples", "of", "cause") if k in row}
    return Sign(
        1.8 if f.best("rate / 4", "rate / 64") > -math.inf else 3.0, evidence, step=row["step"]
    )
