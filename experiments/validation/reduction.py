"""Variance reduction: predicted variances, and control variates on linear regression."""

import jax
import jax.numpy as jnp
import numpy as np

from funcbackprop.noise import reduction

from . import Setting

B = 8


def _spread(g):
    """|g_i - gbar|^2 and <g_i, gbar> of rows g [n, P]."""
    mean = g.mean(0)
    return jnp.sum((g - mean[None]) ** 2, 1), g @ mean


def _regression(key, n, d, sigma=0.7):
    """x ~ N(0, I), y = sigma e: theta* = 0."""
    for_x, for_e = jax.random.split(key)
    return jax.random.normal(for_x, (n, d)), sigma * jax.random.normal(for_e, (n,))


def _squares(theta, example):
    x, y = example
    return 0.5 * (x @ theta - y) ** 2


_DELTA = np.array([1.0, -0.5, 0.3, 0.0, 0.2], np.float32)
_NEAR = np.array([0.8, -0.5, 0.3, 0.6, 0.2], np.float32)
_SQ, _GAP, _OWN = (float(x @ x) for x in (_DELTA, _DELTA - _NEAR, _NEAR))
_D, _NOISE = 5, 0.49


def _plain(key):
    x, y = _regression(key, 100, _D)
    return reduction.plain_variance(_spread((x @ _DELTA - y)[:, None] * x)[0], B)


def _importance(key):
    """g = |x| x and p = |x|^2/d, whose mean is 1: E[s/p] = d^2, G = 0."""
    x = jax.random.normal(key, (40, 4))
    sq = jnp.sum(x**2, 1)
    return reduction.importance_variance(*_spread(jnp.sqrt(sq)[:, None] * x), sq / 4, B)


def _gain(key):
    """The norm of a Gaussian in the plane is Rayleigh's."""
    return reduction.importance_gain(jnp.sum(jax.random.normal(key, (30, 2)) ** 2, 1))


_LABELS = np.repeat([0, 1], [12, 8])
_W, _SCALE = np.array([0.6, 0.4]), np.array([1.0, 3.0])


def _strata(allocation):
    """Three coordinates, standard deviations 1 and 3, means 0 and 5."""

    def estimate(key):
        x = jax.random.normal(key, (20, 3)) * _SCALE[_LABELS][:, None]
        x = x + 5.0 * _LABELS[:, None]
        means = jnp.stack([x[k == _LABELS].mean(0) for k in (0, 1)])
        r = jnp.sum((x - means[_LABELS]) ** 2, 1)
        return reduction.stratified_variance(r, _LABELS, B, allocation)

    return estimate


def _control(measure):
    anchor = reduction.Anchor(jnp.asarray(_NEAR), jnp.asarray(_NEAR), 1)

    def estimate(key):
        batch = _regression(key, 60, _D)
        return measure(reduction.svrg(anchor), _squares, jnp.asarray(_DELTA), batch)

    return estimate


_S2 = 3 * _SCALE**2
_S = _SQ * (_D + 1) + _D * _NOISE
_COVARIANCE = float(_DELTA @ _NEAR) * (_D + 1) + _D * _NOISE

SETTINGS: tuple[Setting, ...] = (
    Setting("reduction.plain_variance", "linear regression, d = 5, n = 100", _S / B, _plain),
    Setting(
        "reduction.importance_variance", "|x| x, p = |x|^2/d, d = 4, n = 40", 16 / B, _importance
    ),
    Setting("reduction.importance_gain", "Gaussian, d = 2, n = 30", 2 - np.pi / 2, _gain),
    Setting(
        "reduction.stratified_variance",
        "proportional, strata of 12 and 8",
        float(_W @ _S2) / B,
        _strata("proportional"),
    ),
    Setting(
        "reduction.stratified_variance",
        "5 and 3 examples, strata of 12 and 8",
        float(np.sum(_W**2 * _S2 / [5, 3])),
        _strata((5, 3)),
    ),
    Setting(
        "reduction.stratified_variance",
        "Neyman, strata of 12 and 8",
        float(_W @ np.sqrt(_S2)) ** 2 / B,
        _strata("neyman"),
        biased="roots of the S_h^2",
    ),
    Setting(
        "reduction.variance_ratio",
        "SVRG, linear regression, d = 5, n = 60",
        _GAP * (_D + 1) / _S,
        _control(reduction.variance_ratio),
        biased="a ratio",
    ),
    Setting(
        "reduction.best_coefficient",
        "SVRG, linear regression, d = 5, n = 60",
        _COVARIANCE / (_OWN * (_D + 1) + _D * _NOISE),
        _control(reduction.best_coefficient),
        biased="a ratio",
    ),
)
