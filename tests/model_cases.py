"""The table of models that the tests run on: a new model joins by one row."""

from typing import NamedTuple

import jax
import numpy as np

import funcbackprop as fb

LOSSES = {name: getattr(fb.losses, name) for name in fb.losses.__all__}
mlp, convnet, lstm, transformer = (
    fb.models.mlp,
    fb.models.convnet,
    fb.models.lstm,
    fb.models.transformer,
)


class Case(NamedTuple):
    """A model, the shape of one example, a loss by name, and the batch size B."""

    model: fb.models.Model
    shape: tuple[int, ...]
    loss: str
    batch: int = 4


CASES = {
    "mlp": Case(mlp((5, 4, 3)), (5,), "cross_entropy"),
    "mlp_image": Case(mlp((6, 4, 3), "tanh"), (2, 3), "squared_error"),
    "mlp_gelu": Case(mlp((5, 4, 4, 3), "gelu"), (5,), "binary_cross_entropy"),
    "mlp_linear": Case(mlp((3, 1)), (3,), "squared_error"),
    "mlp_width_1": Case(mlp((1, 1, 1), "tanh"), (1,), "squared_error"),
    "mlp_one_class": Case(mlp((3, 2, 1), "tanh"), (3,), "cross_entropy"),
    "mlp_batch_1": Case(mlp((5, 4, 3)), (5,), "cross_entropy", batch=1),
    "convnet": Case(convnet((3, 4), 5), (8, 8, 2), "cross_entropy"),
    "convnet_stride_2": Case(convnet((3,), 4, stride=2), (7, 6, 1), "cross_entropy"),
    "convnet_valid": Case(
        convnet((2, 3), 3, padding="VALID", activation="tanh"), (11, 10, 1), "squared_error"
    ),
    "convnet_valid_stride_2": Case(
        convnet((2,), 3, padding="VALID", stride=2, pool=1), (8, 7, 2), "squared_error"
    ),
    "convnet_avg": Case(
        convnet((2, 2), 3, pooling="avg", activation="gelu"), (9, 8, 1), "binary_cross_entropy"
    ),
    "convnet_mean_head": Case(convnet((3,), 4, head="mean", pool=3), (7, 7, 1), "cross_entropy"),
    "convnet_kernel_1": Case(convnet((2,), 2, kernel=1, pool=1), (3, 3, 2), "cross_entropy"),
    "convnet_kernel_4": Case(convnet((2,), 2, kernel=4, stride=3), (9, 7, 1), "cross_entropy"),
    "lstm": Case(lstm(7, 4), (6,), "next_token"),
    "lstm_depth_2": Case(lstm(5, 3, depth=2), (4,), "next_token"),
    "lstm_width_1": Case(lstm(4, 1), (3,), "next_token"),
    "lstm_one_token": Case(lstm(4, 3), (1,), "next_token"),
    "transformer": Case(transformer(9, 8, 8, 2, 2), (6,), "next_token"),
    "transformer_tied_remat": Case(
        transformer(9, 6, 8, 3, 4, tied=True, remat=True), (6,), "next_token"
    ),
    "transformer_one_head": Case(transformer(7, 5, 6, 1, 1), (5,), "next_token"),
    "transformer_one_token": Case(transformer(7, 5, 4, 1, 2), (1,), "next_token"),
    "transformer_width_1": Case(transformer(5, 4, 1, 1, 1), (4,), "next_token"),
    "transformer_batch_1": Case(transformer(7, 5, 4, 2, 2, tied=True), (5,), "next_token", batch=1),
}

# One of each model: what also runs on the other supported versions.
CORE = ("mlp", "convnet", "lstm", "transformer_tied_remat")

# All activations smooth and no maximum: the Taylor remainder is of second order everywhere.
SMOOTH = ("mlp_image", "mlp_gelu", "convnet_avg", "lstm_depth_2", "transformer_tied_remat")


def each_case(names=tuple(CASES)):
    """pytest parameters, the core ones marked."""
    import pytest

    return [pytest.param(n, marks=[pytest.mark.core] if n in CORE else [], id=n) for n in names]


def example_input(case, seed=0, batch=None):
    """Tokens or a normal array, for one example or [batch, ...]."""
    rng = np.random.default_rng(seed)
    shape = case.shape if batch is None else (batch, *case.shape)
    options = dict(case.model.spec.options)
    if "vocab_size" in options:
        return rng.integers(0, options["vocab_size"], shape).astype(np.int32)
    return rng.normal(size=shape).astype(jax.dtypes.canonicalize_dtype(float))


def parameters(case, seed=0, spread=0.5):
    """N(0, spread^2) for every leaf: no zero bias and no gain of one to hide behind.

    Drawn by NumPy in the shapes of `init`, which is faster than compiling it.
    """
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(case.model.init, jax.random.key(0), example_input(case))
    return jax.tree.map(lambda p: np.asarray(spread * rng.normal(size=p.shape), p.dtype), shapes)


def batch(case, seed=1):
    """(x, y) with B rows; of the targets of `next_token`, every third is padding."""
    rng = np.random.default_rng(seed)
    x = example_input(case, seed, case.batch)
    out = jax.eval_shape(jax.vmap(case.model.apply, (None, 0)), parameters(case), x)
    if case.loss == "cross_entropy":
        return x, rng.integers(0, out.shape[-1], case.batch)
    if case.loss == "next_token":
        y = rng.integers(0, out.shape[-1], out.shape[:-1])
        y[:, 2::3] = -1
        return x, y
    y = rng.normal(size=out.shape) if case.loss == "squared_error" else rng.uniform(size=out.shape)
    return x, y.astype(out.dtype)


def jax_value_and_grad(case):
    """The plain JAX gradient of the mean loss: jitted, on a batch."""
    loss = fb.example_loss(case.model.apply, LOSSES[case.loss])

    def mean_loss(params, batch):
        return jax.vmap(loss, (None, 0))(params, batch).mean()

    return jax.jit(jax.value_and_grad(mean_loss))
