"""Why a loss or a gradient is not finite, of one example."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ..check import check_gradients
from ..contract import Loss, wide
from ..graph import observed, trace


def cause(loss: Loss, params: chex.ArrayTree, batch: chex.ArrayTree) -> str | None:
    """In words, from a batch of one example that is not finite; None if it cannot be told."""
    if any(_any(np.isnan, x) or _any(np.isinf, x) for x in jax.tree.leaves(batch)):
        return "the input of an example is not finite"
    report = check_gradients(loss, params, batch)
    reasons = [leaf.reason for leaf in report.leaves if leaf.verdict == "not finite"]
    return reasons[0] if reasons else _born(loss, params, jax.tree.map(lambda x: x[0], batch))


def _born(loss, params, example):
    """The first equation of the loss that makes NaN, else infinity, of inputs without."""
    program = trace(loss)(params, example)
    equations = list(program.everything())
    look = lambda inputs, outputs: [  # noqa: E731
        [_anywhere(bad, side) for side in (inputs, outputs)] for bad in (jnp.isnan, jnp.isinf)
    ]
    run: Any = jax.jit(observed(program, dict.fromkeys(equations, look)))
    _, seen = run(*jax.tree.leaves((params, example)))
    for kind, what in enumerate(("NaN", "infinity")):
        for equation, found in zip(equations, seen, strict=True):
            if found is not None and np.any(~found[kind][0] & found[kind][1]):
                return f"{what} arises at `{equation.name}`, {equation.source}"
    return None


def _anywhere(bad, values):
    floats = [x for x in values if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.any(jnp.stack([jnp.any(bad(wide(x))) for x in floats] or [jnp.bool_(False)]))


def _any(bad, x):
    x = jnp.asarray(x)
    return jnp.issubdtype(x.dtype, jnp.floating) and bool(np.any(bad(np.asarray(wide(x)))))
