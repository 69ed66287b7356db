"""Strict settings: warnings are errors (pyproject.toml), implicit rank promotion raises.

Most of the tests' time is compilation. LLVM optimizes little here, XLA writes fusions in its older
way, which compiles in two thirds of the time, and each worker compiles a program once: the programs
that a test starts find it too. The core checks on the newest version compile as users do:
`JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest -m core`.
"""

import atexit
import importlib.metadata
import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# A folder for each worker: two that write the same file would spoil it.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# XLA ends the process at a flag that it does not know, as from 0.11 on it does not know this one.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_cpu_use_fusion_emitters=false"
    if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
    and [*map(int, importlib.metadata.version("jaxlib").split(".")[:2])] < [0, 11]
    else ""
)

import jax
import pytest

QUICK = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

jax.config.update("jax_numpy_rank_promotion", "raise")

# The collector of doctests imports every file; these need libraries that may be missing.
collect_ignore_glob = ["libraries/*_models.py"]


@pytest.fixture
def x64():
    """Run a test in float64; the global flag is restored afterwards."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="module")
def full_optimization():
    """XLA optimizes as for users: for files about the rounding of its code."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", QUICK)


@pytest.fixture
def key():
    return jax.random.key(0)
