"""The noise scale: definitions by loops, its interval by search, coverage, and ugly gradients."""

import functools

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import quick
from scipy import stats as distributions
from tolerances import Z_MAX, assert_agree

import funcbackprop as fb
from funcbackprop.noise import STATUS, moments, noise_scale, noise_scale_of_batches
from funcbackprop.noise.estimate import student
from funcbackprop.noise.scale.ratio import Covariance, ratio

SPLIT = 2  # the leaf "a" has so many of the coordinates


def statistics(g, w=None):
    """Statistics of two leaves with the gradients g[:, :2] and g[:, 2:], by NumPy."""
    w = np.ones(len(g)) if w is None else np.asarray(w)
    kept = np.where((w > 0)[:, None], g, 0)
    mean = (w[:, None] * kept).sum(0) / w.sum()
    dtype = np.result_type(g)
    parts = {"a": np.s_[:SPLIT], "b": np.s_[SPLIT:]}
    row = lambda f: {k: np.where(w > 0, f(kept[:, s], mean[s]), 0).astype(dtype)  # noqa: E731
                     for k, s in parts.items()}  # fmt: skip
    return {
        "mean": {k: mean[s].astype(dtype) for k, s in parts.items()},
        "sq_norms": row(lambda x, m: (x**2).sum(1)),
        "sq_deviations": row(lambda x, m: ((x - m) ** 2).sum(1)),
        "inner": row(lambda x, m: x @ m),
    }


ROWS, COLUMNS = 12, 6  # of all gradients given to `found_in`, so that few programs are compiled
of_examples = quick(noise_scale)


def totals(g, *names, w=None):
    """Arguments of `noise_scale`, added up over leaves; padded with NaN and with columns of 0."""
    w = np.ones(len(g), g.dtype) if w is None else np.asarray(w, g.dtype)
    g = np.pad(g, ((0, 0), (0, COLUMNS - g.shape[1])))
    g = np.pad(g, ((0, ROWS - len(g)), (0, 0)), constant_values=np.nan)
    w = np.pad(w, (0, ROWS - len(w)))
    s = statistics(g, w)
    mean = np.concatenate([s["mean"]["a"], s["mean"]["b"]])
    return {"mean": mean, "weights": w, **{name: s[name]["a"] + s[name]["b"] for name in names}}


def found_in(g, *names, w=None):
    return of_examples(**totals(g, *names, w=w))


def by_definition(g, w):
    """S and |G|^2 of the rows of g by pairs of examples."""
    S = pairs = weight = 0.0
    for i in range(len(g)):
        for j in range(len(g)):
            if i != j:
                S += w[i] * w[j] * ((g[i] - g[j]) ** 2).sum() / 2
                pairs += w[i] * w[j] * (g[i] @ g[j])
                weight += w[i] * w[j]
    return np.array([S / weight, pairs / weight])


def jackknifed(g, w):
    """Values and covariance, leaving every example out by hand."""
    kept = np.flatnonzero(w > 0)
    whole = by_definition(g, w)
    left = [by_definition(np.delete(g, i, 0), np.delete(w, i)) for i in kept]
    effective = w.sum() ** 2 / (w**2).sum()
    moves = np.array(left) - whole
    return whole, (1 - 1 / effective) * moves.T @ moves, effective


def interval_by_search(whole, V, n, q):
    """All r of a fine grid that the condition in the docstring allows."""
    S, sq_norm = whole
    r = np.geomspace(1e-4, 1e7, 400_001)
    inflated = V[1, 1] * (S / r + S / n) / (sq_norm + S / n)
    variance = V[0, 0] - 2 * r * V[0, 1] + r**2 * inflated
    allowed = r[(S - r * sq_norm) ** 2 <= q**2 * variance]
    return allowed.min(), allowed.max() if allowed.max() < r[-1] else np.inf


CASES = {"equal": (None, 1.0), "weights": ((0.5, 2.0), 1.0), "far from significant": (None, 0.1)}


