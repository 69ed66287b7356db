"""The diagonal D by which an optax optimizer divides its updates, from its state."""

from typing import Any

import chex
import jax
import jax.numpy as jnp


def preconditioner_of(
    opt_state: Any,
    *,
    b2: float | None = None,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    eps_in_sqrt: bool = True,
) -> chex.ArrayTree:
    """D of updates -eta m/D, from the optimizer's second moments.

    Adam and AdamW: sqrt(nu/(1 - b2^t) + eps_root) + eps after t steps; RMSProp: sqrt(nu + eps).

    Args:
      opt_state: any optax state that holds the second moments of one Adam, AdamW, NAdam, AMSGrad or
        RMSProp, in chains too. The optimizer's own options are not in it: give those that differ
        from optax's defaults.
      b2: decay of the second moments; None is 0.999 for Adam and 0.9 for RMSProp.
      eps, eps_root: as given to the optimizer.
      eps_in_sqrt: of RMSProp.

    Returns:
      A tree like `params`, in gradient units. NaN before the first step of an optimizer that
      corrects the bias: nothing is known then.

    Raises:
      ValueError: there are no second moments in the state, or several.

    `funcbackprop.noise.preconditioner` gives 1/D, the factor of the update.

    Source: Cohen et al. 2022, Adaptive gradient methods at the edge of stability, arXiv:2207.14484.

    >>> import jax.numpy as jnp, optax
    >>> optimizer = optax.adam(1e-3)
    >>> _, state = optimizer.update(jnp.array([2.0, 4.0]), optimizer.init(jnp.zeros(2)))
    >>> print(preconditioner_of(state).round(3))
    [2. 4.]
    """
    return divisor(opt_state, b2, eps, eps_root, eps_in_sqrt, "preconditioner_of")


def divisor(
    opt_state: Any, b2: float | None, eps: float, eps_root: float, eps_in_sqrt: bool, caller: str
) -> chex.ArrayTree:
    """`preconditioner_of`; errors name `caller`."""
    found = [x for x in jax.tree.leaves(opt_state, is_leaf=_rule) if _rule(x)]
    if len(found) != 1:
        raise ValueError(
            f"`{caller}`: `opt_state` must hold the second moments of one optimizer "
            f"({', '.join(_RULES)}), got {len(found) or 'none'}"
            + ("; pass the state of one of them" if found else f" in {_kinds(opt_state)}")
        )
    (state,) = found
    second_moment, default, eps_inside = _RULES[type(state).__name__]
    nu = second_moment(state, default if b2 is None else b2)
    if eps_inside and eps_in_sqrt:
        return jax.tree.map(lambda v: jnp.sqrt(v + eps), nu)
    return jax.tree.map(lambda v: jnp.sqrt(v + eps_root) + eps, nu)


def is_optimizer_state(tree: Any) -> bool:
    """Whether a tree holds second moments of a known optimizer."""
    return any(map(_rule, jax.tree.leaves(tree, is_leaf=_rule)))


def _plain(state, decay):
    return state.nu


def _largest(state, decay):
    return state.nu_max  # optax corrects its bias before taking the maximum


def _corrected(state, decay):
    correction = 1 - jnp.asarray(decay, jnp.result_type(float)) ** state.count
    return jax.tree.map(lambda v: v / correction.astype(v.dtype), state.nu)


def _centred(state, decay):
    return jax.tree.map(lambda v, m: v - (m * jnp.conj(m)).real, state.nu, state.mu)


# Name of an optax state -> (second moment, default decay, whether eps may stand in the root).
_RULES = {
    "ScaleByAdamState": (_corrected, 0.999, False),
    "ScaleByAmsgradState": (_largest, 0.999, False),
    "ScaleByRmsState": (_plain, 0.9, True),
    "ScaleByRmsWithCountState": (_corrected, 0.9, True),
    "ScaleByRStdDevState": (_centred, 0.9, True),
}


def _rule(x):
    return type(x).__name__ in _RULES


def _kinds(state):
    """The names of the states in a chain, for the message."""
    states = state if type(state) is tuple else (state,)
    return ", ".join(dict.fromkeys(type(x).__name__ for x in states)) or "an empty state"
