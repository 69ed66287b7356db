"""What each variant should cost at most, beside the plain gradient: one table.

The targets are for the workloads at their own sizes, in float32, on two CPU cores. To change or add
one: a row in `TARGETS`. Loads no JAX.
"""

import dataclasses

# A time is above its target from this much on: what two runs of the same program differ by.
NOISE = 0.05
# To trace, lower and compile any variant of `gradient_statistics`, to the plain gradient.
COMPILE = 2.0


@dataclasses.dataclass(frozen=True)
class Target:
    """Upper bounds; None where there is none.

    Attributes:
      time, memory, compile: ratios to the plain gradient.
      megabytes: of temporaries, where the plain gradient has next to none.
    """

    time: float | None = None
    memory: float | None = None
    megabytes: float | None = None
    compile: float | None = COMPILE


_MEAN = {"Mean": Target(1.00)}
_NORMS, _VARIANCE = "Mean + SquaredNorms", "Mean + Variance"
_CENTRED, _CLIPPED = "Mean + Variance(centred)", "ClippedMean"

# workload -> variant -> its target
TARGETS: dict[str, dict[str, Target]] = {
    "mlp": {
        **_MEAN,
        _NORMS: Target(1.03, megabytes=8),
        _VARIANCE: Target(1.45, megabytes=8),
        _CENTRED: Target(2.0, megabytes=8),
    },
    "convnet": {
        **_MEAN,
        _NORMS: Target(0.75, memory=1.1),
        _VARIANCE: Target(0.75, memory=1.1),
    },
    "transformer": {
        **_MEAN,
        _NORMS: Target(0.95, memory=1.1),
        _VARIANCE: Target(0.97, memory=1.1),
        _CLIPPED: Target(1.9, memory=1.2),
    },
    "transformer-remat": {
        **_MEAN,
        _NORMS: Target(0.95, memory=1.2),
        _VARIANCE: Target(0.97, memory=1.2),
        _CLIPPED: Target(1.9, memory=1.2),
    },
    "transformer-long": {
        **_MEAN,
        _NORMS: Target(1.00, memory=1.05),
        _VARIANCE: Target(1.02, memory=1.05),
    },
    "lstm": {
        **_MEAN,
        _NORMS: Target(1.03, memory=1.35),
        _VARIANCE: Target(1.10, memory=1.35),
    },
}


def target(workload: str, variant: str) -> Target:
    """The target of a variant of `gradient_statistics`; where no row names it, that of compiling.

    >>> target("lstm", "Mean").time, target("lstm", "Gram")
    (1.0, Target(time=None, memory=None, megabytes=None, compile=2.0))
    """
    return TARGETS[workload].get(variant, Target())
