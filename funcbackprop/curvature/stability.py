"""How sharp a minimum may be before an optimizer leaves it."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..graph import is_concrete


def stability_threshold(
    learning_rate: Any,
    *,
    momentum: Any = None,
    nesterov: bool = False,
    adam_b1: Any = None,
) -> Any:
    """The sharpness above which full-batch steps on a quadratic diverge.

    Gradient descent: 2/eta. Heavy ball, m <- b m + g: 2 (1 + b)/eta; Nesterov's momentum:
    2 (1 + b)/((1 + 2 b) eta). Adam and RMSProp (`adam_b1` = 0): (2 + 2 b1)/((1 - b1) eta), which is
    to be held against the preconditioned sharpness, D^-1/2 H D^-1/2.

    Args:
      learning_rate: eta, above zero.
      momentum: b, at least 0 and below 1, as in `optax.sgd`.
      nesterov: whether the momentum is Nesterov's.
      adam_b1: b1, at least 0 and below 1.

    Returns:
      The threshold, in the units of `sharpness`. Arguments may be arrays, traced too.

    Raises:
      ValueError: an argument is out of range, or `momentum` and `adam_b1` are both given.

    Cost: none.

    Source: Cohen et al. 2021, Gradient descent on neural networks typically occurs at the edge of
    stability, arXiv:2103.00065; Cohen et al. 2022, Adaptive gradient methods at the edge of
    stability, arXiv:2207.14484.

    >>> stability_threshold(0.1), stability_threshold(0.1, momentum=0.5)
    (20.0, 30.0)
    """
    if momentum is not None and adam_b1 is not None:
        raise ValueError(
            "`stability_threshold`: expected `momentum` or `adam_b1`, got both; Adam's b1 is its "
            "momentum"
        )
    if nesterov and momentum is None:
        raise ValueError(
            "`stability_threshold`: `nesterov` expected with `momentum`, got no momentum; give it"
        )
    _check("learning_rate", learning_rate, "a number above zero", lambda x: x > 0)
    for name, b in (("momentum", momentum), ("adam_b1", adam_b1)):
        if b is not None:
            _check(name, b, "a number of at least 0 and below 1", lambda x: (x >= 0) & (x < 1))
    if adam_b1 is not None:
        return (2 + 2 * adam_b1) / ((1 - adam_b1) * learning_rate)
    b = 0 if momentum is None else momentum
    return 2 * (1 + b) / ((1 + 2 * b if nesterov else 1) * learning_rate)


def _check(name, value, expected, holds):
    if is_concrete(jnp.asarray(value)) and not np.all(holds(np.asarray(value))):
        raise ValueError(
            f"`stability_threshold`: `{name}` expected {expected}, got {value}; pass what the "
            "optimizer was given"
        )
