"""Every rule of the reference against `jax.vjp`, in float64, over a table of cases by family."""

import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import quick

import funcbackprop as fb
from funcbackprop.reference.coverage import coverage
from funcbackprop.reference.rules import FAMILIES, LIBRARY

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


def relative_error(got, want):
    """max|a - b| / max(max|b|, 1) over all leaves; what is not finite must be so in both."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max((_leaf_error(a, b) for a, b in pairs), default=0.0)


def _leaf_error(a, b):
    if isinstance(b, jax.Array) and jnp.issubdtype(b.dtype, jax.dtypes.extended):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    assert a.dtype.kind == (b.dtype.kind if b.dtype.kind != "V" else "f")
    a, b = (x.astype(complex) for x in (a, b))
    finite = np.isfinite(b)
    np.testing.assert_array_equal(np.isfinite(a), finite)
    a, b = np.where(finite, a, 0), np.where(finite, b, 0)
    return float(np.max(np.abs(a - b), initial=0.0) / max(1.0, np.max(np.abs(b), initial=0.0)))


def expected(case, args):
    """Outputs, cotangents and gradients; what is not differentiated is left out of the last."""
    if not case.jax:
        outputs = case.fun(*args)
        dys = cotangents(outputs)
        return outputs, dys, without_float0(case.expect(*args, dys))

    def value_and_gradients(args):
        outputs, pull = jax.vjp(case.fun, *args)
        return outputs, without_float0(pull(cotangents(outputs)))

    outputs, gradients = quick(value_and_gradients)(args)
    return outputs, cotangents(outputs), gradients


def without_float0(tree):
    return jax.tree.map(lambda x: None if x.dtype == jax.dtypes.float0 else x, tree)


def worst_error(case):
    """The larger error of outputs and gradients, in the dtypes of the case."""
    outputs, dys, want = expected(case, case.args)
    got, pullback = fb.reference.vjp(case.fun, *case.args)
    return max(relative_error(got, outputs), relative_error(without_float0(pullback(dys)), want))


def first_of_each():
    """The cases that run by default: of those whose names begin with the same word, the first."""
    first = {}
    for name in CASES:
        family, _, rest = name.partition(": ")
        first.setdefault((family, re.split("[ ,]", rest)[0]), name)
    return set(first.values())


FIRST = first_of_each()


def marked(name):
    return pytest.param(name, marks=[] if name in FIRST else [pytest.mark.full], id=name)


@pytest.mark.parametrize("name", [marked(name) for name in CASES])
def test_agrees_with_jax_in_float64(name, x64):
    case = CASES[name]
    assert worst_error(case) <= case.tolerance


def narrowed(x):
    x = np.asarray(x) if not isinstance(x, jax.Array) else x
    kinds = {np.dtype(float): np.float32, np.dtype(complex): np.complex64, np.dtype(int): np.int32}
    return x.astype(kinds.get(x.dtype, x.dtype)) if isinstance(x, np.ndarray) else x


@pytest.mark.full
@pytest.mark.parametrize("name", [n for n in CASES if n in FIRST and CASES[n].narrow])
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
    assert relative_error(got_outputs, outputs) <= tolerance
    assert relative_error(without_float0(pullback(dys)), want) <= tolerance


def primitives_of(program):
    """Names of all equations of a program and of the programs inside it."""
    for equation in program.equations:
        yield equation.name
        for _, inner in equation.inner:
            yield from primitives_of(inner)


# Of other versions of JAX than 0.10.2.
ELSEWHERE = {
    "jax:_det_2x2",
    "jax:_det_3x3",
    "jax:_erfcinv",
    "jax:_expn",
    "jax:_ndtri",
    "jax:exp_neg_sq",
    "jax:i0_impl",
    "log2",
    "one_minus_square",
    "polynomial",
    "reduced_vary_cast",
    "relayout",
    "vary_unreduced_cast",
    "with_memory_space_constraint",
}


@pytest.mark.skipif(
    jax.__version_info__ != (0, 10, 2), reason="other versions have other primitives"
)
def test_every_rule_has_a_case(x64):
    used = set()
    for case in CASES.values():
        used |= set(primitives_of(fb.graph.trace(case.fun, keep=LIBRARY)(*case.args)))
    rules = {row.primitive for row in coverage() if row.kind in ("rule", "program")}
    assert rules - used == ELSEWHERE
