"""What a statistic is: frozen data plus a few small pure functions.

A statistic is built up over chunks of examples and can be merged across chunks, micro-batches,
devices and hosts. All accumulators are weighted and centred, in float32 or wider.
"""

import functools
import operator
from collections.abc import Generator
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import chex
import jax
import jax.numpy as jnp

from ...contract import wide
from ..asks import Ask
from ..planner import answered, reduced
from ..terms import Gradient, all_dense

State = Any


@runtime_checkable
class Statistic(Protocol):
    """What a statistic provides. `grads` is a tree like `params` with a leading axis [C].

    These four functions are enough for `method="materialize"`. With those of `Leafwise` as well, a
    statistic is taken from gradients that stay factored.

    Attributes:
      per_example: the state is a tree of arrays with a leading axis of examples, and `merge`
        concatenates; otherwise the state has a fixed shape.
      needs_mean: `add` wants the mean gradient of the whole batch, so the batch is gone through
        twice. Where that cannot be had (micro-batches), the statistic is refused by name.
    """

    per_example: ClassVar[bool]
    needs_mean: ClassVar[bool]

    def init(self, params: chex.ArrayTree) -> State:
        """The state of no examples."""
        ...

    def add(self, state: State, grads: chex.ArrayTree, weights: chex.Array, mean: Any) -> State:
        """The state with C more examples; rows of `grads` are zero where `weights` [C] is zero."""
        ...

    def merge(self, a: State, b: State) -> State:
        """The state of the examples of `a` followed by those of `b`."""
        ...

    def finalize(self, state: State, params: chex.ArrayTree) -> Any:
        """The result."""
        ...


class Part(NamedTuple):
    """What a statistic takes from the gradients of one parameter leaf, or of a part of one.

    Attributes:
      elements: arrays with the shape of the leaf, perhaps behind leading axes. Parts of a leaf are
        put together as the leaf is.
      sums: arrays that add up over the parts of a leaf.
    """

    elements: Any = ()
    sums: Any = ()


class Leafwise:
    """A statistic that is taken leaf by leaf, from factored gradients or from entries.

    `reduce` takes it from one leaf; `collect` makes a state of what the leaves gave.

    Attributes:
      per_example, needs_mean: as in `Statistic`.
      needs_norms: `numbers` wants |g_i|^2 over all parameters first.
      whole_batch: it needs all examples of a batch at once.
    """

    per_example: ClassVar[bool] = False
    needs_mean: ClassVar[bool] = False
    needs_norms: ClassVar[bool] = False
    whole_batch: ClassVar[bool] = False

    def operands(self, params: chex.ArrayTree) -> tuple[chex.ArrayTree, ...]:
        """Trees like `params`, leaves perhaps behind leading axes, that `reduce` needs."""
        return ()

    def numbers(self, sq_norms: chex.Array | None) -> chex.Array | None:
        """Numbers [..., B] that `reduce` needs; `sq_norms` [B] is None without `needs_norms`."""
        return None

    def reduce(self, g: Gradient, operands: tuple, numbers: Any) -> Generator[Ask, Any, Part]:
        """What is taken from one leaf, or from a part of one.

        A generator: it yields what it asks of `g`, is sent the answer, and returns a part. What all
        statistics ask is answered together, from one pass over the entries where that is best.

        Args:
          g: the gradients of B examples.
          operands: the leaves of `operands(params)`, for this leaf or part.
          numbers: those of these examples.
        """
        raise NotImplementedError

    def collect(self, parts: list[Part], params: chex.ArrayTree, weights: chex.Array) -> State:
        """The state, of what each leaf gave."""
        raise NotImplementedError

    def merge(self, a: State, b: State) -> State:
        """The state of the examples of `a` followed by those of `b`."""
        raise NotImplementedError

    def add(self, state, grads, weights, mean=None):
        """The state with more examples, whose gradients are written out."""
        return self.merge(state, measured(self, grads, weights, mean))


def measured(stat: Leafwise, grads, weights, mean=None, numbers=None) -> State:
    """The state of examples whose gradients are written out.

    Args:
      mean: the mean gradient of the batch, if these are only some of its examples.
      numbers: those of these examples, if the statistic's own are for the whole batch.
    """
    leaves, treedef = jax.tree.flatten(grads)
    params = jax.tree.map(lambda g: jnp.zeros(g.shape[1:], g.dtype), grads)
    means = [None] * len(leaves) if mean is None else treedef.flatten_up_to(mean)
    whole = [
        Gradient((all_dense(wide(g)),), g.shape[1:], weights, 0, None if m is None else wide(m))
        for g, m in zip(leaves, means, strict=True)
    ]
    if numbers is None:
        norms = [answered(g, [g.sq_norms])[g.sq_norms] for g in whole if stat.needs_norms]
        numbers = stat.numbers(total(norms) if norms else None)
    operands = [treedef.flatten_up_to(tree) for tree in stat.operands(params)]
    parts = [
        reduced([stat], g, [tuple(x[k] for x in operands)], [numbers])[0]
        for k, g in enumerate(whole)
    ]
    return stat.collect(parts, params, weights)


def total(tree: chex.ArrayTree) -> chex.Array:
    """Sum over the leaves of a tree: per-leaf results [B] become one result [B].

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> print(fb.total({"w": jnp.array([1.0, 2.0]), "b": jnp.array([3.0, 4.0])}))
    [4. 6.]
    """
    return functools.reduce(operator.add, jax.tree.leaves(tree), jnp.zeros(()))


def accumulator(p: Any) -> jax.Array:
    """Zeros like p, in float32 or wider."""
    return jnp.zeros(jnp.shape(p), jnp.promote_types(jnp.result_type(p), jnp.float32))


def or_nan(valid: Any, x: jax.Array) -> jax.Array:
    return jnp.where(valid, x, jnp.nan)


def tree_of(params: chex.ArrayTree, values: list) -> chex.ArrayTree:
    """A tree like `params` with these leaves."""
    return jax.tree.unflatten(jax.tree.structure(params), values)
