"""Sorting and the largest k: the order is decided in the program's own precision, and replayed."""

import numpy as np
from jax import lax

from ...graph import Equation, evaluate
from .kinds import general


def _order(p, *x):
    """For each place along the axis, where the element that comes there is taken from."""
    axis, keys = p["dimension"], x[: p["num_keys"]]
    if p["is_stable"]:
        parts = [part for key in keys for part in _parts(key)]
        return (np.lexsort(parts[::-1], axis=axis),)
    # The order of ties is that of XLA's algorithm: numbers are sorted along with the keys.
    numbers = np.arange(x[0].shape[axis], dtype=np.int32)
    numbers = np.moveaxis(np.broadcast_to(numbers, np.moveaxis(x[0], axis, -1).shape), -1, axis)
    return evaluate(Equation("sort", (), (), p, primitive=lax.sort_p), *keys, numbers)[-1:]


def _parts(key):
    """Complex numbers sort by their real parts, then by their imaginary parts."""
    return (key.real, key.imag) if np.iscomplexobj(key) else (key,)


def _sorted(p, choice, *x):
    return tuple(np.take_along_axis(v, choice[0], p["dimension"]) for v in x)


def _sort_pull(local, dys):
    axis, (order,) = local.p["dimension"], local.choice
    return [
        _put_back(x, order, axis, dy) if wanted else None
        for x, dy, wanted in zip(local.x, dys, local.active, strict=True)
    ]


def _put_back(x, index, axis, dy):
    """The transpose of taking x along an axis, where no element is taken twice."""
    dx = np.zeros_like(x)
    np.put_along_axis(dx, index, dy, axis)
    return dx


def _largest(p, x):
    """Indices of the k largest along the axis, the largest first."""
    axis = _top_axis(p)
    # ~n reverses the order of integers of any kind, and does not overflow as -n may.
    order = np.argsort(~_ranked(x), axis=axis, kind="stable")
    return (np.take(order, range(p["k"]), axis).astype(np.int32),)


def _ranked(x):
    """Integers that sort as x does, with -NaN < -inf < ... < -0 < 0 < ... < inf < NaN."""
    if x.dtype.kind != "f":
        return x
    bits = np.ascontiguousarray(x).view(np.int64)
    return bits ^ ((bits >> 63) & np.iinfo(np.int64).max)


def _top_axis(p):
    return p.get("axis", -1)


def _approximately_largest(p, x):
    return evaluate(Equation("approx_top_k", (), (), p, primitive=lax.approx_top_k_p), x)[1:]


def _approximate_axis(p):
    return p["reduction_dimension"]


def _top(choose, axis, convention):
    """A rule for values and their indices along `axis(p)`, with the indices from `choose`."""

    def forward(p, choice, x):
        return np.take_along_axis(x, choice[0], axis(p)), choice[0]

    def pull(local, dys):
        return [_put_back(local.x[0], local.choice[0], axis(local.p), dys[0])]

    return general(
        pull,
        formula="dx = dy at the values taken, else 0",
        forward=forward,
        choose=choose,
        exact=True,
        square=pull,
        convention=convention,
    )


RULES = {
    "sort": general(
        _sort_pull,
        formula="dx_k = dy_k, put back in the order of x",
        forward=_sorted,
        choose=_order,
        exact=True,
        square=_sort_pull,
        convention="NaN comes last; 0 and -0 are tied; ties stay in order, or if not `is_stable` "
        "are ordered as by XLA on the CPU",
    ),
    "top_k": _top(
        _largest,
        _top_axis,
        "NaN comes first; 0 is before -0; of ties, the first is taken first, with `is_stable` or "
        "without",
    ),
    "approx_top_k": _top(
        _approximately_largest,
        _approximate_axis,
        "exact, as JAX is on the CPU; ties as XLA orders them there",
    ),
}
