"""The computational graph: a function as a program of equations. Only this package reads jaxprs."""

from .capture import CALLS as CALLS
from .capture import CUSTOM as CUSTOM
from .capture import trace
from .drawing import Annotation
from .evaluate import bind as bind
from .evaluate import evaluate, evaluate_wide
from .evaluate import is_key as is_key
from .evaluate import local_vjp as local_vjp
from .evaluate import recorded as recorded
from .evaluate import stack as stack
from .evaluate import to_numpy as to_numpy
from .evaluate import where as where
from .evaluate import wide_dtype as wide_dtype
from .evaluate import widen as widen
from .follow import Use
from .network import Network, network, uses_of
from .observe import observed as observed
from .program import Call, Equation, Literal, Program, Source, UnsupportedPrimitive, Variable
from .versions import explicit_rows as explicit_rows
from .versions import explicit_sharding as explicit_sharding
from .versions import is_concrete as is_concrete
from .versions import laid_out_like as laid_out_like
from .versions import to_varying as to_varying
from .versions import varying_axes as varying_axes

# What is public. The names imported as themselves are tools for the other rooms.
__all__ = [
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
    "evaluate",
    "evaluate_wide",
    "network",
    "trace",
    "uses_of",
]
