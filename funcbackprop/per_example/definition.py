"""The definition: the gradients of all examples written out by `vmap(grad)`, exact and slow."""

import jax

from ..contract import zero_padding
from .passes import Batch, Way, of_rows
from .statistics import Leafwise, Mean, measured

# Arrays of the size of the gradients that are alive at once: the gradients, their masked copy, and
# a square on its way into a sum.
_ALIVE = 3


def _take(stats, given: Batch, mean, numbers) -> tuple:
    losses, aux, grads = _materialize(given)
    if mean is None and any(s.needs_mean for s in stats):
        mean = measured(Mean(), grads, given.weights)["mean"]
    states = []
    for s, n in zip(stats, of_rows(numbers), strict=True):
        if isinstance(s, Leafwise):
            states.append(measured(s, grads, given.weights, mean, n))
        else:
            states.append(s.add(s.init(given.params), grads, given.weights, mean))
    return losses, aux, states


def _materialize(given: Batch) -> tuple:
    """`(losses [C], aux, grads [C, ...])`."""
    value_and_grad = jax.value_and_grad(given.loss, has_aux=True)
    over_examples = jax.vmap(value_and_grad, in_axes=(None, 0))
    (losses, aux), grads = over_examples(given.params, given.batch)
    if given.padded:
        losses, aux, grads = jax.tree.map(
            lambda x: zero_padding(x, given.weights), (losses, aux, grads)
        )
    return losses, aux, grads


def _chunk(stats, given: Batch) -> int:
    return max(1, given.limit // max(1, _ALIVE * given.bytes_of_one))


WAY = Way(_take, _chunk)
