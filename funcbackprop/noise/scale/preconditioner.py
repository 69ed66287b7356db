"""The diagonal preconditioner P of an optax optimizer, from its state."""

from typing import Any

import chex
import jax

from ...curvature.preconditioner import divisor


def preconditioner(
    opt_state: Any,
    *,
    b2: float | None = None,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    eps_in_sqrt: bool = True,
) -> chex.ArrayTree:
    """P of updates -eta P m, as the optimizer's second moments stand before the step.

    Adam and AdamW: 1/(sqrt(nu/(1 - b2^t) + eps_root) + eps) after t steps; RMSProp:
    1/sqrt(nu + eps). The state after the step would depend on the very gradients that are to be
    judged, so take it before.

    Args:
      opt_state: any optax state that holds the second moments of one Adam, AdamW, NAdam, AMSGrad or
        RMSProp, in chains too. The optimizer's own options are not in it: give those that differ
        from optax's defaults.
      b2: decay of the second moments; None is 0.999 for Adam and 0.9 for RMSProp.
      eps, eps_root: as given to the optimizer.
      eps_in_sqrt: of RMSProp.

    Returns:
      A tree like `params`, in 1/gradient. NaN before the first step of an optimizer that corrects
      the bias: nothing is known then.

    Raises:
      ValueError: there are no second moments in the state, or several.

    `funcbackprop.curvature.preconditioner_of` gives 1/P, the divisor of the update.

    >>> import jax.numpy as jnp, optax
    >>> optimizer = optax.adam(1e-3)
    >>> state = optimizer.init(jnp.zeros(2))
    >>> updates, state = optimizer.update(jnp.array([2.0, 4.0]), state)
    >>> print(preconditioner(state).round(3))
    [0.5  0.25]
    """
    D = divisor(opt_state, b2, eps, eps_root, eps_in_sqrt, "preconditioner")
    return jax.tree.map(lambda d: 1 / d, D)
