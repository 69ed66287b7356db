"""Settings with a known truth, family by family, for `estimator_validation.py`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from funcbackprop.noise import Estimate


class Setting(NamedTuple):
    """An estimator in a situation whose truth is known in closed form, or counted.

    Attributes:
      estimator: its public name.
      setting: what is drawn, in a few words, with its sizes.
      truth: what the estimator is unbiased for.
      estimate: `key -> Estimate` of one repetition; pure, so that it can be vmapped.
      repetitions: in the printed table.
      biased: why the mean is not the truth, where the estimator does not claim it (a ratio); its
        interval must cover all the same.
      covers: the least coverage to be expected of a 95 % interval; lower where few examples or
        heavy tails make it too short.
    """

    estimator: str
    setting: str
    truth: float
    estimate: Callable[[jax.Array], Estimate]
    repetitions: int = 2000
    biased: str = ""
    covers: float = 0.92


def repeated(setting: Setting, repetitions: int, seed: int = 0) -> Estimate:
    """The estimates of independent repetitions: arrays [repetitions]."""
    keys: Any = jax.random.split(jax.random.key(seed), repetitions)
    return jax.jit(lambda k: jax.lax.map(setting.estimate, k, batch_size=100))(keys)
