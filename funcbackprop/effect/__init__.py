"""What an update will do, before it is taken."""

from .update_effect import UpdateEffect, update_effect

__all__ = ["UpdateEffect", "update_effect"]
