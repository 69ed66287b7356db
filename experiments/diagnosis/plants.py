"""The faults that are planted, each with a strength, and the healthy runs.

A plant takes (base case, strength, random generator) and returns the faulty case. `span` is
(mildest, least, most): planted runs draw their strength from least .. most, log-uniformly; the
mildest that costs 10 % is looked for from mildest to least.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .problems import ARCHITECTURES, BATCH, STEPS, Case, convnet, lstm, mlp, transformer

# Tuned on a grid of factors of 2, for STEPS steps: (adam, sgd).
RATES = {
    "mlp": (8e-3, 0.4),
    "convnet": (1.2e-2, 0.3),
    "transformer": (3e-3, 0.4),
    "lstm": (3.2e-2, 6.4),
}


class Base(NamedTuple):
    """Model and optimizer that a fault is put into."""

    arch: str
    kind: str  # of the optimizer
    rate: float

    def optimizer(self, factor: float = 1.0):
        """At a multiple of the tuned rate."""
        return getattr(optax, self.kind)(self.rate * factor)

    def case(self, factor: float = 1.0, **options) -> Case:
        """Healthy, but for the factor."""
        return ARCHITECTURES[self.arch](self.optimizer(factor), **options)


def base(arch: str, kind: str) -> Base:
    """With the tuned rate of its optimizer."""
    return Base(arch, kind, RATES[arch][kind == "sgd"])


class Plant(NamedTuple):
    """One kind of fault.

    Attributes:
      make: (base, strength, rng) -> (faulty case, case to hold its loss against).
      span: (mildest, least, most).
      archs: where it can be put in.
      kinds: optimizers with which it is a fault.
    """

    make: Callable
    span: tuple[float, float, float]
    archs: tuple[str, ...] = ("mlp", "convnet", "transformer", "lstm")
    kinds: tuple[str, ...] = ("adam", "sgd")


IMAGES, TEXTS = ("mlp", "convnet"), ("transformer", "lstm")
replace = dataclasses.replace


def _rate_too_large(b, s, rng):
    return b.case(s), b.case()


def _rate_too_small(b, s, rng):
    return b.case(1 / s), b.case()


def _noise_dominated(b, s, rng):
    size = max(1, round(BATCH / s))
    return b.case(batch=size), b.case()


def _scaled_init(case, s, chosen=lambda path: True):
    def init(key):
        scale = lambda path, x: x * s if x.ndim >= 2 and chosen(str(path)) else x  # noqa: E731
        return jax.tree_util.tree_map_with_path(scale, case.init(key))

    return replace(case, init=init)


def _deep(b, **options):
    """Models in which a signal has far to go."""
    deeper = {
        "mlp": {"sizes": (32,) * 8},
        "convnet": {"channels": (8,) * 6, "pool": 1},
        "transformer": {"depth": 4},
        "lstm": {"depth": 3},
    }
    return b._replace(rate=b.rate / 4).case(**deeper[b.arch], **options)


def _vanishing(b, s, rng):
    return _scaled_init(_deep(b), 1 / s), _deep(b)


def _exploding(b, s, rng):
    return _scaled_init(_deep(b), s), _deep(b)


def _dead_units(b, s, rng):
    case = b.case()

    def init(key):
        last = {"mlp": "[2]", "convnet": "head"}.get(b.arch)

        def shift(path, x):
            path = str(jax.tree_util.keystr(path))
            hidden = "mlp_in" in path if last is None else last not in path and "dense" not in path
            bias = path.endswith("['b']")
            return x - s if bias and hidden else x

        return jax.tree_util.tree_map_with_path(shift, case.init(key))

    return replace(case, init=init), case


def _saturated(b, s, rng):
    if b.arch in IMAGES:
        case = b.case(activation="tanh")
        return _scaled_init(case, s, lambda p: True), case
    case = b.case()
    chosen = {
        "lstm": lambda p: "lstm" in p,
        "transformer": lambda p: "'q'" in p or "'k'" in p,
    }
    return _scaled_init(case, s, chosen[b.arch]), case


def _loss_summed(b, s, rng):
    case = b.case()
    if b.arch in TEXTS:  # over tokens
        s = case.data[1].shape[1] if s < 20 else case.data[1].shape[1] * BATCH
    else:
        s = case.batch if s < 200 else len(case.data[0])
    return replace(case, wrap=lambda loss: lambda p, e: s * loss(p, e)), case


def _update_ratio(b, s, rng):
    case = b.case()
    params = jax.eval_shape(case.init, jax.random.key(0))
    paths = [
        jax.tree_util.keystr(path)
        for path, x in jax.tree_util.tree_leaves_with_path(params)
        if x.ndim >= 2 and math.prod(x.shape[:-1]) >= 8  # a few stacked biases are no matrix
    ]
    one = paths[rng.integers(len(paths))]
    labels = jax.tree_util.tree_map_with_path(
        lambda path, x: "one" if jax.tree_util.keystr(path) == one else "rest", params
    )
    optimizer = optax.multi_transform({"one": b.optimizer(s), "rest": b.optimizer()}, labels)
    return replace(case, optimizer=optimizer), case


def _labels_shuffled(b, s, rng):
    case = b.case()
    x, y = case.data
    mixed = np.flatnonzero(rng.random(len(y)) < s)
    y = np.array(y)
    y[mixed] = y[rng.permutation(mixed)]
    return replace(case, data=(x, y)), case


def _labels_constant(b, s, rng):
    case = b.case()
    x, y = case.data
    return replace(case, data=(x, np.full_like(y, int(y.ravel()[0])))), case


def _inputs_unscaled(b, s, rng):
    case = b.case()
    x, y = case.data
    x = x * np.float32(s) if rng.random() < 0.5 else x + np.float32(s)
    return replace(case, data=(x, y)), case


def _never_changes(b, s, rng):
    """The largest matrices are left out by the optimizer, or used nowhere: here left out."""
    case = b.case()
    params = jax.eval_shape(case.init, jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    order = sorted((p for p in leaves if p[1].ndim >= 2), key=lambda p: -p[1].size)
    count = max(1, round(s * len(order)))
    still = {jax.tree_util.keystr(path) for path, _ in order[:count]}
    labels = jax.tree_util.tree_map_with_path(
        lambda path, x: "still" if jax.tree_util.keystr(path) in still else "rest", params
    )
    parts = {"still": optax.set_to_zero(), "rest": b.optimizer()}
    return replace(case, optimizer=optax.multi_transform(parts, labels)), case


def _underflow(b, s, rng):
    """A mean over s examples is taken in float16, and undone in the optimizer."""
    case = b.case()

    def wrap(loss):
        def half(p, e):
            cast = lambda x: (  # noqa: E731
                x.astype(jnp.float16) if jnp.issubdtype(x.dtype, jnp.floating) else x
            )
            part = jnp.float16(s**0.5)
            small = loss(jax.tree.map(cast, p), jax.tree.map(cast, e)) / part / part
            small = small.astype(jnp.float32)
            return small + jax.lax.stop_gradient((s - 1) * small)

        return half

    return replace(case, wrap=wrap, optimizer=optax.chain(optax.scale(s), case.optimizer)), case


def _update_lost(b, s, rng):
    slow = b._replace(rate=b.rate / s)
    case = slow.case()
    cast = lambda tree: jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)  # noqa: E731
    wide = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree)  # noqa: E731
    return (
        replace(
            case,
            init=lambda key: cast(case.init(key)),
            wrap=lambda loss: lambda p, e: loss(wide(p), e),
        ),
        case,
    )


def _optimizer_state(b, s, rng):
    case = b.case()
    inner = case.optimizer

    def init(params):
        state = inner.init(params)
        first = state[0]._replace(nu=jax.tree.map(lambda x: x + s, state[0].nu))
        return (first, *state[1:])

    return replace(case, optimizer=optax.GradientTransformation(init, inner.update)), case


def _not_finite(b, s, rng):
    """A few rows that a loss cannot take: a broken pixel, or a sequence that is all padding."""
    case = b.case()
    x, y = (np.array(a) for a in case.data)
    bad = rng.permutation(len(x))[: max(1, round(s))]
    if b.arch in IMAGES:
        x[bad, 0] = np.nan
        return replace(case, data=(x, y)), case
    y[bad] = -1

    def masked(logits, targets):
        """As one writes it by hand: the mean over tokens that are not padding."""
        valid = targets >= 0
        labels = jnp.where(valid, targets, 0)
        each = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.sum(jnp.where(valid, each, 0)) / jnp.sum(valid)

    return replace(case, data=(x, y), loss=masked), case


PLANTS: dict[str, Plant] = {
    "rate_too_large": Plant(_rate_too_large, (1.5, 12, 300)),
    "rate_too_small": Plant(_rate_too_small, (2, 20, 1000)),
    "noise_dominated": Plant(_noise_dominated, (2, 16, 32)),
    # Normalisation and residual connections keep the size of the signal in a transformer, and the
    # units of an LSTM are bounded: there, large weights saturate.
    "vanishing": Plant(_vanishing, (1.3, 3, 8), ("mlp", "convnet", "lstm")),
    "exploding": Plant(_exploding, (1.2, 3, 8), IMAGES),
    "dead_units": Plant(_dead_units, (0.3, 4, 20), ("mlp", "convnet", "transformer")),
    "saturated": Plant(_saturated, (2, 12, 60)),
    "loss_summed": Plant(_loss_summed, (2, 10, 1000), kinds=("sgd",)),
    "update_ratio": Plant(_update_ratio, (5, 50, 1000)),
    "labels_shuffled": Plant(_labels_shuffled, (0.02, 0.6, 1.0)),
    "labels_constant": Plant(_labels_constant, (1, 1, 1)),
    "inputs_unscaled": Plant(_inputs_unscaled, (3, 50, 1000), IMAGES),
    "never_changes": Plant(_never_changes, (0.2, 0.6, 0.9)),
    "underflow": Plant(_underflow, (1e3, 1e5, 1e6), kinds=("adam",)),
    "update_lost": Plant(_update_lost, (1, 8, 50)),
    "optimizer_state": Plant(_optimizer_state, (1e-6, 1, 1e4), kinds=("adam",)),
    "not_finite": Plant(_not_finite, (1, 1, 8)),
}


# Healthy runs: name -> case. The hard ones are those that careless rules accuse.


def _warm_up(rate, steps=STEPS, kind=optax.adam):
    return kind(optax.warmup_cosine_decay_schedule(0.0, rate, steps // 5, steps, rate / 10))


def _few(case, count):
    rows = np.random.default_rng(0).permutation(len(case.data[0]))[:count]
    return replace(case, data=tuple(a[rows] for a in case.data))


def _momentum(rate):
    return optax.sgd(rate / 10, momentum=0.9)


HEALTHY: dict[str, Callable[[], Case]] = {
    "mlp, Adam": lambda: base("mlp", "adam").case(),
    "mlp, momentum": lambda: mlp(_momentum(RATES["mlp"][1])),
    "mlp, edge of stability": lambda: _few(mlp(optax.sgd(0.4), batch=256), 256),
    "mlp, tiny data": lambda: _few(base("mlp", "adam").case(), 64),
    "convnet, SGD": lambda: base("convnet", "sgd").case(),
    "convnet, large batch with warm-up": lambda: convnet(_warm_up(1.2e-2), batch=256),
    "convnet, edge of stability": lambda: _few(convnet(optax.sgd(0.3), batch=256), 256),
    "convnet, weight decay": lambda: convnet(optax.adamw(1.2e-2, weight_decay=0.05)),
    "transformer, Adam": lambda: base("transformer", "adam").case(),
    "transformer, SGD": lambda: base("transformer", "sgd").case(),
    "transformer, warm-up": lambda: transformer(_warm_up(4e-3)),
    "transformer, sparse gradients": lambda: transformer(optax.adam(3e-3), batch=4),
    "transformer, tiny data": lambda: _few(base("transformer", "adam").case(), 64),
    "lstm, Adam": lambda: base("lstm", "adam").case(),
    "lstm, large batch with warm-up": lambda: lstm(_warm_up(3.2e-2), batch=256),
    "lstm, clipping": lambda: lstm(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-2))),
}
