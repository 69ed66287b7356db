"""The general reference: any JAX function, walked backwards in float64 NumPy."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ..contract import batch_size, checked_params, checked_weights, leaf_names, scalar_loss
from ..graph import UnsupportedPrimitive, to_numpy, trace, wide_dtype
from .backward import Cotangent, pull_back
from .rules import LIBRARY, RULES, STRUCTURED
from .tape import Decision, Tape


def vjp(fun: Callable, *primals: Any) -> tuple[Any, "Pullback"]:
    """Value and vector-Jacobian product of a function, by a chain rule written by hand.

    The function is captured once as a program, in its own dtypes, and evaluated in float64. The
    backward pass applies one local derivative per primitive, written in NumPy, and adds cotangents
    where paths meet (Rumelhart, Hinton & Williams, 1986); no derivative of JAX is used in it.
    Functions with custom derivative rules are entered, so that the result is the derivative of
    what they compute, not of what their rule claims.

    Args:
      fun: a function of pytrees of arrays that JAX can trace.
      primals: its arguments.

    Returns:
      `(outputs, pullback)`: the outputs, floating-point ones in float64 NumPy, and
      `pullback(cotangents) -> gradients`, a tuple with a gradient for each primal. See `Pullback`.

    Raises:
      UnsupportedPrimitive: the program holds a primitive without a rule.

    Cost: two evaluations of the program, one in its own dtypes and one in float64, equation by
    equation; memory for every intermediate value that a gradient flows through.

    >>> import jax.numpy as jnp
    >>> y, pullback = vjp(lambda w, x: jnp.tanh(w @ x), jnp.eye(2), jnp.array([0.0, 1.0]))
    >>> dw, dx = pullback(np.array([1.0, 1.0]))
    >>> print(dw.round(3).tolist(), dx.round(3))
    [[0.0, 1.0], [0.0, 0.42]] [1.   0.42]
    """
    return _record(fun, primals, tuple(range(len(primals))))


def _record(fun, primals, wanted):
    """`vjp`, with gradients for the primals of these numbers only."""
    program = trace(fun, keep=LIBRARY)(*primals)
    tape = Tape(RULES, STRUCTURED)
    numbers = [k for k, tree in enumerate(primals) for _ in jax.tree.leaves(tree)]
    inputs = []
    for k, variable, leaf in zip(numbers, program.inputs, jax.tree.leaves(primals), strict=True):
        own = to_numpy(leaf, variable.dtype)
        floating = wide_dtype(variable.dtype) is not None
        inputs.append(tape.variable(own) if floating and k in wanted else tape.constant(own))
    outputs = tape.run(program, inputs)
    pullback = Pullback(
        *(tuple(tape.steps), tuple(inputs), tuple(outputs)),
        *(program.in_tree, program.out_tree, tuple(tape.decisions)),
    )
    return jax.tree.unflatten(program.out_tree, [v.wide for v in outputs]), pullback


@dataclasses.dataclass(frozen=True)
class Pullback:
    """`pullback(cotangents) -> gradients`: the tape of `vjp`, walked backwards.

    Args of a call:
      cotangents: in the structure and shapes of the outputs. Entries for outputs that are not
        floating-point are ignored.

    Returns:
      A tuple with a gradient for each primal, in its structure: float64 or complex128, and zeros of
      dtype float0 for leaves that are not floating-point, as in JAX. For complex numbers JAX's
      convention holds: cotangents pair with tangents without conjugation.

    Raises:
      ValueError: the cotangents do not fit the outputs.
      UnsupportedPrimitive: a gradient passes something that cannot be followed, such as a callback.

    Attributes:
      decisions: the discrete decisions (comparisons, selections, orders) that float64 would have
        taken otherwise. The program's own were replayed.
    """

    steps: tuple
    inputs: tuple
    outputs: tuple
    in_tree: Any
    out_tree: Any
    decisions: tuple[Decision, ...]

    def __call__(self, cotangents: Any) -> tuple:
        found = self.cotangents(cotangents)
        reasons = sorted(set().union(*(c.unaudited for c in found)))
        if reasons:
            raise UnsupportedPrimitive(
                "`pullback`: the gradient passes what the reference cannot follow:\n"
                + "\n".join(f"  {reason}" for reason in reasons)
            )
        return jax.tree.unflatten(self.in_tree, [c.value for c in found])

    def cotangents(self, cotangents: Any, sizes: bool = False) -> list[Cotangent]:
        """A `Cotangent` for each leaf of the primals: its gradient, and what is known of it."""
        found = pull_back(self.steps, self.outputs, self._checked(cotangents), sizes)
        return [self._gradient(value, found, sizes) for value in self.inputs]

    def _gradient(self, value, found, sizes) -> Cotangent:
        if value.id in found:
            return found[value.id]
        shape = np.shape(value.wide)
        floating = wide_dtype(value.wide.dtype) is not None
        dtype = value.wide.dtype if floating else jax.dtypes.float0
        return Cotangent(np.zeros(shape, dtype), np.zeros(shape) if sizes else None)

    def _checked(self, cotangents):
        leaves, tree = jax.tree.flatten(cotangents)
        if tree != self.out_tree:
            raise ValueError(
                "`pullback`: `cotangents` must have the structure of the outputs, "
                f"{self.out_tree}, got {tree}"
            )
        shapes = [np.shape(value.wide) for value in self.outputs]
        if [np.shape(leaf) for leaf in leaves] != shapes:
            raise ValueError(
                f"`pullback`: `cotangents` must have the shapes of the outputs, {shapes}, got "
                f"{[np.shape(leaf) for leaf in leaves]}"
            )
        dtypes = [wide_dtype(value.wide.dtype) for value in self.outputs]
        return [
            None if dtype is None else np.asarray(leaf).astype(dtype)
            for leaf, dtype in zip(leaves, dtypes, strict=True)
        ]


def value_and_grad(loss: Callable, has_aux: bool = False) -> "ChainRuleGradient":
    """Value and gradient of the mean of a loss over a batch, by `vjp`.

    Args:
      loss: `loss(params, example) -> scalar` of one example; `(scalar, aux)` with `has_aux=True`.
      has_aux: whether the loss returns `(scalar, aux)`.

    Returns:
      f with `f(params, batch, weights=None) -> (value, grads)`: see `ChainRuleGradient`.

    >>> import jax.numpy as jnp
    >>> f = value_and_grad(lambda w, x: 0.5 * (w - x) ** 2)
    >>> value, grad = f(jnp.array(0.0), jnp.array([1.0, 3.0]))
    >>> print(value, grad)
    2.5 -2.0
    """
    if not callable(loss):
        raise TypeError(f"`value_and_grad`: `loss` must be callable, got {type(loss).__name__}")
    return ChainRuleGradient(loss, has_aux)


@dataclasses.dataclass(frozen=True)
class Details:
    """All that a `ChainRuleGradient` knows about one gradient.

    Attributes:
      value: sum_i w_i l_i / sum_i w_i, a float.
      aux: what the loss returned beside it, stacked over the examples kept; None without.
      grads: the gradient of `value`, float64, in the structure of the parameters.
      sizes: for each leaf the size m of the terms that form an element: the largest root of the sum
        of their squares, and more where a cotangent on the way cancelled and lost digits.
      decisions: see `Pullback`.
      unaudited: leaf name -> what stands between it and the loss that could not be followed.
    """

    value: float
    aux: Any
    grads: Any
    sizes: Any
    decisions: tuple[Decision, ...]
    unaudited: Mapping[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class ChainRuleGradient:
    """`f(params, batch, weights=None) -> (value, grads)`, in float64 NumPy.

    `value = sum_i w_i l_i / sum_i w_i` and grads its gradient, by `vjp` of the loss of all
    examples at once. Rows with w_i = 0 are taken out first, so that NaN or inf in padding
    cannot spread. With `has_aux`, it returns `((value, aux), grads)`.

    Args of a call:
      params: pytree of float arrays.
      batch: pytree with a leading axis [B] on every leaf.
      weights: [B], at least 0 and not all 0: relative importances; None is all ones.
    """

    loss: Callable
    has_aux: bool = False
    __name__ = "chain_rule"

    def __call__(self, params: Any, batch: Any, weights: Any = None) -> tuple[Any, Any]:
        found = self.details(params, batch, weights)
        if found.unaudited:
            raise UnsupportedPrimitive(
                "`chain_rule`: gradients pass what the reference cannot follow:\n"
                + "\n".join(f"  {leaf}: {'; '.join(x)}" for leaf, x in found.unaudited.items())
            )
        return (found.value, found.aux) if self.has_aux else found.value, found.grads

    def details(self, params: Any, batch: Any, weights: Any = None) -> Details:
        """The gradient with the sizes of its terms, and what could not be followed."""
        checked_params(params, "chain_rule")
        batch, shares = _rows_with_weight(batch, weights)
        loss = scalar_loss(self.loss, self.has_aux, "chain_rule")
        losses = jax.vmap(loss, in_axes=(None, 0))
        (values, aux), pullback = _record(losses, (params, batch), (0,))
        zeros = jax.tree.map(lambda x: np.zeros(np.shape(x)), aux)
        count = len(jax.tree.leaves(params))
        found = pullback.cotangents((shares, zeros), sizes=True)[:count]
        tree = jax.tree.structure(params)
        return Details(
            float(shares @ values),
            aux if self.has_aux else None,
            tree.unflatten([c.value for c in found]),
            tree.unflatten([c.size for c in found]),
            pullback.decisions,
            {
                name: tuple(sorted(c.unaudited))
                for name, c in zip(leaf_names(params), found, strict=True)
                if c.unaudited
            },
        )


def _rows_with_weight(batch, weights):
    """The rows of positive weight, and their shares w_i / sum w [rows]."""
    size = batch_size(batch, "chain_rule")
    w = np.asarray(checked_weights(weights, size, "chain_rule"), np.float64)
    keep = np.flatnonzero(w > 0)
    if not len(keep):
        raise ValueError("`chain_rule`: all `weights` are 0; at least one example must count")
    if len(keep) < size:
        batch = jax.tree.map(lambda x: x[keep], batch)
    return batch, w[keep] / w.sum()
