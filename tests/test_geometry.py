"""Geometry of gradients: naive definitions, brute-force jackknives, closed forms, ugly inputs."""

import functools
import itertools
import sys
from pathlib import Path

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

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
from validation import repeated
from validation.geometry import SETTINGS

N, P = 7, 3


@functools.cache
def compiled():
    def everything(gram, weights):
        given = {"gram": gram, "weights": weights}
        return {
            "confusion": noise.confusion(**given),
            "stiffness": noise.stiffness(**given),
            "rank": noise.effective_rank(**given),
            "spectrum": noise.covariance_spectrum(**given),
        }

    return quick(everything)


def found_in(g, w=None, dtype=np.float32):
    g = np.asarray(g, float).copy()
    w = np.ones(len(g)) if w is None else np.asarray(w, float)
    g[w == 0] = 0
    return compiled()((g @ g.T).astype(dtype), w.astype(dtype))


def drawn(seed=0):
    return np.random.default_rng(seed).normal(size=(N, P)) + np.array([1.5, 0.5, -1.0])


def name_of(result):
    return STATUS[int(result.status)][0]


# The definitions, of the rows g [n, P].


def mean_of_pairs(g, w, f):
    pairs = [(i, j) for i in range(len(g)) for j in range(len(g)) if i != j]
    weight = sum(w[i] * w[j] for i, j in pairs)
    return sum(w[i] * w[j] * f(g[i], g[j]) for i, j in pairs) / weight


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def traces(g):
    """Means over all choices of four different examples of the products of their differences."""
    chosen = list(itertools.permutations(range(len(g)), 4))
    a, b, c, d = (g[[quadruple[k] for quadruple in chosen]] for k in range(4))
    sq_trace = np.mean(((a - b) ** 2).sum(1) * ((c - d) ** 2).sum(1)) / 4
    return sq_trace, np.mean(((a - b) * (c - d)).sum(1) ** 2) / 4


def himeno_yamada(g):
    """The forms of the paper, of the centred Gram matrix."""
    n = len(g)
    centred = g - g.mean(0)
    K = centred @ centred.T / (n - 1)
    Q = (np.diag(K) ** 2).sum() * (n - 1)
    square, sq_trace = (K**2).sum(), np.trace(K) ** 2
    factor = (n - 1) / (n * (n - 2) * (n - 3))
    return (
        factor * (2 * square + (n**2 - 3 * n + 1) * sq_trace - n * Q),
        factor * ((n - 1) * (n - 2) * square + sq_trace - n * Q),
    )


def jackknifed(f, g, w, scale=lambda x: x):
    """Error of f(g, w) on a scale, by dropping each example."""
    left = [scale(f(np.delete(g, j, 0), np.delete(w, j))) for j in range(len(g))]
    return np.sqrt((len(g) - 1) * np.var(left))


WEIGHTS = {
    "none": np.ones(N),
    "padding": np.array([1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0]),
    "unequal": np.array([0.5, 2.0, 1.0, 0.0, 1.5, 3.0, 1.0]),
}


@pytest.mark.core
@pytest.mark.parametrize("kind", WEIGHTS)
def test_pairs(x64, kind):
    g, w = drawn(), WEIGHTS[kind]
    found = found_in(g, w, np.float64)
    keep = np.flatnonzero(w)
    kept, weights = g[keep], w[keep]
    for name, f in (("sign", lambda a, b: np.sign(a @ b)), ("cosine", cosine)):
        estimate = getattr(found["stiffness"], name)
        of = lambda g, w, f=f: mean_of_pairs(g, w, f)  # noqa: E731
        assert_agree(estimate.value, of(kept, weights), "float64", 1.0)
        assert_agree(estimate.standard_error, jackknifed(of, kept, weights), "float64", 1.0)
        assert estimate.lower < estimate.value < estimate.upper
    confusion = found["confusion"]
    for name, f in (("inner", lambda a, b: a @ b), ("cosine", cosine)):
        values = {(i, j): f(g[i], g[j]) for i in keep for j in keep if i < j}
        pair = min(values, key=lambda pair: values[pair])
        assert_agree(getattr(confusion, name).value, values[pair], "float64", 10.0)
        assert tuple(np.asarray(getattr(confusion, f"{name}_pair"))) == pair
    assert name_of(confusion) == "extreme value"
    assert np.isnan(confusion.inner.standard_error)


