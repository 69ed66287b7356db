"""The multilayer perceptron."""

import itertools
from collections.abc import Sequence

from . import arguments
from .build import build
from .layers import ACTIVATIONS, HIDDEN_INIT
from .spec import Layer, Model, layer


def mlp(sizes: Sequence[int], activation: str = "relu", dropout: float = 0.0) -> Model:
    """Dense layers with an activation between them: `y = W_L a(... a(W_1 x + b_1) ...) + b_L`.

    Weights start as in He et al. (2015, arXiv:1502.01852) where "relu" or "gelu" follows, and as in
    Glorot & Bengio (2010) where "tanh" or nothing follows; biases start at zero.

    Args:
      sizes: sizes of the input, of the hidden layers, and of the output: at least two.
      activation: "relu", "tanh" or "gelu" (the tanh approximation).
      dropout: probability of setting a hidden unit to zero, when `apply` is given a key.

    Returns:
      Model for inputs of any shape with sizes[0] entries (they are flattened) and outputs
      [sizes[-1]]. Parameters: `params['layers'][l]['w']` [M, N] and `['b']` [N].

    Raises:
      TypeError, ValueError: an argument is out of range; `init` and `apply` raise ValueError for an
        input or parameters that do not fit.

    >>> import funcbackprop as fb, jax, jax.numpy as jnp
    >>> model = fb.models.mlp((4, 8, 3))
    >>> params = model.init(jax.random.key(0), jnp.zeros((2, 2)))
    >>> model.apply(params, jnp.zeros((2, 2))).shape
    (3,)
    """
    sizes = arguments.positives("mlp", "sizes", sizes, at_least=2)
    arguments.one_of("mlp", "activation", activation, ACTIVATIONS)
    dropout = arguments.rate("mlp", dropout)
    layers: list[Layer] = [layer("flatten")]
    last = len(sizes) - 2
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        init = "glorot" if i == last else HIDDEN_INIT[activation]
        layers.append(layer("dense", "layers", i, inputs=inputs, outputs=outputs, init=init))
        if i < last:
            layers.append(layer("activation", name=activation))
            layers += [layer("dropout", rate=dropout)] * (dropout > 0)
    return build("mlp", layers, sizes=sizes, activation=activation, dropout=dropout)
