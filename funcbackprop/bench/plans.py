"""How the statistics of each workload would be found: plans, beside which nothing is measured."""

import dataclasses
from typing import Any, NamedTuple

from ..per_example import Mean, Plan, SquaredNorms, Variance, plan
from .result import made_with
from .workloads import Workload

STATS = {"mean": Mean(), "sq_norms": SquaredNorms(), "variance": Variance()}


class Planned(NamedTuple):
    """The plan of one workload."""

    name: str
    title: str
    plan: Plan

    def __str__(self):
        return f"{self.title}, B {self.plan.examples}\n{self.plan}"


@dataclasses.dataclass(frozen=True)
class Plans:
    """The plans of several workloads; `str(plans)` is their tables.

    Attributes:
      config, environment, date: as of a `Report`.
      parts: one for each workload.
    """

    config: dict[str, Any]
    environment: dict[str, Any]
    date: str
    parts: tuple[Planned, ...]

    @property
    def head(self) -> str:
        """What it was made with, and what it shows."""
        return (
            f"{made_with(self.environment, self.date)}\n"
            "How mean, norms and variance would be found. Nothing was measured; MFLOP are those of "
            "a matrix\nproduct that would take as long."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        plans = [{"name": x.name, "title": x.title, **x.plan.to_dict()} for x in self.parts]
        rest = {"config": self.config, "environment": self.environment, "date": self.date}
        return {"command": "bench", **rest, "plans": plans}

    def __str__(self):
        return "\n\n".join([self.head, *map(str, self.parts)])


def planned(work: Workload) -> Planned:
    """The plan of a workload.

    Raises:
      TypeError, ValueError: as `gradient_statistics`.
    """
    return Planned(work.name, work.title, plan(work.loss, STATS)(work.params, work.batch))
