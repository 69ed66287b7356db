"""Learning: the step, the loop, data, checkpoints and records."""

from .checkpoints import Checkpoints
from .data import Batches, Dataset, batches, digits, from_function, load, load_npz, load_text
from .devices import device_mesh, everywhere, on_this_device, replicate, shard_batch, shard_batches
from .fit import NonFiniteLoss, fit
from .hooks import (
    Measurement,
    effect_of_next_update,
    next_update,
    sharpness_against_threshold,
)
from .records import Records, read_rows
from .state import TrainState, init_state
from .step import make_step

__all__ = [
    "Batches",
    "Checkpoints",
    "Dataset",
    "Measurement",
    "NonFiniteLoss",
    "Records",
    "TrainState",
    "batches",
    "device_mesh",
    "digits",
    "effect_of_next_update",
    "everywhere",
    "fit",
    "from_function",
    "init_state",
    "load",
    "load_npz",
    "load_text",
    "make_step",
    "next_update",
    "on_this_device",
    "read_rows",
    "replicate",
    "shard_batch",
    "shard_batches",
    "sharpness_against_threshold",
]
