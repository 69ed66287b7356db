"""Mutable arrays: a write makes a new value on the tape, a read takes from the latest.

Where it reads and writes is decided on the program's own indices, as positions in the flattened
array; a position of -1 is out of bounds.
"""

import jax
import numpy as np

from ...graph import UnsupportedPrimitive, is_key, to_numpy
from .indexing import TAKE
from .kinds import constant, linear, opaque


class Ref:
    """A mutable array, as it travels through a program in place of a value.

    Attributes:
      value: what it holds now.
    """

    def __init__(self, value):
        self.value = value


# --- reads and writes, as steps of the tape -------------------------------------------------------


def _written(p, contents, value):
    inside = p["positions"] >= 0
    out = contents.reshape(-1).copy()
    out[p["positions"][inside]] = np.broadcast_to(value, inside.shape)[inside]
    return out.reshape(contents.shape)


def _written_pull(local, dys):
    """Of several writes to one position the last stands, and only it receives the cotangent."""
    (dy,), positions = dys, local.p["positions"]
    number = np.arange(positions.size).reshape(positions.shape)
    writer = np.full(dy.size, -1)
    inside = positions >= 0
    writer[positions[inside]] = number[inside]
    stands = inside & (writer[positions] == number)
    kept = np.where(writer < 0, dy.reshape(-1), 0)
    return [kept.reshape(dy.shape), np.where(stands, dy.reshape(-1)[positions], 0)]


def _added(p, contents, value):
    inside = p["positions"] >= 0
    out = contents.reshape(-1).copy()
    np.add.at(out, p["positions"][inside], np.broadcast_to(value, inside.shape)[inside])
    return out.reshape(contents.shape)


def _added_pull(local, dys):
    (dy,), positions = dys, local.p["positions"]
    return [dy, np.where(positions >= 0, dy.reshape(-1)[positions], 0)]


_WRITE = linear(
    _written_pull, formula="dv = dy[i], dx = dy but 0 at i", forward=_written, exact=True
)
# An addition rounds, in NumPy as in JAX.
_ADD = linear(_added_pull, formula="dv = dy[i], dx = dy", forward=_added, exact=True)


# --- indices --------------------------------------------------------------------------------------


def _transforms(equation, indices):
    """The indexers, one after the other, with their values."""
    return jax.tree_util.tree_unflatten(equation.params["tree"], [i.own for i in indices])


def _positions(equation, shape, indices, drop):
    """Positions in the flattened array that an access goes to.

    Args:
      drop: whether what is out of bounds is dropped, in a write; otherwise it is moved inside.
    """
    positions = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    for transform in _transforms(equation, indices):
        if hasattr(transform, "indices"):
            positions = _indexed(positions, transform.indices, drop)
        elif type(transform).__name__ in ("ReshapeTransform", "RefReshaper"):
            positions = positions.reshape(transform.shape)
        else:
            raise UnsupportedPrimitive(
                f"`{equation.name}` at {equation.source} views a mutable array through a "
                f"{type(transform).__name__}, which the reference cannot follow"
            )
    return positions


def _indexed(positions, indices, drop):
    """`positions[indices]`; where that is out of bounds, -1 or what lies next, as in JAX.

    Scalars and slices of stride 1 select a block, which is moved inside as a whole.
    """
    block = all(i.stride == 1 if _is_slice(i) else np.ndim(i) == 0 for i in indices)
    drop = drop and not block
    places = [
        _places(index, size, block, drop)
        for index, size in zip(indices, positions.shape, strict=True)
    ]
    # Whatever is out of bounds looks up the -1 that is put at the end of its axis.
    positions = np.pad(positions, (0, 1), constant_values=-1) if positions.ndim else positions
    for axis, index in enumerate(indices):
        if _is_slice(index):
            positions = np.take(positions, places[axis], axis)
    kept = slice(None)
    return positions[
        tuple(kept if _is_slice(i) else place for i, place in zip(indices, places, strict=True))
    ]


