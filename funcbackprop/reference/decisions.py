"""Discrete decisions that hang by a hair: what else could have been decided.

A comparison, a maximum or an order is taken on the program's own values. Two kinds of them matter
to whoever judges a gradient. Where an input lies within its rounding of the threshold, another
order of summation decides otherwise: a *flip*. Where it lies on the threshold itself, whatever the
precision, the function has a kink or a tie there, and the derivative is one of several.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..graph import is_key, wide_dtype, widen
from .rounding import typical

# An input within this many times the RMS of its rounding may be decided otherwise.
_REACH = 4.0
# By how much a tie is broken, relative to the input: less than a float32 rounding, and different
# from entry to entry, so that of several equal entries one comes first.
_NUDGE = 2.0**-30
_TINY = 1e-200


class Near(NamedTuple):
    """Alternatives to a decision; each is None where nothing would be decided otherwise.

    Attributes:
      flip: where rounding could decide otherwise, that.
      plus, minus: with exact ties broken to either side.
    """

    flip: Any = None
    plus: Any = None
    minus: Any = None


def near(decide: Callable, inputs: Sequence[Any], taken: Any) -> Near | None:
    """What `decide(*inputs)` returns on inputs a little off.

    Args:
      decide: takes arrays like the inputs, in float64, and returns a (tree of) arrays.
      inputs: values on the tape. Those that no parameter moves stay as they are.
      taken: what was decided.
    """
    if not any(_moves(v) for v in inputs):
        return None
    with np.errstate(all="ignore"):
        plus, minus = (decide(*_moved(inputs, name, _nudge_of)) for name in ("plus", "minus"))
        flip = None
        if any(v.own is not v.wide or (v.near and v.near.flip is not None) for v in inputs):
            sides = (decide(*_moved(inputs, "flip", _rounding_of, sign)) for sign in (1, -1))
            flip = jax.tree.map(_either, taken, *sides)
    found = Near(*(_other(taken, x) for x in (flip, plus, minus)))
    return None if all(x is None for x in found) else found


def _moves(value) -> bool:
    return value.near is not None or (value.id >= 0 and _is_real(value.own))


def _is_real(x) -> bool:
    return not is_key(x) and wide_dtype(x.dtype) == np.float64


def _moved(inputs, name, step, sign=1):
    """The inputs with the first moved to one side, all others to the other."""
    sign = -sign if name == "minus" else sign
    out = []
    for v in inputs:
        other = None if v.near is None else getattr(v.near, name)
        if other is None and v.id >= 0 and _is_real(v.own):
            other = widen(v.own) + sign * step(v)
            sign = -sign if not out else sign
        out.append(widen(v.own) if other is None else other)
    return out


def _rounding_of(value):
    """How far rounding may have moved each entry; 0 for those that it did not move."""
    return _REACH * typical(value.own, value.wide)


def _nudge_of(value):
    x = np.abs(widen(value.own))
    relative = 2.0**-52 if value.own.dtype == np.float64 else _NUDGE
    ramp = 1 + np.arange(x.size).reshape(x.shape) / max(1, x.size)
    return np.where(np.isfinite(x), x * relative * ramp + _TINY * ramp, 0.0)


def _either(taken, a, b):
    """Entry by entry, the alternative that differs from what was taken."""
    return np.where(np.asarray(a) != taken, a, b) if np.shape(a) == np.shape(b) else a


def _other(taken, alternative):
    if alternative is None:
        return None
    pairs = zip(jax.tree.leaves(taken), jax.tree.leaves(alternative), strict=True)
    return None if all(np.array_equal(a, b) for a, b in pairs) else alternative
