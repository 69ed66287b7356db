"""Communication between devices, on a mesh of one device.

There a sum over the devices is its only term, and what is gathered, scattered or exchanged stays
where it is: every collective is the identity, apart from an axis of size 1. JAX cannot evaluate
these primitives outside of their mesh, so all are `exact`: NumPy moves the values.
"""

import math

import numpy as np

from ...graph import UnsupportedPrimitive
from .kinds import constant, general, linear, opaque
from .reductions import spread


def shard_map(tape, equation, inputs):
    """The program of the only device, to which all of every array belongs."""
    mesh = equation.params["mesh"]
    devices = math.prod(mesh.shape.values())
    if devices > 1:
        raise UnsupportedPrimitive(
            f"`shard_map` at {equation.source} runs on a mesh of {devices} devices. The reference "
            "has one: take a mesh of one device, or differentiate the function inside."
        )
    return tape.run(equation.programs["jaxpr"], inputs)


def not_on_cpu(tape, equation, inputs):
    raise UnsupportedPrimitive(f"`{equation.name}` at {equation.source}: {_NOT_ON_CPU.opaque}")


def _unchanged(local, dys):
    return list(dys)


def _permuted(p, x):
    """What no device sends is 0."""
    return x if len(p["perm"]) else np.zeros_like(x)


def _permuted_pull(local, dys):
    return [_permuted(local.p, dys[0])]


def _gathered(p, x):
    return x if p["tiled"] else np.expand_dims(x, p["all_gather_dimension"])


def _scattered(p, x):
    return x if p["tiled"] else np.squeeze(x, p["scatter_dimension"])


def _in_shape_of_input(local, dys):
    return [dys[0].reshape(local.x[0].shape)]


# --- sums and maxima: also over axes of the array, where `vmap` has a name for one ----------------


def _positions(p):
    return tuple(axis for axis in p["axes"] if isinstance(axis, int))


def _summed(p, *x):
    axes = _positions(p)
    return tuple(_sum(v, axes) if axes else v for v in x)


def _sum(x, axes):
    """In float32 at least, as XLA sums narrower numbers."""
    narrow = x.dtype.itemsize < 4 and x.dtype.kind not in "iub"
    return np.asarray(np.sum(x, axes, dtype=np.float32 if narrow else None)).astype(x.dtype)


def _summed_pull(local, dys):
    return [
        None if dy is None else spread(dy, x, _positions(local.p))
        for dy, x in zip(dys, local.x, strict=True)
    ]


def _extremes(best, worst):
    """Rule of a maximum or minimum: the entries that attain it share its cotangent."""

    def choose(p, *x):
        axes = _positions(p)
        return tuple(v == best(v, axis=axes, keepdims=True) for v in x)

    def forward(p, choice, *x):
        axes = _positions(p)
        rest = (worst(v, axis=axes, keepdims=True) for v in x)
        kept = (np.where(at, v, r) for at, v, r in zip(choice, x, rest, strict=True))
        return tuple(best(v, axis=axes) for v in kept)

    def pull(local, dys):
        axes = _positions(local.p)
        return [
            None if dy is None else at * spread(dy / np.sum(at, axes), x, axes)
            for dy, at, x in zip(dys, local.choice, local.x, strict=True)
        ]

    return general(
        pull,
        formula="dx = dy where it is attained",
        choose=choose,
        forward=forward,
        exact=True,
        convention="a tie shares dy equally; JAX has no rule for it",
    )


_IDENTITY = linear(_unchanged, formula="dx = dy", forward=lambda p, *x: x, exact=True)
_SUM = linear(
    _summed_pull,
    formula="dx = dy",
    forward=_summed,
    exact=True,
    convention="over the only device; over an axis of the array where `vmap` named one",
)
_GATHER = linear(_in_shape_of_input, formula="dx = dy", forward=_gathered, exact=True)
_SCATTER = linear(_in_shape_of_input, formula="dx = dy", forward=_scattered, exact=True)
_NOT_ON_CPU = opaque("XLA cannot run it on the CPU, where the reference runs")

RULES = {
    "all_gather": _GATHER,
    "all_gather_invariant": _GATHER,
    "all_gather_reduced": _GATHER,
    "all_to_all": _IDENTITY,
    "axis_index": constant("0: integers", lambda p: np.zeros((), np.int32), exact=True),
    "pbroadcast": _NOT_ON_CPU,
    "pbroadcast_dynamic": _NOT_ON_CPU,
    "pmax": _extremes(np.max, np.min),
    "pmin": _extremes(np.min, np.max),
    "ppermute": linear(
        _permuted_pull,
        formula="dx = dy, or 0 where nothing is sent",
        forward=_permuted,
        exact=True,
    ),
    "preduced": _IDENTITY,
    "psum": _SUM,
    "psum_invariant": _IDENTITY,
    "pvary": _IDENTITY,
    "ragged_all_to_all": _NOT_ON_CPU,
    "reduce_scatter": _SCATTER,
    "unreduced_psum": _IDENTITY,
    "unreduced_reduce_scatter": _SCATTER,
    # Casts between kinds of arrays.
    "reduced_vary_cast_p": _IDENTITY,
    "vary_unreduced_cast_p": _IDENTITY,
    "reduced_vary_cast": _IDENTITY,
    "vary_unreduced_cast": _IDENTITY,
}

# primitive -> run(tape, equation, inputs) -> outputs
STRUCTURED = {
    "pbroadcast": not_on_cpu,
    "pbroadcast_dynamic": not_on_cpu,
    "ragged_all_to_all": not_on_cpu,
    "shard_map": shard_map,
}

FORMULAS = {"shard_map": "the derivative of its program, on a mesh of one device"}
