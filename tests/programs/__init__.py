"""Losses of many kinds, by family: name -> case, as in `cases.py`, whose programs are among them.

A new program joins by one row in the table of its family.
"""

import cases
import jax
import jax.numpy as jnp
import numpy as np

from . import (
    algebra,
    architectures,
    contractions,
    control,
    convolutions,
    entries,
    indexing,
    precision,
    recurrent,
    sharing,
    transforms,
)

FAMILIES = {
    "cases": cases,
    "contractions": contractions,
    "convolutions": convolutions,
    "indexing": indexing,
    "entries": entries,
    "control": control,
    "transforms": transforms,
    "sharing": sharing,
    "architectures": architectures,
    "recurrent": recurrent,
    "algebra": algebra,
    "precision": precision,
}
PROGRAMS = {name: case for family in FAMILIES.values() for name, case in family.CASES.items()}


def build(name, dtype):
    """`(loss, params, batch)` of a program: float64 arrays in `dtype`, others as they are."""
    case = PROGRAMS[name]
    loss, params, batch = case.make(np.random.default_rng(0))

    def cast(x):
        if not isinstance(x, np.ndarray | np.generic) or x.dtype == jnp.bfloat16:
            return jnp.asarray(x)  # random keys, bfloat16
        if x.dtype.kind == "c":
            return jnp.asarray(x, jnp.result_type(dtype, jnp.complex64))
        return jnp.asarray(x, dtype if x.dtype.kind == "f" else jnp.int32)

    return loss, jax.tree.map(cast, params), jax.tree.map(cast, batch(case.examples))
