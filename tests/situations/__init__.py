"""Situations that users of libraries have reported, and those that every check must pass."""

from . import reported_jax, reported_libraries, required

# name -> (function that builds it, the public report or "")
SITUATIONS = {**required.SITUATIONS, **reported_jax.SITUATIONS, **reported_libraries.SITUATIONS}
