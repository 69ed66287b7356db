"""Checkpoints by Orbax: whole or not there, restored into an abstract target."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .state import TrainState


class Checkpoints:
    """Saves a training state every so many steps, and at the end.

    For `fit(..., checkpoint=)`. Orbax writes to a temporary folder and renames it, so a kill leaves
    the last whole checkpoint.

    Args:
      folder: where the checkpoints lie, one subfolder per step.
      every: steps between checkpoints.
      keep: how many of the latest stay.

    Raises:
      ValueError: `every` or `keep` is no positive integer.
      ImportError: when first used, orbax-checkpoint is not installed.
    """

    def __init__(self, folder, *, every: int = 100, keep: int = 2):
        for name, value in (("every", every), ("keep", keep)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"`Checkpoints`: `{name}` must be a positive integer, got {value!r}"
                )
        self.folder = Path(folder).absolute()
        self.every = every
        self._keep = keep
        self._manager: Any = None

    def latest(self) -> int | None:
        """The step of the newest whole checkpoint, or None."""
        return self._open().latest_step()

    def restore(self, like: TrainState) -> TrainState | None:
        """The newest checkpoint, with the structure, shapes and dtypes of `like`; None if none.

        Raises:
          ValueError: the checkpoint does not fit `like`.
        """
        step = self.latest()
        if step is None:
            return None
        target = jax.tree.map(_ocp().utils.to_shape_dtype_struct, _storable(like))
        try:
            found = self._open().restore(step, args=_ocp().args.StandardRestore(target))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"`Checkpoints`: the checkpoint of step {step} in {self.folder} does not fit this "
                "training state: another model, optimizer or shapes? Give another folder, or the "
                "model and optimizer that wrote it"
            ) from error
        return jax.tree.map(lambda x, y: y if y.size == 0 else x, found, like)

    def save(self, step: int, state: TrainState) -> None:
        """Write the checkpoint of `step` and wait until it is whole.

        Raises:
          OSError: it cannot be written; those of before are untouched.
        """
        manager = self._open()
        needed = sum(getattr(x, "nbytes", 0) for x in jax.tree.leaves(state))
        if shutil.disk_usage(self.folder).free < needed:  # else each array would fail with a trace
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))
        try:
            manager.save(step, args=_ocp().args.StandardSave(_storable(state)), force=True)
            manager.wait_until_finished()
        except ValueError as error:  # of the library that writes the arrays
            raise OSError(f"`Checkpoints`: {str(error).splitlines()[0]}") from error

    def close(self) -> None:
        """Let go of the folder; it opens again when needed."""
        if self._manager is not None:
            self._manager.close()
        self._manager = None

    def _open(self):
        if self._manager is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            options = _ocp().CheckpointManagerOptions(
                max_to_keep=self._keep,
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,
            )
            self._manager = _ocp().CheckpointManager(self.folder, options=options)
        return self._manager


def _storable(state: TrainState) -> TrainState:
    """`state` with a scalar in place of every empty array, which Orbax refuses to store."""
    return jax.tree.map(lambda x: np.zeros(()) if x.size == 0 else x, state)


def _ocp():
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError(
            "checkpoints need orbax-checkpoint: pip install 'funcbackprop[study]'"
        ) from error
    return ocp
