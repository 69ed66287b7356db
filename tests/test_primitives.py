"""Every rule of the reference against `jax.vjp`, in float64, over a table of cases by family."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcbackprop as fb
from funcbackprop.reference.rules import FAMILIES

FILES = {family: family.replace(" ", "_") for family in FAMILIES}
CASES = {
    f"{family}: {name}": case
    for family, file in FILES.items()
    for name, case in importlib.import_module(f"primitive_cases.{file}").CASES.items()
}


def is_float(x):
    return jnp.issubdtype(jnp.asarray(x).dtype, jnp.inexact)


def cotangents(outputs, seed=7):
    """Normal numbers for floating-point outputs, float0 zeros for others."""
    rng = np.random.default_rng(seed)

    def one(y):
        shape = jnp.shape(y)
        if not is_float(y):
            return np.zeros(shape, jax.dtypes.float0)
        dy = rng.normal(size=shape)
        dy = dy + 1j * rng.normal(size=shape) if jnp.iscomplexobj(y) else dy
        return np.asarray(dy, jnp.asarray(y).dtype)

    return jax.tree.map(one, outputs)


def assert_close(got, want, tolerance, what):
    assert jax.tree.structure(got) == jax.tree.structure(want), what
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if getattr(b, "dtype", None) == jax.dtypes.float0:
            assert a.dtype == jax.dtypes.float0
            assert a.shape == b.shape
            continue
        if isinstance(b, jax.Array) and jnp.issubdtype(b.dtype, jax.dtypes.extended):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape, what
        assert a.dtype.kind == (b.dtype.kind if b.dtype.kind != "V" else "f"), what
        finite = np.isfinite(b) if b.dtype.kind in "fc" else np.ones(b.shape, bool)
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b), what)
        a, b = np.where(finite, a, 0), np.where(finite, b, 0)
        scale = max(1.0, np.max(np.abs(b), initial=0.0))
        error = np.max(np.abs(a.astype(complex) - b.astype(complex)), initial=0.0)
        assert error <= tolerance * scale, f"{what}: {error / scale:.1e} > {tolerance}"


def expected(case, args):
    if case.jax:
        outputs, pull = jax.vjp(case.fun, *args)
        dys = cotangents(outputs)
        return outputs, dys, pull(dys)
    outputs = case.fun(*args)
    dys = cotangents(outputs)
    return outputs, dys, case.expect(*args, dys)


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_jax_in_float64(name, x64):
    case = CASES[name]
    outputs, dys, want = expected(case, case.args)
    got_outputs, pullback = fb.reference.vjp(case.fun, *case.args)
    assert_close(got_outputs, outputs, case.tolerance, "outputs")
    assert_close(pullback(dys), want, case.tolerance, "gradients")


def narrowed(x):
    x = np.asarray(x) if not isinstance(x, jax.Array) else x
    kinds = {np.dtype(float): np.float32, np.dtype(complex): np.complex64, np.dtype(int): np.int32}
    return x.astype(kinds.get(x.dtype, x.dtype)) if isinstance(x, np.ndarray) else x


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.narrow])
def test_of_a_float32_program_agrees_with_jax_in_float64(name):
    """The program is captured in float32 and evaluated in float64: literals keep their value."""
    case = CASES[name]
    args = jax.tree.map(narrowed, case.args)
    got_outputs, pullback = fb.reference.vjp(case.fun, *args)
    jax.config.update("jax_enable_x64", True)
    try:
        wide = jax.tree.map(
            lambda x: x.astype(np.result_type(x.dtype, float)) if is_float(x) else x, args
        )
        outputs, dys, want = expected(case, wide)
    finally:
        jax.config.update("jax_enable_x64", False)
    # 1e-7: a literal such as 0.1 is the float32 nearest to it.
    tolerance = max(1e-7, case.tolerance)
    assert_close(got_outputs, outputs, tolerance, "outputs")
    assert_close(pullback(dys), want, tolerance, "gradients")
