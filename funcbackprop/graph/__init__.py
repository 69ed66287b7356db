"""What lies under JAX's public surface, and what differs between its versions."""

from .versions import to_varying, varying_axes

__all__ = ["to_varying", "varying_axes"]
