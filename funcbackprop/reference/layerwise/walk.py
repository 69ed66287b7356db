"""Whole models: forward through the layers of a spec, and back, adding where paths meet."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from . import params as trees
from .kinds import KINDS
from .losses import LOSSES


def value_and_grad(model: Any, loss: Callable) -> "LayerwiseGradient":
    """The value and gradient of a model's mean loss, by hand-derived rules in float64 NumPy.

    Args:
      model: one of `funcbackprop.models` (anything with a `spec`).
      loss: one of `funcbackprop.losses`; only its name is used.

    Returns:
      f with `f(params, batch, weights=None) -> (value, grads)`: see `LayerwiseGradient`.

    Raises:
      ValueError: if the model has dropout, or no layerwise rules; if the loss has none.

    >>> import jax, jax.numpy as jnp, funcbackprop as fb
    >>> from funcbackprop.reference.layerwise import value_and_grad
    >>> model = fb.models.mlp((2, 1))
    >>> f = value_and_grad(model, fb.losses.squared_error)
    >>> params = {"layers": [{"w": jnp.array([[2.0], [0.0]]), "b": jnp.zeros(1)}]}
    >>> value, grads = f(params, (jnp.array([[3.0, 1.0]]), jnp.array([[5.0]])))
    >>> print(value, grads["layers"][0]["w"].ravel())  # 1/2 (6 - 5)^2 and (6 - 5) x
    0.5 [3. 1.]
    """
    spec = getattr(model, "spec", None)
    if spec is None or not hasattr(spec, "layers"):
        raise ValueError(
            "`layerwise.value_and_grad`: `model` must be one of funcbackprop.models, which "
            f"describe their layers in `model.spec`; got {type(model).__name__} without one"
        )
    name = getattr(loss, "__name__", repr(loss))
    if name not in LOSSES:
        raise ValueError(
            "`layerwise.value_and_grad`: `loss` must be one of funcbackprop.losses "
            f"({', '.join(LOSSES)}), got {name}"
        )
    _check_kinds(spec.layers)
    return LayerwiseGradient(spec, name)


@dataclasses.dataclass(frozen=True)
class LayerwiseGradient:
    """`f(params, batch, weights=None) -> (value, grads)`, in float64 NumPy.

    `value = sum_i w_i l_i / sum_i w_i` and grads its gradient. Rows with w_i = 0 are taken out
    before anything is computed, so that NaN or inf in padding cannot spread.

    Args of a call:
      params: as made by `model.init`, of any float dtype.
      batch: (x, y) with a leading axis [B].
      weights: [B], at least 0 and not all 0: relative importances; None is all ones.

    Returns:
      value: float. grads: the structure of params, float64.

    Raises:
      ValueError: `params`, `batch` or `weights` do not fit the model or each other.

    Attributes:
      spec: the model's.
      loss: name of the loss.
    """

    spec: Any
    loss: str
    __name__ = "layerwise"

    def __call__(self, params: Any, batch: Any, weights: Any = None) -> tuple[float, Any]:
        value, grads, _ = self.with_sizes(params, batch, weights)
        return value, grads

    def with_sizes(self, params: Any, batch: Any, weights: Any = None) -> tuple[float, Any, Any]:
        """`(value, grads, sizes)`: sizes holds one float m >= max|grad| for each leaf.

        Two gradients a and b of a leaf agree to a tolerance if max|a - b| <= tol max(max|b|, m).
        m is the largest sum of |terms| that forms an element of the leaf (the terms of the weighted
        sum over examples and positions), times kappa = max(1, max d_size / (10 max|d|)), where
        d is the loss's derivative in the prediction, a difference such as softmax - onehot, and
        d_size the sum of the two: near the optimum it cancels, for every leaf alike. The maxima go
        over the batch, weights included.
        """
        params = trees.as_float64(params)
        trees.check(params, self.spec.layers)
        (x, y), shares = _rows_with_weight(batch, weights)
        forward, backward = LOSSES[self.loss]
        prediction, saved = _forward(self.spec.layers, params, x)
        values, saved_by_loss = forward(prediction, y)
        d, d_size = backward(saved_by_loss, shares)
        grads, sizes = trees.zeros(params), trees.zeros(params)
        _backward(self.spec.layers, params, saved, d, grads, sizes)
        kappa = _kappa(d, d_size)
        return float(shares @ values), grads, trees.map_leaves(lambda m: kappa * _largest(m), sizes)


def _forward(layers, params, x):
    """The output, and what each layer saved."""
    saved = []
    for layer in layers:
        own = trees.at(params, layer.at)
        if layer.kind == "residual":
            branch, kept = _forward(layer.layers, own, x)
            y = x + branch
        elif layer.kind == "repeat":
            y, kept = x, []
            for l in range(dict(layer.options)["depth"]):
                y, inner = _forward(layer.layers, trees.at_depth(own, l), y)
                kept.append(inner)
        else:
            y, kept = _forward_one(layer, own, x)
        saved.append(kept)
        x = y
    return x, saved


def _forward_one(layer, own, x):
    try:
        return KINDS[layer.kind].forward(own, x, dict(layer.options))
    except ValueError as error:
        if str(error).startswith("`layerwise`"):
            raise
        shapes = trees.map_leaves(np.shape, own) if layer.at else {}
        raise ValueError(
            f"`layerwise`: {layer.kind} at {trees.where(layer.at)} with parameters {shapes} does "
            f"not fit an input of shape {x.shape} (leading axis: examples)"
        ) from error


def _backward(layers, params, saved, dy, grads, sizes):
    """The cotangent of the input; parameter gradients and their sizes are added in place."""
    for layer, kept in zip(reversed(layers), reversed(saved), strict=True):
        own, grad, size = (trees.at(tree, layer.at) for tree in (params, grads, sizes))
        if layer.kind == "residual":
            dy = dy + _backward(layer.layers, own, kept, dy, grad, size)
        elif layer.kind == "repeat":
            for l in reversed(range(len(kept))):
                p, g, s = (trees.at_depth(tree, l) for tree in (own, grad, size))
                dy = _backward(layer.layers, p, kept[l], dy, g, s)
        else:
            dparams, dy = KINDS[layer.kind].backward(own, kept, dy)
            trees.add(dparams, grad, size)
    return dy


def _check_kinds(layers):
    for layer in layers:
        if layer.kind in ("residual", "repeat"):
            _check_kinds(layer.layers)
        elif layer.kind not in KINDS:
            raise ValueError(
                f"`layerwise.value_and_grad`: no rule for a layer of kind {layer.kind!r}; known: "
                f"{', '.join(KINDS)}, repeat, residual"
            )
        elif layer.kind == "dropout" and dict(layer.options)["rate"] > 0:
            raise ValueError(
                "`layerwise.value_and_grad`: the reference covers dropout at rate 0, got rate="
                f"{dict(layer.options)['rate']}; build the model with dropout=0.0 (its parameters "
                "have the same structure)"
            )


def _rows_with_weight(batch, weights):
    """The rows of positive weight, and their shares w_i / sum w [rows]."""
    x, y = (np.asarray(part) for part in batch)
    if x.ndim == 0 or y.shape[:1] != x.shape[:1] or len(x) == 0:
        raise ValueError(
            "`layerwise`: `batch` must be (x, y) with one leading axis of equal length B >= 1, got "
            f"shapes {x.shape} and {y.shape}"
        )
    w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    if w.shape != (len(x),) or not np.all((w >= 0) & (w < np.inf)) or not w.any():
        raise ValueError(
            f"`layerwise`: `weights` must be {len(x)} finite numbers >= 0, not all 0 (one for each "
            f"example), got shape {w.shape}: {w}"
        )
    keep = w > 0
    x = x[keep]
    x = x if np.issubdtype(x.dtype, np.integer) else x.astype(np.float64)
    return (x, y[keep]), w[keep] / w.sum()


# softmax - onehot is one subtraction of two numbers with a few roundings each, where a tolerance on
# m leaves room for sums of a thousand terms: a tenth of it is ample.
_ONE_SUBTRACTION = 0.1


def _kappa(d, d_size):
    largest = _largest(np.abs(d))
    return max(1.0, _ONE_SUBTRACTION * _largest(d_size) / largest) if largest > 0 else 1.0


def _largest(values):
    return float(np.max(values, initial=0.0))
