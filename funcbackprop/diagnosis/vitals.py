"""One measurement of a training state: what every finding is read from."""

import functools
import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..contract import Loss, leaf_names, wide, without_padding
from ..curvature import preconditioner_of
from ..files import json_safe
from ..noise import moments
from ..per_example import Mean, SquaredNorms, gradient_statistics
from ..training.step import accepted_arguments
from .spots import RECTIFIERS, Places, places

# Examples at which nonlinearities are looked at.
LOOKED_AT = 64
# A divisor this near to the gradient needs no second look.
_NEAR = 5
# Fewer say nothing about dead units.
ENOUGH = 32
# By which a float16 loss is scaled to see what of its gradient underflows.
SCALE = 1024.0


def vitals(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    params: chex.ArrayTree,
    batch: chex.ArrayTree,
    whole: bool = True,
) -> "Vitals":
    """What measures states like `params` on batches like `batch`; nothing is run."""
    example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)
    found = places(loss, params, example)
    return Vitals(loss, optimizer, found, tuple(leaf_names(params)), whole)


class Vitals:
    """`vitals(params, opt_state, batch, other, step) -> row`; the row is JSON-safe.

    `batch` and `other` are pairs (batch, weights or None); `other` did not make the update. At
    `seen`, or else at both, the nonlinearities are looked at. The state is left as it is. With
    `whole` it is one program; without, a run can take its steps with the parts, compiled once.

    Attributes:
      gradient: `(params, batch, weights) -> (losses [B], {"mean", "sq_norms"})`.
      update: `(g, losses, params, opt_state, batch, weights)`
        `-> (updates, state, params after)`.
      losses: `(params, batch) -> [B]`.
    """

    def __init__(self, loss, optimizer, found: Places, names: tuple[str, ...], whole: bool):
        self.places = found
        self.names = names
        statistics = {"mean": Mean(), "sq_norms": SquaredNorms()}
        self.gradient: Callable = jax.jit(gradient_statistics(loss, statistics))
        self.update: Callable = jax.jit(functools.partial(_update, loss, optimizer))
        self.losses: Callable = jax.jit(lambda p, b: wide(jax.vmap(loss, (None, 0))(p, b)))
        self._observe: Callable = jax.jit(found.observe)
        self._numbers: Callable = jax.jit(functools.partial(_numbers, found))
        self._state: Callable = jax.jit(functools.partial(_state_of, loss, optimizer))
        self._underflow: Callable = jax.jit(functools.partial(_underflow, loss, found))

        self._found: Callable = jax.jit(self._find) if whole else self._find

    def __call__(self, params, opt_state, batch, other, step: int, seen=None) -> dict[str, Any]:
        found = self._found(params, opt_state, batch, other, seen)
        looked_at = (batch[0], other[0]) if seen is None else (seen,)
        enough = sum(len(jax.tree.leaves(x)[0]) for x in looked_at) >= ENOUGH
        return row(jax.device_get(found), self, params, step, enough)

    def _find(self, params, opt_state, batch, other, seen):
        weights, other_weights = batch[1], other[1]
        batch, other = (_without_padding(*pair) for pair in (batch, other))
        if seen is None:
            seen = jax.tree.map(_first, batch, other)
        losses, g = self.gradient(params, batch, weights)
        updates, state, after = self.update(g, losses, params, opt_state, batch, weights)
        found = {
            **self._numbers(params, g, updates, after, wide(losses), weights),
            "state": self._state(g, losses, params, state, batch, weights),
            "after": _mean(self.losses(after, batch), weights),
            "other": _mean(self.losses(params, other), other_weights),
            "other_after": _mean(self.losses(after, other), other_weights),
            "spots": self._observe(params, seen),
        }
        if "float16" in self.places.dtypes:
            found["parts"]["underflow"] = self._underflow(params, batch)
        return found


def _without_padding(batch, weights):
    return batch if weights is None else without_padding(batch, weights)


def _first(batch, other):
    """The first examples of both."""
    if len(batch) >= LOOKED_AT:
        return batch[:LOOKED_AT]
    return jnp.concatenate([batch, other])[:LOOKED_AT]


