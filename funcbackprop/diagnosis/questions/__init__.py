"""What the rules ask of the facts: `Facts -> Sign | None`, by subject."""

from . import data, numbers, signal, step

__all__ = ["data", "numbers", "signal", "step"]
