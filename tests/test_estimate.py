"""Estimates: the jackknife against its textbook forms, intervals, and how they print."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import assert_agree

from funcbackprop.noise import STATUS, Estimate, jackknife
from funcbackprop.noise.estimate import normal, quantile, unknown
from funcbackprop.noise.status import first_that_holds


def test_jackknife_of_equal_groups(x64):
    x = np.random.default_rng(0).normal(size=(8, 3))
    f = lambda rows: np.exp(rows.mean(0))  # noqa: E731
    left_out = np.stack([f(np.delete(x, j, 0)) for j in range(8)])
    expected = np.sqrt(7 / 8 * ((left_out - left_out.mean(0)) ** 2).sum(0))
    assert_agree(jackknife(f(x), left_out), expected, "float64")


def test_jackknife_of_unequal_groups(x64):
    """By the pseudo-values of the paper, one at a time."""
    rng = np.random.default_rng(1)
    sizes = np.array([3, 1, 4, 2, 5])
    groups = [rng.normal(size=m) for m in sizes]
    mean = np.concatenate(groups).mean()
    left_out = [np.concatenate(groups[:j] + groups[j + 1 :]).mean() for j in range(5)]
    h = sizes.sum() / sizes
    pseudo = h * mean - (h - 1) * left_out
    centre = 5 * mean - np.sum((1 - 1 / h) * left_out)
    expected = np.sqrt(np.mean((pseudo - centre) ** 2 / (h - 1)))
    assert_agree(jackknife(mean, left_out, sizes), expected, "float64")


def test_jackknife_keeps_digits_of_a_large_value():
    """float32, an error 1e-4 of the value."""
    x = (1000 + np.random.default_rng(2).normal(size=32)).astype(np.float32)
    left_out = ((x.sum(dtype=np.float64) - x) / 31).astype(np.float32)
    expected = x.std(ddof=1) / np.sqrt(32)
    assert abs(jackknife(np.float32(x.mean()), left_out) / expected - 1) < 0.01


def test_one_group_has_no_error():
    assert np.isnan(jackknife(1.0, [2.0]))


@pytest.mark.parametrize(("freedom", "expected"), [(None, 1.959964), (1, 12.7062), (9, 2.262157)])
def test_quantiles(freedom, expected):
    """Tables of the normal and of Student's law."""
    assert abs(quantile(freedom) - expected) < 1e-4


def test_how_it_prints():
    assert str(normal(2.0, 0.5)) == "2 [1.02, 2.98]"
    assert str(normal(jnp.array([1.0, 2.0]), 0.5)).count("\n") == 1
    nothing = unknown(0.0, 1)
    assert str(nothing) == "– (one example)"  # noqa: RUF001
    assert nothing.explain() == STATUS[1][1]
    assert nothing.to_dict()["value"] is None
    assert nothing.to_dict()["status"] == "one example"
    one_sided = Estimate(*map(jnp.asarray, (3.0, jnp.nan, 1.0, jnp.inf)), jnp.int32(4))
    assert str(one_sided) == "3 [1, inf] (gradient not above zero)"


def test_under_jit_and_vmap():
    f = jax.jit(jax.vmap(lambda v: normal(v, 1.0, first_that_holds((v > 1, "not finite")))))
    found = f(jnp.array([0.0, 2.0]))
    assert found.status.tolist() == [0, 2]
    assert found.explain().splitlines() == [STATUS[0][1], STATUS[2][1]]


def test_codes_are_in_order():
    assert list(STATUS) == sorted(STATUS)
    assert len({name for name, _ in STATUS.values()}) == len(STATUS)
