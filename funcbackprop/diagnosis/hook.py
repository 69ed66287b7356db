"""Measuring while somebody else trains: a hook for `training.fit`, a function for any loop."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import optax

from ..contract import Loss, attach_keys
from ..training import Measurement, TrainState
from .vitals import ENOUGH, Vitals, vitals


def measure(loss: Loss, optimizer: optax.GradientTransformation) -> Callable:
    """A function that measures a training state, for a loop of your own.

    Args:
      loss: `loss(params, example) -> scalar` of one example.
      optimizer: the optax transformation that trains.

    Returns:
      `look(params, opt_state, batch, other, step, weights=None, other_weights=None) -> row`: a
      dict for JSON. `batch` makes the update that is measured and not taken; `other` are
      examples that did not. Give the rows to `findings`.

    Raises:
      TypeError, ValueError: when called, an argument has the wrong form.

    Cost: of a call, two and a half training steps, and once the compilation; see `hook`.

    >>> import jax.numpy as jnp, optax
    >>> from funcbackprop import diagnosis
    >>> loss = lambda w, x: 0.5 * (w - x) ** 2
    >>> optimizer, w, x = optax.sgd(3.0), jnp.array(0.0), jnp.array([1.0, 3.0])
    >>> look = diagnosis.measure(loss, optimizer)
    >>> row = look(w, optimizer.init(w), x, x, step=0)
    >>> row["loss"], row["after"]
    (2.5, 8.5)
    """
    made: list[Vitals] = []

    def look(
        params: chex.ArrayTree,
        opt_state: Any,
        batch: chex.ArrayTree,
        other: chex.ArrayTree,
        step: int,
        weights: Any = None,
        other_weights: Any = None,
    ) -> dict[str, Any]:
        if not made:
            made.append(vitals(loss, optimizer, params, batch))
        return made[0](params, opt_state, (batch, weights), (other, other_weights), int(step))

    return look


def hook(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    data: Callable[[int], tuple],
    *,
    every: int = 50,
    rng: bool = False,
) -> Measurement:
    """A hook for `training.fit` that measures the training state every so many steps.

    Its rows, of kind "vitals" and as `measure` returns them, go to the run's records;
    `funcbackprop.diagnose(folder)` reads them there.

    Args:
      loss: as given to `make_step`; without auxiliary output.
      optimizer: as given to `make_step`.
      data: as given to `fit`: `data(number) -> (batch, weights or None)`. The update is measured
        on the batch that comes next, and on half of the one after it.
      every: steps between two rows; the first is before the first update.
      rng: whether the loss takes `(example, key)`, as in `make_step`.

    Returns:
      A `training.Measurement`: `hook(number, state, metrics) -> row or None`.

    Raises:
      TypeError: `data` is not a function of the step.
      ValueError: `every` is not positive.

    Cost: two steps every `every` steps: 4 to 5 % for 50.

    >>> import jax.numpy as jnp, optax
    >>> from funcbackprop import diagnosis
    >>> from funcbackprop.training import batches, fit, init_state, make_step
    >>> loss = lambda w, x: 0.5 * (w - x) ** 2
    >>> optimizer, data = optax.sgd(0.1), batches(jnp.arange(4.0), 2)
    >>> rows, watch = [], diagnosis.hook(loss, optimizer, data, every=2)
    >>> state = init_state(jnp.array(0.0), optimizer, 0)
    >>> keep = lambda *given: rows.append(watch(*given))
    >>> state = fit(make_step(loss, optimizer), state, data, steps=4, hooks=[keep])
    >>> [row["step"] for row in rows if row]
    [0, 2, 4]
    """
    if not callable(data):
        raise TypeError(
            "`hook`: `data` expected a function of the step, number -> (batch, weights), got "
            f"{type(data).__name__}; an iterable would lose the batches that are looked at: use "
            "funcbackprop.training.batches(arrays, batch_size)"
        )
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"`hook`: `every` expected a positive integer, got {every!r}; 50 is usual")
    return Measurement("vitals", every, of_next_update(loss, optimizer, data, rng=rng))


def of_next_update(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    data: Callable[[int], tuple],
    *,
    rng: bool = False,
) -> Callable[[TrainState], dict[str, Any]]:
    """`measure(state) -> row`, for `training.Measurement`; the arguments are those of `hook`."""
    look = measure(loss, optimizer)

    def of_state(state):
        number = int(state.step)
        (batch, weights), (other, other_weights) = data(number), data(number + 1)
        if rng:
            keys = (jax.random.fold_in(state.key, number + k) for k in (0, 1))
            batch, other = (attach_keys(b, k) for b, k in zip((batch, other), keys, strict=True))
        other, other_weights = jax.tree.map(_half, (other, other_weights))
        return look(state.params, state.opt_state, batch, other, number, weights, other_weights)

    return of_state


def _half(x):
    """Of a batch that only has its loss taken; few examples are kept."""
    return x[: max(len(x) // 2, min(len(x), ENOUGH))]
