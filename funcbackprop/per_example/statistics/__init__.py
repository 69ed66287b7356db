"""Statistics of per-example gradients."""

from .counts import Histogram
from .elements import ClippedMean, Mean, MeanOf, SecondMoment, Variance, WeightedSum
from .protocol import Leafwise, Part, Statistic, measured, total
from .rows import (
    Gram,
    InnerWithMean,
    PerExample,
    Projection,
    Sketch,
    SquaredDeviations,
    SquaredNorms,
)

__all__ = [
    "ClippedMean",
    "Gram",
    "Histogram",
    "InnerWithMean",
    "Leafwise",
    "Mean",
    "MeanOf",
    "Part",
    "PerExample",
    "Projection",
    "SecondMoment",
    "Sketch",
    "SquaredDeviations",
    "SquaredNorms",
    "Statistic",
    "Variance",
    "WeightedSum",
    "measured",
    "total",
]
