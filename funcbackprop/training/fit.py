"""The training loop: steps, rows, hooks and checkpoints, resumable to the bit."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import chex
import jax
import numpy as np

from .checkpoints import Checkpoints
from .records import Records
from .state import TrainState

Hook = Callable[[int, TrainState, Mapping], Mapping | None]


class NonFiniteLoss(FloatingPointError):
    """The loss became NaN or infinite; `step` is the first update whose loss was not finite."""

    def __init__(self, step: int, loss: float):
        super().__init__(
            f"`fit`: the loss is {loss} at step {step}. Lower the learning rate, clip the gradient "
            "(optax.clip_by_global_norm), or look for NaN in the data"
        )
        self.step = step
        self.loss = loss


def fit(
    step: Callable,
    state: TrainState,
    data: Callable[[int], tuple] | Iterable[tuple],
    *,
    steps: int,
    hooks: Sequence[Hook] = (),
    checkpoint: Checkpoints | None = None,
    records: Records | None = None,
    in_flight: int = 16,
) -> TrainState:
    """Take training steps until `steps` updates have been taken in all.

    With `checkpoint`, training starts from the newest checkpoint, if there is one, and what follows
    is the same to the bit as if it had never stopped, as `data` is a function of the step.

    Args:
      step: from `make_step`.
      state: from `init_state`. Its memory is given to the first step (see `make_step`'s `donate`).
      data: `data(number) -> (batch, weights or None)`, a pure function of the step counted from 0,
        such as `funcbackprop.training.batches`; or an iterable of such pairs, which cannot resume.
      steps: total number of updates, those before a resume included.
      hooks: `hook(number, state, metrics) -> row or None`, called before the first update (number
        0, metrics {}) and after each. A hook must not keep `state`. A row (a dict) is recorded.
      checkpoint: where and how often to save.
      records: where rows go: one `{"kind": "step", "step", "loss", "grad_norm", ...}` per update
        with every scalar of the metrics, and the rows of the hooks. The file is closed at the end;
        it opens again when a row is appended.
      in_flight: how many steps may be dispatched before the oldest is waited for.

    Returns:
      The state after `steps` updates; earlier if an iterable ends.

    Raises:
      NonFiniteLoss: at the first step whose loss is NaN or infinite; its row has been recorded.
      ValueError: `checkpoint` with an iterable, which has no place to resume at; `records` that
        hold later rows of this run already; `steps` or `in_flight` out of range.
      TypeError: `data` gives something else than pairs.

    >>> import jax.numpy as jnp, optax
    >>> from funcbackprop.training import batches, init_state, make_step
    >>> loss, optimizer = lambda w, x: 0.5 * (w - x) ** 2, optax.sgd(0.5)
    >>> data = batches(jnp.array([1.0, 3.0]), 2)  # the mean, 2, is best
    >>> state = init_state(jnp.array(0.0), optimizer, seed=0)
    >>> state = fit(make_step(loss, optimizer), state, data, steps=3)
    >>> print(state.params, state.step)
    1.75 3
    """
    if steps < 0 or in_flight < 1:
        raise ValueError(
            f"`fit`: `steps` must not be negative and `in_flight` must be at least 1, "
            f"got {steps} and {in_flight}"
        )
    if checkpoint is not None and not callable(data):
        raise ValueError(
            "`fit`: with `checkpoint`, `data` must be a function of the step so that a resumed run "
            "sees the same batches; use funcbackprop.training.batches(arrays, batch_size)"
        )
    try:
        return _loop(step, state, data, steps, hooks, checkpoint, records, in_flight)
    finally:
        for open_files in (records, checkpoint):
            if open_files is not None:
                open_files.close()


def _loop(step, state, data, steps, hooks, checkpoint, records, in_flight):
    state, fresh = _resume(state, checkpoint, records)
    number = int(state.step)
    feed = _checked(data) if callable(data) else _checked(_from_iterable(data))
    log = _Log(records, in_flight)
    if fresh:
        log.hooks(hooks, number, state, {})
    while number < steps:
        try:
            batch, weights = feed(number)
        except _Exhausted:
            break
        state, metrics = step(state, batch, weights)
        number += 1
        log.step(number, metrics)
        log.hooks(hooks, number, state, metrics)
        if checkpoint is not None and (number % checkpoint.every == 0 or number == steps):
            log.flush()
            checkpoint.save(number, state)
    log.flush()
    return state


def _resume(state, checkpoint, records):
    restored = checkpoint.restore(state) if checkpoint is not None else None
    if records is not None and checkpoint is not None:
        records.resume(None if restored is None else int(restored.step))
    elif records is not None:
        records.refuse_rows_after(int(state.step))
    return (state, int(state.step) == 0) if restored is None else (restored, False)


class _Exhausted(Exception):
    """The iterable has ended."""


def _from_iterable(data):
    iterator = iter(data)

    def feed(number):
        for item in iterator:
            return item
        raise _Exhausted

    return feed


def _checked(feed):
    """`feed` with its items held to the form (batch, weights or None)."""

    def checked(number):
        item = feed(number)
        if not (isinstance(item, tuple) and len(item) == 2):
            raise TypeError(
                "`fit`: `data` must give pairs (batch, weights), with None for no weights, got "
                f"{type(item).__name__} at step {number}; wrap it: lambda number: (batch, None)"
            )
        if item[1] is not None and np.ndim(item[1]) != 1:
            raise TypeError(
                "`fit`: `data` must give pairs (batch, weights), weights [B] or None, got an array "
                f"of shape {np.shape(item[1])} in place of the weights at step {number}; if it is "
                "part of the batch, give ((x, y), None)"
            )
        return item

    return checked


class _Log:
    """Metrics of steps still in flight, written in order once they are known."""

    def __init__(self, records, in_flight):
        self._records = records
        self._in_flight = in_flight
        self._pending: deque[tuple[int, dict]] = deque()

    def step(self, number: int, metrics: Mapping[str, Any]) -> None:
        scalars = {name: x for name, x in metrics.items() if _is_scalar(x)}
        self._pending.append((number, scalars))
        if len(self._pending) >= self._in_flight:
            self._write_oldest()

    def hooks(self, hooks: Sequence[Hook], number: int, state: TrainState, metrics) -> None:
        for hook in hooks:
            row = hook(number, state, metrics)
            if row is not None and self._records is not None:
                while self._pending:
                    self._write_oldest()
                self._records.append({**row, "step": number})

    def flush(self) -> None:
        while self._pending:
            self._write_oldest()
        if self._records is not None:
            self._records.sync()

    def _write_oldest(self) -> None:
        number, scalars = self._pending.popleft()
        scalars = {name: np.asarray(x).item() for name, x in jax.device_get(scalars).items()}
        if self._records is not None:
            self._records.append({"kind": "step", "step": number, **scalars})
        if not math.isfinite(scalars.get("loss", 0.0)):
            raise NonFiniteLoss(number, scalars["loss"])


def _is_scalar(x: chex.Array) -> bool:
    return hasattr(x, "shape") and x.shape == () and x.dtype.kind in "biuf"
