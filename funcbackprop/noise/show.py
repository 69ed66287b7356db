"""How results that hold several estimates print, and what they are in JSON."""

from typing import Any

import jax
import numpy as np

from ..files import json_safe
from ..tables import number
from . import status as statuses
from .estimate import Estimate


def to_dict(result: Any, *hidden: str) -> dict:
    """The fields of a NamedTuple, JSON-safe: statuses as names, fields that are None left out."""
    shown = {k: v for k, v in result._asdict().items() if k not in hidden and v is not None}
    return json_safe({name: _plain(name, value) for name, value in shown.items()})


def _plain(name, value):
    if name == "status":
        return statuses.names(value)
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return jax.tree.map(np.asarray, value)


def text(result: Any, *hidden: str) -> str:
    """One line for each field: its name, and the number or estimate."""
    if is_traced(result):
        return f"{type(result).__name__}(traced)"
    shown = [(k, v) for k, v in result._asdict().items() if k not in hidden and v is not None]
    return "\n".join(f"{name.replace('_', ' ')}: {_line(name, value)}" for name, value in shown)


def _line(name, value):
    if name == "status":
        return ", ".join(np.ravel(statuses.names(value)).tolist())
    if isinstance(value, Estimate):
        return "; ".join(str(value).splitlines())
    value = np.asarray(value)
    if value.dtype == bool:
        return ", ".join("yes" if x else "no" for x in value.ravel().tolist())
    return ", ".join(map(number, value.ravel().tolist()))


def is_traced(result: Any) -> bool:
    """Whether there are no numbers yet: inside `jit`, `vmap` and their like."""
    try:
        for leaf in jax.tree.leaves(result):
            np.asarray(leaf)
    except jax.errors.TracerArrayConversionError:
        return True
    return False
