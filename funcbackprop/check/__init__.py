"""Is the gradient right? Comparison with a reference, and whether a batch loss is a mean."""

from .gradients import GradientCheck, LeafCheck, check_gradients
from .separable import Separability, check_separable

__all__ = ["GradientCheck", "LeafCheck", "Separability", "check_gradients", "check_separable"]