@pytest.mark.core
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("source", ["sq_norms", "sq_deviations"])
def test_definition(x64, name, source):
    limits, shift = CASES[name]
    rng = np.random.default_rng(3)
    g = rng.normal(size=(12, 5)) * 0.8 + shift * 0.5
    w = np.ones(12) if limits is None else rng.uniform(*limits, size=12)
    if limits is not None:
        w[4], g[4] = 0, np.nan
    found = found_in(g, source, "inner", w=w)
    kept = w > 0
    whole, V, n = jackknifed(g[kept], w[kept])
    q = distributions.t(n - 1).ppf(0.975)
    S, sq_norm, B = found[:3]
    assert_agree(S.value, whole[0], "float64")
    assert_agree(sq_norm.value, whole[1], "float64", whole[0])
    assert_agree(S.standard_error, np.sqrt(V[0, 0]), "float64", whole[0])
    assert_agree(sq_norm.standard_error, np.sqrt(V[1, 1]), "float64", whole[0])
    assert_agree(found.examples, n, "float64")
    factor = np.exp(q * np.sqrt(V[0, 0]) / whole[0])
    assert float(S.upper) == pytest.approx(whole[0] * factor, rel=2e-3)
    assert float(S.lower) == pytest.approx(whole[0] / factor, rel=2e-3)
    r = whole[0] / whole[1]
    if whole[1] > 0:
        relative = V[0, 0] - 2 * r * V[0, 1] + r**2 * V[1, 1]
        assert_agree(B.standard_error, np.sqrt(relative) / whole[1], "float64", r)
    lower, upper = interval_by_search(whole, V, n, q)
    assert float(B.lower) == pytest.approx(lower, rel=2e-3)
    assert float(B.upper) == (np.inf if np.isinf(upper) else pytest.approx(upper, rel=5e-3))


def test_the_cases_are_bounded_and_unbounded():
    g = np.random.default_rng(3).normal(size=(12, 5)) * 0.8
    names = [
        STATUS[int(found_in(g + c, "sq_norms", "inner").B_simple.status)][0]
        for c in (1.0, 0.3, 0.0)
    ]
    assert names[0] == "ok"
    assert set(names[1:]) <= {"unbounded above", "gradient not above zero"}


def test_through_the_engine_by_leaf_and_by_group(x64):
    g = np.random.default_rng(4).normal(size=(9, 5)) + 1
    params = {"a": jnp.zeros(2), "b": jnp.zeros(3)}
    loss = lambda p, x: jnp.concatenate([p["a"], p["b"]]) @ x  # noqa: E731
    stats = {"mean": fb.Mean(), "sq_norms": fb.SquaredNorms(), "inner": fb.InnerWithMean()}
    _, s = quick(fb.gradient_statistics(loss, stats))(params, jnp.asarray(g))
    groups = lambda path: None if path == "['a']" else "last"  # noqa: E731
    found = quick(functools.partial(noise_scale, groups=groups))(**s)
    assert list(found.groups) == ["last"]
    for one, rows in (
        (found, g),
        (found.per_leaf["a"], g[:, :2]),
        (found.groups["last"], g[:, 2:]),
    ):
        whole, V, _ = jackknifed(rows, np.ones(9))
        assert_agree(one.S.value, whole[0], "float64")
        assert_agree(one.sq_gradient_norm.standard_error, np.sqrt(V[1, 1]), "float64", whole[0])
    assert_agree(found.per_leaf["b"].B_simple.upper, found.groups["last"].B_simple.upper, "float64")
    whole = noise_scale(s["mean"], sq_norms=fb.total(s["sq_norms"]), inner=fb.total(s["inner"]))
    assert whole.per_leaf is None
    assert_agree(whole.B_simple.lower, found.B_simple.lower, "float64")
    text = str(found)
    assert "last" in text
    assert "At 95 % the noise scale is at least" in text
    assert found.to_dict()["per_leaf"]["params['a']"]["S"]["status"] == "ok"


def test_values_agree_with_moments():
    s = totals(np.random.default_rng(5).normal(size=(ROWS, 4)).astype(np.float32) + 1, "sq_norms")
    m, found = moments(**s), of_examples(**s)
    for name in ("S", "sq_gradient_norm"):
        assert_agree(getattr(found, name).value, getattr(m, name), "float32")
    assert np.isnan(found.S.standard_error)
    assert "funcbackprop.InnerWithMean()" in found.explain()
    assert "InnerWithMean" in str(found)


def test_deviations_alone_tell_how_sure_S_is(x64):
    g = np.random.default_rng(5).normal(size=(ROWS, 4)) + 1
    both, alone = found_in(g, "sq_deviations", "inner"), found_in(g, "sq_deviations")
    assert_agree(alone.S.standard_error, both.S.standard_error, "float64")
    assert np.isnan(alone.B_simple.lower)
    assert STATUS[int(alone.B_simple.status)][0] == "no inner products"


