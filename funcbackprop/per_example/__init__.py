"""Gradients of every example and their statistics."""

from .engine import Measure, gradient_statistics
from .mean_gradient import mean_gradient
from .statistics import (
    InnerWithMean,
    Mean,
    PerExample,
    SecondMoment,
    SquaredDeviations,
    SquaredNorms,
    Statistic,
    Variance,
    total,
)

__all__ = [
    "InnerWithMean",
    "Mean",
    "Measure",
    "PerExample",
    "SecondMoment",
    "SquaredDeviations",
    "SquaredNorms",
    "Statistic",
    "Variance",
    "gradient_statistics",
    "mean_gradient",
    "total",
]
