"""The noise scale and B_noise where they are known in closed form.

Linear regression: x ~ N(0, I_d), y = x'theta* + e, |theta - theta*| = sigma = 1, so G has the norm
1, S = 2 d + 1 and B_simple = 2 d + 1. Quadratic: loss h w'Hw/2 + <w, x> with h = z^2 of mean 1.
"""

import jax
import jax.numpy as jnp
import numpy as np

from funcbackprop.noise import (
    curvature_noise_scale,
    noise_scale,
    noise_scale_of_batches,
    preconditioned_loss,
)
from funcbackprop.per_example import InnerWithMean, Mean, SquaredNorms, gradient_statistics

from . import Setting

_RATIO = "a ratio of unbiased estimates"
_STATS = {"mean": Mean(), "sq_norms": SquaredNorms(), "inner": InnerWithMean()}
_CURVATURE = np.array([[3.0, 1.0], [1.0, 2.0]])
_WHERE = np.array([1.0, -1.5])
_PRECONDITIONER = np.array([1.0, 4.0, 0.25, 1.0, 1.0])


def _regression(key, n, d):
    """Inputs and residuals at theta - theta* = the first unit vector; the gradients are x r."""
    key_x, key_e = jax.random.split(key)
    x = jax.random.normal(key_x, (n, d))
    return x, x[:, 0] - jax.random.normal(key_e, (n,))


def _scale(name, n, d):
    def estimate(key):
        x, r = _regression(key, n, d)
        mean = r @ x / n
        found = noise_scale(mean, sq_norms=r**2 * jnp.sum(x**2, 1), inner=r * (x @ mean))
        return getattr(found, name)

    return estimate


def _of_batches(name, k, m, d):
    def estimate(key):
        x, r = _regression(key, k * m, d)
        parts = (x * r[:, None]).reshape(k, m, d).mean(1)
        return getattr(noise_scale_of_batches(parts, m), name)

    return estimate


def _gaussian(n, spread, mean):
    """Gradients mean + spread z; S and |G|^2 are known."""

    def estimate(key):
        z = jax.random.normal(key, (n, len(spread)))
        g = jnp.asarray(mean)[None] + jnp.asarray(spread)[None] * z
        return noise_scale(g.mean(0), sq_norms=jnp.sum(g**2, 1), inner=g @ g.mean(0)).B_simple

    return estimate


def _curved(name):
    def loss(w, example):
        x, h = example
        return 0.5 * h * w @ jnp.asarray(_CURVATURE, w.dtype) @ w + jnp.dot(w, x)

    def estimate(key):
        key_z, key_r = jax.random.split(key)
        z = jax.random.normal(key_z, (60, 2))
        found = curvature_noise_scale(loss, jnp.asarray(_WHERE), (z, z[:, 0] ** 2), key_r)
        return found.optimal_step(10) if name == "optimal_step" else getattr(found, name)

    return estimate


def _curved_truths():
    G = _CURVATURE @ _WHERE
    trace = np.trace(_CURVATURE @ (np.eye(2) + 2 * np.outer(G, G)))
    return trace, G @ _CURVATURE @ G, G @ G


def _preconditioned(metric, n):
    def loss(theta, example):
        x, y = example
        return (jnp.dot(theta, x) - y) ** 2 / 2

    def estimate(key):
        x, r = _regression(key, n, 5)
        theta = jnp.eye(1, 5)[0]
        scaled, at = preconditioned_loss(loss, theta, jnp.asarray(_PRECONDITIONER), metric=metric)
        _, g = gradient_statistics(scaled, _STATS)(at, (x, x[:, 0] - r))
        return noise_scale(**g).B_simple

    return estimate


def _preconditioned_truth(metric):
    """Sigma = 2 I + G G', G the first unit vector."""
    a = _PRECONDITIONER if metric == "inverse" else _PRECONDITIONER**2
    return float((a * (2 + np.eye(5)[0])).sum() / a[0])


_TRACE, _CURVED, _SQ_NORM = _curved_truths()

SETTINGS: tuple[Setting, ...] = (
    Setting("noise_scale S", "regression, d = 10, n = 42", 21, _scale("S", 42, 10),
            covers=0.90),
    Setting("noise_scale |G|^2", "regression, d = 10, n = 42", 1,
            _scale("sq_gradient_norm", 42, 10), covers=0.86),
    Setting("noise_scale B_simple", "regression, d = 10, n = 2 B", 21,
            _scale("B_simple", 42, 10), biased=_RATIO),
    Setting("noise_scale B_simple", "regression, d = 10, n = 5 B", 21,
            _scale("B_simple", 105, 10), biased=_RATIO),
    Setting("noise_scale B_simple", "noise along G, d_eff = 1.7, n = B", 34,
            _gaussian(34, [5.0, *[1.0] * 9], np.eye(10)[0]), biased=_RATIO),
    Setting("noise_scale_of_batches S", "regression, d = 10, 16 batches of 8", 21,
            _of_batches("S", 16, 8, 10)),
    Setting("noise_scale_of_batches |G|^2", "regression, d = 10, 16 batches of 8", 1,
            _of_batches("sq_gradient_norm", 16, 8, 10)),
    Setting("noise_scale_of_batches B_simple", "regression, d = 10, 16 batches of 8", 21,
            _of_batches("B_simple", 16, 8, 10), biased=_RATIO),
    Setting("curvature_noise_scale tr(H Sigma)", "quadratic, H varies, n = 60", _TRACE,
            _curved("trace"), covers=0.81),
    Setting("curvature_noise_scale G'HG", "quadratic, H varies, n = 60", _CURVED,
            _curved("curvature"), covers=0.88),
    Setting("curvature_noise_scale |G|^2", "quadratic, H varies, n = 60", _SQ_NORM,
            _curved("sq_gradient_norm"), covers=0.91),
    Setting("curvature_noise_scale B_noise", "quadratic, H varies, n = 60", _TRACE / _CURVED,
            _curved("B_noise"), biased=_RATIO),
    Setting("curvature_noise_scale eps_max", "quadratic, H varies, n = 60", _SQ_NORM / _CURVED,
            _curved("max_step"), biased=_RATIO),
    Setting("curvature_noise_scale step at B = 10", "quadratic, H varies, n = 60",
            _SQ_NORM / (_CURVED + _TRACE / 10), _curved("optimal_step"), biased=_RATIO),
    Setting("preconditioned_loss, inverse", "regression, d = 5, n = 100",
            _preconditioned_truth("inverse"), _preconditioned("inverse", 100), biased=_RATIO),
    Setting("preconditioned_loss, identity", "regression, d = 5, n = 100",
            _preconditioned_truth("identity"), _preconditioned("identity", 100), biased=_RATIO),
)  # fmt: skip
