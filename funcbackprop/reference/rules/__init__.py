"""The rules: one local derivative per primitive, in a literal table for each family."""

from . import (
    arithmetic,
    collectives,
    contractions,
    control_flow,
    effects,
    fourier,
    indexing,
    library,
    linalg,
    random,
    reductions,
    shapes,
    sorting,
    sparse,
    special,
    state,
    transcendental,
    windows,
)

# family -> its module, in the order of the coverage page.
FAMILIES = {
    "arithmetic": arithmetic,
    "transcendental": transcendental,
    "special": special,
    "reductions": reductions,
    "windows": windows,
    "contractions": contractions,
    "shapes": shapes,
    "indexing": indexing,
    "sorting": sorting,
    "linalg": linalg,
    "fourier": fourier,
    "random": random,
    "sparse": sparse,
    "control flow": control_flow,
    "state": state,
    "collectives": collectives,
    "effects": effects,
    "library": library,
}

# primitive -> Rule
RULES = {
    name: rule
    for module in FAMILIES.values()
    for name, rule in getattr(module, "RULES", {}).items()
}

# primitive -> run(tape, equation, inputs) -> outputs: those with programs of their own.
STRUCTURED = {
    name: run
    for module in FAMILIES.values()
    for name, run in getattr(module, "STRUCTURED", {}).items()
}

# Functions of JAX that are followed as one step: see `library`.
LIBRARY = frozenset(name.removeprefix("jax:") for name in library.RULES)
