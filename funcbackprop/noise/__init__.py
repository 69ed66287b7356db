"""What the statistics mean: gradient variance and the noise scale."""

from .moments import STATUS, Moments, moments

__all__ = ["STATUS", "Moments", "moments"]
