"""The general reference: any JAX function, walked backwards in float64 NumPy."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..contract import batch_size, checked_params, checked_weights, leaf_names, scalar_loss
from ..graph import Program, UnsupportedPrimitive, to_numpy, trace, wide_dtype
from .backward import Cotangent, pull_back
from .rounding import SHADOW_SCALE
from .rules import LIBRARY, RULES, STRUCTURED
from .tape import Decision, Step, Tape, Value


def vjp(fun: Callable, *primals: Any) -> tuple[Any, "Pullback"]:
    """Value and vector-Jacobian product of a function, by a chain rule written by hand.

    The function is captured once as a program, in its own dtypes, and evaluated in float64. The
    backward pass applies one local derivative per primitive, written in NumPy, and adds cotangents
    where paths meet (Rumelhart, Hinton & Williams, 1986); no derivative of JAX is used in it.
    Functions with custom derivative rules are entered, so that the result is the derivative of
    what they compute, not of what their rule claims.

    Args:
      fun: a function of pytrees of arrays that JAX can trace.
      primals: its arguments; gradients are taken for all their floating-point leaves.

    Returns:
      `(outputs, pullback)`: the outputs, floating-point ones in float64 NumPy, and
      `pullback(cotangents) -> gradients`, a tuple with a gradient for each primal. See `Pullback`.

    Raises:
      funcbackprop.graph.UnsupportedPrimitive: the program holds a primitive without a rule.

    Cost: two evaluations of the program, one in its own dtypes and one in float64, equation by
    equation; memory for every intermediate value that a gradient flows through.

    >>> import jax.numpy as jnp, numpy as np
    >>> from funcbackprop.reference import vjp
    >>> y, pullback = vjp(lambda w, x: jnp.tanh(w @ x), jnp.eye(2), jnp.array([0.0, 1.0]))
    >>> dw, dx = pullback(np.array([1.0, 1.0]))
    >>> print(dw.round(3).tolist(), dx.round(3))
    [[0.0, 1.0], [0.0, 0.42]] [1.   0.42]
    """
    recording = record(fun, primals, range(len(primals)))
    return recording.outputs, recording.pullback


def record(
    fun: Callable,
    primals: Sequence[Any],
    wanted: Sequence[int],
    *,
    bounds: bool = False,
    platform: str = "cpu",
    structured: Mapping[str, Callable] = STRUCTURED,
    observe: Callable | None = None,
) -> "Recording":
    """`vjp`, with gradients for the primals of these numbers only.

    Args:
      bounds: whether to follow roundings, flips and ties too; see `rounding` and `decisions`.
      platform: where the program's own gradient was computed, for the precision of its products.
      structured: how equations with programs of their own are run.
      observe: called with each equation, its inputs and its outputs, as values.
    """
    program = trace(fun, keep=LIBRARY, enter=False)(*primals)
    tape = Tape(RULES, structured, _bounds_of(program) if bounds else "", platform, observe)
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
    wide = jax.tree.unflatten(program.out_tree, [v.wide for v in outputs])
    return Recording(wide, pullback, tape, program)


def _bounds_of(program: Program) -> str:
    """By what the rounding of a program is bounded; see `Tape`."""
    atoms = {*program.inputs, *(x for equation in program.everything() for x in equation.outputs)}
    wide = ((x.dtype, wide_dtype(x.dtype)) for x in atoms)
    # A NumPy dtype compares equal to None.
    return "own" if any(w is not None and w != own for own, w in wide) else "shadow"


class Recording(NamedTuple):
    """A function that was followed.

    Attributes:
      outputs: floating-point ones in float64.
      pullback: see `Pullback`.
      tape: what was recorded.
      program: what was followed.
    """

    outputs: Any
    pullback: "Pullback"
    tape: Tape
    program: Program

    @property
    def scale(self) -> float:
        """What deviations are multiplied with: less than 1 for those of a shadow."""
        return SHADOW_SCALE if self.tape.bounds == "shadow" else 1.0


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

    steps: tuple[Step, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
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

    def cotangents(self, cotangents: Any, **options: Any) -> list[Cotangent]:
        """A `Cotangent` for each leaf of the primals; `options` are those of `pull_back`."""
        found = pull_back(self.steps, self.outputs, self._checked(cotangents), **options)
        return [self._gradient(value, found) for value in self.inputs]

    def _gradient(self, value, found) -> Cotangent:
        if value.id in found:
            return found[value.id]
        shape = np.shape(value.wide)
        floating = wide_dtype(value.wide.dtype) is not None
        dtype = value.wide.dtype if floating else jax.dtypes.float0
        return Cotangent(np.zeros(shape, dtype), np.zeros(shape))

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
      f with `f(params, batch, weights=None) -> (value, grads)`, or `((value, aux), grads)` with
      `has_aux=True`: see `ChainRuleGradient`.

    Raises:
      TypeError: `loss` is no function.

    >>> import jax.numpy as jnp
    >>> from funcbackprop.reference import value_and_grad
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
      deviations: for each leaf the standard deviation by which rounding takes each element of the
        program's own gradient from this one; see "How the reference works".
      decisions: see `Pullback`.
      unaudited: leaf name -> what stands between it and the loss that could not be followed.
    """

    value: float
    aux: Any
    grads: Any
    deviations: Any
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

    Returns:
      value: float. grads: float64, in the structure of `params`.

    Raises:
      TypeError, ValueError: `params`, `batch`, `weights` or the loss's output have the wrong form.
      UnsupportedPrimitive: a gradient passes what cannot be followed; `details` names it instead,
        leaf by leaf, where it is opaque (a callback, a kernel).

    Attributes:
      loss, has_aux: as given to `value_and_grad`.
    """

    loss: Callable
    has_aux: bool = False
    __name__ = "chain_rule"

    def __call__(self, params: Any, batch: Any, weights: Any = None) -> tuple[Any, Any]:
        found = self._details(params, batch, weights, bounds=False)
        if found.unaudited:
            raise UnsupportedPrimitive(
                "`chain_rule`: gradients pass what the reference cannot follow:\n"
                + "\n".join(f"  {leaf}: {'; '.join(x)}" for leaf, x in found.unaudited.items())
            )
        return (found.value, found.aux) if self.has_aux else found.value, found.grads

    def details(self, params: Any, batch: Any, weights: Any = None) -> Details:
        """The gradient with the rounding of the program's own, and what could not be followed."""
        return self._details(params, batch, weights, bounds=True)

    def _details(self, params, batch, weights, bounds) -> Details:
        checked_params(params, "chain_rule")
        loss = scalar_loss(self.loss, self.has_aux, "chain_rule")
        mean = follow(loss, params, batch, weights, bounds=bounds)
        found, tree = mean.gradients(bounds=bounds), jax.tree.structure(params)
        scale = mean.recording.scale
        return Details(
            mean.value,
            mean.aux if self.has_aux else None,
            tree.unflatten([c.value for c in found]),
            tree.unflatten([scale * c.deviation for c in found]) if bounds else None,
            mean.recording.pullback.decisions,
            {
                name: tuple(sorted(c.unaudited))
                for name, c in zip(leaf_names(params), found, strict=True)
                if c.unaudited
            },
        )


