"""The losses of `funcbackprop.losses` on batches, with hand-derived derivatives.

    forward(prediction, target) -> (values [B], saved)
    backward(saved, dvalues [B]) -> Terms: dprediction, and the sizes of its two terms

A derivative such as softmax - onehot cancels near the optimum; the sizes say from what.
"""

import numpy as np

from .smooth import logsumexp, sigmoid, softmax
from .terms import Terms


def cross_entropy(logits: np.ndarray, label: np.ndarray):
    """z [B, K], label [B]: log sum_k exp(z_k) - z_label."""
    values, p, onehot = _softmax_loss("cross_entropy", logits, label)
    return values, (p, onehot)


def cross_entropy_backward(saved, dvalues: np.ndarray) -> Terms:
    """dz = softmax(z) - onehot(label)."""
    return _difference(saved, dvalues)


def next_token(logits: np.ndarray, targets: np.ndarray):
    """z [B, T, V], targets [B, T]: the mean cross-entropy over the n targets >= 0; 0 if n = 0."""
    valid = targets >= 0
    logits = np.where(valid[..., None], logits, 0)
    each, p, onehot = _softmax_loss("next_token", logits, np.where(valid, targets, 0))
    share = valid / np.maximum(valid.sum(1, keepdims=True), 1)
    return (share * each).sum(1), (p * share[..., None], onehot * share[..., None])


def next_token_backward(saved, dvalues: np.ndarray) -> Terms:
    """dz_t = (softmax(z_t) - onehot(target_t)) / n where target_t >= 0, else 0."""
    return _difference(saved, dvalues)


def squared_error(prediction: np.ndarray, target: np.ndarray):
    """p, t [B, ...]: 1/2 sum (p - t)^2."""
    target = np.asarray(target, np.float64)
    _same_shape("squared_error", prediction, target)
    return 0.5 * _per_example((prediction - target) ** 2), (prediction, target)


def squared_error_backward(saved, dvalues: np.ndarray) -> Terms:
    """dp = p - t."""
    return _difference(saved, dvalues)


def binary_cross_entropy(logit: np.ndarray, label: np.ndarray):
    """z, y [B, ...]: sum of -y log sigma(z) - (1 - y) log sigma(-z) = log(1 + e^z) - y z."""
    label = np.asarray(label, np.float64)
    _same_shape("binary_cross_entropy", logit, label)
    # log(1 + e^z) - y z = log(1 + e^-|z|) + max(z, 0) - y z; the last two without cancellation
    linear = np.where(logit > 0, (1 - label) * logit, -label * logit)
    values = _per_example(np.log1p(np.exp(-np.abs(logit))) + linear)
    return values, (sigmoid(logit), label)


def binary_cross_entropy_backward(saved, dvalues: np.ndarray) -> Terms:
    """dz = sigma(z) - y."""
    return _difference(saved, dvalues)


# name of the function in funcbackprop.losses -> (forward, backward)
LOSSES = {
    "binary_cross_entropy": (binary_cross_entropy, binary_cross_entropy_backward),
    "cross_entropy": (cross_entropy, cross_entropy_backward),
    "next_token": (next_token, next_token_backward),
    "squared_error": (squared_error, squared_error_backward),
}


def _softmax_loss(name, logits, label):
    label = np.asarray(label)
    if label.shape != logits.shape[:-1] or not np.issubdtype(label.dtype, np.integer):
        raise ValueError(
            f"`layerwise`: `{name}` needs integer labels of shape {logits.shape[:-1]}, got "
            f"{label.dtype} of shape {label.shape}"
        )
    classes = logits.shape[-1]
    if label.size and not 0 <= label.min() <= label.max() < classes:
        raise ValueError(
            f"`layerwise`: `{name}` needs labels in 0..{classes - 1}, got "
            f"{label.min()}..{label.max()}"
        )
    picked = np.take_along_axis(logits, label[..., None], -1)[..., 0]
    onehot = (np.arange(classes) == label[..., None]).astype(np.float64)
    return logsumexp(logits) - picked, softmax(logits), onehot


def _difference(saved, dvalues):
    a, b = saved
    dvalues = dvalues.reshape((-1,) + (1,) * (a.ndim - 1))
    return Terms(dvalues * (a - b), np.abs(dvalues) * (np.abs(a) + np.abs(b)))


def _per_example(values):
    return values.reshape(len(values), -1).sum(1)


def _same_shape(name, prediction, target):
    if prediction.shape != target.shape:
        raise ValueError(
            f"`layerwise`: `{name}` needs targets of the predictions' shape {prediction.shape}, "
            f"got {target.shape}"
        )
