"""What `funcbackprop bench` can be asked for; loads no JAX."""

import dataclasses
from pathlib import Path

from ..usage import UsageError

WORKLOADS = ("mlp", "convnet", "transformer", "transformer-remat", "transformer-long", "lstm")
DTYPES = ("float32", "bfloat16")

# option -> options that it leaves nothing to do for.
_EXCLUDES = {
    "growth": ("all",),
    "plan": ("growth", "all"),
    "tune": ("plan", "growth", "all", "workloads", "batch"),
    "tracking": ("tune", "plan", "growth", "all"),
}

# Growth: B doubles from the first of these to the last, or to --batch.
_GROWTH = 8, 512


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """Measure what statistics of the per-example gradients cost beside the plain gradient."""

    workloads: tuple[str, ...] = ()
    """mlp, convnet, transformer, transformer-remat, transformer-long, lstm; or module:problem, an
    fb.Problem in a Python module. By default the six, or mlp with --growth."""
    rounds: int = 15
    """How often everything is timed. A round calls every variant once, in a new order."""
    seed: int = 0
    """Seed of parameters, data and the order of the calls."""
    batch: int | None = None
    """Examples in the batch (B), instead of the workload's own; with --growth the largest B."""
    growth: bool = False
    """One workload at B = 8, 16, ... 512."""
    all: bool = False
    """More statistics: Gram, Projection, InnerWithMean, SquaredDeviations and MeanOf(jnp.sign)."""
    plan: bool = False
    """Measure nothing: print how mean, norms and variance of each workload would be found, leaf by
    leaf, and what other ways would cost."""
    tune: bool = False
    """Measure the constants that the choice between ways rests on, instead of workloads, and print
    them beside those in use. Nothing is changed."""
    tracking: bool = False
    """Measure what tracking the noise scale costs a training step, instead of statistics."""
    dtype: str = "float32"
    """float32 or bfloat16, of parameters and data."""
    json: Path | None = None
    """Also write the results, every ratio of every round, to this file."""
    quick: bool = False
    """Tiny sizes, to see that everything runs: the figures mean nothing."""

    @property
    def names(self) -> tuple[str, ...]:
        """The workloads to measure."""
        return self.workloads or (("mlp",) if self.growth else WORKLOADS)

    @property
    def batches(self) -> tuple[int | None, ...]:
        """The sizes to measure each workload at; None is its own.

        >>> BenchConfig(growth=True, batch=48).batches
        (8, 16, 32, 48)
        """
        if not self.growth:
            return (self.batch,)
        size, largest = _GROWTH
        largest = self.batch or largest
        sizes = []
        while size < largest:
            sizes.append(size)
            size *= 2
        return (*sizes, largest)

    @property
    def has_targets(self) -> bool:
        """Whether the library's workloads are measured as `targets` means them."""
        own = self.batch is None and not self.quick and not self.growth
        return own and self.dtype == "float32"

    def check(self) -> None:
        """Raise UsageError for a value that no benchmark could have."""
        unknown = [name for name in self.names if ":" not in name and name not in WORKLOADS]
        if unknown:
            raise UsageError(
                f"--workloads: unknown {unknown[0]!r}; expected some of {', '.join(WORKLOADS)}, or "
                "module:problem"
            )
        if len(set(self.names)) != len(self.names):
            raise UsageError(f"--workloads must differ from each other, got {list(self.names)}")
        if self.growth and len(self.names) > 1:
            raise UsageError(f"--growth takes one workload, got {list(self.names)}")
        if self.rounds < 1:
            raise UsageError(f"--rounds must be at least 1, got {self.rounds}")
        if self.seed < 0:
            raise UsageError(f"--seed must not be negative, got {self.seed}")
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"--batch must be at least 1, got {self.batch}")
        if self.dtype not in DTYPES:
            raise UsageError(
                f"--dtype: unknown {self.dtype!r}; expected one of {', '.join(DTYPES)}"
            )
        self._check_together()
        if self.json is not None and not self.json.absolute().parent.is_dir():
            raise UsageError(f"--json {self.json}: its folder does not exist")

    def _check_together(self) -> None:
        given = [(a, b) for a, others in _EXCLUDES.items() if getattr(self, a) for b in others]
        for option, other in given:
            if getattr(self, other):
                raise UsageError(
                    f"--{option} expects no --{other}, got both: leave one of them out"
                )
        if self.tune and self.dtype != "float32":
            raise UsageError(
                f"--tune measures in float32 alone, got --dtype {self.dtype}: leave --dtype out"
            )
