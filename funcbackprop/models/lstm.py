"""The recurrent language model."""

from . import arguments
from .build import build
from .spec import Layer, Model, layer


def lstm(vocab_size: int, width: int, depth: int = 1, dropout: float = 0.0) -> Model:
    """Embedding, `depth` LSTM layers and one dense layer (Hochreiter & Schmidhuber, 1997).

    One layer, from h = c = 0: `i, f, g, o = split(x_t W_x + h W_h + b)`,
    `c = sigma(f) c + sigma(i) tanh(g)`, `h = sigma(o) tanh(c)`. The forget bias starts at 1
    (Jozefowicz et al., 2015), other biases at 0, weights as in Glorot & Bengio (2010) for each
    gate, the embedding as N(0, 1/width).

    Args:
      vocab_size: number V of tokens.
      width: size N of the embedding and of the states.
      depth: number of LSTM layers.
      dropout: probability of setting an output of an LSTM layer to zero, given a key.

    Returns:
      Model for tokens [T], integers in 0..V-1, and logits [T, V] of the next token. Parameters:
      `params['embed']['table']` [V, N], `params['lstm'][l]` with `w_x` [N, 4N], `w_h` [N, 4N] and
      `b` [4N] (gates in the order i, f, g, o), `params['head']` with `w` [N, V] and `b` [V].
      A token outside 0..V-1 gives NaN.

    Raises:
      TypeError, ValueError: an argument is out of range; `init` and `apply` raise ValueError for an
        input or parameters that do not fit.

    >>> import funcbackprop as fb, jax, jax.numpy as jnp
    >>> model = fb.models.lstm(vocab_size=11, width=4)
    >>> params = jax.jit(model.init)(jax.random.key(0), jnp.array([1, 2, 3]))
    >>> jax.jit(model.apply)(params, jnp.array([1, 2, 3])).shape
    (3, 11)
    """
    vocab_size, width, depth = arguments.positive(
        "lstm", vocab_size=vocab_size, width=width, depth=depth
    )
    dropout = arguments.rate("lstm", dropout)
    embed = layer("embedding", "embed", entries=vocab_size, width=width, init=width**-0.5)
    layers: list[Layer] = [embed]
    for i in range(depth):
        layers.append(layer("lstm", "lstm", i, width=width))
        layers += [layer("dropout", rate=dropout)] * (dropout > 0)
    layers.append(layer("dense", "head", outputs=vocab_size, init="glorot"))
    return build("lstm", layers, vocab_size=vocab_size, width=width, depth=depth, dropout=dropout)
