"""The manual chain rule in float64 NumPy: what JAX's gradients are checked against.

`vjp` and `value_and_grad` follow any JAX function, equation by equation. `layerwise` is the
textbook: a hand-derived backward pass for each layer of `funcbackprop.models`. It shares nothing
with JAX, so names resolve on first use, and importing it loads no JAX.
"""

import importlib
from typing import TYPE_CHECKING

# name -> the module it lives in
_HOME = {
    "ChainRuleGradient": "chain_rule",
    "Decision": "tape",
    "Details": "chain_rule",
    "Pullback": "chain_rule",
    "value_and_grad": "chain_rule",
    "vjp": "chain_rule",
}
_MODULES = ("layerwise",)

__all__ = sorted((*_HOME, *_MODULES))  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from . import layerwise as layerwise
    from .chain_rule import ChainRuleGradient as ChainRuleGradient
    from .chain_rule import Details as Details
    from .chain_rule import Pullback as Pullback
    from .chain_rule import value_and_grad as value_and_grad
    from .chain_rule import vjp as vjp
    from .tape import Decision as Decision


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted((*globals(), *__all__))