@pytest.mark.core
@pytest.mark.parametrize("kind", ["none", "padding"])
def test_effective_rank(x64, kind):
    g, w = drawn() + 100, WEIGHTS[kind]
    found = found_in(g, w, np.float64)["rank"]
    kept = g[w > 0]
    sq_trace, of_square = traces(kept)
    np.testing.assert_allclose(himeno_yamada(kept), (sq_trace, of_square), rtol=1e-9)
    # 100 above the spread, of which squares are taken twice.
    assert float(found.sq_trace.value) == pytest.approx(sq_trace, rel=1e-8)
    assert float(found.trace_of_square.value) == pytest.approx(of_square, rel=1e-8)
    assert float(found.effective_rank.value) == pytest.approx(sq_trace / of_square, rel=1e-8)
    of = lambda g, _: np.divide(*traces(g))  # noqa: E731
    error = jackknifed(of, kept, np.ones(len(kept)))
    assert float(found.effective_rank.standard_error) == pytest.approx(error, rel=1e-6)
    for k, estimate in enumerate((found.sq_trace, found.trace_of_square)):
        of = lambda g, _, k=k: traces(g)[k]  # noqa: E731
        logs = jackknifed(of, kept, np.ones(len(kept)), np.log) * estimate.value
        plain = jackknifed(of, kept, np.ones(len(kept)))
        expected = plain if np.isnan(logs) else logs
        assert float(estimate.standard_error) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_spectrum(x64, kind):
    g, w = drawn() + 10, WEIGHTS[kind]
    found = found_in(g, w, np.float64)["spectrum"]
    keep = w > 0
    expected = np.cov(g[keep].T, aweights=w[keep])
    values = np.linalg.eigvalsh(expected)[::-1]
    np.testing.assert_allclose(found.biased_eigenvalues[:P], values, rtol=1e-9)
    np.testing.assert_allclose(found.biased_eigenvalues[P:], 0, atol=1e-10)
    assert float(found.S) == pytest.approx(np.trace(expected))
    assert "biased" in str(found)


def test_sample_eigenvalues_are_biased():
    """40 equal directions seen by 20 examples: the largest eigenvalue is far too large."""
    rng = np.random.default_rng(0)
    top = []
    for _ in range(10):
        g = np.zeros((N, 40))
        g[:N] = rng.normal(size=(N, 40))
        top.append(float(found_in(g)["spectrum"].biased_eigenvalues[0]))
    assert min(top) > 4  # all are 1


def test_a_setting_with_a_truth():
    setting = next(s for s in SETTINGS if s.estimator == "effective_rank, trace_of_square")
    found = repeated(setting, 400)
    value = np.asarray(found.value, float)
    assert abs(value.mean() - setting.truth) / (value.std(ddof=1) / 20) < Z_MAX
    covered = np.mean((found.lower <= setting.truth) & (setting.truth <= found.upper))
    assert 0.88 < covered <= 1


def test_unit_vectors_without_a_mean_are_not_stiff():
    """Cosines of uniform unit vectors: mean 0, so that the mean of pairs is; |z| < 4."""
    keys = jax.random.split(jax.random.key(1), 400)

    def one(key):
        g = jax.random.normal(key, (12, 4))
        g = g / jnp.linalg.norm(g, axis=1, keepdims=True)
        return noise.stiffness(g @ g.T)

    found = quick(jax.vmap(one))(keys)
    for estimate in (found.sign, found.cosine):
        value = np.asarray(estimate.value, float)
        assert abs(value.mean()) / (value.std(ddof=1) / 20) < Z_MAX
        assert np.mean((estimate.lower <= 0) & (estimate.upper >= 0)) > 0.93


