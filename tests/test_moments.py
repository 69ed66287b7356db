"""Moments of the noise: formulas by hand, closed forms by |z| < 4, and what cannot be estimated."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import Z_MAX, assert_agree

import funcbackprop as fb
from funcbackprop.noise import STATUS, moments


def by_definition(g, w=None):
    """S and |G|^2 from the rows of g [n, P], by pairs of examples."""
    n = len(g)
    w = np.ones(n) if w is None else w
    total, squares = w.sum(), (w**2).sum()
    mean = (w[:, None] * g).sum(0) / total
    S = (w * ((g - mean) ** 2).sum(1)).sum() / (total - squares / total)
    pairs = sum(w[i] * w[j] * (g[i] @ g[j]) for i in range(n) for j in range(n) if i != j)
    return S, pairs / (total**2 - squares)


def statistics(g, w=None):
    """The statistics of two leaves with gradients g[:, :2] and g[:, 2:], through the engine."""
    params = {"a": jnp.zeros(2), "b": jnp.zeros(g.shape[1] - 2)}

    def loss(p, x):
        return jnp.concatenate([p["a"], p["b"]]) @ x

    stats = {
        "mean": fb.Mean(),
        "sq_norms": fb.SquaredNorms(),
        "sq_deviations": fb.SquaredDeviations(),
        "variance": fb.Variance(),
    }
    return fb.gradient_statistics(loss, stats)(params, jnp.asarray(g), w)[1]


@pytest.mark.core
@pytest.mark.parametrize("source", ["sq_norms", "sq_deviations", "variance"])
def test_formulas(x64, source):
    g = np.random.default_rng(1).normal(size=(6, 5)) + 0.5
    s = statistics(g)
    weights = np.ones(6) if source == "variance" else None
    m = moments(s["mean"], **{source: s[source]}, weights=weights)
    S, sq_norm = by_definition(g)
    assert_agree(m.S, S, "float64")
    assert_agree(m.sq_gradient_norm, sq_norm, "float64", S)
    assert_agree(m.noise_scale, S / sq_norm, "float64", S / abs(sq_norm) * 10)
    assert_agree(m.signal_to_noise, sq_norm / S, "float64")
    leaf = m.per_leaf["b"]
    assert_agree(leaf.S, by_definition(g[:, 2:])[0], "float64")
    assert_agree(m.per_leaf["a"].S + leaf.S, m.S, "float64")
    assert m.examples == 6
    assert m.explain() == STATUS[0][1]


class TestVariants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_with_and_without_jit(self):
        g = jnp.array([[1.0, 2.0], [1.5, 2.5], [0.5, 2.0]])
        m = self.variant(moments)(g.mean(0), jnp.sum(g**2, 1))
        S, sq_norm = by_definition(np.asarray(g, np.float64))
        chex.assert_trees_all_close((m.S, m.sq_gradient_norm), (S, sq_norm), rtol=1e-4)


def test_weights(x64):
    rng = np.random.default_rng(2)
    g, w = rng.normal(size=(7, 5)) + 0.3, rng.uniform(0.1, 2, size=7)
    w[3] = 0
    s = statistics(g, w)
    S, sq_norm = by_definition(g, w)
    m = moments(s["mean"], s["sq_norms"], weights=w)
    assert_agree(m.S, S, "float64")
    assert_agree(m.sq_gradient_norm, sq_norm, "float64", S)
    assert_agree(m.examples, w.sum() ** 2 / (w**2).sum(), "float64")
    centred = moments(s["mean"], sq_deviations=s["sq_deviations"], weights=w)
    assert_agree(centred.S, S, "float64")
    without = moments(*(statistics(np.delete(g, 3, 0), np.delete(w, 3))[k] for k in s if k in (
        "mean", "sq_norms")), weights=np.delete(w, 3))  # fmt: skip
    assert_agree(without.S, m.S, "float64")


def test_one_array_of_total_norms_is_enough():
    g = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32) + 1
    s = statistics(g)
    m = moments(s["mean"], fb.total(s["sq_norms"]))
    assert m.per_leaf is None
    assert_agree(m.S, moments(s["mean"], s["sq_norms"]).S, "float32")


def test_linear_regression_closed_form():
    """x ~ N(0, I), y = x'theta* + sigma e: S and |G|^2 are known; both estimators are unbiased."""
    d, sigma, n, repetitions = 5, 0.7, 8, 4000
    rng = np.random.default_rng(0)
    delta = rng.normal(size=d)
    delta /= np.linalg.norm(delta)

    def one(key):
        key_x, key_e = jax.random.split(key)
        x = jax.random.normal(key_x, (n, d))
        y = sigma * jax.random.normal(key_e, (n,))
        loss = lambda theta, e: (jnp.dot(e[0], theta) - e[1]) ** 2 / 2  # noqa: E731
        stats = {"mean": fb.Mean(), "sq_norms": fb.SquaredNorms()}
        _, g = fb.gradient_statistics(loss, stats)(jnp.asarray(delta, x.dtype), (x, y))
        return moments(**g)

    estimates = jax.vmap(one)(jax.random.split(jax.random.key(0), repetitions))
    q = 1 + sigma**2
    truth = {"S": q * d + 1, "sq_gradient_norm": 1.0}
    for name, value in truth.items():
        sample = np.asarray(getattr(estimates, name), np.float64)
        z = (sample.mean() - value) / (sample.std(ddof=1) / np.sqrt(repetitions))
        assert abs(z) < Z_MAX, (name, z)
    # 8 examples of a noise scale of 8.5: the unbiased |G|^2 is often negative, and stays so.
    assert (np.asarray(estimates.sq_gradient_norm) < 0).mean() > 0.01


