"""Statistics by factors against the gradients written out, for every program in `programs`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import statistic_table
from programs import FAMILIES, PROGRAMS, build, precision
from tolerances import assert_agree

import funcbackprop as fb

WEIGHTS = np.array([1.0, 0.0, 2.0, 0.5, 1.0, 0.0, 3.0])
# Half the time to compile.
QUICK = {"xla_backend_optimization_level": 0}
# One program of each kind; the others run with `-m full`.
EVERY_RUN = """
    scalar, empty and unused leaves; cond on the example; tied embedding; recurrent; complex
    parameter; mean dominates; batch axis of a weight; ellipsis; tensor train; 1-D causal
    convolution, dilated; 2-D convolution, channels first; batch groups; transposed convolution;
    take, filled; index out of range; two index axes; stacked layers in a Python loop;
    dynamic_slice; weight picked by the example; row without gradient; layer norm; concatenated
    pieces of a weight; masked weight; L2 regulariser; layers over time; weight read in a loop;
    parameter in the carry; cond with products; cond inside a scan; remat, a name kept; custom_vjp
    of a linear layer; custom_vjp on a weight; inner gradient step; gradient penalty; inside and
    outside a scan; multi-head attention; experts by einsum; expert of each token; adapter of
    weights; dropout; ConvLSTM; Cholesky; Fourier layer; bfloat16 activations; bfloat16 parameters
"""
EVERY_RUN = [" ".join(name.split()) for name in EVERY_RUN.split(";")]
CORE = ["embedding", "grouped convolution, strided and dilated", "cond with products"]


def compared(name, dtype, stats, weighted):
    """Errors of each statistic, in units of the tolerance."""
    loss, params, batch = build(name, dtype)
    n = PROGRAMS[name].examples
    weights = np.resize(WEIGHTS, n) if weighted else None
    if weighted:
        batch = jax.tree.map(lambda x: poisoned(x, weights), batch)
    chosen = stats(params, n)
    given = params, batch, None if weights is None else jnp.asarray(weights, dtype)
    losses, results = measured(loss, chosen, "factored")(*given)
    expected_losses, expected = measured(loss, chosen, "materialize")(*given)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    weights = np.ones(n) if weights is None else weights
    return statistic_table.errors(results, expected, weights, name in precision.CASES)


def measured(loss, stats, method):
    """Statistics that hold arrays cannot be hashed, so what is jitted is a function of them."""
    measure = fb.gradient_statistics(loss, stats, method=method)
    return jax.jit(lambda *given: measure(*given), compiler_options=QUICK)


def poisoned(x, weights):
    """NaN and inf in the rows of weight 0, where there are floating-point numbers."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    for count, i in enumerate(np.flatnonzero(weights == 0)):
        x = x.at[i].set([jnp.nan, jnp.inf][count % 2])
    return x


def check(*what):
    found = compared(*what)
    wrong = {name: error for name, error in found.items() if not error <= 1}
    assert not wrong, f"errors in units of the tolerance: {wrong}"


@pytest.mark.parametrize("name", EVERY_RUN)
def test_cheap_statistics(name):
    check(name, "float32", statistic_table.cheap, True)


@pytest.mark.core
@pytest.mark.parametrize("name", CORE)
def test_everything_core(name):
    check(name, "float32", statistic_table.everything, True)


@pytest.mark.full
@pytest.mark.parametrize("name", list(PROGRAMS)[::6])
def test_everything(x64, name):
    """A sixth of the programs, in float64; `python tests/exactness.py` has all, in both dtypes."""
    check(name, "float64", statistic_table.everything, True)


@pytest.mark.parametrize("name", ["linear", "tied embedding", "experts by einsum"])
def test_everything_without_weights(name):
    check(name, "float32", statistic_table.everything, False)


@pytest.mark.parametrize("name", ["tied embedding", "recurrent", "multi-head attention", "adapter"])
def test_the_mean_agrees_with_the_reference(x64, name):
    """A chain rule that shares no derivative with JAX."""
    name = next(program for program in PROGRAMS if program.startswith(name))
    loss, params, batch = build(name, "float64")
    _, mean = measured(loss, fb.Mean(), "factored")(params, batch)
    _, expected = fb.reference.value_and_grad(loss)(params, batch)
    for got, want in zip(jax.tree.leaves(mean), jax.tree.leaves(expected), strict=True):
        assert_agree(got, want, "float64", 1.0, name)


def test_no_name_is_given_twice():
    assert len(PROGRAMS) == sum(len(family.CASES) for family in FAMILIES.values())
