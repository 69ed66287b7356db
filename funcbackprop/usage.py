"""What every command shares: the refusal of one line, a user's own problem, and where it ran.

Loads no JAX until it is needed, so that the command line can answer `--help`.
"""

import importlib
import os
import platform
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from . import __version__

if TYPE_CHECKING:
    from .contract import Problem

_VERSIONS = ("jax", "jaxlib", "optax", "numpy")


class UsageError(ValueError):
    """Something the user asked for cannot be done; the command line prints it and exits with 2."""


def import_problem(target: str, option: str = "--model") -> "Problem":
    """The `Problem` that `module:problem` names, or that a function of this name returns.

    Args:
      target: what the user wrote; the module is looked for in the current folder first.
      option: the option it was written for, which the refusal names.

    Raises:
      UsageError: there is none.
    """
    from .contract import Problem

    module_name, _, attribute = target.partition(":")
    folder = os.getcwd()
    if folder not in sys.path:  # as `python -m` does
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(f"{option} {target}: cannot import: {error}") from error
    problem = getattr(module, attribute, None)
    if not isinstance(problem, Problem) and callable(problem):
        try:
            problem = problem()
        except TypeError as error:
            raise UsageError(f"{option} {target}: cannot call it: {error}") from error
    if not isinstance(problem, Problem):
        raise UsageError(
            f"{option} {target}: expected a funcbackprop.Problem, or a function that returns one, "
            f"named {attribute!r} in {module_name}, got {type(problem).__name__}"
        )
    return problem


def initial_params(problem: "Problem", seed: int) -> Any:
    """The parameters of a seed."""
    import jax

    return problem.params(jax.random.key(seed)) if problem.draws_params else problem.params


def environment() -> dict[str, Any]:
    """What a result was made with: versions, platform, devices and cores."""
    import jax

    return {
        "versions": {
            "funcbackprop": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _VERSIONS},
        },
        "platform": platform.platform(),
        "devices": [str(device) for device in jax.devices()],
        "cores": os.cpu_count(),
    }
