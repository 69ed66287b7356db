"""What a run spent on updates and on measurements."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..training import Measurement


class Spent(NamedTuple):
    """On one seed, since it was started or resumed.

    Attributes:
      seconds: of all.
      updates: how many were made.
      hooks: what measured.
    """

    seconds: float
    updates: int
    hooks: Sequence[Measurement]


def cost(spent: Sequence[Spent]) -> dict[str, Any]:
    """Seconds of an update, and of each kind of measurement: in all, of one, and in updates.

    The first measurement of a seed includes compilation and is left out of `seconds_of_one`; what
    is not spent on measurements counts as updates, the first of which includes compilation too.
    """
    kinds: dict[str, list[Measurement]] = {}
    for one in spent:
        for hook in one.hooks:
            kinds.setdefault(hook.kind, []).append(hook)
    measuring = {kind: _of_kind(hooks) for kind, hooks in kinds.items()}
    updates = sum(one.updates for one in spent)
    rest = sum(one.seconds for one in spent) - sum(row["seconds"] for row in measuring.values())
    update = rest / updates if updates else None
    for row in measuring.values():
        one = row["seconds_of_one"]
        row["updates_of_one"] = one / update if one is not None and update else None
    return {"seconds_of_update": update, "measurements": measuring}


def _of_kind(hooks):
    later = [seconds for hook in hooks for seconds in hook.seconds[1:]]
    return {
        "times": sum(len(hook.seconds) for hook in hooks),
        "seconds": sum(sum(hook.seconds) for hook in hooks),
        "seconds_of_one": statistics.median(later) if later else None,
    }
