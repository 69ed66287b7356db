"""The textbook: hand-derived backward passes of whole models, in float64 NumPy.

It shares nothing with JAX: it reads `model.spec`, runs `forward` through the layers, and walks back
through them with `backward`, adding where paths meet (Rumelhart, Hinton & Williams, 1986).

Conventions at points without a derivative: relu'(0) = 0, and a tie in max pooling sends the whole
cotangent to the first maximum in row-major order. Both are what JAX does.
"""

from .walk import LayerwiseGradient, value_and_grad

__all__ = ["LayerwiseGradient", "value_and_grad"]
