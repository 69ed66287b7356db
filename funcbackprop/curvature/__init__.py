"""How the loss bends: Hessian-vector products, and the Hessian's eigenvalues from them."""

from .density import SpectralDensity, spectral_density
from .hvp import hvp
from .lanczos import Lanczos, lanczos
from .preconditioner import preconditioner_of
from .sharpness import Sharpness, sharpness
from .stability import stability_threshold
from .status import STATUS
from .trace import Trace, trace

__all__ = [
    "STATUS",
    "Lanczos",
    "Sharpness",
    "SpectralDensity",
    "Trace",
    "hvp",
    "lanczos",
    "preconditioner_of",
    "sharpness",
    "spectral_density",
    "stability_threshold",
    "trace",
]
