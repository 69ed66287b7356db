"""Learning: the step, the loop, data, checkpoints and records."""

from .checkpoints import Checkpoints
from .data import Batches, Dataset, batches, digits, from_function, load, load_npz, load_text
from .fit import NonFiniteLoss, fit
from .records import Records, read_rows
from .state import TrainState, init_state
from .step import make_step

__all__ = [
    "Batches",
    "Checkpoints",
    "Dataset",
    "NonFiniteLoss",
    "Records",
    "TrainState",
    "batches",
    "digits",
    "fit",
    "from_function",
    "init_state",
    "load",
    "load_npz",
    "load_text",
    "make_step",
    "read_rows",
]