def test_a_mean_ten_thousand_times_the_spread_in_float32():
    """The statistics as the engine gives them; the truth from float64."""
    g = (np.random.default_rng(6).normal(size=(64, 5)) + 1e4).astype(np.float32)
    params = jnp.zeros(5)
    stats = {
        "mean": fb.Mean(),
        "sq_deviations": fb.SquaredDeviations(),
        "inner": fb.InnerWithMean(),
    }
    _, s = quick(fb.gradient_statistics(lambda p, x: p @ x, stats))(params, g)
    found = of_examples(**s)
    whole, V, _ = jackknifed(g.astype(np.float64), np.ones(64))
    assert float(found.S.value) == pytest.approx(whole[0], rel=1e-3)
    assert float(found.S.standard_error) == pytest.approx(np.sqrt(V[0, 0]), rel=1e-3)
    assert float(found.sq_gradient_norm.standard_error) == pytest.approx(np.sqrt(V[1, 1]), rel=1e-2)
    assert int(found.B_simple.status) == 0
    from_norms = found_in(g[:ROWS], "sq_norms", "inner")
    assert STATUS[int(from_norms.B_simple.status)][0] == "below rounding"


def regression(key, d, n):
    key_x, key_e = jax.random.split(key)
    x = jax.random.normal(key_x, (n, d))
    return x * (x[:, 0] - jax.random.normal(key_e, (n,)))[:, None]


def plain(g, w=None):
    """`noise_scale` of gradients [n, P]."""
    mean = g.mean(0) if w is None else w @ g / w.sum()
    return noise_scale(mean, sq_norms=jnp.sum(g**2, 1), inner=g @ mean, weights=w)


@quick
def on_linear_regression(w):
    """Of 1000 batches with weights w [105]: the same program for all numbers of examples."""
    one = lambda key: plain(regression(key, 10, 105), w).B_simple  # noqa: E731
    return jax.lax.map(one, jax.random.split(jax.random.key(0), 1000))


@pytest.mark.core
@pytest.mark.parametrize(("n", "bounds"), [(21, (0.93, 1)), (105, (0.93, 0.985))])
def test_coverage_on_linear_regression(n, bounds):
    """B_simple = 2 d + 1. The whole table: experiments/noise_scale_coverage.py."""
    d = 10
    B = on_linear_regression((jnp.arange(105) < n).astype(jnp.float32))
    lower, upper = np.asarray(B.lower), np.asarray(B.upper)
    coverage = np.mean((lower <= 2 * d + 1) & (2 * d + 1 <= upper))
    assert bounds[0] <= coverage <= bounds[1]
    assert np.isfinite(lower).all()
    if n > 100:
        assert np.isinf(upper).mean() < 0.01
        assert min(np.mean(lower > 21), np.mean(upper < 21)) > 0.003  # both sides miss
    unbounded = np.isinf(upper)
    named = {STATUS[code][0] for code in np.unique(B.status[unbounded])}
    assert named <= {"unbounded above", "gradient not above zero"}


@quick
def with_noise_along(scale):
    """Of 1000 batches with gradients N(e_1, diag(scale^2))."""

    def one(key):
        return plain(jax.random.normal(key, (40, 3)) * scale + jnp.eye(1, 3)).B_simple

    return jax.vmap(one)(jax.random.split(jax.random.key(1), 1000))


@pytest.mark.parametrize("d", [1, 3])
def test_noise_along_the_gradient_is_covered(d):
    """Noise almost only along G, which ruins a constant variance of |G|^2 (coverage .83)."""
    scale = np.array([[5.0, *[1.0] * (d - 1), *[0.0] * (3 - d)]], np.float32)
    truth = np.sum(scale**2)
    B = with_noise_along(scale)
    assert np.mean((B.lower <= truth) & (truth <= B.upper)) > 0.92


UGLY = {
    "one example": ([[1.0, 2.0, 0.0]], "one example"),
    "one example and padding": ([[1.0, 2.0, 0.0], [np.nan] * 3], "one example"),
    "two examples": ([[1.0, 2.0, 0.0], [2.0, 2.0, 1.0]], "too few to leave one out"),
    "NaN": ([[1.0, 2.0, np.nan], [2.0, 2.0, 1.0], [1.0, 1.0, 1.0]], "not finite"),
    "all zero": ([[0.0] * 3] * 4, "gradient not above zero"),
    "constant": ([[1.0, 0.0, 2.0]] * 4, "ok"),
    "no mean": ([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]] * 3, "gradient not above zero"),
    "orthogonal": (np.eye(6).tolist(), "gradient not above zero"),
    "outlier": ([[1.0, 0.1, 0.0]] * 9 + [[1e4, 0.0, 0.0]], "unbounded above"),
}  # fmt: skip


