"""Scalar functions and their derivatives in forms that neither overflow nor cancel."""

import math

import numpy as np


def sigmoid(x: np.ndarray) -> np.ndarray:
    """sigma(x) = 1 / (1 + exp(-x)), from exp(-|x|) <= 1."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def dsigmoid(x: np.ndarray) -> np.ndarray:
    """sigma'(x) = sigma(x) sigma(-x); 1 - sigma would cancel for large x."""
    return sigmoid(x) * sigmoid(-x)


def dtanh(x: np.ndarray) -> np.ndarray:
    """tanh'(x) = sech^2(x) = 4 e^(-2|x|) / (1 + e^(-2|x|))^2; 1 - tanh^2 would cancel."""
    small = np.exp(-2 * np.abs(x))
    return 4 * small / (1 + small) ** 2


def relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0)."""
    return np.maximum(x, 0)


def drelu(x: np.ndarray) -> np.ndarray:
    """1 where x > 0, so 0 at 0."""
    return (x > 0).astype(x.dtype)


def gelu(x: np.ndarray) -> np.ndarray:
    """x/2 (1 + tanh u) = x sigma(2u), u = sqrt(2/pi) (x + 0.044715 x^3)."""
    return x * sigmoid(2 * _inner(x)[0])


def dgelu(x: np.ndarray) -> np.ndarray:
    """sigma(2u) + 2 x u' sigma'(2u)."""
    u, du = _inner(x)
    return sigmoid(2 * u) + 2 * np.clip(x, -_FAR, _FAR) * du * dsigmoid(2 * u)


# Beyond +-50, sigma(2u) is 0 or 1 to far below rounding, and x^3 would overflow in the end.
_FAR = 50.0


def _inner(x):
    scale, x = math.sqrt(2 / math.pi), np.clip(x, -_FAR, _FAR)
    return scale * (x + 0.044715 * x**3), scale * (1 + 3 * 0.044715 * x**2)


def softmax(x: np.ndarray) -> np.ndarray:
    """exp(x) / sum exp(x) over the last axis, shifted by the maximum."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def logsumexp(x: np.ndarray) -> np.ndarray:
    """log sum exp(x) over the last axis, shifted by the maximum."""
    top = x.max(-1)
    return top + np.log(np.exp(x - top[..., None]).sum(-1))
