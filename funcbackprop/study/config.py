"""What the command line can ask for, as frozen dataclasses; loads no JAX."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

from ..usage import UsageError

MODELS = ("mlp", "convnet", "lstm", "transformer")
SEQUENCE_MODELS = ("lstm", "transformer")
OPTIMIZERS = (
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "adan",
    "amsgrad",
    "fromage",
    "lamb",
    "lars",
    "lion",
    "nadam",
    "nadamw",
    "novograd",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
    "sign_sgd",
    "sm3",
    "yogi",
)

# Fields that say where a run runs and where its results go: they may differ when it resumes.
_PLACE = (
    "out",
    "overwrite",
    "tensorboard",
    "coordinator",
    "num_processes",
    "process_id",
    "wait",
)


@dataclasses.dataclass(frozen=True)
class ProblemConfig:
    """Which model, on which data."""

    model: str = "mlp"
    """mlp, convnet, lstm or transformer; or module:problem, an fb.Problem in a Python module."""
    data: str | None = None
    """digits, text, a .npz file (arrays x, y, optional x_test, y_test) or a .txt file. By default
    what fits the model: digits or text."""
    seed: int = 0
    """Seed of the initial parameters, the order of the data and dropout."""
    length: int = 64
    """Characters in a sequence, for text."""

    @property
    def all_seeds(self) -> tuple[int, ...]:
        return (self.seed,)

    def check(self) -> None:
        """Raise UsageError for a value that no run could have."""
        if self.length < 1:
            raise UsageError(f"--length must be at least 1, got {self.length}")
        if any(seed < 0 for seed in self.all_seeds):
            raise UsageError(f"seeds must not be negative, got {list(self.all_seeds)}")


@dataclasses.dataclass(frozen=True)
class CheckConfig(ProblemConfig):
    """Check the gradient of a model at its initial parameters; exit status 1 on a finding."""

    examples: int = 32
    """Examples in the batch, of the test set if there is one."""
    intended: tuple[str, ...] = ()
    """Functions, primitives or leaves that are meant to depart from the chain rule."""
    html: Path | None = None
    """Also write the computational graph with what was found to this file."""

    def check(self) -> None:
        super().check()
        if self.examples < 1:
            raise UsageError(f"--examples must be at least 1, got {self.examples}")


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Put runs side by side: what differs, what came out, and how sure the differences are."""

    runs: tuple[Path, ...]
    """Run folders, two or more; the first is what the others are compared with."""
    out: Path = Path("compare.html")
    """The page that is written, beside the tables that are printed."""


@dataclasses.dataclass(frozen=True)
class TrainConfig(ProblemConfig):
    """Train a model and record loss and accuracy."""

    steps: int = 1000
    """Number of updates."""
    batch_size: int = 64
    """Examples in a mini-batch."""
    optimizer: str = "adam"
    """An optax optimizer: adam, adamw, sgd, lion, ..."""
    learning_rate: float = 1e-3
    """The learning rate."""
    seeds: tuple[int, ...] = ()
    """Several seeds instead of one: the report shows mean and spread."""
    name: str | None = None
    """Name of the run; by default data and model."""
    out: Path = Path("runs")
    """Folder for runs; this one is written to OUT/NAME."""
    overwrite: bool = False
    """Start afresh if the folder holds a run, instead of resuming or refusing."""
    track_noise: bool = False
    """Track the noise scale at every step, from the norms of the examples' gradients."""
    diagnose: bool = False
    """Watch what training may suffer from, and say at the end what was found, with remedies."""
    tensorboard: bool = False
    """Also write TensorBoard events to the run's folder."""
    coordinator: str | None = None
    """Train as several processes: host:port of process 0, as the others see it; or auto, where a
    cluster (Slurm, TPU, Open MPI) tells address, number and id."""
    num_processes: int | None = None
    """How many processes the run has, with --coordinator."""
    process_id: int | None = None
    """Which of them this is, counted from 0. Process 0 writes the files."""
    wait: int = 300
    """Seconds to wait for the other processes at the start."""

    @property
    def all_seeds(self) -> tuple[int, ...]:
        return self.seeds or (self.seed,)

    def to_dict(self, name: str, data: str | None) -> dict[str, Any]:
        """What decides the results: two runs with the same dictionary end with the same bits."""
        fields = dataclasses.asdict(self)
        fields = {key: value for key, value in fields.items() if key not in (*_PLACE, "seed")}
        return {
            "command": type(self).__name__.removesuffix("Config").lower(),
            **fields,
            "name": name,
            "data": data,
            "seeds": list(self.all_seeds),
        }

    def check(self) -> None:
        super().check()
        whole = {"steps": self.steps, "batch-size": self.batch_size}
        for option, value in whole.items():
            if value < 1:
                raise UsageError(f"--{option} must be at least 1, got {value}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise UsageError(f"--learning-rate must be a positive number, got {self.learning_rate}")
        if self.optimizer not in OPTIMIZERS:
            raise UsageError(
                f"--optimizer: unknown {self.optimizer!r}; expected one of {', '.join(OPTIMIZERS)}"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise UsageError(f"--seeds must differ from each other, got {list(self.seeds)}")
        if self.name is not None and (self.name in ("", ".", "..") or "/" in self.name):
            raise UsageError(f"--name must be a plain folder name, got {self.name!r}")
        if self.track_noise and self.batch_size < 2:
            raise UsageError("--track-noise needs a --batch-size of 2 or more: one shows no spread")
        self._check_processes()

    def _check_processes(self) -> None:
        count, number = self.num_processes, self.process_id
        if self.wait < 1:
            raise UsageError(f"--wait must be at least 1 second, got {self.wait}")
        if self.coordinator is None:
            if count is not None or number is not None:
                raise UsageError(
                    "--num-processes and --process-id need --coordinator, the address host:port of "
                    "process 0, the same for all processes"
                )
            return
        if self.coordinator != "auto" and not re.fullmatch(r"\S+:\d+", self.coordinator):
            raise UsageError(
                f"--coordinator must be host:port or auto, got {self.coordinator!r}; any free port "
                "of the machine of process 0 will do"
            )
        if count is not None and count < 1:
            raise UsageError(f"--num-processes must be at least 1, got {count}")
        if number is not None and not 0 <= number < (count or math.inf):
            bound = "" if count is None else f" and below --num-processes {count}"
            raise UsageError(f"--process-id must be 0 or more{bound}, got {number}")


@dataclasses.dataclass(frozen=True)
class StudyConfig(TrainConfig):
    """Train a model and study its gradients on the way: variance, noise scale, and correctness."""

    measurements: int = 12
    """How many log-spaced steps to measure at, beside the first and the last."""
    measure_examples: int = 512
    """Examples whose gradients are measured, or all of them if there are fewer: of the training
    set for the noise, of the test set for what the next update does to their loss."""
    sharpness_examples: int = 128
    """Training examples of which the sharpness is measured."""

    def check(self) -> None:
        super().check()
        if self.measurements < 1:
            raise UsageError(f"--measurements must be at least 1, got {self.measurements}")
        if self.sharpness_examples < 1:
            raise UsageError(
                f"--sharpness-examples must be at least 1, got {self.sharpness_examples}"
            )
        if self.measure_examples < 2:
            raise UsageError(
                "--measure-examples must be at least 2, since one example shows no spread, got "
                f"{self.measure_examples}"
            )
