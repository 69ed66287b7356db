"""Which weights are responsible for an error, and what an update will do, before it is taken."""

from .along_update import AlongUpdate, along_update
from .responsibility import Responsibility, responsibility
from .update_effect import UpdateEffect, update_effect

__all__ = [
    "AlongUpdate",
    "Responsibility",
    "UpdateEffect",
    "along_update",
    "responsibility",
    "update_effect",
]
