"""How results print, what they are in JSON, and why a number may be undefined."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..files import json_safe
from ..graph import is_concrete
from ..tables import number

# code -> (name, sentence). Codes are stable: they are what a traced result carries.
STATUS = {
    0: ("ok", "The numbers are usable."),
    1: (
        "not finite",
        "A product with the Hessian holds NaN or inf: the loss has no finite second derivative "
        "here, or all weights are zero.",
    ),
    2: (
        "preconditioner not positive",
        "The preconditioner is not above zero and finite everywhere. If it was read from an "
        "optimizer's state, take a step first.",
    ),
    3: (
        "one sample",
        "The value is usable, but one random vector tells no standard error; take more samples.",
    ),
}


def status(*conditions: tuple[Any, int]) -> jax.Array:
    """The code of the first condition that holds; 0 where none does. int32."""
    found = jnp.int32(0)
    for condition, code in reversed(conditions):
        found = jnp.where(condition, jnp.int32(code), found)
    return found


def explain(code: Any) -> str:
    """What codes mean, one line for each (on the host)."""
    return "\n".join(STATUS[k][1] for k in np.ravel(code).tolist())


def to_dict(result: Any, *hidden: str) -> dict:
    """The fields of a NamedTuple, JSON-safe; a status is its name."""
    shown = {k: v for k, v in result._asdict().items() if k not in hidden}
    return {k: _names(v) if k == "status" else json_safe(np.asarray(v)) for k, v in shown.items()}


def text(result: Any, *hidden: str) -> str:
    """One line for each field."""
    if not all(map(is_concrete, jax.tree.leaves(result))):
        return f"{type(result).__name__}(traced)"
    shown = {k: v for k, v in result._asdict().items() if k not in hidden}
    return "\n".join(f"{k.replace('_', ' ')}: {_line(k, v)}" for k, v in shown.items())


def _names(code):
    found = [STATUS[k][0] for k in np.ravel(code).tolist()]
    return found[0] if np.ndim(code) == 0 else found


def _line(name, value):
    if name == "status":
        return ", ".join(np.ravel(_names(value)).tolist())
    values = np.asarray(value).ravel().tolist()
    rest = f" ... ({len(values)} numbers)" if len(values) > _SHOWN else ""
    return ", ".join(map(number, values[:_SHOWN])) + rest


_SHOWN = 6
