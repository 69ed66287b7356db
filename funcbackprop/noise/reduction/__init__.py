"""Variance reduction: estimators of the mean gradient over a data set, compared fairly.

An estimator is a value; `estimate` runs it, `compare` sets several against plain sampling, and the
`..._variance` functions predict what it would give from the statistics of one sample.
"""

from .compare import compare
from .comparison import Comparison, Row
from .control import (
    LEAVE_ONE_OUT,
    Anchor,
    anchor_at,
    best_coefficient,
    control_variate,
    mean_of,
    svrg,
    variance_ratio,
)
from .estimate import GradientEstimate, estimate
from .importance import importance, norm_probabilities
from .predict import importance_gain, importance_variance, plain_variance, stratified_variance
from .sampling import Draw, Estimator, plain
from .stratified import allocate, stratified

__all__ = [
    "LEAVE_ONE_OUT",
    "Anchor",
    "Comparison",
    "Draw",
    "Estimator",
    "GradientEstimate",
    "Row",
    "allocate",
    "anchor_at",
    "best_coefficient",
    "compare",
    "control_variate",
    "estimate",
    "importance",
    "importance_gain",
    "importance_variance",
    "mean_of",
    "norm_probabilities",
    "plain",
    "plain_variance",
    "stratified",
    "stratified_variance",
    "svrg",
    "variance_ratio",
]