def _places(index, size, block, drop):
    """The entries along one axis of this size that an index selects."""
    if _is_slice(index):
        start = int(index.start)
        if block:
            start = start + size if start < 0 else start
            start = min(max(start, 0), size - int(index.size))
        place = start + index.stride * np.arange(int(index.size))
    else:
        place = np.asarray(index).astype(int)
    place = np.where(place < 0, place + size, place)
    inside = np.clip(place, 0, size - 1)
    return np.where(place == inside, place, size) if drop else inside


def _is_slice(index):
    return hasattr(index, "stride")


# --- the primitives -------------------------------------------------------------------------------


def new_ref(tape, equation, inputs):
    return [Ref(inputs[0])]


def empty_ref(tape, equation, inputs):
    (variable,) = equation.outputs
    return [Ref(tape.constant(to_numpy(np.zeros(variable.shape, variable.dtype))))]


def freeze(tape, equation, inputs):
    return [inputs[0].value]


def get(tape, equation, inputs):
    """The array, or what its indices select."""
    ref, *indices = inputs
    return [_get(tape, equation, ref, indices)]


def _get(tape, equation, ref, indices):
    if not _transforms(equation, indices):
        return ref.value
    own = ref.value.own
    positions = _positions(equation, own.shape, indices, drop=False)
    if is_key(own):
        return tape.constant(own.reshape(-1)[positions])
    return tape.part(equation, TAKE, [ref.value, tape.constant(positions)])[0]


def swap(tape, equation, inputs):
    """What was there before; the value takes its place."""
    ref, value, *indices = inputs
    before = _get(tape, equation, ref, indices)
    if not _transforms(equation, indices):
        ref.value = value
        return [before]
    own = ref.value.own
    positions = _positions(equation, own.shape, indices, drop=True)
    if is_key(own):
        keys = own.reshape(-1).at[positions].set(value.own).reshape(own.shape)
        ref.value = tape.constant(keys)
    else:
        (ref.value,) = tape.part(equation, _WRITE, [ref.value, value], positions=positions)
    return [before]


def addupdate(tape, equation, inputs):
    """ref[indices] += value, repeated indices adding up."""
    ref, value, *indices = inputs
    positions = _positions(equation, ref.value.own.shape, indices, drop=True)
    (ref.value,) = tape.part(equation, _ADD, [ref.value, value], positions=positions)
    return []


def run_state(tape, equation, inputs):
    """Run a program on new mutable arrays; the outputs are what they hold at the end."""
    program, values = equation.programs["jaxpr"], iter(inputs)
    given = equation.params.get("is_initialized", (True,) * len(program.inputs))
    refs = [
        Ref(next(values) if known else tape.constant(np.zeros(v.shape, v.dtype)))
        for known, v in zip(given, program.inputs, strict=True)
    ]
    tape.run(program, refs)
    return [ref.value for ref in refs]


# primitive -> run(tape, equation, inputs) -> outputs
STRUCTURED = {
    "addupdate": addupdate,
    "empty_ref": empty_ref,
    "freeze": freeze,
    "get": get,
    "new_ref": new_ref,
    "run_state": run_state,
    "swap": swap,
}

FORMULAS = {
    "addupdate": "dv = dy[i]: y is the array after r[i] += v",
    "empty_ref": "0: a new array, of zeros",
    "freeze": "the cotangent of what the array holds",
    "get": "dr[i] += dv: v = r[i]",
    "new_ref": "dx is the cotangent of what the array holds first",
    "run_state": "the derivatives of its program, last access first",
    "swap": "dv = dy[i], and 0 at i for what was there: y is the array after r[i] = v",
}

_PALLAS = opaque("a primitive of Pallas kernels, outside of one")
_HIJAX = opaque("a mutable container of Python objects, of JAX's experimental `hijax`")

RULES = {
    "accum_grad_in_ref": linear(
        lambda local, dys: list(dys), formula="dx = dy", forward=lambda p, x: x, exact=True
    ),
    "broadcast_to": constant(
        "0: integers, as indices", lambda p, x: np.broadcast_to(x, p["shape"]), exact=True
    ),
    "free_ref": constant("0: no outputs"),
    "masked_load": _PALLAS,
    "masked_swap": _PALLAS,
    **dict.fromkeys(("box_get", "box_set", "log_extend", "log_read", "new_box", "new_log"), _HIJAX),
}
