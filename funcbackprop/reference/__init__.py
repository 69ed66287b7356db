"""The manual chain rule in float64 NumPy: what JAX's gradients are checked against.

`layerwise` is the textbook: a hand-derived backward pass for each layer of `funcbackprop.models`.
"""

from . import layerwise

__all__ = ["layerwise"]
