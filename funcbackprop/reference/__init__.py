"""The manual chain rule in float64 NumPy: what JAX's gradients are checked against.

`vjp` and `value_and_grad` follow any JAX function, equation by equation. `layerwise` is the
textbook: a hand-derived backward pass for each layer of `funcbackprop.models`.
"""

from . import layerwise
from .chain_rule import ChainRuleGradient, Details, Pullback, value_and_grad, vjp
from .tape import Decision

__all__ = [
    "ChainRuleGradient",
    "Decision",
    "Details",
    "Pullback",
    "layerwise",
    "value_and_grad",
    "vjp",
]