def test_constant_and_zero_gradients():
    found = found_in(np.ones((N, P)))
    assert name_of(found["rank"]) in ("no spread", "below rounding")
    assert np.isnan(found["rank"].effective_rank.value)
    assert found["stiffness"].sign.value == 1
    assert found["stiffness"].sign.standard_error == 0
    zero = found_in(np.zeros((N, P)))
    assert name_of(zero["rank"]) == "no spread"
    assert name_of(zero["stiffness"]) == "too few examples"
    assert np.isnan(zero["stiffness"].sign.value)
    assert int(zero["stiffness"].skipped) == N
    assert zero["confusion"].inner.value == 0
    assert name_of(zero["confusion"].cosine) == "too few examples"
    assert np.asarray(zero["confusion"].cosine_pair).tolist() == [-1, -1]
    assert np.all(np.asarray(zero["spectrum"].biased_eigenvalues) == 0)


def test_a_zero_gradient_has_no_cosine():
    g = drawn()
    g[2] = 0
    found = found_in(g)
    kept = np.delete(g, 2, 0)
    expected = mean_of_pairs(kept, np.ones(N - 1), cosine)
    assert float(found["stiffness"].cosine.value) == pytest.approx(expected, rel=1e-4)
    assert int(found["stiffness"].skipped) == int(found["confusion"].skipped) == 1


@pytest.mark.parametrize(
    ("count", "rank", "stiffness"),
    [
        (1, "one example", "one example"),
        (2, "too few examples", "error not known"),
        (3, "too few examples", "ok"),
        (4, "error not known", "ok"),
    ],
)
def test_too_few_examples(count, rank, stiffness):
    found = found_in(drawn(), np.arange(N) < count)
    assert name_of(found["rank"]) == rank
    assert name_of(found["stiffness"]) == stiffness


def test_an_example_is_no_pair_with_itself():
    """Lengths 1, 2, 3 in one direction: the smallest product of two is 2, not 1."""
    g = np.zeros((N, P))
    g[:3, 0] = 1, 2, 3
    confusion = found_in(g, np.arange(N) < 3)["confusion"]
    assert float(confusion.inner.value) == 2
    assert np.asarray(confusion.inner_pair).tolist() == [0, 1]


def test_unequal_weights_have_no_effective_rank():
    found = found_in(drawn(), WEIGHTS["unequal"])["rank"]
    assert name_of(found) == "unequal weights"
    assert all(np.isnan(x.value) for x in found[:3])


def test_nan_in_one_example_and_in_padding():
    gram = drawn() @ drawn().T
    gram[2] = gram[:, 2] = np.nan
    broken = compiled()(gram.astype(np.float32), np.ones(N, np.float32))
    assert {name_of(x) for x in broken.values()} == {"not finite"}
    assert np.isnan(broken["spectrum"].biased_eigenvalues).all()
    assert np.isnan(broken["stiffness"].sign.value)
    w = (np.arange(N) != 2).astype(np.float32)
    padded = compiled()(gram.astype(np.float32), w)
    clean = compiled()(np.nan_to_num(gram).astype(np.float32), w)
    jax.tree.map(np.testing.assert_array_equal, padded, clean)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e7])
def test_scale_and_outlier(scale):
    """Fourth powers of small gradients underflow; the rank must not."""
    g = drawn()
    g[3] *= 20
    found = found_in(g * scale)
    sq_trace, of_square = traces(g)
    rank = found["rank"].effective_rank
    if name_of(rank) == "ok":
        assert float(rank.value) == pytest.approx(sq_trace / of_square, rel=2e-2)
    assert float(found["stiffness"].cosine.value) == pytest.approx(
        mean_of_pairs(g, np.ones(N), cosine), abs=1e-4
    )


