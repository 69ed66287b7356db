"""Forward: models as pairs of pure functions over plain parameter trees, each with a description.

`Model(init, apply, spec)`; `apply(params, example_input, key=None)` is written for one example.
"""

from .convnet import convnet
from .lstm import lstm
from .mlp import mlp
from .spec import Layer, Model, Spec
from .transformer import transformer

__all__ = ["Layer", "Model", "Spec", "convnet", "lstm", "mlp", "transformer"]
