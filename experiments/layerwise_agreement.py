"""JAX's gradients against the hand-derived float64 reference, for every model of the library.

One row for each model and dtype: the leaf that disagrees most, and its error as a fraction of the
tolerance (1 would be a failure). Error of a leaf: max|jax - reference| / max(max|reference|, m),
with m the size of the terms that form an element (see `LayerwiseGradient.with_sizes`).

    python experiments/layerwise_agreement.py
"""

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path
from tabulate import tabulate

import funcbackprop as fb

TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
B = 8

# name -> (model, shape of one input, loss); a shape of tokens is (T,)
MODELS = {
    "mlp": (fb.models.mlp((20, 32, 32, 5)), (20,), fb.losses.cross_entropy),
    "mlp tanh": (fb.models.mlp((20, 32, 5), "tanh"), (20,), fb.losses.squared_error),
    "convnet": (fb.models.convnet((8, 8), 5), (12, 12, 3), fb.losses.cross_entropy),
    "convnet stride 2, avg": (
        fb.models.convnet((8,), 5, stride=2, padding="VALID", pooling="avg", activation="gelu"),
        (13, 13, 3),
        fb.losses.binary_cross_entropy,
    ),
    "lstm": (fb.models.lstm(20, 16, depth=2), (16,), fb.losses.next_token),
    "transformer": (fb.models.transformer(20, 16, 16, 3, 4), (16,), fb.losses.next_token),
    "transformer tied, remat": (
        fb.models.transformer(20, 16, 16, 3, 4, tied=True, remat=True),
        (16,),
        fb.losses.next_token,
    ),
}


def data(model, shape, loss, rng):
    """Random (x, y) with B rows that fit the model and the loss."""
    vocab_size = dict(model.spec.options).get("vocab_size")
    if vocab_size:
        return (rng.integers(0, vocab_size, (B, *shape)) for _ in range(2))
    x, y = rng.normal(size=(B, *shape)), rng.uniform(size=(B, 5))
    dtype = jax.dtypes.canonicalize_dtype(float)
    if loss is fb.losses.cross_entropy:
        return x.astype(dtype), y.argmax(1)
    return x.astype(dtype), y.astype(dtype)


def worst_leaf(model, shape, loss, dtype):
    """(path, error / tolerance) of the leaf that disagrees most."""
    batch = x, _ = tuple(data(model, shape, loss, np.random.default_rng(0)))
    params = model.init(jax.random.key(0), x[0])
    example_loss = fb.example_loss(model.apply, loss)

    def mean_loss(params):
        return jax.vmap(example_loss, (None, 0))(params, batch).mean()

    grads, paths = jax.jit(jax.grad(mean_loss))(params), tree_flatten_with_path(params)[0]
    _, want, sizes = fb.reference.layerwise.value_and_grad(model, loss).with_sizes(params, batch)
    errors = [
        np.abs(np.asarray(a, np.float64) - b).max() / max(np.abs(b).max(), m)
        for a, b, m in zip(*map(jax.tree.leaves, (grads, want, sizes)), strict=True)
    ]
    worst = int(np.argmax(errors))
    return keystr(paths[worst][0]), errors[worst] / TOLERANCE[dtype]


def main():
    """Print the table."""
    rows = []
    for dtype in TOLERANCE:
        jax.config.update("jax_enable_x64", dtype == "float64")
        for name, (model, shape, loss) in MODELS.items():
            rows.append((name, dtype, *worst_leaf(model, shape, loss, dtype)))
    headers = ("case", "dtype", "worst leaf", "error / tolerance")
    print(tabulate(rows, headers, floatfmt=".4f"))


if __name__ == "__main__":
    main()