@pytest.mark.parametrize("name", UGLY)
def test_ugly_gradients(name):
    g, status = UGLY[name]
    g = np.array(g, np.float32)
    if name == "one example":  # without the padding that all others get
        s = statistics(g)
        given = {k: s[k]["a"] + s[k]["b"] for k in ("sq_deviations", "inner")}
        found = noise_scale(jnp.concatenate([s["mean"]["a"], s["mean"]["b"]]), **given)
    else:
        w = np.array([1.0, 0.0], np.float32) if "padding" in name else None
        found = found_in(g, "sq_deviations", "inner", w=w)
    assert STATUS[int(found.B_simple.status)][0] == status
    assert found.to_dict()["B_simple"]["status"] == status
    if status in ("ok", "gradient not above zero", "unbounded above"):
        assert 0 <= float(found.B_simple.lower) < np.inf
    else:
        assert np.isnan(found.B_simple.lower)
        assert np.isnan(found.B_simple.upper)


def test_nothing_is_clipped():
    found = found_in(np.array(UGLY["no mean"][0], np.float32), "sq_norms", "inner")
    assert float(found.sq_gradient_norm.value) == pytest.approx(-0.2)
    assert np.isinf(found.B_simple.value)
    assert 0 < float(found.B_simple.lower) < 6


def test_constant_gradients_have_no_noise():
    B = found_in(np.ones((5, 3), np.float32), "sq_deviations", "inner").B_simple
    assert [float(x) for x in B[:4]] == [0, 0, 0, 0]


compiled = quick(plain)
SAME = np.ones(30, np.float32)  # weights


@hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
@hypothesis.given(
    arrays.arrays(
        np.float32,
        st.sampled_from([(3, 2), (8, 3)]),
        elements=st.sampled_from([0.0, 1.0, -1.0, 1.001, 3.0, -2.0, 100.0, 1e-3, 1e4]),
    )
)
def test_the_interval_holds_the_estimate(g):
    n = len(g)
    rows = np.pad(g, ((0, 30 - n), (0, 3 - g.shape[1])))
    B = compiled(rows, (np.arange(30) < n).astype(np.float32)).B_simple
    name = STATUS[int(B.status)][0]
    if name == "not finite":
        raise AssertionError("finite gradients")
    lower, upper = float(B.lower), float(B.upper)
    assert 0 <= lower < np.inf
    assert lower <= upper
    # 1e-3: S from squared norms in float32, where not even "below rounding".
    if name != "below rounding" and g.any():
        assert lower <= float(B.value) * 1.001 + 1e-3
        assert float(B.value) <= upper * 1.001 + 1e-3


def test_units_of_the_gradient_do_not_matter():
    g = regression(jax.random.key(2), 3, 30)
    for factor in (1e-15, 1e15):
        B, same = compiled(g, SAME), compiled(g * factor, SAME)
        np.testing.assert_allclose(jnp.stack(same.B_simple[:4]), jnp.stack(B.B_simple[:4]), 1e-4)
        error = B.sq_gradient_norm.standard_error * factor**2
        np.testing.assert_allclose(same.sq_gradient_norm.standard_error, error, 1e-4)


def test_under_vmap():
    g = jnp.stack([regression(jax.random.key(k), 3, 30) for k in range(3)])
    many = quick(jax.vmap(plain))(g)
    for k in range(3):
        assert_agree(many.B_simple.lower[k], compiled(g[k], SAME).B_simple.lower, "float32")
    assert str(many).count("\n") > 5
    traced = []
    quick(lambda x: traced.append(str(plain(x))) or x)(g[0])
    assert traced == ["NoiseScale(traced)"]


# Parts of a batch.

of_batches = quick(noise_scale_of_batches)


def by_two_sizes(parts, m):
    """With equal sizes: the formula with two batch sizes (McCandlish et al. 2018)."""
    big = parts.mean(0)
    small = np.mean([(g**2).sum() for g in parts])
    n = m * len(parts)
    S = (small - (big**2).sum()) / (1 / m - 1 / n)
    return S, (n * (big**2).sum() - m * small) / (n - m)


