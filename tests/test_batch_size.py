"""Tests of a batch and schedules: naive definitions, brute-force jackknives, ugly inputs, words."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import quick
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tolerances import Z_MAX, assert_agree

import funcbackprop as fb
from funcbackprop import noise
from funcbackprop.noise import STATUS

N, P = 6, 3
THETA, NU, ETA, REPLICAS, BASE = 0.7, 1.3, 0.2, 4, 8


def everything(mean, sq_norms, inner, gram, variance, losses, weights):
    """Every estimate of this file, from one set of statistics; compiled once for each dtype."""
    rows = {"mean": mean, "sq_norms": sq_norms, "inner": inner, "weights": weights}
    without_norms = {k: v for k, v in rows.items() if k != "sq_norms"}
    norm = noise.norm_test(**rows, theta=THETA)
    recommended = noise.recommend_batch_size(**rows, gram=gram, theta=THETA, nu=NU)
    found = {
        "norm_test": norm.batch_size,
        "finite": noise.norm_test(**rows, theta=THETA, population=20).batch_size,
        "inner_product_test": noise.inner_product_test(**rows, gram=gram, theta=THETA).batch_size,
        "orthogonality_test": noise.orthogonality_test(**rows, gram=gram, nu=NU).batch_size,
        "cabs": noise.cabs(**rows, losses=losses, learning_rate=ETA, optimum=-1.0),
        "adascale_gain": noise.adascale_gain(**rows, replicas=REPLICAS, base_batch_size=BASE),
        "diversity": noise.diversity(**rows).batch_size_bound,
    }
    others = {
        "noise_scale": recommended.noise_scale,
        "recommended": recommended,
        "the same": noise.noise_scale(**rows).B_simple,
        "passed": norm.passed,
        "from_variance": noise.norm_test(
            mean, variance=variance, theta=THETA, weights=weights
        ).batch_size,
        "from_deviations": noise.norm_test(
            **without_norms, sq_deviations=sq_norms - 2 * inner + mean @ mean, theta=THETA
        ).batch_size,
        "stopping": noise.early_stopping(mean, variance, weights=weights),
        "gsnr": noise.gsnr(mean, variance, weights=weights),
        "normalised": noise.normalised_variance(mean, variance, weights=weights),
    }
    return found, others


@functools.cache
def compiled():
    return quick(everything)


def measured(g, w, losses=None, dtype=np.float32):
    """The statistics that `gradient_statistics` gives, in NumPy."""
    w = np.ones(len(g)) if w is None else np.asarray(w, float)
    kept = np.asarray(g, float).copy()
    kept[w == 0] = 0
    mean = (w[:, None] * kept).sum(0) / w.sum()
    deviations = ((kept - mean) ** 2 * w[:, None]).sum(0)
    with np.errstate(all="ignore"):
        variance = deviations / (w.sum() - (w**2).sum() / w.sum())
    inner = kept @ mean
    losses = np.arange(len(g)) + 1.0 if losses is None else losses
    found = (mean, (kept**2).sum(1), inner, kept @ kept.T, variance, losses, w)
    return tuple(np.asarray(x, dtype) for x in found)


# The definitions, of gradients g [n, P], weights and losses.


def mean_of(g, w):
    return sum(wi * gi for wi, gi in zip(w, g, strict=True)) / sum(w)


def variance_of(values, w):
    """Unbiased variance of numbers or, summed over coordinates, of vectors."""
    middle = mean_of(values, w)
    scatter = sum(wi * np.sum((v - middle) ** 2) for wi, v in zip(w, values, strict=True))
    return scatter / (sum(w) - sum(w**2) / sum(w))


def sq_gradient_norm(g, w):
    pairs = [(i, j) for i in range(len(g)) for j in range(len(g)) if i != j]
    return sum(w[i] * w[j] * (g[i] @ g[j]) for i, j in pairs) / sum(w[i] * w[j] for i, j in pairs)


def across(g, w):
    direction = mean_of(g, w) / np.linalg.norm(mean_of(g, w))
    return variance_of([gi - (gi @ direction) * direction for gi in g], w)


def gain(g, w, _):
    S, square = variance_of(g, w), sq_gradient_norm(g, w)
    return (S / BASE + square) / (S / (BASE * REPLICAS) + square)


def length(g, w):
    return np.sum(mean_of(g, w) ** 2)


def finite(g, w, _):
    S = variance_of(g, w)
    return S / (THETA**2 * length(g, w) + S / 20)


# name -> (definition, scale on which it is left out, change of the error to that of the value)
LOG = (np.log, lambda value: value)
DEFINITIONS = {
    "norm_test": (lambda g, w, _: variance_of(g, w) / THETA**2 / length(g, w), LOG),
    "finite": (finite, LOG),
    "inner_product_test": (
        lambda g, w, _: variance_of(list(g @ mean_of(g, w)), w) / THETA**2 / length(g, w) ** 2,
        LOG,
    ),
    "orthogonality_test": (lambda g, w, _: across(g, w) / NU**2 / length(g, w), LOG),
    "cabs": (lambda g, w, losses: ETA * variance_of(g, w) / (mean_of(losses, w) + 1), LOG),
    "diversity": (
        lambda g, w, _: sum(w**2 * (g**2).sum(1)) / sum(w**2) / length(g, w),
        LOG,
    ),
    "adascale_gain": (
        gain,
        # Back to |G|^2/S, whose error the gain's follows by its slope.
        (
            lambda x: (1 / BASE - x / (BASE * REPLICAS)) / (x - 1),
            lambda x: (x - 1) ** 2 / (1 / BASE * (1 - 1 / REPLICAS)),
        ),
    ),
}


def brute_force(name, g, w, losses):
    """`(value, jackknife error)`, by dropping each example and computing all again."""
    with np.errstate(all="ignore"):  # 0/0 is compared too
        return _brute_force(*DEFINITIONS[name], g, w, losses)


def _brute_force(definition, scales, g, w, losses):
    scale, unscale = scales
    keep = np.flatnonzero(w)
    g, w, losses = g[keep], w[keep], losses[keep]
    value = definition(g, w, losses)
    drop = lambda x, j: np.delete(x, j, 0)  # noqa: E731
    left = [scale(definition(drop(g, j), drop(w, j), drop(losses, j))) for j in range(len(g))]
    error = np.sqrt((len(g) - 1) * np.var(left))
    return value, error * unscale(value)


WEIGHTS = {
    "none": np.ones(N),
    "padding": np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]),
    "unequal": np.array([0.5, 2.0, 1.0, 0.0, 1.5, 3.0]),
}


def drawn(seed=0):
    return np.random.default_rng(seed).normal(size=(N, P)) + np.array([1.5, 0.5, -1.0])


def assert_the_noise_scale_is_one(others):
    """That of the recommendation and `noise_scale`: value, error, interval and status."""
    for a, b in zip(others["noise_scale"], others["the same"], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.core
@pytest.mark.parametrize("kind", WEIGHTS)
def test_definitions_and_jackknives(x64, kind):
    g, w = drawn(), WEIGHTS[kind]
    arguments = measured(g, w, dtype=np.float64)
    found, others = compiled()(*arguments)
    for name in DEFINITIONS:
        value, error = brute_force(name, g, w, arguments[-2])
        assert_agree(found[name].value, value, "float64", name=name)
        assert_agree(found[name].standard_error, error, "float64", 10 * value, name=name)
        assert found[name].lower < value < found[name].upper, name
        assert int(found[name].status) == 0
    examples = w.sum() ** 2 / (w**2).sum()
    assert bool(others["passed"]) == (found["norm_test"].value <= examples)
    for name in ("from_variance", "from_deviations"):
        assert_agree(others[name].value, found["norm_test"].value, "float64", name=name)
    assert_agree(
        others["from_deviations"].standard_error, found["norm_test"].standard_error, "float64", 10
    )
    assert STATUS[int(others["from_variance"].status)][0] == "error not known"
    of_noise = variance_of(g[w > 0], w[w > 0]) / sq_gradient_norm(g[w > 0], w[w > 0])
    assert_agree(others["noise_scale"].value, of_noise, "float64")
    assert_the_noise_scale_is_one(others)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_coordinates(x64, kind):
    g, w = drawn(1), WEIGHTS[kind]
    g[:, 1] = 0
    _, others = compiled()(*measured(g, w, dtype=np.float64))
    n = w.sum() ** 2 / (w**2).sum()
    evidence, ratios, normalised = [], [], []
    for k in (0, 2):
        m, v = mean_of(g[:, k], w), variance_of(list(g[:, k]), w)
        evidence.append(n * m**2 / v)
        ratios.append((m**2 - v / n) / v)
        normalised.append(v / (m**2 + v * (1 - 1 / n)))
    stopping = others["stopping"]
    assert_agree(stopping.evidence.value, 1 - np.mean(evidence), "float64", 10)
    assert int(stopping.skipped) == 1
    assert bool(stopping.stop) == (np.mean(evidence) < 1)
    assert np.isnan(stopping.evidence.standard_error)
    for found, truth in ((others["gsnr"], ratios), (others["normalised"], normalised)):
        assert_agree(found.mean, np.mean(truth), "float64", 10)
        assert_agree(found.per_leaf, np.mean(truth), "float64", 10)
        assert_agree(np.asarray(found.per_parameter)[[0, 2]], truth, "float64", 10)
        assert np.isnan(found.per_parameter[1])
        assert int(found.skipped) == 1
        assert int(found.status) == 0
        assert "1 skipped" in str(found)
        assert found.to_dict()["skipped"] == {"params": 1}


def test_second_moment_is_the_mean_of_squares():
    """The denominator of the normalised variance, for weights too."""
    g, w = drawn(2), WEIGHTS["unequal"]
    _, others = compiled()(*measured(g, w))
    second = (w[:, None] * g**2).sum(0) / w.sum()
    variance = [variance_of(list(g[:, k]), w) for k in range(P)]
    assert_agree(others["normalised"].per_parameter, variance / second, "float32")


def same(a, b):
    """Infinite limits and NaN included; sums in another order."""
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_padding_counts_for_nothing():
    """Whatever stands in the rows of weight 0; that they are left out, the definitions test."""
    arguments = measured(drawn(3), WEIGHTS["padding"])
    mean, sq_norms, inner, gram, variance, losses, w = map(np.copy, arguments)
    for rows in (sq_norms, inner, losses, gram, gram.T):
        rows[w == 0] = np.nan
    found = compiled()(mean, sq_norms, inner, gram, variance, losses, w)
    del found[1]["from_deviations"]  # computed in this file, from rows that now are NaN
    clean = compiled()(*arguments)
    del clean[1]["from_deviations"]
    jax.tree.map(same, found, clean)


def test_many_batches_at_once():
    batches = [measured(drawn(seed), None) for seed in range(3)]

    def few(*arguments):
        found, _ = everything(*arguments)
        return {name: found[name] for name in ("inner_product_test", "adascale_gain")}

    together = quick(jax.vmap(few))(*map(jnp.stack, zip(*batches, strict=True)))
    for k, batch in enumerate(batches):
        alone = {k: compiled()(*batch)[0][k] for k in together}
        one = jax.tree.map(lambda x, k=k: x[k], together)
        jax.tree.map(same, one, alone)


def name_of(result):
    return STATUS[int(result.status)][0]


def names(found):
    return {name: name_of(e) for name, e in found.items()}


TESTS = ("norm_test", "inner_product_test", "orthogonality_test")


def test_constant_gradients():
    found, others = compiled()(*measured(np.ones((N, P)), None))
    for name in TESTS:
        assert found[name].value == 0 or names(found)[name] == "below rounding"
    assert bool(others["passed"])
    assert STATUS[int(others["stopping"].status)][0] == "coordinate without spread"
    assert not bool(others["stopping"].stop)
    assert STATUS[int(others["gsnr"].status)][0] == "coordinate without spread"


def test_gradients_that_are_all_zero():
    found, others = compiled()(*measured(np.zeros((N, P)), None))
    got = names(found)
    assert {got[name] for name in (*TESTS, "diversity", "adascale_gain")} == {"no spread"}
    assert name_of(others["noise_scale"]) == "gradient not above zero"
    assert all(np.isnan(found[name].value) for name in (*TESTS, "diversity", "adascale_gain"))
    for name in ("stopping", "gsnr", "normalised"):
        assert STATUS[int(others[name].status)][0] == "no spread", name


def test_a_mean_gradient_of_zero():
    g = np.array([[1.0, 2.0, 0.5]])
    found, others = compiled()(*measured(np.concatenate([g, -g] * 3), None))
    got = names(found)
    assert {got[name] for name in (*TESTS, "diversity")} == {"zero mean gradient"}
    assert all(np.isinf(found[name].value) for name in TESTS)
    assert not bool(others["passed"])
    # |G|^2 is estimated below 0: the gain is outside [1, 4] and stays so, but not its limits.
    assert got["adascale_gain"] == "gain out of range"
    assert not 1 <= float(found["adascale_gain"].value) <= REPLICAS
    assert 1 <= found["adascale_gain"].lower <= found["adascale_gain"].upper <= REPLICAS
    assert bool(others["stopping"].stop)


def test_one_example():
    w = np.array([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    found, others = compiled()(*measured(drawn(), w))
    del found["diversity"]  # 1 by definition, and needs no spread
    assert set(names(found).values()) == {"one example"}
    assert all(np.isnan(e.value) for e in (*found.values(), others["noise_scale"]))
    for name in ("stopping", "gsnr", "normalised", "noise_scale"):
        assert STATUS[int(others[name].status)][0] == "one example", name


def test_two_examples_have_no_error():
    w = np.array([0.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    found, _ = compiled()(*measured(drawn(), w))
    assert np.isfinite(found["norm_test"].value)
    assert names(found)["norm_test"] == "error not known"


def test_nan_in_one_example():
    g = drawn()
    g[2, 1] = np.nan
    found, others = compiled()(*measured(g, None))
    assert set(names(found).values()) == {"not finite"}
    assert all(np.isnan(e.value) for e in (*found.values(), others["noise_scale"]))
    assert not bool(others["passed"])
    for name in ("stopping", "gsnr", "normalised", "noise_scale"):
        assert STATUS[int(others[name].status)][0] == "not finite", name


def test_a_loss_that_is_nan_or_at_its_optimum():
    found, _ = compiled()(*measured(drawn(), None, np.array([1, 2, np.nan, 3, 4, 5])))
    assert names(found)["cabs"] == "not finite"
    found, _ = compiled()(*measured(drawn(), None, np.full(N, -1.0)))
    assert names(found)["cabs"] == "loss not above its optimum"
    assert np.isnan(found["cabs"].value)


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_one_large_outlier_and_tiny_gradients(scale):
    """The scale of the gradients does not matter, down to squares that underflow."""
    g = drawn()
    g[4] *= 30
    found, _ = compiled()(*measured(g * scale, None))
    for name in (*TESTS, "diversity"):
        value, error = brute_force(name, g, np.ones(N), np.ones(N))
        assert float(found[name].value) == pytest.approx(value, rel=1e-3), name
        assert float(found[name].standard_error) == pytest.approx(error, rel=0.02), name


def test_an_outlier_that_is_all_there_is_has_no_error():
    """In float32 nothing is left when it is left out; that is said, not hidden in a number."""
    g = drawn()
    g[4] *= 1e5
    found, _ = compiled()(*measured(g, None))
    for name in TESTS:
        value, _ = brute_force(name, g, np.ones(N), np.ones(N))
        assert float(found[name].value) == pytest.approx(value, rel=1e-3, abs=1e-4), name
        assert names(found)[name] == "error not known"


def test_mean_far_above_the_spread_is_said_and_repaired():
    g = 1e4 + drawn()
    found, others = compiled()(*measured(g, None))
    assert names(found)["norm_test"] == "below rounding"
    assert int(others["from_variance"].status) == 30
    exact = variance_of(g, np.ones(N)) / THETA**2 / length(g, np.ones(N))
    assert float(others["from_variance"].value) == pytest.approx(exact, rel=1e-4)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    arrays.arrays(np.float32, (N, P), elements=st.integers(-4, 4).map(float)),
    arrays.arrays(np.float32, N, elements=st.sampled_from([0.0, 1.0, 3.0])),
)
def test_no_input_gives_a_silent_wrong_number(g, w):
    if not w.any():
        w[0] = 1
    arguments = measured(g, w)
    found, others = compiled()(*arguments)
    assert_the_noise_scale_is_one(others)
    for name, e in found.items():
        if int(e.status) == 0:
            value, error = brute_force(name, g.astype(float), w.astype(float), arguments[-2])
            assert float(e.value) == pytest.approx(value, rel=1e-3, abs=1e-5), name
            assert e.lower <= e.value <= e.upper, name
            if np.isfinite(error):
                assert float(e.standard_error) == pytest.approx(error, rel=2e-2, abs=1e-3), name
        else:
            assert STATUS[int(e.status)][0] != "ok"


def test_evidence_of_noise_alone():
    """Gaussian without signal: each term is F(1, n - 1), of mean (n - 1)/(n - 3)."""
    n, repetitions = 12, 3000

    def one(key):
        g = jax.random.normal(key, (n, 4))
        return noise.early_stopping(g.mean(0), jnp.var(g, 0, ddof=1), weights=jnp.ones(n))

    found = quick(jax.vmap(one))(jax.random.split(jax.random.key(0), repetitions))
    sample = np.asarray(found.evidence.value, float)
    z = (sample.mean() + 2 / (n - 3)) / (sample.std(ddof=1) / np.sqrt(repetitions))
    assert abs(z) < Z_MAX


def test_gsnr_of_gaussians():
    """E = (n-1)/(n-3) (rho + 1/n) - 1/n for a true ratio rho; the plug-in has 1/n more."""
    n, repetitions, rho = 12, 3000, np.array([0.0, 0.25, 1.0])

    def one(key):
        g = jax.random.normal(key, (n, 3)) + jnp.sqrt(jnp.asarray(rho, jnp.float32))[None]
        return noise.gsnr(g.mean(0), jnp.var(g, 0, ddof=1), weights=jnp.ones(n)).per_parameter

    sample = np.asarray(
        quick(jax.vmap(one))(jax.random.split(jax.random.key(1), repetitions)), float
    )
    truth = (n - 1) / (n - 3) * (rho + 1 / n) - 1 / n
    z = (sample.mean(0) - truth) / (sample.std(0, ddof=1) / np.sqrt(repetitions))
    assert np.abs(z).max() < Z_MAX


@functools.cache
def regression(n=60):
    """Linear regression through the engine: statistics per leaf, as a user has them."""
    key_x, key_e = jax.random.split(jax.random.key(2))
    x, noise_of_y = jax.random.normal(key_x, (n, 4)), jax.random.normal(key_e, (n,))

    def loss(p, e):
        return (jnp.dot(e[0], p["w"]) + p["b"] - e[1]) ** 2 / 2

    stats = {"mean": fb.Mean(), "sq_norms": fb.SquaredNorms(), "inner": fb.InnerWithMean()}
    params = {"w": jnp.ones(4), "b": jnp.zeros(())}
    return quick(fb.gradient_statistics(loss, stats))(params, (x, noise_of_y))


@pytest.mark.core
def test_recommendation_from_the_engine():
    losses, g = regression()
    found = quick(
        lambda g: noise.recommend_batch_size(**g, losses=losses, learning_rate=0.1, theta=THETA)
    )(g)
    moments = noise.moments(g["mean"], g["sq_norms"])
    assert float(found.noise_scale.value) == pytest.approx(float(moments.noise_scale), rel=1e-4)
    text = str(found)
    for part in ("noise scale", "norm test", "CABS", "Measured on 60", "interval spans a factor"):
        assert part in text
    assert max(map(len, text.split("\n"))) <= 100
    assert "Its interval needs `gram` from funcbackprop.Gram()" in text.replace("\n    ", " ")
    d = found.to_dict()
    assert d["missing"] == {}
    assert d["norm_test"]["value"] == pytest.approx(float(found.norm_test.value))
    assert "A larger batch saves steps up to about" in found.explain()


def test_recommendation_names_what_is_missing():
    _, g = regression()
    found = noise.recommend_batch_size(g["mean"], g["sq_norms"])
    assert found.cabs is None
    text = str(found)
    text = " ".join(text.split())
    assert "how sure that is, is not known" in text
    assert "CABS: it needs `losses`" in text
    assert "inner-product test: it needs `inner` from funcbackprop.InnerWithMean()" in text
    assert "not known" in text
    assert set(found.to_dict()["missing"]) == {"inner_product_test", "orthogonality_test", "cabs"}


def test_recommendation_without_a_signal_is_unbounded():
    g = np.random.default_rng(5).normal(size=(N, P))
    found = compiled()(*measured(g - g.mean(0) * 0.5, None))[1]["recommended"]
    assert np.isinf(found.noise_scale.upper)
    assert "unbounded" in str(found)
    assert "Not bounded above by these examples" in str(found)
    assert "a larger batch saves steps: it is" in found.explain()
    assert STATUS[4][1] in found.explain()


def test_printing():
    mean, sq_norms, inner, *_ = measured(drawn(), None)
    found = noise.norm_test(mean, sq_norms, inner)
    assert str(found).splitlines()[0] == "passed: yes"
    assert "batch size: " in str(found)
    assert found.explain() == STATUS[0][1]
    assert found.to_dict()["status"] == "ok"
    assert found.to_dict()["batch_size"]["status"] == "ok"
    printed = []

    @quick
    def f(mean):
        printed.append(str(noise.norm_test(mean, sq_norms, inner)))
        printed.append(str(noise.recommend_batch_size(mean, sq_norms)))
        printed.append(str(noise.gsnr(mean, mean, weights=jnp.ones(2))))
        return mean

    f(mean)
    assert printed == ["BatchSizeTest(traced)", "Recommendation(traced)", "CoordinateRatio(traced)"]


B = jnp.ones(4)
ERRORS = {
    "no spread": (
        lambda: noise.norm_test(jnp.ones(2)),
        "`norm_test`: the spread of the gradients is needed: pass `sq_norms`",
    ),
    "form": (
        lambda: noise.norm_test(jnp.ones(2), jnp.ones((4, 2))),
        r"`norm_test`: `sq_norms` must be one array \[B\].*got leaves of shapes \[\(4, 2\)\]",
    ),
    "sizes": (
        lambda: noise.inner_product_test(jnp.ones(2), B, jnp.ones(3)),
        r"`inner_product_test`: the number of examples B must be the same everywhere, "
        r"got \{'sq_norms': 4, 'inner': 3\}",
    ),
    "gram": (
        lambda: noise.orthogonality_test(jnp.ones(2), B, B, gram=jnp.ones((4, 3))),
        r"`orthogonality_test`: `gram` must be the inner products of all pairs, \[B, B\]",
    ),
    "count": (
        lambda: noise.cabs(jnp.ones(2), B, losses=jnp.ones(3), learning_rate=1.0),
        r"`cabs`: the number of examples B must be the same everywhere",
    ),
    "losses": (
        lambda: noise.cabs(jnp.ones(2), B, losses=jnp.ones(()), learning_rate=1.0),
        r"`cabs`: `losses` must be one array \[B\]",
    ),
    "theta": (
        lambda: noise.norm_test(jnp.ones(2), B, theta=0.0),
        r"`norm_test`: `theta` must be above 0, got 0.0",
    ),
    "replicas": (
        lambda: noise.adascale_gain(jnp.ones(2), B, replicas=-1, base_batch_size=2),
        r"`adascale_gain`: `replicas` must be above 0, got -1",
    ),
    "variance": (
        lambda: noise.early_stopping(jnp.ones(2), jnp.ones(3), weights=B),
        r"`early_stopping`: `variance` must have the structure and shapes",
    ),
    "no count": (
        lambda: noise.gsnr(jnp.ones(2), jnp.ones(2), weights=None),
        r"`gsnr`: `variance` does not tell the number of examples; pass `weights` too",
    ),
    "negative weight": (
        lambda: noise.diversity(jnp.ones(2), B, weights=-B),
        r"`diversity`: `weights` must be finite and not negative",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    call, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_values_that_no_study_has():
    g = np.random.default_rng(0).normal(size=(20, 3)) + 1
    m = g.mean(0)
    given = {"sq_norms": (g**2).sum(1), "inner": g @ m}
    with pytest.raises(ValueError, match="`population` must be at least the 20 examples"):
        fb.noise.norm_test(m, **given, population=10)
    with pytest.raises(ValueError, match=r"`learning_rate` must be above 0, got -0\.1"):
        fb.noise.cabs(m, **given, losses=np.ones(20), learning_rate=-0.1)
