"""The transformer language model."""

from . import arguments
from .build import build
from .spec import Model, layer

# Standard deviation of the initial weights of GPT-2 (Radford et al., 2019).
_GPT2 = 0.02


def transformer(
    vocab_size: int,
    max_length: int,
    width: int,
    depth: int,
    heads: int,
    *,
    remat: bool = False,
    tied: bool = False,
    dropout: float = 0.0,
) -> Model:
    """A causal, pre-norm transformer: GPT-2 (Radford et al., 2019; Vaswani et al., 2017).

    `x += attention(norm(x)); x += W_2 gelu(W_1 norm(x))`, `depth` times, with stacked parameters
    and run by `lax.scan`; gelu is the tanh approximation. Weights and embeddings start as
    N(0, 0.02^2), those that write into the residual stream (`out`, `mlp_out`) as
    N(0, 0.02^2 / (2 depth)); biases start at zero, gains at one.

    Args:
      vocab_size: number V of tokens.
      max_length: longest sequence.
      width: size N of the residual stream; the hidden layer has 4N units.
      depth: number L of blocks.
      heads: number of attention heads; must divide the width.
      remat: recompute the activations of a block in the backward pass: less memory, more time.
      tied: use the embedding as the output matrix (Press & Wolf, 2017, arXiv:1608.05859).
      dropout: probability of setting an entry of the embedding and of each branch to zero, when
        `apply` is given a key. Attention weights are not dropped.

    Returns:
      Model for tokens [T], integers in 0..V-1, T <= max_length, and logits [T, V] of the next
      token. Parameters: `embed`, `position` (`table` [V or max_length, N]); `blocks`, each leaf
      stacked [L, ...], with `norm_1`, `norm_2` (`gain`, `bias` [N]), `attention` (`q`, `k`, `v`,
      `out`: `w` [N, N] and `b` [N]), `mlp_in` and `mlp_out` (`w`, `b`); `norm` (`gain`, `bias`);
      and, unless tied, `head` (`w` [N, V], no bias). A token outside 0..V-1 gives NaN.

    Raises:
      TypeError, ValueError: an argument is out of range; `init` and `apply` raise ValueError for an
        input or parameters that do not fit.

    >>> import funcbackprop as fb, jax, jax.numpy as jnp
    >>> model = fb.models.transformer(vocab_size=11, max_length=8, width=4, depth=2, heads=2)
    >>> params = jax.jit(model.init)(jax.random.key(0), jnp.array([1, 2, 3]))
    >>> jax.jit(model.apply)(params, jnp.array([1, 2, 3])).shape
    (3, 11)
    """
    vocab_size, max_length, width, depth, heads = arguments.positive(
        "transformer",
        vocab_size=vocab_size,
        max_length=max_length,
        width=width,
        depth=depth,
        heads=heads,
    )
    if width % heads:
        raise ValueError(
            f"`transformer`: `width` must be divisible by `heads`, got width={width} and "
            f"heads={heads}; each head gets width / heads entries"
        )
    dropout = arguments.rate("transformer", dropout)
    drop = (layer("dropout", rate=dropout),) * (dropout > 0)
    untied = layer("unembed", "head", outputs=vocab_size, init=_GPT2)
    layers = [
        layer("embedding", "embed", entries=vocab_size, width=width, init=_GPT2),
        layer("position_embedding", "position", entries=max_length, init=_GPT2),
        *drop,
        layer(
            "repeat", "blocks", depth=depth, remat=bool(remat),
            layers=_block(width, heads, _GPT2 / (2 * depth) ** 0.5, drop),
        ),
        layer("layer_norm", "norm"),
        layer("tied_output", "embed") if tied else untied,
    ]  # fmt: skip
    return build(
        "transformer", layers, vocab_size=vocab_size, max_length=max_length, width=width,
        depth=depth, heads=heads, remat=bool(remat), tied=bool(tied), dropout=dropout,
    )  # fmt: skip


def _block(width, heads, out_init, drop):
    attention = (
        layer("layer_norm", "norm_1"),
        layer("attention", "attention", heads=heads, init=_GPT2, out_init=out_init),
        *drop,
    )
    mlp = (
        layer("layer_norm", "norm_2"),
        layer("dense", "mlp_in", outputs=4 * width, init=_GPT2),
        layer("activation", name="gelu"),
        layer("dense", "mlp_out", outputs=width, init=out_init),
        *drop,
    )
    return layer("residual", layers=attention), layer("residual", layers=mlp)