def test_batches_of_equal_size(x64):
    parts = np.random.default_rng(7).normal(size=(6, 4)) + 0.7
    found = of_batches({"a": parts[:, :1], "b": parts[:, 1:]}, np.full(6, 8))
    S, sq_norm = by_two_sizes(parts, 8)
    assert_agree(found.S.value, S, "float64")
    assert_agree(found.sq_gradient_norm.value, sq_norm, "float64", S)
    left = np.array([by_two_sizes(np.delete(parts, j, 0), 8) for j in range(6)])
    errors = np.sqrt(5 / 6 * ((left - left.mean(0)) ** 2).sum(0))
    assert_agree(found.S.standard_error, errors[0], "float64", S)
    assert_agree(found.sq_gradient_norm.standard_error, errors[1], "float64", S)
    factor = np.exp(distributions.t(5).ppf(0.975) * errors[0] / S)
    assert float(found.S.upper) == pytest.approx(S * factor)
    assert float(found.examples) == 48
    assert_agree(found.per_leaf["a"].S.value + found.per_leaf["b"].S.value, S, "float64")


def unequal(parts, sizes):
    """Unbiased for unequal sizes, by loops: E m_j |g_j - gbar|^2 = (1 - m_j/N) S; pairs."""
    mean = sum(m * g for m, g in zip(sizes, parts, strict=True)) / sizes.sum()
    S = sum(m * ((g - mean) ** 2).sum() for m, g in zip(sizes, parts, strict=True))
    S /= len(parts) - 1
    pairs = [(i, j) for i in range(len(parts)) for j in range(len(parts)) if i != j]
    weight = sum(sizes[i] * sizes[j] for i, j in pairs)
    return S, sum(sizes[i] * sizes[j] * (parts[i] @ parts[j]) for i, j in pairs) / weight


def test_batches_of_unequal_size(x64):
    parts = np.random.default_rng(8).normal(size=(6, 4)) + 0.7
    sizes = np.array([3, 0, 7, 2, 2, 5])
    parts[1] = np.nan
    found = of_batches({"a": parts[:, :1], "b": parts[:, 1:]}, sizes)
    kept = sizes > 0
    whole = np.array(unequal(parts[kept], sizes[kept]))
    assert_agree(found.S.value, whole[0], "float64")
    assert_agree(found.sq_gradient_norm.value, whole[1], "float64", whole[0])
    rows = np.flatnonzero(kept)
    without = lambda x, j: x[[i for i in rows if i != j]]  # noqa: E731
    left = [unequal(without(parts, j), without(sizes, j)) for j in rows]
    errors = np.sqrt(4 / 5 * ((np.array(left) - whole) ** 2).sum(0))
    assert_agree(found.S.standard_error, errors[0], "float64", whole[0])
    assert_agree(found.sq_gradient_norm.standard_error, errors[1], "float64", whole[0])


def test_batches_are_unbiased_and_covered():
    """Linear regression, 16 batches of 4 to 12 examples: S = 2 d + 1 and |G|^2 = 1."""
    d, sizes = 4, np.array([4, 8, 12, 8] * 4)
    ends = np.cumsum(sizes)

    def one(key):
        g = regression(key, d, ends[-1])
        parts = jnp.stack([g[e - m : e].mean(0) for e, m in zip(ends, sizes, strict=True)])
        return noise_scale_of_batches(parts, sizes)

    found = quick(jax.vmap(one))(jax.random.split(jax.random.key(3), 1000))
    for estimate, truth in ((found.S, 2 * d + 1), (found.sq_gradient_norm, 1.0)):
        x = np.asarray(estimate.value, np.float64)
        assert abs(x.mean() - truth) < Z_MAX * x.std(ddof=1) / np.sqrt(len(x))
    B = found.B_simple
    assert np.mean((B.lower <= 2 * d + 1) & (2 * d + 1 <= B.upper)) > 0.92


def test_devices_see_what_one_host_sees():
    rng = np.random.default_rng(9)
    parts = {"a": rng.normal(size=(5, 2, 2)).astype(np.float32), "b": rng.normal(size=5)}
    parts["b"] = parts["b"].astype(np.float32) + 2
    sizes = np.array([4.0, 4.0, 2.0, 8.0, 0.0], np.float32)
    expected = of_batches(parts, sizes)
    on_devices = functools.partial(noise_scale_of_batches, axis_name="devices")
    found = quick(jax.vmap(on_devices, axis_name="devices"))(parts, sizes)
    assert np.isfinite(expected.B_simple.lower)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a[3], b, rtol=1e-4)


