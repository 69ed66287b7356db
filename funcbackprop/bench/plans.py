"""How the statistics of each workload would be found: plans, beside which nothing is measured."""

from typing import NamedTuple

from ..per_example import Mean, Plan, SquaredNorms, Variance, plan
from .result import Kind
from .workloads import Workload

STATS = {"mean": Mean(), "sq_norms": SquaredNorms(), "variance": Variance()}


class Planned(NamedTuple):
    """The plan of one workload."""

    name: str
    title: str
    plan: Plan

    def __str__(self):
        return f"{self.title}, B {self.plan.examples}\n{self.plan}"


def _about(config):
    return (
        "How mean, norms and variance would be found. Nothing was measured; MFLOP are those of a "
        "matrix\nproduct that would take as long."
    )


def _plain(part):
    return [{"name": part.name, "title": part.title, **part.plan.to_dict()}]


PLANS = Kind("plans", _about, _plain)


def planned(work: Workload) -> Planned:
    """The plan of a workload.

    Raises:
      TypeError, ValueError: as `gradient_statistics`.
    """
    return Planned(work.name, work.title, plan(work.loss, STATS)(work.params, work.batch))
