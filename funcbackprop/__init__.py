"""funcbackprop: are the gradients right, how noisy are they, and will the update help?

The flow that the rooms spell out:

    input -> forward (models) -> prediction -> loss (losses) -> backward (per_example, reference)
          -> gradients (noise, check) -> weight update (training)

Names resolve on first use (PEP 562), so that importing the package loads no JAX.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# The contents page: room -> the public names it lifts to the top level.
_CONTENTS = {
    "contract": ("Problem", "attach_keys", "example_loss", "one_example"),
    "per_example": (
        "ClippedMean",
        "Gram",
        "Histogram",
        "InnerWithMean",
        "LeafPlan",
        "Mean",
        "MeanOf",
        "PerExample",
        "Plan",
        "Projection",
        "SecondMoment",
        "Sketch",
        "SquaredDeviations",
        "SquaredNorms",
        "Variance",
        "WeightedSum",
        "gradient_statistics",
        "plan",
        "total",
    ),
    "check": (
        "GradientCheck",
        "assert_gradients_match",
        "check_gradients",
        "check_separable",
    ),
    "diagnosis": ("Diagnosis", "diagnose"),
    "effect": (
        "AlongUpdate",
        "Responsibility",
        "UpdateEffect",
        "along_update",
        "responsibility",
        "update_effect",
    ),
    "noise": (
        "ShuffledEpochs",
        "WithReplacement",
        "WithoutReplacement",
        "gradient_variance",
    ),
}
_ROOMS = (
    "check",
    "curvature",
    "diagnosis",
    "effect",
    "graph",
    "losses",
    "models",
    "noise",
    "per_example",
    "reference",
    "report",
    "training",
)
_HOME = {name: room for room, names in _CONTENTS.items() for name in names}

__all__ = sorted((*_HOME, *_ROOMS))  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    # The same names for editors and type checkers; tests/test_imports.py holds the two together.
    from . import check as check
    from . import curvature as curvature
    from . import diagnosis as diagnosis
    from . import effect as effect
    from . import graph as graph
    from . import losses as losses
    from . import models as models
    from . import noise as noise
    from . import per_example as per_example
    from . import reference as reference
    from . import report as report
    from . import training as training
    from .check import GradientCheck as GradientCheck
    from .check import assert_gradients_match as assert_gradients_match
    from .check import check_gradients as check_gradients
    from .check import check_separable as check_separable
    from .contract import Problem as Problem
    from .contract import attach_keys as attach_keys
    from .contract import example_loss as example_loss
    from .contract import one_example as one_example
    from .diagnosis import Diagnosis as Diagnosis
    from .diagnosis import diagnose as diagnose
    from .effect import AlongUpdate as AlongUpdate
    from .effect import Responsibility as Responsibility
    from .effect import UpdateEffect as UpdateEffect
    from .effect import along_update as along_update
    from .effect import responsibility as responsibility
    from .effect import update_effect as update_effect
    from .noise import ShuffledEpochs as ShuffledEpochs
    from .noise import WithoutReplacement as WithoutReplacement
    from .noise import WithReplacement as WithReplacement
    from .noise import gradient_variance as gradient_variance
    from .per_example import ClippedMean as ClippedMean
    from .per_example import Gram as Gram
    from .per_example import Histogram as Histogram
    from .per_example import InnerWithMean as InnerWithMean
    from .per_example import LeafPlan as LeafPlan
    from .per_example import Mean as Mean
    from .per_example import MeanOf as MeanOf
    from .per_example import PerExample as PerExample
    from .per_example import Plan as Plan
    from .per_example import Projection as Projection
    from .per_example import SecondMoment as SecondMoment
    from .per_example import Sketch as Sketch
    from .per_example import SquaredDeviations as SquaredDeviations
    from .per_example import SquaredNorms as SquaredNorms
    from .per_example import Variance as Variance
    from .per_example import WeightedSum as WeightedSum
    from .per_example import gradient_statistics as gradient_statistics
    from .per_example import plan as plan
    from .per_example import total as total


def __getattr__(name):
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted((*globals(), *__all__))