def _update(loss, optimizer, g, losses, params, opt_state, batch, weights):
    extra = _extra(loss, optimizer, g, losses, batch, weights)
    updates, state = optimizer.update(g["mean"], opt_state, params, **extra)
    return updates, state, optax.apply_updates(params, updates)


def _numbers(found, params, g, updates, after, losses, weights):
    noise = moments(g["mean"], g["sq_norms"], weights=weights)
    parts = _parts(found, params, g["mean"], updates, after)
    return {
        "loss": _mean(losses, weights),
        "spread": jnp.std(losses),
        "first_order": _inner(g["mean"], updates),
        "S": noise.S,
        "G2": noise.sq_gradient_norm,
        "examples": noise.examples,
        "grad_norm": jnp.sqrt(jnp.sum(jnp.square(parts["gradient"]))),
        "parts": parts,
    }


def _state_of(loss, optimizer, g, losses, params, state, batch, weights):
    extra = _extra(loss, optimizer, g, losses, batch, weights)
    return _state(optimizer, extra, state, g, params)


def _extra(loss, optimizer, g, losses, batch, weights):
    """What the optimizer takes beside a gradient, as `make_step` gives it."""
    accepted = accepted_arguments(optimizer)
    known = {
        "value": _mean(losses, weights),
        "grad": g["mean"],
        "value_fn": lambda p: _mean(jax.vmap(loss, (None, 0))(p, batch), weights),
        "sq_norms": g["sq_norms"],
    }
    known |= {} if weights is None else {"weights": weights}
    return {name: x for name, x in known.items() if accepted(name)}


def _mean(x, weights):
    if weights is None:
        return jnp.mean(x)
    return jnp.sum(jnp.where(weights > 0, weights * x, 0)) / jnp.sum(weights)


def _inner(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum(jnp.sum(wide(x) * wide(y)) for x, y in pairs)


def _parts(found, params, mean, updates, after):
    """Of every leaf, or slice of a leaf: name of a number -> [parts]."""
    norm = lambda x: jnp.sqrt(jnp.sum(jnp.square(wide(x)), 1))  # noqa: E731

    def of(w, g, u, v):
        sizes = {"gradient": norm(g), "weight": norm(w), "update": norm(u)}
        if w.dtype.itemsize > 2:  # only 16 bits lose what matters
            return {**sizes, "still": jnp.zeros(len(w)), "lost": jnp.zeros(len(w))}
        kept = (w == v) & (u != 0)
        lost = norm(jnp.where(kept, u, 0)) / jnp.maximum(sizes["update"], 1e-30)
        still = jnp.sum(kept, 1) / jnp.maximum(jnp.sum(u != 0, 1), 1)
        return {**sizes, "still": still, "lost": jnp.square(lost)}

    return _by_part(found, of, params, mean, updates, after)


def _by_part(found, of, *trees):
    leaves = zip(*map(jax.tree.leaves, trees), strict=True)
    cut = [
        of(*(jnp.reshape(x, (x.shape[0] if sliced else 1, -1)) for x in leaf))
        for leaf, sliced in zip(leaves, found.stacked, strict=True)
    ]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *cut)


