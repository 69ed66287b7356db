"""How the loss bends: Hessian-vector products."""

from .hvp import hvp

__all__ = ["hvp"]
