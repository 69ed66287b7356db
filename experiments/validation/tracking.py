"""The noise tracker where it is known what it tracks.

Linear regression as in `noise_scale.py`, at parameters that stand still: S = 2 d + 1 = 21 and
|G|^2 = 1; every step draws new examples. Correlated steps: pairs of mean (10, 1) that follow an
autoregression, so each is correlated with the one before by phi.
"""

import jax
import jax.numpy as jnp

from funcbackprop.noise import Moments, tracked_noise, tracker

from . import Setting

_D, _K, _M, _STEPS = 10, 4, 8, 200
_RATIO = "a ratio of unbiased estimates"
_TRACK = tracker()


def _examples(state, g):
    g = g.reshape(-1, _D)
    return _TRACK.update(state, g.mean(0), sq_norms=jnp.sum(g**2, 1))


def _micro_batches(state, g):
    return _TRACK.update(state, micro_gradients=g.mean(1), micro_size=_M)


def _regression(name, update):
    def estimate(key):
        key_x, key_e = jax.random.split(key)
        x = jax.random.normal(key_x, (_STEPS, _K, _M, _D))
        g = x * (x[..., :1] - jax.random.normal(key_e, x.shape[:-1])[..., None])
        state, _ = jax.lax.scan(lambda state, g: (update(state, g), None), _TRACK.init(), g)
        return getattr(tracked_noise(state), name)

    return estimate


def _autoregression(steps, phi):
    def estimate(key):
        def step(carry, noise):
            state, x = carry
            S, sq_norm = 10 + 3 * x[0], 1 + 0.5 * x[0] + 0.87 * x[1]
            pair = Moments(S, sq_norm, S / sq_norm, sq_norm / S, jnp.ones(()), jnp.int32(0))
            x = phi * x + jnp.sqrt(1 - phi**2) * noise
            return (_TRACK.update(state, moments=pair), x), None

        noise = jax.random.normal(key, (steps + 1, 2))
        (state, _), _ = jax.lax.scan(step, (_TRACK.init(), noise[0]), noise[1:])
        return tracked_noise(state).B_simple

    return estimate


_NAMES = {"S": 21.0, "sq_gradient_norm": 1.0, "B_simple": 21.0}
_UPDATES = {"32 examples a step": _examples, "4 micro-batches of 8": _micro_batches}

SETTINGS = [
    Setting(
        f"tracker {name}",
        f"{sizes}, {_STEPS} steps",
        truth,
        _regression(name, update),
        repetitions=1000,
        biased=_RATIO if name == "B_simple" else "",
    )
    for sizes, update in _UPDATES.items()
    for name, truth in _NAMES.items()
] + [
    Setting(
        "tracker B_simple",
        f"1000 steps, phi = {phi}",
        10.0,
        _autoregression(1000, phi),
        repetitions=1000,
        biased=_RATIO,
    )
    for phi in (0.0, 0.5)
]
