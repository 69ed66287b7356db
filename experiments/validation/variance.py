"""Variance across mini-batches: Gaussians, a finite population counted out, nested draws."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import funcbackprop as fb
from funcbackprop.noise import (
    ShuffledEpochs,
    Spread,
    WithoutReplacement,
    WithReplacement,
    across_batches,
)

from . import Setting


class Situation(NamedTuple):
    """Data whose gradients are known: all fields of a `Spread` from one repetition.

    Attributes:
      setting: what is drawn.
      spread: `key -> Spread` of the total; pure.
      truths: name of a field -> its truth.
      biased: name of a field -> why its mean is not the truth.
    """

    setting: str
    spread: Callable[[jax.Array], Spread]
    truths: dict[str, float]
    biased: dict[str, str] = {}  # noqa: RUF012 (never written)


def streamed(loss, params, batches: Any, sampling=WithReplacement(), draws=1, many=20) -> Spread:  # noqa: B008
    """What `gradient_variance` computes, for mini-batches in one tree [batches, B, ...]; pure."""
    count, size = jax.tree.leaves(batches)[0].shape[:2]
    counted = across_batches.tally.Tally(many, sampling)
    for _ in range(count):
        counted.add(np.ones(size))
    measure = across_batches.groups.of_examples(loss, draws)

    def step(states, item):
        batch, group = item
        return across_batches.groups.add(
            states, group, measure(params, batch, jnp.ones(size))
        ), None

    start = across_batches.groups.empty(params, counted.groups, draws)
    states, _ = jax.lax.scan(step, start, (batches, jnp.arange(count) % many))
    divisors, setup = (
        counted.divisors(),
        across_batches.parts.setup(counted, sampling, draws, random=draws > 1),
    )
    found, _ = across_batches.parts.parts(states, divisors, setup)
    return jax.tree.map(lambda x: x[-1], across_batches.spread.estimates(found, setup))


def _cut(data, size):
    return jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), data)


def linear(w, x):
    """Its gradient is the example."""
    return jnp.dot(w, x)


# --- Gaussian gradients: N(mean, scale^2) in each of three coordinates ---
_MEAN, _SCALE, _SIZE = np.array([1.0, 0.5, 0.0]), np.array([1.0, 2.0, 0.5]), 4


def _gaussian(key):
    x = jnp.asarray(_MEAN)[None] + jnp.asarray(_SCALE)[None] * jax.random.normal(key, (160, 3))
    return streamed(linear, jnp.zeros(3), _cut(x, _SIZE))


def _gaussian_truths(variances, size):
    S, sq_norm = variances.sum(), (_MEAN**2).sum()
    batch = variances / size
    return {
        "S": S,
        "batch_variance": S / size,
        "across_batches": S / size,
        "sq_gradient_norm": sq_norm,
        "signal_to_noise": sq_norm / S,
        "batch_signal_to_noise": size * sq_norm / S,
        "normalised_variance": np.mean(batch / (_MEAN**2 + batch)),
    }


# --- The same with draws inside an example ---
_INNER = np.array([0.5, 1.0, 2.0])


def _noisy(w, example):
    x, key = example
    return jnp.dot(w, x + jnp.asarray(_INNER) * jax.random.normal(key, (3,)))


def _nested(key):
    first, second = jax.random.split(key)
    x = jnp.asarray(_MEAN)[None] + jnp.asarray(_SCALE)[None] * jax.random.normal(first, (160, 3))
    batches = _cut(fb.attach_keys(x, second), _SIZE)
    return streamed(_noisy, jnp.zeros(3), batches, draws=3)


def _nested_truths():
    within = _INNER**2
    truths = _gaussian_truths(_SCALE**2 + within, _SIZE)
    seen = (_SCALE**2 + within / 3).sum() / _SIZE
    return truths | {"between": (_SCALE**2).sum(), "within": within.sum(), "across_batches": seen}


# --- A finite population: a linear softmax on digits, all of its gradients counted out ---
_POPULATION = 48


def _digits():
    data = fb.training.load("digits")
    x = np.asarray(data.x[:_POPULATION], np.float32)
    return jnp.asarray(x.reshape(_POPULATION, -1)), jnp.asarray(data.y[:_POPULATION])


def _softmax(w, example):
    x, y = example
    return fb.losses.cross_entropy(w @ x, y)


def _counted(size):
    """S_N^2, |G|^2 and what follows, from the gradients (softmax - one hot) x', in NumPy."""
    x, y = (np.asarray(a) for a in _digits())
    p = np.full((_POPULATION, 10), 0.1) - np.eye(10)[y]  # at w = 0
    g = (p[:, :, None] * x[:, None].astype(np.float64)).reshape(_POPULATION, -1)
    S, sq_norm = g.var(0, ddof=1).sum(), (g.mean(0) ** 2).sum()
    batch = S * (1 / size - 1 / _POPULATION)
    return {
        "S": S,
        "batch_variance": batch,
        "across_batches": batch,
        "sq_gradient_norm": sq_norm,
        "batch_signal_to_noise": sq_norm / batch,
    }


def _of_population(law, size, draw_indices):
    def estimate(key):
        x, y = _digits()
        indices = draw_indices(key).reshape(-1, size)
        w = jnp.zeros((10, x.shape[1]))
        return streamed(_softmax, w, (x[indices], y[indices]), law(_POPULATION))

    return estimate


def _orders(count):
    def draw(key):
        keys = jax.random.split(key, count)
        return jax.vmap(lambda k: jax.random.permutation(k, _POPULATION))(keys)

    return draw


_epochs = _of_population(ShuffledEpochs, 8, lambda key: _orders(5)(key).reshape(-1)[: 27 * 8])
_part = _of_population(ShuffledEpochs, 2, lambda key: _orders(1)(key).reshape(-1)[:40])
_separate = _of_population(WithoutReplacement, 16, lambda key: _orders(24)(key)[:, :16])

_RATIO = "a ratio of unbiased estimates"
_RATIOS: dict[str, str] = dict.fromkeys(
    ("signal_to_noise", "batch_signal_to_noise", "normalised_variance"), _RATIO
)

SITUATIONS = (
    Situation("Gaussian, 40 x 4 examples", _gaussian, _gaussian_truths(_SCALE**2, _SIZE), _RATIOS),
    Situation("nested Gaussian, 40 x 4 x 3 draws", _nested, _nested_truths(), _RATIOS),
    Situation("48 digits, 4.5 epochs of 6 x 8", _epochs, _counted(8), _RATIOS),
    Situation("48 digits, 20 x 2 of one epoch", _part, _counted(2), _RATIOS),
    Situation("48 digits, 24 separate x 16", _separate, _counted(16), _RATIOS),
)
# Where a jackknife of few or skewed mini-batches is too short.
_COVERS = {
    ("nested Gaussian, 40 x 4 x 3 draws", "normalised_variance"): 0.90,
    ("48 digits, 20 x 2 of one epoch", "across_batches"): 0.81,
}


def _setting(situation, name, truth):
    def estimate(key):
        return getattr(situation.spread(key), name)

    return Setting(
        f"gradient_variance: {name}",
        situation.setting,
        float(truth),
        estimate,
        biased=situation.biased.get(name, ""),
        covers=_COVERS.get((situation.setting, name), Setting._field_defaults["covers"]),
    )


SETTINGS: tuple[Setting, ...] = tuple(
    _setting(s, name, truth) for s in SITUATIONS for name, truth in s.truths.items()
)