class MeanLoss(NamedTuple):
    """The mean loss of a batch, followed; the examples are one program.

    Attributes:
      value: sum_i w_i l_i / sum_i w_i.
      aux: what the loss returned beside it, stacked over the examples kept.
      recording: of (losses [rows], aux).
      seed: the cotangents from which the gradient of `value` comes.
      leaves: how many leaves the parameters have; they are the first inputs.
    """

    value: float
    aux: Any
    recording: Recording
    seed: Any
    leaves: int

    def gradients(self, **options: Any) -> list[Cotangent]:
        """A `Cotangent` for each parameter leaf; `options` are those of `pull_back`."""
        return self.recording.pullback.cotangents(self.seed, **options)[: self.leaves]


def follow(loss: Callable, params: Any, batch: Any, weights: Any, **options: Any) -> MeanLoss:
    """The mean of `loss(params, example) -> (scalar, aux)` on the tape; `options` of `record`."""
    batch, shares = _rows_with_weight(batch, weights)
    losses = jax.vmap(loss, in_axes=(None, 0))
    recording = record(losses, (params, batch), (0,), **options)
    values, aux = recording.outputs
    zeros = jax.tree.map(lambda x: np.zeros(np.shape(x)), aux)
    count = len(jax.tree.leaves(params))
    return MeanLoss(float(shares @ values), aux, recording, (shares, zeros), count)


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
