"""Tests of a batch, schedules and geometry, where the truth is known in closed form.

Linear regression: x ~ N(0, I), y = x'theta* + e with e ~ N(0, 1), |theta - theta*| = 1, so that
S = 2 d + 1, |G|^2 = 1 and the mean loss is 1. Gaussian gradients: g ~ N(G, diag(v)).
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import funcbackprop as fb
from funcbackprop import noise

from . import Setting

D = 10
S, SQ_NORM = 2 * D + 1, 1.0
VARIANCES = np.array([4.0, 2.0, 1.0, 1.0, 0.5, 0.25])
G = np.array([1.0, 0.5, -0.5, 0.0, 1.0, 0.0])
TRACE, TRACE_OF_SQUARE = VARIANCES.sum(), (VARIANCES**2).sum()

RATIO = "a ratio: the bias is of order 1/n"


def regression(n: int, of: Callable) -> Callable:
    """`of(losses, statistics)` on n examples of linear regression."""
    stats = {"mean": fb.Mean(), "sq_norms": fb.SquaredNorms(), "inner": fb.InnerWithMean()}

    def estimate(key):
        key_x, key_e = jax.random.split(key)
        x, y = jax.random.normal(key_x, (n, D)), jax.random.normal(key_e, (n,))
        loss = lambda theta, e: (jnp.dot(e[0], theta) - e[1]) ** 2 / 2  # noqa: E731
        return of(*fb.gradient_statistics(loss, stats)(jnp.eye(D)[0], (x, y)))

    return estimate


def gaussian(n: int, of: Callable, shift: float = 1.0) -> Callable:
    """`of(g)` on n Gaussian gradients of mean `shift * G`."""
    root = jnp.asarray(np.sqrt(VARIANCES), jnp.float32)
    mean = jnp.asarray(shift * G, jnp.float32)
    return lambda key: of(mean[None] + jax.random.normal(key, (n, len(G))) * root[None])


def three(g: jax.Array) -> tuple:
    """Mean, squared norms and inner products with the mean."""
    return g.mean(0), jnp.sum(g**2, 1), g @ g.mean(0)


def after_sampling(n: int) -> float:
    """E|gbar|^2 of Gaussian gradients."""
    return (G**2).sum() + TRACE / n


def inner_product_size(n: int, theta: float = 0.9) -> float:
    """gbar'Sigma gbar over theta^2 |gbar|^4, numerator and denominator on average."""
    along = (G**2 * VARIANCES).sum() + TRACE_OF_SQUARE / n
    spread = 4 * (G**2 * VARIANCES).sum() / n + 2 * TRACE_OF_SQUARE / n**2
    return along / theta**2 / (after_sampling(n) ** 2 + spread)


def positive_share(mean: float) -> float:
    return math.erf(mean / math.sqrt(2))  # P(x > 0) - P(x < 0) of N(mean, 1)


SETTINGS = (
    Setting(
        "norm_test",
        "linear regression, n = 100",
        S / 0.81 / (SQ_NORM + S / 100),
        regression(100, lambda losses, g: noise.norm_test(**g).batch_size),
        biased=RATIO,
    ),
    Setting(
        "inner_product_test",
        "Gaussian, n = 100",
        inner_product_size(100),
        gaussian(100, lambda g: noise.inner_product_test(*three(g), gram=g @ g.T).batch_size),
        biased=RATIO,
    ),
    Setting(
        "orthogonality_test",
        "Gaussian, n = 100, nu = 1",
        TRACE / after_sampling(100) - 0.81 * inner_product_size(100),
        gaussian(
            100, lambda g: noise.orthogonality_test(*three(g), gram=g @ g.T, nu=1.0).batch_size
        ),
        biased=RATIO,
    ),
    Setting(
        "cabs",
        "linear regression, n = 100, eta = 0.1",
        0.1 * S,
        regression(100, lambda losses, g: noise.cabs(**g, losses=losses, learning_rate=0.1)),
        biased=RATIO,
    ),
    *(
        Setting(
            "adascale_gain",
            f"linear regression, n = {n}, k = 8, B0 = 16",
            (S / 16 + SQ_NORM) / (S / 128 + SQ_NORM),
            regression(
                n,
                lambda losses, g: noise.adascale_gain(**g, replicas=8, base_batch_size=16),
            ),
            biased=RATIO,
        )
        for n in (42, 210)
    ),
    Setting(
        "diversity",
        "linear regression, n = 100: the bound on B",
        (SQ_NORM + S) / (SQ_NORM + S / 100),
        regression(100, lambda losses, g: noise.diversity(**g).batch_size_bound),
        biased=RATIO,
    ),
    Setting(
        "stiffness, sign",
        "N(1, 1), n = 20",
        positive_share(1.0) ** 2,
        lambda key: _stiffness_of_numbers(key).sign,
    ),
    Setting(
        "stiffness, cosine",
        "N(1, 1) of one parameter, n = 20",
        positive_share(1.0) ** 2,
        lambda key: _stiffness_of_numbers(key).cosine,
    ),
    *(
        Setting(
            f"effective_rank, {name}",
            f"Gaussian, n = {n}",
            truth,
            gaussian(n, lambda g, name=name: getattr(noise.effective_rank(g @ g.T), name)),
            biased=biased,
        )
        for n in (20, 80)
        for name, truth, biased in (
            ("effective_rank", TRACE**2 / TRACE_OF_SQUARE, RATIO),
            ("sq_trace", TRACE**2, ""),
            ("trace_of_square", TRACE_OF_SQUARE, ""),
        )
    ),
    *(
        Setting(
            "recommend_batch_size, noise scale",
            f"linear regression, n = {n}",
            S / SQ_NORM,
            regression(n, lambda losses, g: noise.recommend_batch_size(**g).noise_scale),
            biased=RATIO,
        )
        for n in (42, 210)
    ),
    *(
        Setting(
            f"tail_index, {name}",
            "Gaussian, n = 64: less its surrogate",
            0.0,
            gaussian(
                64,
                lambda g, name=name: (
                    getattr(noise.tail_index(g, jax.random.key(7), surrogates=20), name).difference
                ),
            ),
            repetitions=400,
        )
        for name in ("stable_index", "hill", "excess_kurtosis")
    ),
)


def _stiffness_of_numbers(key):
    g = 1 + jax.random.normal(key, (20, 1))
    return noise.stiffness(g @ g.T)