STATUSES = {
    "ok": ([[1.0, 2.0, 0.0], [1.5, 2.0, 0.1]], None),
    "one example": ([[1.0, 2.0, 0.0], [np.nan, 0.0, 0.0]], [1.0, 0.0]),
    "not finite": ([[1.0, np.inf, 0.0], [1.0, 0.0, 0.0]], None),
    "below rounding": ([[1e3, 1e3, 0.0], [1e3, 1e3, 1e-2]], None),
    "gradient not above zero": ([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], None),
}


@pytest.mark.parametrize("name", STATUSES)
def test_status(name):
    g, w = STATUSES[name]
    w = None if w is None else np.array(w, np.float32)
    s = statistics(np.array(g, np.float32), w)
    m = moments(s["mean"], s["sq_norms"], weights=w)
    assert STATUS[int(m.status)][0] == name
    assert m.to_dict()["status"] == name
    assert name in str(m)


def test_below_rounding_is_repaired_by_centred_statistics():
    s = statistics(np.array([[1e3, 1e3, 0.0], [1e3, 1e3, 1e-2]], np.float32))
    m = moments(s["mean"], sq_deviations=s["sq_deviations"])
    assert float(m.S) == pytest.approx(0.5e-4, rel=1e-6)
    assert int(m.status) == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_of_a_mean_in_16_bits_is_seen(dtype):
    """gbar is rounded to the parameters' dtype, so |gbar|^2 no longer cancels against mean s_i."""
    x = np.ones((64, 1000), np.float32)
    x[:32] += 2**-10
    stats = {"mean": fb.Mean(), "sq_norms": fb.SquaredNorms(), "v": fb.Variance()}
    loss = lambda w, x: jnp.sum(w.astype(jnp.float32) * x)  # noqa: E731
    _, g = fb.gradient_statistics(loss, stats)(jnp.zeros(1000, dtype), x)
    m = moments(g["mean"], g["sq_norms"])
    assert STATUS[int(m.status)][0] == "below rounding"
    exact = moments(g["mean"], variance=g["v"], weights=np.ones(64))
    assert int(exact.status) == 0


def test_one_weight_that_dwarfs_the_others_is_one_example():
    g = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], np.float32)
    w = np.array([1.0, 1e-9], np.float32)
    s = statistics(g, w)
    m = moments(s["mean"], s["sq_norms"], weights=w)
    assert STATUS[int(m.status)][0] == "one example"


def test_a_model_without_parameters():
    m = moments({}, {}, weights=np.ones(3))
    assert float(m.sq_gradient_norm) == 0.0


def test_noise_scale_can_be_differentiated():
    def scale(a):
        g = jnp.array([[1.0, 2.0], [1.5, 2.5], [0.5, 2.0]]) * jnp.array([1.0, 1.0])[None] + a
        return moments(g.mean(0), jnp.sum(g**2, 1)).noise_scale

    h = 1e-2
    slope = (scale(h) - scale(-h)) / (2 * h)
    assert float(jax.grad(scale)(0.0)) == pytest.approx(float(slope), rel=1e-2)


def test_moments_of_many_batches_print():
    g = jnp.arange(12.0).reshape(2, 3, 2)
    m = jax.vmap(lambda g: moments(g.mean(0), jnp.sum(g**2, 1)))(g)
    assert "['ok' 'ok']" in str(m)
    assert m.explain().count("\n") == 1
    assert m.to_dict()["status"] == ["ok", "ok"]


def test_negative_gradient_norm_is_reported_and_the_scale_is_unbounded():
    s = statistics(np.array(STATUSES["gradient not above zero"][0], np.float32))
    m = moments(s["mean"], s["sq_norms"])
    assert float(m.sq_gradient_norm) == -1.0
    assert np.isinf(float(m.noise_scale))
    assert m.to_dict()["noise_scale"] is None


def test_printing_inside_jit_says_that_there_are_no_numbers_yet():
    printed = []

    @jax.jit
    def f(g):
        printed.append(str(moments(g.mean(0), jnp.sum(g**2, 1))))
        return g

    f(jnp.ones((3, 2)))
    assert printed == ["Moments(traced)"]


ERRORS = {
    "no spread": ({}, "the spread of the gradients is needed"),
    "no count": ({"variance": jnp.ones(2)}, "pass `weights` too"),
    "other structure": ({"sq_norms": {"a": jnp.ones(3)}}, "must be a tree like `mean`"),
    "no axis": ({"sq_norms": jnp.ones(())}, r"leaves of shape \[B\], got \[\(\)\]"),
    "two counts": (
        {"sq_norms": jnp.ones(3), "weights": jnp.ones(2)},
        r"must be the same everywhere, got \[2, 3\]",
    ),
    "variance of another shape": (
        {"variance": jnp.ones(3), "weights": jnp.ones(4)},
        r"`variance` must have the structure and shapes(.|\n)*expected \(2,\), got \(3,\)",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    arguments, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        moments(jnp.ones(2), **arguments)
