"""What the statistics mean: gradient variance and the noise scale."""

from .estimate import Estimate, jackknife
from .moments import Moments, moments
from .status import STATUS

__all__ = ["STATUS", "Estimate", "Moments", "jackknife", "moments"]
