"""Which weights are responsible for an error, and what an update will do, before it is taken."""

from .responsibility import Responsibility, responsibility
from .update_effect import UpdateEffect, update_effect

__all__ = ["Responsibility", "UpdateEffect", "responsibility", "update_effect"]
