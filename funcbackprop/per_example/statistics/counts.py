"""Counts of the gradients' entries."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..numbers import real
from .elements import MeanOfElements
from .protocol import Part, accumulator


@dataclass(frozen=True)
class Histogram(MeanOfElements):
    """How many entries of g_i lie between given edges, as a weighted mean over examples; per leaf.

    A tree like `params` with leaves [E + 1] for E edges: entries below the first edge, from one
    edge up to but not including the next, and from the last edge up. They add up to the size of the
    leaf, less its NaN entries. Complex gradients count by their real part. NaN if all weights are
    zero.

    Attributes:
      edges: [E], increasing (else ValueError). Units: those of the gradient.

    Cost: the gradients of a few examples at a time are written out, and compared with every edge.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> loss = lambda w, x: jnp.dot(w, x)  # g_i = x_i
    >>> measure = fb.gradient_statistics(loss, fb.Histogram((-1.0, 0.0, 1.0)))
    >>> print(measure(jnp.zeros(3), jnp.array([[0.5, -0.5, 2.0], [0.5, 0.5, -7.0]]))[1])
    [0.5 0.5 1.5 0.5]
    """

    edges: Any

    def __post_init__(self):
        edges = np.asarray(self.edges)
        if edges.ndim != 1 or not len(edges) or not np.all(np.diff(edges) > 0):
            raise ValueError(
                f"`Histogram`: `edges` must be a list of increasing numbers, got {self.edges!r}"
            )

    def init(self, params):
        shape = (len(self.edges) + 1,)
        return super().init(
            jax.tree.map(lambda p: jnp.zeros(shape, real(accumulator(p).dtype)), params)
        )

    def reduce(self, g, operands, numbers):
        def counts(grads, weights):
            entries = grads.real.reshape(len(grads), -1)
            edges = jnp.asarray(self.edges, entries.dtype)
            above = jax.lax.map(lambda e: jnp.sum(entries >= e, axis=1), edges)
            all_ = jnp.sum(~jnp.isnan(entries), axis=1)[None]
            inside = jnp.concatenate([all_, above]) - jnp.concatenate([above, 0 * all_])
            return inside.astype(entries.dtype) @ weights.astype(entries.dtype)

        return Part(sums=g.averaged((yield g.fold(counts))))

    def of_part(self, part):
        return part.sums
