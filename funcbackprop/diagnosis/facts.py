"""The rows of a run as facts: what the rules ask."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .sign import NOTHING

# A loss below this share of its start counts as this share: near 0, ratios say nothing.
FLOOR = 0.02


@dataclasses.dataclass(frozen=True)
class Facts:
    """Rows by kind. A number that is not there is NaN, and a comparison with it is False.

    Attributes:
      vitals: rows of `measure`, by step.
      trials: change -> row; "none" is the run as it is.
      data: the row of the data, or {}.
      not_finite: the row of the first step that is not finite, or None.
      losses: step -> loss, of the run's own rows.
      sharpness: rows of `training.sharpness_against_threshold`.
    """

    vitals: tuple[Mapping[str, Any], ...]
    trials: Mapping[str, Mapping[str, Any]]
    data: Mapping[str, Any]
    not_finite: Mapping[str, Any] | None
    losses: Mapping[int, float | None]
    sharpness: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> "Facts":
        """From rows in any order; those of other kinds are left out."""
        by_kind: dict[str, list] = {}
        for row in rows:
            by_kind.setdefault(str(row.get("kind")), []).append(row)
        vitals = sorted(by_kind.get("vitals", ()), key=lambda row: row["step"])
        steps = sorted(by_kind.get("step", ()), key=lambda row: row["step"])
        bad = by_kind.get("not_finite") or [r for r in vitals if r["loss"] is None]
        bad = bad or [r for r in steps if r.get("loss", 0) is None]
        return cls(
            tuple(r for r in vitals if r["loss"] is not None),
            {r["change"]: r for r in by_kind.get("trial", ())},
            (by_kind.get("data") or [{}])[0],
            bad[0] if bad else None,
            {r["step"]: r.get("loss") for r in steps},
            tuple(by_kind.get("sharpness", ())),
        )

    # How the run went.

    @property
    def start(self) -> float:
        """The loss before the first update."""
        trial = self.trials.get("none")
        if trial is not None:
            return number(trial["start"])
        return number(self.vitals[0]["loss"]) if self.vitals else math.nan

    @property
    def chance(self) -> float:
        """The loss to beat: that before the first update, or of a prediction that does not look at
        the input, if that is known and lower."""
        entropy = number(self.data.get("labels", {}).get("entropy"))
        return min(self.start, entropy) if entropy > 1e-3 else self.start

    @property
    def end(self) -> float:
        """The late loss; infinite if the run did not stay finite."""
        if self.not_finite is not None:
            return math.inf
        trial = self.trials.get("none")
        if trial is not None:
            return number(trial.get("loss"))
        late = [number(x) for x in self.losses.values()]
        late = late[-max(len(late) // 10, 1) :] or [number(r["loss"]) for r in self.vitals[-2:]]
        return float(np.mean(late)) if late else math.nan

    @property
    def progress(self) -> float:
        """The share of the loss to beat that is gone."""
        return divide(self.chance - self.end, abs(self.chance))

    @property
    def nowhere(self) -> bool:
        """Whether the loss has hardly fallen."""
        return self.progress < NOTHING

    def gain(self, change: str) -> float:
        """log(loss as it is/loss with the change): 0.7 is half the loss. NaN if not tried; -inf
        if it did not stay finite."""
        trial = self.trials.get(change)
        if trial is None:
            return math.nan
        if not trial["finite"]:
            return -math.inf
        floor = FLOOR * abs(self.chance)
        return math.log((max(self.end, 0) + floor) / (max(number(trial["loss"]), 0) + floor))

    def best(self, *changes: str) -> float:
        """The largest gain of several; NaN if none was tried."""
        gains = [g for g in map(self.gain, changes) if not math.isnan(g)]
        return max(gains, default=math.nan)

    # Vitals.

    @property
    def overshoot(self) -> float:
        """Median of (actual change - <g, u>)/|<g, u>| on the update's own batch, after the first
        steps: above 1, the step raises the loss it was made to lower."""
        late = self.vitals[len(self.vitals) // 2 :]
        ratios = [r for r in map(overshoot_of, late) if not math.isnan(r)]
        return float(np.median(ratios)) if ratios else math.nan

    @property
    def largest_overshoot(self) -> float:
        """The largest of all rows, the first one included."""
        return max((x for x in map(overshoot_of, self.vitals) if x == x), default=math.nan)

    @property
    def sharpness_over_threshold(self) -> float:
        """Median after the first steps of the largest curvature over the one that a full-batch step
        survives: 1 at the edge of stability. NaN where a run did not measure it."""
        late = self.sharpness[len(self.sharpness) // 2 :]
        ratios = [divide(r["value"], r["threshold"]) for r in late]
        known = [x for x in ratios if math.isfinite(x)]
        return float(np.median(known)) if known else math.nan

    @property
    def transfer(self) -> float:
        """What a step lowers the loss of a batch that did not make it, as a share of what it lowers
        that of its own; median over the steps that lower their own. 1 without noise."""
        shares = [
            divide(number(r["other"]) - number(r["other_after"]), r["loss"] - number(r["after"]))
            for r in self.vitals
            if number(r["after"]) < r["loss"]
        ]
        known = [x for x in shares if math.isfinite(x)]
        return float(np.median(known)) if known else math.nan

    def parts(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The leaves and slices of leaves of one row."""
        columns = row["parts"]
        return [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]

    def matrices(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Those with two axes or more that the program uses, in its order, with `ratio`, the
        update over the weight, and `relative`, the gradient over the weight."""
        used = [
            {
                **part,
                "ratio": divide(part["update"], part["weight"]),
                "relative": divide(part["gradient"], part["weight"]),
            }
            for part in self.parts(row)
            if part["rank"] >= 2 and part["order"] is not None
        ]
        return sorted(used, key=lambda part: part["order"])

    def spots(self, *kinds: str) -> list[tuple[int, dict[str, Any]]]:
        """(step, spot) of these kinds, of all rows."""
        return [(r["step"], s) for r in self.vitals for s in r["spots"] if s["kind"] in kinds]


def overshoot_of(row: Mapping[str, Any]) -> float:
    """(actual change - <g, u>)/|<g, u>| of one row; NaN where it is below rounding."""
    first, change = number(row["first_order"]), number(row["after"]) - number(row["loss"])
    if math.isinf(change) or math.isnan(change):
        return math.inf if number(row["loss"]) == number(row["loss"]) else math.nan
    if not first < 0 or abs(first) < 1e-5 * abs(number(row["loss"])):
        return math.nan
    return (change - first) / abs(first)


def number(x: Any) -> float:
    """A float; NaN for None."""
    return math.nan if x is None else float(x)


def divide(a: Any, b: Any) -> float:
    """a/b; NaN where b is 0 or one is missing."""
    a, b = number(a), number(b)
    return a / b if b else math.nan


def largest(pairs: Sequence[tuple], key=None) -> tuple | None:
    """The pair with the largest finite key."""
    known = [p for p in pairs if math.isfinite(key(p) if key else p[0])]
    return max(known, key=key or (lambda p: p[0]), default=None)