def test_no_bound_on_the_rank():
    """Corners of a regular simplex: differences of disjoint pairs are orthogonal, tr(Sigma^2) 0."""
    g = np.zeros((N, 5))
    g[:5] = np.eye(5)
    assert traces(g[:5])[1] == 0
    rank = found_in(g, np.arange(N) < 5)["rank"]
    assert name_of(rank) == "spectrum not above zero"
    assert np.isinf(rank.effective_rank.value)
    assert rank.effective_rank.lower == 1
    assert np.isinf(rank.effective_rank.upper)


def test_many_batches_at_once():
    grams = jnp.stack([drawn(seed) @ drawn(seed).T for seed in range(3)]).astype(jnp.float32)
    together = quick(jax.vmap(noise.effective_rank))(grams)
    for k in range(3):
        alone = compiled()(grams[k], np.ones(N, np.float32))["rank"]
        one = jax.tree.map(lambda x, k=k: x[k], together)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), one, alone)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    arrays.arrays(np.float32, (N, P), elements=st.integers(-4, 4).map(float)),
    arrays.arrays(np.float32, N, elements=st.sampled_from([0.0, 1.0])),
)
def test_no_input_gives_a_silent_wrong_number(g, w):
    found = found_in(g, w)
    kept = g[w > 0].astype(float)
    rank, stiffness = found["rank"], found["stiffness"]
    if name_of(rank) in ("ok", "error not known"):
        sq_trace, of_square = traces(kept)
        assert float(rank.effective_rank.value) == pytest.approx(sq_trace / of_square, rel=1e-2)
        assert not rank.effective_rank.lower > max(rank.effective_rank.value, 1)
    if name_of(stiffness) in ("ok", "error not known"):
        usable = kept[np.linalg.norm(kept, axis=1) > 0]
        for estimate, f in (
            (stiffness.sign, lambda a, b: np.sign(a @ b)),
            (stiffness.cosine, cosine),
        ):
            expected = mean_of_pairs(usable, np.ones(len(usable)), f)
            assert float(estimate.value) == pytest.approx(expected, abs=1e-5)
    for result in found.values():
        assert int(result.status) in STATUS


@functools.cache
def tails():
    return quick(lambda g, w: noise.tail_index(g, jax.random.key(3), surrogates=20, weights=w))


def noise_of(kind, n=96, coordinates=6):
    rng = np.random.default_rng(0)
    scales = 10.0 ** np.arange(coordinates)[None] / 100
    draws = {
        "gaussian": rng.normal(size=(n, coordinates)),
        "heavy": rng.standard_t(1.5, size=(n, coordinates)),
        "uniform": rng.uniform(-1, 1, size=(n, coordinates)),
    }
    return (draws[kind] * scales + 3).astype(np.float32)


def test_tails():
    """Gaussian noise with very unequal variances passes; Student's with 1.5 degrees does not."""
    w = np.ones(96, np.float32)
    found = tails()(noise_of("gaussian"), w)
    for measure in (found.stable_index, found.hill, found.excess_kurtosis):
        assert measure.difference.lower < 0 < measure.difference.upper
    assert str(found).count("as Gaussian") == 3
    assert "needs the difference" in str(found)
    heavy = tails()(noise_of("heavy"), w)
    assert heavy.stable_index.difference.upper < 0
    assert heavy.excess_kurtosis.difference.lower > 0
    assert "heavier" in str(heavy)
    light = tails()(noise_of("uniform"), w)
    assert light.excess_kurtosis.difference.upper < 0
    assert "lighter" in str(light)
    assert heavy.to_dict()["stable_index"]["difference"]["status"] == "ok"


