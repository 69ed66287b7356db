"""The computational graph: a function as a program of equations. Only this room knows jaxprs."""

from .capture import CALLS, CUSTOM, trace
from .drawing import Annotation
from .evaluate import (
    bind,
    evaluate,
    evaluate_wide,
    is_key,
    local_vjp,
    recorded,
    stack,
    to_numpy,
    where,
    wide_dtype,
    widen,
)
from .follow import Use
from .network import Network, network, uses_of
from .observe import observed
from .program import Call, Equation, Literal, Program, Source, UnsupportedPrimitive, Variable
from .versions import (
    explicit_rows,
    explicit_sharding,
    is_concrete,
    laid_out_like,
    to_varying,
    varying_axes,
)

__all__ = [
    "CALLS",
    "CUSTOM",
    "Annotation",
    "Call",
    "Equation",
    "Literal",
    "Network",
    "Program",
    "Source",
    "UnsupportedPrimitive",
    "Use",
    "Variable",
    "bind",
    "evaluate",
    "evaluate_wide",
    "explicit_rows",
    "explicit_sharding",
    "is_concrete",
    "is_key",
    "laid_out_like",
    "local_vjp",
    "network",
    "observed",
    "recorded",
    "stack",
    "to_numpy",
    "to_varying",
    "trace",
    "uses_of",
    "varying_axes",
    "where",
    "wide_dtype",
    "widen",
]
