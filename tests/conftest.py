"""Strict settings: warnings are errors (pyproject.toml), implicit rank promotion raises."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")

import jax
import pytest

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
def quick_compilation():
    """XLA optimizes little: for files whose time is the compilation of many small functions."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def key():
    return jax.random.key(0)
