"""Every primitive that JAX has a derivative rule for is known to the reference."""

import functools
import importlib
import subprocess
import sys

import jax
import pytest
from jax._src.interpreters import ad

from funcbackprop.reference.coverage import coverage

# Modules that add primitives to JAX's tables when they are imported.
MODULES = (
    "jax.experimental.buffer_callback",
    "jax.experimental.checkify",
    "jax.experimental.compute_on",
    "jax.experimental.custom_partitioning",
    "jax.experimental.hijax",
    "jax.experimental.pallas",
    "jax.experimental.sparse",
    "jax.experimental.xla_metadata",
    "jax.ffi",
    "jax.scipy.linalg",
    "jax.scipy.special",
)
TABLES = (
    "primitive_jvps",
    "primitive_transposes",
    "primitive_linearizations",
    "fancy_transposes",
    "reducing_transposes",
)

# Primitives of JAX's tables that cannot stand in a program that is captured, and why.
ABSENT = {
    "custom_lin": "made by JAX while it linearizes, and gone when it is done",
    "call_hi_primitive_linearized": "made by JAX while it linearizes, and gone when it is done",
    "stage": "what turns a constant into an array outside of any trace",
}


def known():
    return {row.primitive for row in coverage()}


def registered():
    """The names in JAX's tables, printed: in a process of its own, without other libraries'."""
    for module in MODULES:
        try:
            importlib.import_module(module)
        except ImportError:  # not in this version of JAX
            continue
    names = {p.name for table in TABLES for p in getattr(ad, table, {})}
    # JAX 0.11 makes these while it differentiates; they are gone when it is done.
    print(*(name for name in names if not name.startswith("vjp_node[")), sep="\n")


@functools.cache
def in_jax():
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n")) - {""}


@pytest.mark.core
def test_every_primitive_of_jax_is_known():
    assert in_jax() - known() - set(ABSENT) == set()


def test_what_is_absent_from_programs_is_not_covered_either():
    assert set(ABSENT) & known() == set()
    assert set(ABSENT) <= in_jax() or jax.__version_info__ != (0, 10, 2)


def test_every_row_says_what_it_does():
    rows = coverage()
    assert len({row.primitive for row in rows}) == len(rows)
    assert all(row.formula for row in rows)
    assert {row.kind for row in rows} == {"rule", "zero", "opaque", "program", "call"}


if __name__ == "__main__":
    registered()
