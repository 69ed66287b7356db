"""The order of the examples: batches as a pure function of (seed, step)."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """Batches of in-memory arrays: `batches(step) -> (batch, weights or None)`, a pure function.

    Made by `batches`. Two objects with the same arrays and seed give the same batches, so a
    training run can stop after any step and continue from it.

    Attributes:
      arrays: pytree of arrays with a leading axis of length N on every leaf.
      weights: [N] float32, or None.
      size: N.
      batch_size: B.
      seed: of the order.
      shuffle: whether each epoch has an order of its own.
    """

    arrays: Any
    weights: np.ndarray | None
    size: int
    batch_size: int
    seed: int
    shuffle: bool

    @property
    def steps_per_epoch(self) -> int:
        """N / B, rounded up."""
        return -(-self.size // self.batch_size)

    def rows(self, step: int) -> tuple[np.ndarray, int]:
        """The row numbers [B] of batch `step`, and how many of them, from the front, count."""
        if step < 0:
            raise ValueError(f"`Batches`: `step` must be 0 or more, got {step}")
        epoch, position = divmod(int(step), self.steps_per_epoch)
        order = _order(self.seed, epoch, self.size) if self.shuffle else np.arange(self.size)
        rows = order[position * self.batch_size : (position + 1) * self.batch_size]
        return np.resize(rows, self.batch_size), len(rows)

    def __call__(self, step: int) -> tuple[Any, np.ndarray | None]:
        """Batch `step`, counted from 0 over all epochs.

        Returns:
          The batch, a pytree like `arrays` with leading length B, and its weights: [B] float32,
          or None if every row of every batch counts alike.
        """
        import jax

        rows, count = self.rows(step)
        batch = jax.tree.map(lambda a: a[rows], self.arrays)
        if self.weights is None and self.size % self.batch_size == 0:
            return batch, None
        weights = (
            np.ones(self.batch_size, np.float32) if self.weights is None else self.weights[rows]
        )
        weights[count:] = 0.0
        return batch, weights


def batches(
    arrays: Any,
    batch_size: int,
    *,
    seed: int = 0,
    weights: Any = None,
    shuffle: bool = True,
) -> Batches:
    """Batches of in-memory arrays, in an order that depends on nothing but (seed, step).

    Step s belongs to epoch s // steps_per_epoch, and the order of an epoch is the permutation that
    `numpy.random.default_rng((seed, epoch))` draws. Every epoch visits every example once. If B
    does not divide N, the last batch of an epoch is filled up with rows of its own, at weight 0.

    Weights are None if B divides N and none were given. Otherwise every batch has weights [B], so
    that a compiled step is traced once.

    Args:
      arrays: pytree of arrays with a leading axis of length N on every leaf.
      batch_size: B, at most N.
      seed: 0 or more.
      weights: [N], relative importances of the examples, 0 or more.
      shuffle: False takes the rows in their own order in every epoch.

    Raises:
      ValueError: lengths differ, B is larger than N, or the weights are not usable.

    >>> order = batches(np.arange(5), 2, shuffle=False)
    >>> batch, weights = order(2)
    >>> batch.tolist(), weights.tolist(), order.steps_per_epoch
    ([4, 4], [1.0, 0.0], 3)
    """
    import jax

    arrays = jax.tree.map(lambda a: a if hasattr(a, "shape") else np.asarray(a), arrays)
    size = _common_length(jax.tree_util.tree_leaves_with_path(arrays), jax.tree_util.keystr)
    if batch_size < 1:
        raise ValueError(f"`batches`: `batch_size` must be at least 1, got {batch_size}")
    if batch_size > size:
        raise ValueError(
            f"`batches`: `batch_size` is {batch_size} and the data has {size} examples; "
            f"take a batch size of at most {size}"
        )
    if seed < 0:
        raise ValueError(f"`batches`: `seed` must be 0 or more, got {seed}")
    if weights is not None:
        weights = _checked_weights(weights, size)
    return Batches(arrays, weights, size, int(batch_size), int(seed), shuffle)


@dataclasses.dataclass(frozen=True, eq=False)
class FunctionBatches:
    """Batches from a function: `batches(step)` is `(fn(seed, 0, step), None)`.

    Attributes:
      fn: pure function `(seed, epoch, step) -> batch`; epoch is always 0.
      seed: handed to `fn`.
    """

    fn: Callable[[int, int, int], Any]
    seed: int
    steps_per_epoch: None = None
    size: None = None
    batch_size: None = None

    def __call__(self, step: int) -> tuple[Any, None]:
        return self.fn(self.seed, 0, int(step)), None


def from_function(fn: Callable[[int, int, int], Any], seed: int = 0) -> FunctionBatches:
    """Batches that a pure function of (seed, epoch, step) makes, for data without a fixed size.

    What is returned gives `(batch, None)` for a step: there are no weights.

    There are no epochs: epoch is always 0, and `steps_per_epoch`, `size` and `batch_size` are None.

    >>> from_function(lambda seed, epoch, step: np.full(2, step), seed=1)(7)[0].tolist()
    [7, 7]
    """
    if not callable(fn):
        raise TypeError(
            "`from_function`: `fn` must be a function (seed, epoch, step) -> batch, "
            f"got {type(fn).__name__}"
        )
    return FunctionBatches(fn, seed)


# Four orders: several seeds or data sets at a time, without keeping every epoch.
@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, size: int) -> np.ndarray:
    order = np.random.default_rng((seed, epoch)).permutation(size)
    order.flags.writeable = False
    return order


def _common_length(leaves: list, keystr: Callable) -> int:
    lengths = {a.shape[0] for _, a in leaves if a.shape}
    if len(lengths) != 1 or any(not a.shape for _, a in leaves):
        listing = ", ".join(f"arrays{keystr(path)} {list(a.shape)}" for path, a in leaves)
        raise ValueError(
            "`batches`: every array needs one leading axis of equal length (the examples), "
            f"got shapes {listing or 'of no arrays at all'}"
        )
    (size,) = lengths
    if size == 0:
        raise ValueError("`batches`: the arrays hold 0 examples; pass at least one")
    return size


def _checked_weights(weights: Any, size: int) -> np.ndarray:
    weights = np.asarray(weights)
    if weights.shape != (size,) or weights.dtype.kind not in "fiub":
        raise ValueError(
            f"`batches`: `weights` must be real numbers of shape ({size},), one for each example, "
            f"got {weights.dtype}{list(weights.shape)}"
        )
    weights = weights.astype(np.float32)
    bad = ~np.isfinite(weights) | (weights < 0)
    if bad.any():
        raise ValueError(
            f"`batches`: `weights` must be finite and 0 or more, got {bad.sum()} that are not, the "
            f"first {weights[bad][0]} at index {int(bad.argmax())}"
        )
    if not weights.any():
        raise ValueError("`batches`: all `weights` are 0; give at least one example some weight")
    return weights