def test_measures_of_the_tail_by_definition():
    w = np.ones(96, np.float32)
    g = noise_of("heavy").astype(float)
    found = tails()(g.astype(np.float32), w)
    x = g - g.mean(0)
    sums = np.array([x[k : k + 8].sum(0) for k in range(0, 96, 8)])
    alpha = np.log(8) / (np.log(np.abs(sums)).mean() - np.log(np.abs(x)).mean())
    kurtosis = np.mean([96 * (c**4).sum() / (c**2).sum() ** 2 - 3 for c in x.T])
    largest = np.sort(np.abs(x).ravel())[::-1]
    k = int(0.05 * x.size)
    hill = 1 / np.mean(np.log(largest[:k] / largest[k]))
    for measure, expected in (
        (found.stable_index, alpha),
        (found.excess_kurtosis, kurtosis),
        (found.hill, hill),
    ):
        assert float(measure.gradients) == pytest.approx(expected, rel=1e-3)


def test_tails_without_padding_and_of_ugly_inputs():
    g = noise_of("heavy")
    w = (np.arange(96) < 80).astype(np.float32)
    spoiled = g.copy()
    spoiled[80:] = np.nan
    a, b = tails()(g, w), tails()(spoiled, w)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    moved = tails()(np.roll(spoiled, 16, 0), np.roll(w, 16))
    assert float(moved.hill.gradients) == pytest.approx(float(a.hill.gradients), rel=1e-4)
    assert name_of(tails()(np.ones_like(g), w)) == "no spread"
    assert name_of(tails()(spoiled, np.ones(96, np.float32))) == "not finite"
    assert name_of(tails()(g, w * (1 + np.arange(96, dtype=np.float32)))) == "unequal weights"
    few = tails()(g, (np.arange(96) < 10).astype(np.float32))
    assert name_of(few) == "too few examples"
    assert np.isnan(few.hill.gradients)
    constant = g.copy()
    constant[:, 2] = 5
    assert int(tails()(constant, w).skipped) == 1


@pytest.mark.core
def test_from_the_engine_and_how_it_prints():
    loss = lambda p, x: jnp.dot(p["a"], x[:2]) + jnp.sin(p["b"] * x[2])  # noqa: E731
    params = {"a": jnp.ones(2), "b": jnp.ones(())}
    stats = {
        "mean": fb.Mean(),
        "sq_norms": fb.SquaredNorms(),
        "inner": fb.InnerWithMean(),
        "gram": fb.Gram(),
    }
    measure = quick(fb.gradient_statistics(loss, stats))
    _, s = measure(params, jnp.asarray(drawn(), jnp.float32))
    gram = s.pop("gram")
    spread = noise.diversity(**s)
    K = np.asarray(gram, float)
    assert float(spread.diversity.value) == pytest.approx(np.trace(K) / K.sum(), rel=1e-4)
    assert float(spread.coherence.value) == pytest.approx(K.sum() / np.trace(K), rel=1e-4)
    bound = N * float(spread.diversity.value)
    assert float(spread.batch_size_bound.value) == pytest.approx(bound, rel=1e-4)
    assert "coherence: " in str(spread)
    results = compiled()(gram, np.ones(N, np.float32))
    for result in (spread, *results.values()):
        assert result.to_dict()["status"] == name_of(result)
        assert "status: " in str(result)
        assert result.explain()
    assert "inner pair: " in str(results["confusion"])


ERRORS = {
    "not square": (
        lambda: noise.stiffness(jnp.ones((3, 2))),
        r"`stiffness`: `gram` must be the inner products of all pairs, \[B, B\].*\(3, 2\)",
    ),
    "weights": (
        lambda: noise.effective_rank(jnp.ones((3, 3)), weights=jnp.ones(2)),
        r"`effective_rank`: `weights` must have shape \(3,\)",
    ),
    "norms": (
        lambda: noise.diversity(jnp.ones(2), jnp.ones((3, 2))),
        r"`diversity`: `sq_norms` must be one array \[B\]",
    ),
    "few": (
        lambda: noise.tail_index(jnp.ones((6, 2)), jax.random.key(0)),
        "`tail_index`: two blocks of 8 examples need 16, got 6",
    ),
    "tail": (
        lambda: noise.tail_index(jnp.ones((20, 2)), jax.random.key(0), tail=2.0),
        "`tail_index`: `block` and `surrogates` must be at least 2 and `tail` between 0 and 1",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    call, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        call()
