"""The convolutional network."""

from collections.abc import Sequence

from . import arguments
from .build import build
from .layers import ACTIVATIONS, HIDDEN_INIT
from .spec import Layer, Model, layer


def convnet(
    channels: Sequence[int],
    num_classes: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    padding: str = "SAME",
    pool: int = 2,
    pooling: str = "max",
    head: str = "flatten",
    activation: str = "relu",
    dropout: float = 0.0,
) -> Model:
    """Blocks of convolution, activation and pooling, then one dense layer (LeCun et al., 1998).

    Weights start as in He et al. (2015, arXiv:1502.01852) or, for "tanh" and the last layer, as in
    Glorot & Bengio (2010); biases start at zero.

    Args:
      channels: output channels of each block.
      num_classes: size K of the output.
      kernel: side of the square kernel.
      stride: step of the convolution.
      padding: "SAME" or "VALID" of the convolution.
      pool: side and stride of the pooling window (never padded); 1 for none.
      pooling: "max" (a tie goes to the first maximum) or "avg".
      head: "flatten" the last feature map, or take its "mean" over positions.
      activation: "relu", "tanh" or "gelu" (the tanh approximation).
      dropout: probability of setting an input of the last layer to zero, given a key.

    Returns:
      Model for images [H, W, C], whose sizes `init` takes from the example, and logits [K].
      Parameters: `params['conv'][l]['w']` [kernel, kernel, M, N], `['b']` [N], and
      `params['head']` with `w` [M, K] and `b` [K].

    Raises:
      TypeError, ValueError: an argument is out of range; `init` and `apply` raise ValueError for an
        input or parameters that do not fit.

    >>> import funcbackprop as fb, jax, jax.numpy as jnp
    >>> model = fb.models.convnet((4, 8), num_classes=10)
    >>> params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((8, 8, 1)))
    >>> params["head"]["w"].shape
    (32, 10)
    """
    channels = arguments.positives("convnet", "channels", channels, at_least=1)
    num_classes, kernel, stride, pool = arguments.positive(
        "convnet", num_classes=num_classes, kernel=kernel, stride=stride, pool=pool
    )
    arguments.one_of("convnet", "padding", padding, ("SAME", "VALID"))
    arguments.one_of("convnet", "pooling", pooling, ("max", "avg"))
    arguments.one_of("convnet", "head", head, ("flatten", "mean"))
    arguments.one_of("convnet", "activation", activation, ACTIVATIONS)
    dropout = arguments.rate("convnet", dropout)
    conv = {"kernel": kernel, "stride": stride, "padding": padding}
    layers: list[Layer] = []
    for i, outputs in enumerate(channels):
        init = HIDDEN_INIT[activation]
        layers.append(layer("conv2d", "conv", i, outputs=outputs, **conv, init=init))
        layers.append(layer("activation", name=activation))
        layers += [layer(f"{pooling}_pool", size=pool)] * (pool > 1)
    layers.append(layer("flatten" if head == "flatten" else "global_mean"))
    layers += [layer("dropout", rate=dropout)] * (dropout > 0)
    layers.append(layer("dense", "head", outputs=num_classes, init="glorot"))
    options = {"pool": pool, "pooling": pooling, "head": head, "activation": activation}
    return build(
        "convnet", layers, channels=channels, num_classes=num_classes, **conv, **options,
        dropout=dropout,
    )  # fmt: skip