def _underflow(loss, found, params, batch):
    """The share of a gradient's square that a larger loss, scaled back, would have kept."""
    few = jax.tree.map(lambda x: x[: max(len(x) // 4, 1)], batch)
    scaled = lambda p, s: jnp.mean(wide(jax.vmap(loss, (None, 0))(p, few))) * s  # noqa: E731
    plain = jax.grad(scaled)(params, 1.0)
    larger = jax.tree.map(lambda g: wide(g) / SCALE, jax.grad(scaled)(params, SCALE))

    def of(g, full):
        full = jnp.where(jnp.isfinite(full), full, 0)
        return jnp.sum(jnp.square(wide(g) - full), 1) / jnp.maximum(
            jnp.sum(jnp.square(full), 1), 1e-38
        )

    return _by_part(found, of, plain, larger)


def _state(optimizer, extra, state, g, params):
    """Of the optimizer: entries that are not finite; its divisor over the one that this gradient
    alone would make."""
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    bad = sum((jnp.sum(~jnp.isfinite(x)) for x in floats), jnp.int32(0))
    try:
        divisor = preconditioner_of(state)
    except ValueError:
        return {"not_finite": bad}
    beside = functools.partial(_ratio, divisor)

    def fresh(_):
        _, alone = optimizer.update(g["mean"], _emptied(state), params, **extra)
        return beside(preconditioner_of(alone))

    if len(jax.tree.leaves(divisor)) != len(jax.tree.leaves(g["mean"])):  # of some leaves
        return {"not_finite": bad, "divisor": fresh(0)}
    # Where nothing transforms the gradient before, that divisor is its absolute value.
    simple = beside(jax.tree.map(jnp.abs, g["mean"]))
    far = ~((simple > 1 / _NEAR) & (simple < _NEAR))
    return {"not_finite": bad, "divisor": jax.lax.cond(far, fresh, lambda _: simple, 0)}


def _ratio(divisor, alone):
    """Median over leaves of the ratio of root mean squares."""
    size = lambda x: jnp.sqrt(jnp.mean(jnp.square(wide(x))))  # noqa: E731
    pairs = zip(*map(jax.tree.leaves, (divisor, alone)), strict=True)
    return jnp.median(jnp.stack([size(d) / jnp.maximum(size(x), 1e-19) for d, x in pairs]))


def _emptied(state):
    """A state without second moments, and with its counts at 0."""
    holds = lambda x: hasattr(x, "nu") and hasattr(x, "_replace")  # noqa: E731

    def empty(x):
        if not holds(x):
            return x
        fields = {k: getattr(x, k) for k in ("nu", "nu_max", "count") if hasattr(x, k)}
        return x._replace(**jax.tree.map(jnp.zeros_like, fields))

    return jax.tree.map(empty, state, is_leaf=holds)


def row(
    found: dict, measured: Vitals, params: Any, step: int, enough: bool = True
) -> dict[str, Any]:
    """The numbers with their names, for JSON."""
    places = measured.places
    leaves = zip(measured.names, jax.tree.leaves(params), places.order, places.stacked, strict=True)
    parts = [part for leaf in leaves for part in _named(*leaf)]
    columns = {key: [part[key] for part in parts] for key in parts[0]}
    layers = {
        leaf.shape[0]
        for leaf, sliced in zip(jax.tree.leaves(params), places.stacked, strict=True)
        if sliced
    }
    seen = zip(places.spots, found["spots"], strict=True)
    spots = [spot for place, x in seen if x is not None for spot in _seen(place, x, layers)]
    if not enough:  # of few examples, a unit lets nothing through by chance
        spots = [{**s, "share": None} if s["kind"] in RECTIFIERS else s for s in spots]
    columns |= found["parts"]
    return json_safe({"kind": "vitals", "step": step, **found, "parts": columns, "spots": spots})


def _named(name, leaf, position, sliced):
    count = leaf.shape[0] if sliced else 1
    for k in range(count):
        whole = math.floor(position) if math.isfinite(position) else None
        yield {
            "name": f"{name}[{k}]" if sliced else name,
            # Within its loop, layer after layer.
            "order": None if whole is None else whole + (k + position - whole) / count,
            "size": leaf.size // max(count, 1),
            "rank": leaf.ndim - sliced,
            "dtype": str(leaf.dtype),
        }


def _seen(place, seen, layers):
    """Rows of one spot: one for each layer of a loop over layers, the mean of a loop over time."""
    share, size = (np.atleast_1d(np.asarray(x, np.float64)).ravel() for x in seen)
    several = len(share) > 1 and len(share) in layers
    if not several:
        share, size = np.mean(share, keepdims=True), np.mean(size, keepdims=True)
    for k in range(len(share)):
        source = f"{place.source}, layer {k}" if several else place.source
        yield {"kind": place.kind, "source": source, "share": share[k], "size": size[k]}
