"""Is the gradient right? Comparison with a reference, and whether a batch loss is a mean."""

from .gradients import assert_gradients_match, check_gradients
from .result import GradientCheck, LeafCheck
from .separable import Separability, check_separable

__all__ = [
    "GradientCheck",
    "LeafCheck",
    "Separability",
    "assert_gradients_match",
    "check_gradients",
    "check_separable",
]
