"""How results print, what they are in JSON, and what their status codes mean, for all rooms."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .files import json_safe
from .tables import number

# Numbers of one field that are printed.
_SHOWN = 6


class Statuses(NamedTuple):
    """Why a number cannot be trusted: what the int32 `status` of a result means.

    Attributes:
      table: code -> (name, sentence); 0 is the usable one. Codes are stable: they are what a traced
        result carries.
    """

    table: Mapping[int, tuple[str, str]]

    def names(self, status: Any) -> Any:
        """The names of codes, in the form of `status`: a `str` for one code (on the host)."""
        codes = np.asarray(status)
        found = np.array([self.table[code][0] for code in codes.ravel().tolist()])
        return found.item() if codes.ndim == 0 else found.reshape(codes.shape)

    def sentences(self, status: Any) -> str:
        """What the codes mean, one line for each (on the host)."""
        return "\n".join(self.table[code][1] for code in np.ravel(status).tolist())

    def code(self, name: str) -> int:
        """The code of a status."""
        return next(code for code, (known, _) in self.table.items() if known == name)

    def first_that_holds(self, *conditions: tuple[Any, str]) -> Any:
        """The code of the first condition that holds, entry by entry; 0 where none does. int32.

        Args:
          conditions: `(condition, name of a status)`, most important first.

        >>> known = Statuses({0: ("ok", "Usable."), 7: ("not finite", "It holds NaN.")})
        >>> print(known.first_that_holds((False, "ok"), (True, "not finite")))
        7
        """
        found = jnp.int32(0)
        for condition, name in reversed(conditions):
            found = jnp.where(condition, jnp.int32(self.code(name)), found)
        return found

    def first_problem(self, status: Any, *conditions: tuple[Any, str]) -> Any:
        """`status` where it is not 0, else the code of the first condition that holds. int32."""
        known = jnp.asarray(status, jnp.int32)
        return jnp.where(known != 0, known, self.first_that_holds(*conditions))

    def to_dict(self, result: Any, *hidden: str) -> dict:
        """The fields of a NamedTuple, JSON-safe: statuses as names, what is None left out."""
        return json_safe({k: self._plain(k, v) for k, v in _fields(result, hidden).items()})

    def text(self, result: Any, *hidden: str) -> str:
        """One line for each field: its name, and the number or estimate."""
        if is_traced(result):
            return f"{type(result).__name__}(traced)"
        shown = _fields(result, hidden).items()
        return "\n".join(f"{k.replace('_', ' ')}: {self._line(k, v)}" for k, v in shown)

    def _plain(self, name, value):
        if name == "status":
            return self.names(value)
        if hasattr(value, "to_dict"):
            return value.to_dict()
        return jax.tree.map(np.asarray, value)

    def _line(self, name, value):
        if name == "status":
            return ", ".join(np.ravel(self.names(value)).tolist())
        if hasattr(value, "to_dict"):
            return "; ".join(str(value).splitlines())
        values = np.asarray(value).ravel()
        if values.dtype == bool:
            return ", ".join("yes" if x else "no" for x in values.tolist())
        rest = f" ... ({len(values)} numbers)" if len(values) > _SHOWN else ""
        return ", ".join(map(number, values[:_SHOWN].tolist())) + rest


def is_traced(result: Any) -> bool:
    """Whether there are no numbers yet: inside `jit`, `vmap` and their like."""
    try:
        for leaf in jax.tree.leaves(result):
            np.asarray(leaf)
    except jax.errors.TracerArrayConversionError:
        return True
    return False


def _fields(result, hidden):
    return {k: v for k, v in result._asdict().items() if k not in hidden and v is not None}
