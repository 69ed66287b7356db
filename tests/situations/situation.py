"""What a situation is: a loss, and what the checker must say of its gradient."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Situation(NamedTuple):
    """A gradient to check, and the verdicts that are right.

    Attributes:
      loss, params, batch: the arguments of `check_gradients`.
      expected: the verdict of every leaf, or leaf name -> verdict.
      at: a fragment of the source line that the report must name; "" if no line matters.
      says: words that the report must contain.
      options: further arguments of `check_gradients`.
      x64: whether it runs in float64.
      matmul: the default precision of products under which it runs.
    """

    loss: Callable
    params: Any
    batch: Any
    expected: str | Mapping[str, str]
    at: str = ""
    says: tuple[str, ...] = ()
    options: Mapping[str, Any] = {}
    x64: bool = False
    matmul: str | None = None
