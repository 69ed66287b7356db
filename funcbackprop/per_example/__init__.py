"""Gradients of every example and their statistics."""

from .engine import Measure, gradient_statistics
from .mean_gradient import mean_gradient
from .plan import LeafPlan, Plan, plan
from .statistics import (
    ClippedMean,
    Gram,
    Histogram,
    InnerWithMean,
    Leafwise,
    Mean,
    MeanOf,
    Part,
    PerExample,
    Projection,
    SecondMoment,
    Sketch,
    SquaredDeviations,
    SquaredNorms,
    Statistic,
    Variance,
    WeightedSum,
    total,
)

__all__ = [
    "ClippedMean",
    "Gram",
    "Histogram",
    "InnerWithMean",
    "LeafPlan",
    "Leafwise",
    "Mean",
    "MeanOf",
    "Measure",
    "Part",
    "PerExample",
    "Plan",
    "Projection",
    "SecondMoment",
    "Sketch",
    "SquaredDeviations",
    "SquaredNorms",
    "Statistic",
    "Variance",
    "WeightedSum",
    "gradient_statistics",
    "mean_gradient",
    "plan",
    "total",
]