def test_inside_shard_map_the_result_is_replicated():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    P = jax.sharding.PartitionSpec
    on_devices = lambda g: noise_scale_of_batches(g[0], 4, axis_name="d")  # noqa: E731
    mapped = jax.shard_map(on_devices, mesh=mesh, in_specs=P("d"), out_specs=P())
    found = quick(mapped)(jnp.ones((1, 3)))
    assert STATUS[int(found.S.status)][0] == "one part"


@pytest.mark.parametrize(
    ("sizes", "status"),
    [([4], "one part"), ([4, 0, 0], "one part"), ([4, 4, 0], "too few to leave one out")],
)
def test_few_parts(sizes, status):
    found = of_batches(np.arange(1.0, len(sizes) + 1, dtype=np.float32)[:, None], np.array(sizes))
    assert STATUS[int(found.S.status)][0] == status
    assert np.isnan(found.S.value) == (status == "one part")
    assert np.isnan(found.S.standard_error)
    assert "split the batch" in found.explain() or status != "one part"


# Helpers.


def test_quantiles_of_student():
    for freedom in (1, 2, 5, 17, 30, 64, 1e6):
        expected = distributions.t(freedom).ppf(0.975)
        assert float(student(freedom)) == pytest.approx(expected, rel=1e-3)


def test_fieller_of_any_sign(x64):
    """Negative ratios, against a search."""
    r = np.linspace(-50, 50, 1_000_001)
    for n, d in ((2.0, 3.0), (-2.0, 3.0), (1.0, -4.0), (1.0, 0.5)):
        known = Covariance(*map(jnp.asarray, (0.3, 0.2, 0.1, 1.0)))
        found = quick(ratio)(n, d, known, 2.0)
        allowed = r[(n - r * d) ** 2 <= 4 * (0.3 - 0.2 * r + 0.2 * r**2)]
        if d**2 > 4 * 0.2:
            assert float(found.lower) == pytest.approx(allowed.min(), abs=1e-3)
            assert float(found.upper) == pytest.approx(allowed.max(), abs=1e-3)
        else:
            assert np.isinf(found.lower)
            assert STATUS[int(found.status)][0] == "unbounded"


ERRORS = {
    "no spread": (noise_scale, {"inner": jnp.ones(3)}, "pass `sq_norms` or `sq_deviations`"),
    "other tree": (noise_scale, {"sq_norms": {"a": jnp.ones(3)}}, "`sq_norms` must be a tree like"),
    "no axis": (noise_scale, {"sq_norms": jnp.ones(())}, r"leaves of shape \[n\], got \[\(\)\]"),
    "two counts": (
        noise_scale,
        {"sq_norms": jnp.ones(3), "inner": jnp.ones(2)},
        r"the same everywhere, got \[2, 3\]",
    ),
    "groups no function": (
        noise_scale,
        {"sq_norms": jnp.ones(3), "groups": {"a": 1}},
        "`groups` must be a function",
    ),
    "sizes": (
        noise_scale_of_batches,
        {"examples": [1, 2]},
        r"`examples` must be a number or have shape \(3,\), one for each batch, got shape \(2,\)",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    function, arguments, message = ERRORS[name]
    with pytest.raises((ValueError, TypeError), match=message):
        function(jnp.ones(3), **arguments)


def test_groups_need_leaves():
    with pytest.raises(ValueError, match="`groups` needs every statistic by leaf"):
        noise_scale({"a": jnp.ones(2)}, sq_norms=jnp.ones(3), groups=lambda path: path)


@pytest.mark.parametrize("source", ["sq_norms", "sq_deviations"])
def test_statistics_of_other_weights_disagree(source):
    g = np.random.default_rng(5).normal(size=(12, 5)).astype(np.float32) + 1
    w = np.repeat(np.array([1, 0], np.float32), 6)
    given = totals(g, source, "inner", w=w)
    assert STATUS[int(of_examples(**given).S.status)][0] == "ok"
    found = of_examples(**(given | {"weights": totals(g, source)["weights"]}))
    names = [STATUS[int(estimate.status)][0] for estimate in found[:3]]
    assert names == ["statistics disagree"] * 3
