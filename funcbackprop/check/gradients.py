"""A gradient held against a reference, leaf by leaf, with where, why and what to do."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import numpy as np

from ..contract import (
    Loss,
    checked_params,
    leaf_names,
    prepared,
    same_structure,
    scalar_loss,
    zero_padding,
)
from ..graph import UnsupportedPrimitive
from ..per_example import mean_gradient
from .audit import Audit
from .compare import Expected
from .judge import Judged, judge, plain
from .result import GradientCheck, LeafCheck


def check_gradients(
    loss: Loss,
    params: chex.ArrayTree,
    batch: chex.ArrayTree,
    grads: chex.ArrayTree | None = None,
    *,
    weights: chex.Array | None = None,
    has_aux: bool = False,
    intended: Sequence[str] = (),
    reference: Callable | None = None,
) -> GradientCheck:
    """Hold the gradient of every parameter leaf against a reference, and say where they part.

    Each leaf is held to a running bound on its own rounding, which the reference computes beside
    the gradient: |a - b| <= 7 s + 2 u |b| for each element of the gradient a and the reference b.
    s is the standard deviation of the rounding of that element, in the dtypes and at the matmul
    precision of the program (Higham & Mary, 2019), u the unit roundoff. At a kink, a may lie
    anywhere between the subgradients. See the guide "Check your gradients" for the verdicts.

    Args:
      loss: `loss(params, example) -> scalar` of one example; `(scalar, aux)` with `has_aux=True`.
      params: pytree of float arrays.
      batch: pytree with a leading axis [B] on every leaf.
      grads: the gradient of the weighted mean loss to judge, from anywhere (arrays in the structure
        of `params`). None takes `jax.grad`, jitted, at matmul precision "highest" unless
        jax_default_matmul_precision is set.
      weights: [B], relative importances of the examples.
      has_aux: whether the loss returns `(scalar, aux)`.
      intended: what is meant to depart from the chain rule: names of functions with a custom
        derivative rule (straight-through, gradient clipping), whose rule is then taken as right; of
        primitives that block a gradient ("stop_gradient", "round"); of leaves that the loss does
        not read ("params['frozen']").
      reference: `(params, batch, weights=None) -> (value, grads)`, independent of `jax.grad`. None
        takes `funcbackprop.reference.value_and_grad`, which follows any loss; a leaf whose gradient
        passes something that it cannot follow (a callback, a kernel) is "not audited".

    Raises:
      ValueError: `grads`, or what the reference returns, has not the structure of `params`; `batch`
        or `weights` have the wrong shape.
      TypeError: `intended` is a string; `params` has leaves that are not floating-point.

    Cost: the reference is NumPy, equation by equation: about a second for small models, and memory
    for two copies of every intermediate value. Only where a leaf is wrong are JAX's derivatives
    evaluated one by one. Call it outside `jit`.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> loss = lambda w, x: 0.5 * jnp.sum((w - x) ** 2)
    >>> w, x = jnp.array([1.0, 2.0]), jnp.array([[0.0, 1.0], [2.0, 5.0]])
    >>> fb.check_gradients(loss, w, x).ok
    True
    >>> report = fb.check_gradients(loss, w, x, grads=2 * (w - x.mean(0)))
    >>> report.leaves[0].verdict, report.leaves[0].reason
    ('differs', 'it is 2 times the reference, which is B')
    """
    (report,) = check_with(
        [reference], loss, params, batch, grads, weights, has_aux, intended=intended
    )
    return report


def assert_gradients_match(
    loss: Loss,
    params: chex.ArrayTree,
    batch: chex.ArrayTree,
    grads: chex.ArrayTree | None = None,
    *,
    undecided: bool = False,
    **options: Any,
) -> None:
    """`check_gradients` for a test suite: AssertionError with the report on a finding.

    Args:
      loss, params, batch, grads: as in `check_gradients`.
      undecided: whether leaves may pass of which nothing can be said ("precision", "not audited").
      options: `weights`, `has_aux`, `intended` and `reference` of `check_gradients`.

    Raises:
      AssertionError: a leaf is wrong, or undecided where that is not allowed.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> fb.assert_gradients_match(lambda w, x: w * x**2, jnp.float32(3.0), jnp.arange(4.0))
    """
    report = check_gradients(loss, params, batch, grads, **options)
    if report.findings or (report.undecided and not undecided):
        raise AssertionError(f"the gradients do not match the reference:\n{report}")


def check_with(
    references: Sequence[Callable | None],
    loss: Loss,
    params: Any,
    batch: Any,
    grads: Any,
    weights: Any,
    has_aux: bool,
    intended: Sequence[str] = (),
) -> list[GradientCheck]:
    """`check_gradients` by several references; the loss is followed once."""
    if isinstance(intended, str):
        raise TypeError(
            f"`check_gradients`: `intended` must be a sequence of names, got the string "
            f"{intended!r}; write intended=({intended!r},)"
        )
    checked_params(params, "check_gradients")
    given = grads is not None
    if grads is None:
        value, grads = _by_jax(loss, has_aux, params, batch, weights)
    else:
        value = _value(loss, has_aux, params, batch, weights)
    same_structure(grads, params, "grads", "check_gradients")
    eager = lambda: _by_jax(loss, has_aux, params, batch, weights, jit=False)[1]  # noqa: E731
    audit = _audit(loss, has_aux, params, batch, weights, intended, given)
    judged = Judged(params, batch, weights, grads, given, tuple(intended), eager)
    return [_report(reference, judged, audit, value) for reference in references]


def _report(reference, judged: Judged, audit, value) -> GradientCheck:
    names = leaf_names(judged.params)
    expected = _given(reference, judged) if reference is not None else None
    if isinstance(audit, UnsupportedPrimitive):
        return _without_audit(names, judged, expected, value, str(audit))
    return judge(audit, judged, expected, value)


def _without_audit(names, judged, expected, value, why) -> GradientCheck:
    """What can be said if the loss could not be followed: the difference from a given reference."""
    if expected is None:
        leaves = tuple(LeafCheck(name, "not audited", reason=why) for name in names)
        return GradientCheck(leaves, value)
    reference_value, trees = expected
    return GradientCheck(plain(names, judged, trees), value, reference_value, notes=(why,))


def _audit(loss, has_aux, params, batch, weights, intended, given) -> Any:
    """The loss, followed; or why it could not be."""
    platform = jax.default_backend() if given else "cpu"
    checked = scalar_loss(loss, has_aux, "check_gradients")
    try:
        with _highest() if not given else contextlib.nullcontext():
            return Audit(checked, params, batch, weights, intended, platform)
    except UnsupportedPrimitive as error:
        return error


def _given(reference, judged: Judged) -> tuple[float, list[Expected]]:
    out = reference(judged.params, judged.batch, judged.weights)
    if not (isinstance(out, tuple) and len(out) == 2):
        raise ValueError(
            f"`check_gradients`: `reference` must return (value, grads), got {type(out).__name__}"
        )
    value, grads = out
    same_structure(grads, judged.params, "the gradient of `reference`", "check_gradients")
    return float(value), [Expected(np.asarray(g)) for g in jax.tree.leaves(grads)]


def _by_jax(loss, has_aux, params, batch, weights, jit=True):
    """`(weighted mean loss, grads)` by `jax.grad`."""
    gradient = mean_gradient(loss, has_aux=has_aux, caller="check_gradients")
    with _highest():
        losses, _, grads = (jax.jit(gradient) if jit else gradient)(params, batch, weights)
    return _mean(losses, weights), grads


def _value(loss, has_aux, params, batch, weights) -> float:
    """The weighted mean loss; a loss that JAX cannot differentiate has one, too."""
    checked = scalar_loss(loss, has_aux, "check_gradients")

    def losses(params, batch, weights):
        params, batch, weights, _ = prepared(params, batch, weights, "check_gradients")
        values, _ = jax.vmap(checked, in_axes=(None, 0))(params, batch)
        return zero_padding(values, weights)

    with _highest():
        return _mean(jax.jit(losses)(params, batch, weights), weights)


def _mean(losses, weights) -> float:
    w = None if weights is None else np.asarray(weights, np.float64)
    return float(np.average(np.asarray(losses).astype(np.float64), weights=w))


def _highest():
    """Full precision of products, unless the user has chosen another."""
    chosen = jax.config.values["jax_default_matmul_precision"] is not None
    return contextlib.nullcontext() if chosen else jax.default_matmul_precision("highest")
