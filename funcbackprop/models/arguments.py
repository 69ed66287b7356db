"""Checks of the constructors' arguments: which argument, what was expected, what came."""

import operator
from collections.abc import Iterable
from typing import Any


def positive(caller: str, **values: Any) -> list[int]:
    """The values as Python ints; TypeError or ValueError unless they are integers from 1 on."""
    return [_positive(caller, name, value) for name, value in values.items()]


def positives(caller: str, name: str, values: Any, at_least: int) -> tuple[int, ...]:
    """A sequence of at least `at_least` positive integers."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(
            f"`{caller}`: `{name}` must be a sequence of positive integers, got {values!r}"
        )
    values = tuple(values)
    if len(values) < at_least:
        raise ValueError(
            f"`{caller}`: `{name}` must hold at least {at_least} positive integers, got {values}"
        )
    return tuple(_positive(caller, f"{name}[{i}]", value) for i, value in enumerate(values))


def rate(caller: str, dropout: Any) -> float:
    """A dropout rate in [0, 1)."""
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ValueError(
            f"`{caller}`: `dropout` must be a probability in [0, 1) of setting an entry to zero, "
            f"got {dropout!r}; pass 0.0 for none"
        )
    return float(dropout)


def one_of(caller: str, name: str, value: Any, known: Iterable[str]) -> str:
    """One of the known names."""
    known = tuple(known)
    if value not in known:
        names = ", ".join(repr(option) for option in known)
        raise ValueError(f"`{caller}`: `{name}` must be one of {names}, got {value!r}")
    return value


def _positive(caller: str, name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"`{caller}`: `{name}` must be a positive integer, got {value!r}") from None
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"`{caller}`: `{name}` must be a positive integer, got {value!r}")
    return number
