"""Variance reduction: every outcome enumerated, predictions by definition, comparisons judged."""

import functools
import itertools
import json
import math

import jax
import jax.numpy as jnp
import libraries
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import Z_MAX, assert_agree

import funcbackprop as fb
from funcbackprop.noise import STATUS
from funcbackprop.noise import reduction as rd
from funcbackprop.noise.estimate import quantile
from funcbackprop.noise.reduction import sampling
from funcbackprop.noise.reduction import spread as spreads
from funcbackprop.noise.reduction.comparison import Run, log_ratio_of, row
from funcbackprop.noise.reduction.control import residual
from funcbackprop.noise.reduction.estimate import wide_estimate

N = 4
X = np.array([[1.0, 2.0, 0.5], [-1.0, 0.3, 2.0], [0.2, -1.5, 1.0], [3.0, 1.0, -1.0]])
Y = np.array([1.0, -2.0, 0.5, 0.0])
PARAMS = {"a": np.array([0.5, -1.0]), "b": np.array([0.3])}
ANCHOR = {"a": np.array([0.1, -0.7]), "b": np.array([-0.2])}
P = np.array([0.1, 0.2, 0.3, 0.4])
LABELS = np.array(["u", "v", "u", "u"])
WEIGHTS = {"equal": None, "unequal": np.array([1.0, 2.0, 0.0, 3.0])}


def loss(p, example):
    x, y = example
    return 0.5 * (jnp.concatenate([p["a"], p["b"]]) @ x - y) ** 2


def gradients(p, x=X, y=Y):
    """g_i as rows [N, 3], by hand."""
    w = np.concatenate([p["a"], p["b"]])
    return np.array([(x[i] @ w - y[i]) * x[i] for i in range(len(x))])


def flat(tree):
    return np.concatenate([np.asarray(tree["a"]), np.asarray(tree["b"])], axis=-1)


def h(p, example):
    return {"a": example[0][:2] * 1.5, "b": jnp.sin(example[0][2:])}


def mean_h(q):
    rows = np.concatenate([X[:, :2] * 1.5, np.sin(X[:, 2:])], 1)
    mean = (q[:, None] * rows).sum(0)
    return {"a": mean[:2], "b": mean[2:]}


def anchor(q):
    mean = (q[:, None] * gradients(ANCHOR)).sum(0)
    return rd.Anchor(ANCHOR, {"a": jnp.array(mean[:2]), "b": jnp.array(mean[2:])}, N)


def with_replacement(q):
    return lambda drawn: math.prod(q[i] for i in drawn)


def from_probabilities(q):
    p = P * (q > 0)
    return with_replacement(p / p.sum())


def within_strata(q):
    """Two of stratum u, then the only one of v."""
    u = q * (LABELS == "u")
    return lambda drawn: u[drawn[0]] * u[drawn[1]] / u.sum() ** 2 * (drawn[2] == 1)


def without_replacement(q):
    return lambda drawn: (drawn[0] != drawn[1]) / 12


LAWS = {
    "plain": (lambda: rd.plain(), 2, with_replacement),
    "three": (lambda: rd.plain(), 3, with_replacement),
    "without replacement": (lambda: rd.plain(replace=False), 2, without_replacement),
    "stratified": (lambda: rd.stratified(LABELS), 3, within_strata),
    "importance": (lambda: rd.importance(P), 2, from_probabilities),
}

# name: the law of its draws, and q -> estimator.
CASES = {
    "plain": ("plain", lambda q: rd.plain()),
    "without replacement": ("without replacement", lambda q: rd.plain(replace=False)),
    "stratified": ("stratified", lambda q: rd.stratified(LABELS)),
    "importance": ("importance", lambda q: rd.importance(P)),
    "control variate": (
        "plain",
        lambda q: rd.control_variate(h, mean_h(q), coefficient=0.7),
    ),
    "leave one out": (
        "three",
        lambda q: rd.control_variate(h, mean_h(q), coefficient=rd.LEAVE_ONE_OUT),
    ),
    "svrg, stratified": (
        "stratified",
        lambda q: rd.svrg(anchor(q), sampling=rd.stratified(LABELS)),
    ),
    "svrg, importance": (
        "importance",
        lambda q: rd.svrg(anchor(q), sampling=rd.importance(P)),
    ),
}
# With and without weights where the code of the law differs: compiling takes most of the time.
ROUTES = [
    ("plain", "equal"),
    ("plain", "unequal"),
    ("without replacement", "unequal"),
    ("stratified", "equal"),
    ("stratified", "unequal"),
    ("importance", "unequal"),
    ("control variate", "equal"),
    ("leave one out", "equal"),
    ("svrg, stratified", "equal"),
    ("svrg, importance", "unequal"),
]
REPEATS = 4000


def shares(weights):
    w = WEIGHTS[weights]
    return np.full(N, 1 / N) if w is None else w / w.sum()


@functools.cache
def outcomes(law, weights):
    """`(draws, one row for each outcome, their probabilities)`; each is as frequent as it should.

    In float64, as the test that calls it.
    """
    make, size, rule = LAWS[law]
    sampler = make()
    q = shares(weights)
    keys = jax.random.split(jax.random.key(1), REPEATS)
    draws = jax.jit(jax.vmap(lambda k: sampler.draw(k, jnp.asarray(q), weights == "equal", size)))(
        keys
    )
    found, first, counts = np.unique(draws.indices, axis=0, return_index=True, return_counts=True)
    every = itertools.product(range(N), repeat=size)
    possible = {o: rule(q)(o) for o in every if rule(q)(o) > 0}
    assert {tuple(o) for o in found.tolist()} == set(possible)
    probability = np.array([possible[tuple(o)] for o in found.tolist()])
    assert_agree(probability.sum(), 1.0, "float64")
    expected = REPEATS * probability
    chi_square, freedom = ((counts - expected) ** 2 / expected).sum(), len(expected) - 1
    assert (chi_square - freedom) / math.sqrt(2 * freedom) < Z_MAX
    return jax.tree.map(lambda x: x[first], draws), probability


@pytest.mark.core
@pytest.mark.parametrize(("name", "weights"), ROUTES)
def test_every_outcome(x64, name, weights):
    """The mean over all outcomes is the gradient, exactly, and their spread is the prediction."""
    law, make = CASES[name]
    q = shares(weights)
    draws, probability = outcomes(law, weights)
    estimator = make(q)

    @jax.jit
    def run(draws):
        one = lambda d: wide_estimate(estimator, loss, PARAMS, (X, Y), d, {})  # noqa: E731
        own = 0.0 if name == "leave one out" else predicted(estimator, q, LAWS[law][1])
        return jax.vmap(one)(draws), own

    found, prediction = run(draws)
    found, G = flat(found), (q[:, None] * gradients(PARAMS)).sum(0)
    assert_agree((probability[:, None] * found).sum(0), G, "float64", np.abs(found).max())
    if name != "leave one out":
        exact = (probability * ((found - G) ** 2).sum(1)).sum()
        assert_agree(prediction, exact, "float64")


def predicted(estimator, q, batch_size):
    q = jnp.asarray(q)
    if estimator.control is None:
        return estimator.variance(loss, PARAMS, (X, Y), q, batch_size, {})
    a = estimator.control.coefficient
    both, shift, method = residual(estimator.control, loss, PARAMS, a)
    return estimator.variance(both, shift, (X, Y), q, batch_size, {"method": method})


def test_the_number_of_evaluations_and_the_dtype():
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.bfloat16), PARAMS)
    data = (X.astype(np.float32), Y.astype(np.float32))
    assert rd.svrg(rd.Anchor(params, params, N)).evaluations == 2

    @jax.jit
    def step(params):
        svrg = rd.svrg(rd.anchor_at(loss, params, data))  # anew in every step: w = w~
        return rd.estimate(svrg, loss, params, data, jax.random.key(0), 3)

    found = step(params)
    assert found.evaluations == 6
    assert found.gradient["a"].dtype == jnp.bfloat16
    assert found.explain() == STATUS[0][1]


def test_many_columns():
    """Columns of mass 0, 1 and 3, more of them than one block."""
    M, n = 20_000, 40_000
    mass = jnp.where(jnp.arange(M) % 4 == 0, 3.0, 1.0).at[M // 2 :].set(0.0)
    drawn = jax.jit(lambda k: sampling.weighted(k, mass[None], jnp.zeros(n, int)))(
        jax.random.key(0)
    )
    drawn = np.asarray(drawn)
    assert drawn.max() < M // 2
    for share, truth in (
        ((drawn % 4 == 0).mean(), 0.5),
        ((drawn % 4 == 3).mean(), 1 / 6),
        ((drawn < M // 8).mean(), 0.25),
    ):
        assert abs(share - truth) < Z_MAX * math.sqrt(truth * (1 - truth) / n)


# Allocation


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=4),
    st.lists(st.sampled_from([0.0, 0.1, 1.0, 7.0]), min_size=4, max_size=4),
    st.integers(0, 6),
)
def test_allocation_is_the_best_of_all(counts, spread, more):
    W = np.array(counts) / sum(counts)
    S, B = np.array(spread[: len(W)]), len(W) + more
    chosen = rd.allocate(W, B, S)
    assert sum(chosen) == B
    assert min(chosen) >= 1
    every = (c for c in itertools.product(range(1, B + 1), repeat=len(W)) if sum(c) == B)
    best = min((W**2 * S**2 / np.array(c)).sum() for c in every)
    assert (W**2 * S**2 / np.array(chosen)).sum() <= best * (1 + 1e-12)


# Predictions, by recomputing everything with one example left out


def sample(n=9):
    rng = np.random.default_rng(3)
    return rng.normal(size=(n, 3)) * [1.0, 2.0, 0.5] + 0.7, rng.uniform(0.3, 2.0, size=n)


def plain_by_hand(g, p):
    return sum(((x - g.mean(0)) ** 2).sum() for x in g) / (len(g) - 1)


def importance_by_hand(g, p):
    n = len(g)
    pairs = sum(g[i] @ g[j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return np.mean([(x @ x) / p_i for x, p_i in zip(g, p, strict=True)]) - pairs


def gain_by_hand(g, p):
    norms = [math.sqrt(x @ x) for x in g]
    n = len(g)
    pairs = sum(norms[i] * norms[j] for i in range(n) for j in range(n) if i != j)
    return np.mean(np.square(norms)) - pairs / (n * (n - 1))


PREDICTIONS = {
    "plain": (lambda r, along, p, s: rd.plain_variance(r, 5), plain_by_hand, 5),
    "importance": (
        lambda r, along, p, s: rd.importance_variance(r, along, p, 5), importance_by_hand, 5
    ),
    "importance, uniform": (
        lambda r, along, p, s: rd.importance_variance(r, along, jnp.ones_like(p), 5),
        plain_by_hand,
        5,
    ),
    "gain": (lambda r, along, p, s: rd.importance_gain(s), gain_by_hand, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", PREDICTIONS)
def test_prediction_and_its_jackknife(x64, name):
    predict, by_hand, B = PREDICTIONS[name]
    g, p = sample()
    n, mean = len(g), g.mean(0)
    found = jax.jit(predict)(((g - mean) ** 2).sum(1), g @ mean, p, (g**2).sum(1))
    assert_agree(found.value, by_hand(g, p) / B, "float64")
    left_out = [by_hand(np.delete(g, i, 0), np.delete(p, i)) / B for i in range(n)]
    error = math.sqrt((n - 1) * np.var(left_out))
    assert_agree(found.standard_error, error, "float64", abs(found.value))
    assert int(found.status) == 0
    log_error = math.sqrt((n - 1) * np.var(np.log(left_out)))  # the interval is on the log scale
    half = quantile(n - 1) * log_error
    assert float(found.upper) == pytest.approx(found.value * math.exp(half))
    assert float(found.lower) == pytest.approx(found.value * math.exp(-half))


ALLOCATIONS = {
    "proportional": ("proportional", lambda W, S2: (W * S2).sum() / 6),
    "neyman": ("neyman", lambda W, S2: (W * np.sqrt(S2)).sum() ** 2 / 6),
    "given": ((4, 2), lambda W, S2: (W**2 * S2 / np.array([4, 2])).sum()),
}


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_stratified_prediction_and_its_jackknife(x64, name):
    allocation, formula = ALLOCATIONS[name]
    g, _ = sample()
    labels = np.array([0, 1, 0, 0, 1, 1, 0, 1, 0])
    W = np.array([5, 4]) / 9
    within = lambda g, lab, off: np.array([  # noqa: E731
        ((g[lab == k] - g[lab == k].mean(0)) ** 2).sum() / ((lab == k).sum() - off) for k in (0, 1)
    ])  # fmt: skip
    means = np.array([g[labels == k].mean(0) for k in (0, 1)])
    r = ((g - means[labels]) ** 2).sum(1)
    found = jax.jit(lambda r: rd.stratified_variance(r, labels, 6, allocation))(r)
    assert_agree(found.value, formula(W, within(g, labels, 1)), "float64")
    squares = 0.0
    for k in (0, 1):
        rows = np.flatnonzero(labels == k)
        t = [formula(W, within(np.delete(g, i, 0), np.delete(labels, i), 1)) for i in rows]
        squares += (len(rows) - 1) * np.var(t)
    assert_agree(found.standard_error, math.sqrt(squares), "float64", abs(found.value))
    exact = rd.stratified_variance(r, labels, 6, allocation, population=True)
    assert_agree(exact.value, formula(W, within(g, labels, 0)), "float64")
    assert float(exact.standard_error) == 0


def test_katharopoulos_and_fleuret(x64):
    """S_unif - S_p* = mean s_i - (mean |g_i|)^2, with p* ~ |g_i|."""
    g, _ = sample()
    r, along = ((g - g.mean(0)) ** 2).sum(1), g @ g.mean(0)
    norms = np.sqrt((g**2).sum(1))
    uniform, best = (
        rd.importance_variance(r, along, p, 1, population=True).value
        for p in (np.ones_like(norms), rd.norm_probabilities(norms, mix=0))
    )
    gain = rd.importance_gain(norms**2, population=True).value
    assert_agree(uniform - best, gain, "float64", uniform)
    assert_agree(gain, np.mean(norms**2) - norms.mean() ** 2, "float64", uniform)


def test_predictions_keep_their_digits_in_float32():
    """A mean 1e3 times the spread."""
    g, p = sample()
    g = 1e3 + g
    r, along = ((g - g.mean(0)) ** 2).sum(1), g @ g.mean(0)
    given = [np.float32(x) for x in (r, along, np.ones(9))]
    found = jax.jit(lambda *x: rd.importance_variance(*x, 1))(*given)
    assert float(found.value) == pytest.approx(plain_by_hand(g, p), rel=1e-5)


STATUSES = {
    "one example": lambda: rd.plain_variance(np.ones(1), 2),
    "not finite": lambda: rd.plain_variance(np.array([1.0, np.nan, 1.0]), 2),
    "probability not positive": lambda: rd.importance_variance(
        np.ones(3), np.ones(3), np.array([1.0, 0.0, 2.0]), 2
    ),
    "stratum of too few examples": lambda: rd.stratified_variance(np.ones(4), LABELS, 4),
    "no variance to reduce": lambda: rd.variance_ratio(
        rd.svrg(anchor(np.full(N, 1 / N))), lambda p, e: p["a"] @ e[0] + p["b"][0], PARAMS,
        (np.ones((N, 2)),),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STATUSES)
def test_status(name):
    found = STATUSES[name]()  # not jitted: JAX keeps the dtype of constants that x64 tests share
    assert STATUS[int(found.status)][0] == name
    assert np.isnan(float(found.value)) or np.isnan(float(found.standard_error))


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1e-20, 1e-3, 1.0, 1e18]), min_size=3, max_size=3),
    st.sampled_from([0.1, 1.0]),
)
def test_norm_probabilities_are_probabilities(norms, mix):
    p = np.asarray(rd.norm_probabilities(jnp.asarray(norms, jnp.float32), mix))
    assert (p > 0).all()
    assert p.sum() == pytest.approx(1, rel=1e-5)
    assert (1 / len(p) / p).max() <= 1 / mix * (1 + 1e-5)


# Control variates on linear regression


def regression(key, n, d=4, sigma=0.7):
    """x ~ N(0, I), y = sigma e, so theta* = 0."""
    kx, ke = jax.random.split(key)
    return jax.random.normal(kx, (n, d)), sigma * jax.random.normal(ke, (n,))


def squares(theta, example):
    x, y = example
    return 0.5 * (x @ theta - y) ** 2


def test_svrg_on_linear_regression():
    """rho = |w - w~|^2 (d+1)/(|delta|^2 (d+1) + d sigma^2), in S over S; batches of 2000."""
    d, sigma = 4, 0.7
    w, far = jnp.array([1.0, -0.5, 0.3, 0.0]), jnp.array([0.8, -0.5, 0.3, 0.4])
    data = regression(jax.random.key(5), 2000)

    @jax.jit
    def measure(data):
        estimator = rd.svrg(rd.anchor_at(squares, far, data))
        ratio = rd.variance_ratio(estimator, squares, w, data)
        return ratio, rd.best_coefficient(estimator, squares, w, data)

    found, best = measure(data)
    truth = 0.2 * (d + 1) / (1.34 * (d + 1) + d * sigma**2)
    z = (np.log(found.value) - np.log(truth)) / (found.standard_error / found.value)
    assert abs(float(z)) < Z_MAX
    assert float(found.upper / found.lower) < 1.5
    # g = xx'w - x y and h = xx'w~ - x y: tr Cov(g, h) = <w, w~>(d + 1) + d sigma^2.
    inner, own = float(w @ far) * (d + 1), float(far @ far) * (d + 1)
    truth = (inner + d * sigma**2) / (own + d * sigma**2)
    assert abs(float((best.value - truth) / best.standard_error)) < Z_MAX


def test_the_difference_stays_factored():
    model = fb.models.mlp((8, 16, 3))
    of_one = fb.example_loss(model.apply, fb.losses.cross_entropy)
    batch = jnp.ones((32, 8)), jnp.arange(32) % 3
    params = model.init(jax.random.key(0), batch[0][0])
    control = rd.svrg(rd.Anchor(params, params, 32)).control
    both, shift, _ = residual(control, of_one, params, 1.0)
    stats = [fb.SquaredDeviations(), fb.Mean()]
    assert fb.plan(both, stats)(shift, batch).fallbacks == ()


def test_mean_of_and_anchor_in_chunks(monkeypatch, x64):
    monkeypatch.setattr(spreads, "CHUNK", 3)
    w = np.array([1.0, 2.0, 0.0, 3.0])
    q = w / w.sum()
    data = (np.where(q[:, None] > 0, X, np.nan), Y)
    G = (q[:, None] * gradients(ANCHOR)).sum(0)

    @jax.jit
    def measure(q):
        at = rd.anchor_at(loss, ANCHOR, data, weights=w)
        return at, rd.mean_of(h, PARAMS, data, weights=w), spreads.spread(loss, ANCHOR, data, q)

    at, mean, found = measure(q)
    assert_agree(flat(at.gradient), G, "float64")
    assert at.evaluations == N
    assert_agree(flat(mean), flat(mean_h(q)), "float64")
    deviations = np.where(q[:, None] > 0, gradients(ANCHOR) - G, 0)
    assert_agree(found.sq_deviations, (deviations**2).sum(1), "float64")
    assert_agree(found.along_mean, deviations @ G, "float64", 1.0)


def test_chunks_do_not_cancel_where_the_mean_dominates(monkeypatch):
    monkeypatch.setattr(spreads, "CHUNK", 4)
    x = (1e3 + np.random.default_rng(0).normal(size=(10, 50))).astype(np.float32)
    found = jax.jit(lambda q: spreads.spread(linear, jnp.zeros(50), x, q))(jnp.full(10, 0.1))
    exact = ((x - x.astype(np.float64).mean(0)) ** 2).sum(1)
    assert np.abs(found.sq_deviations / exact - 1).max() < 1e-3


def test_a_model_of_another_library():
    """Unmodified: the estimate is the naive mean of the gradients of what was drawn."""
    try:
        of_one, params, batch = libraries.build("equinox mlp", jnp.float32)
    except ImportError as error:
        pytest.skip(str(error))
    other = jax.tree.map(lambda p: p + 0.1, params)
    drawn, size = np.array([3, 0, 3, 1]), len(jax.tree.leaves(batch)[0])
    few = jax.tree.map(lambda x: x[drawn], batch)

    @jax.jit
    def naive():
        each = lambda p, b: jax.vmap(jax.grad(of_one), (None, 0))(p, b)  # noqa: E731
        found = each(params, few), each(other, few), each(other, batch)
        return [jax.tree.map(lambda g: g.mean(0), tree) for tree in found]

    g, old, whole = naive()
    estimator = rd.svrg(rd.Anchor(other, whole, size))
    draw = rd.Draw(drawn, jnp.full(4, 0.25))
    found = jax.jit(lambda: wide_estimate(estimator, of_one, params, batch, draw, {}))()
    for got, *parts in zip(*map(jax.tree.leaves, (found, g, old, whole)), strict=True):
        now, then, mean = map(np.asarray, parts)
        assert_agree(got, now - then + mean, "float32", np.abs(now).max())


# Comparisons


def linear(w, x):
    return w @ x  # g_i = x_i


STRATA = np.repeat([0, 1], 20)
POINTS = (np.random.default_rng(0).normal(size=(40, 2)) + 6 * STRATA[:, None]).astype(np.float32)


def compared(estimators, data=POINTS, **options):
    options = {"batch_size": 8, "repetitions": 400} | options
    zeros, key = jnp.zeros(data.shape[1]), jax.random.key(0)
    return rd.compare(linear, zeros, data, key, estimators=estimators, **options)


def test_compare():
    """Strata far apart; one example is NaN and of weight 0."""
    weights = np.arange(40) != 7
    data = np.where(weights[:, None], POINTS, np.nan)
    found = compared({"strata": rd.stratified(STRATA, setup=70)}, data, weights=weights)
    kept, labels = POINTS[weights], STRATA[weights]
    deviations = ((kept - kept.mean(0)) ** 2).sum(1)
    means = np.array([kept[labels == k].mean(0) for k in (0, 1)])
    within = ((kept - means[labels]) ** 2).sum(1)
    W, S2 = np.array([19, 20]) / 39, np.array([within[labels == k].mean() for k in (0, 1)])
    for name, truth in (("plain", deviations.mean() / 8), ("strata", (W**2 * S2 / 4).sum())):
        own = found[name]
        assert own.predicted == pytest.approx(truth, rel=1e-5)
        assert abs((own.variance.value - truth) / own.variance.standard_error) < Z_MAX
        assert abs(own.bias_z) < Z_MAX
    own = found["strata"]
    log_error = own.ratio.standard_error / own.ratio.value
    truth = found["strata"].predicted / found["plain"].predicted
    assert abs(np.log(own.ratio.value / truth) / log_error) < Z_MAX
    assert found.steps == 5
    assert float(own.ratio_with_setup.value / own.ratio.value) == pytest.approx(1 + 70 / (5 * 8))
    assert found.winner == "strata"
    assert "strata wins: at 8 gradient evaluations a step" in str(found)
    assert "70 set-up evaluations spread over 5 steps" in str(found)
    again = json.loads(json.dumps(found.to_dict()))
    assert again["winner"] == "strata"
    assert found.plot().axes


def errors(size, bias=0.0, seed=0, R=400):
    """A `Run` with errors of standard deviation `size` in three directions."""
    e = size * np.random.default_rng(seed).normal(size=(R, 3)) + bias
    return Run((e**2).sum(1), (e[1:] * e[:-1]).sum(1), (e.mean(0) ** 2).sum(), 3 * size**2)


def judged(rounding=1e-9, **runs):
    """A comparison of runs: name -> `Run`, or `(Run, set-up a step)`."""
    plain = runs.setdefault("plain", errors(1.0))
    rows = []
    for name in ("plain", *(name for name in runs if name != "plain")):
        run, setup = runs[name] if isinstance(runs[name], list) else (runs[name], 0.0)
        own = rd.plain()._replace(setup=int(100 * setup))
        rows.append(row(name, run, plain.sq_errors, 8, own, setup, rounding))
    return rd.Comparison(tuple(rows), 8, 40, 400, 5)


VERDICTS = {
    "a wins": {"a": errors(0.5, seed=1), "b": errors(0.9, seed=2)},
    "a wins: at 8 gradient evaluations a step its variance is 0.25": {"a": errors(0.5)},
    "It cannot be told from b.": {"a": errors(0.5, seed=1), "b": errors(0.5, seed=2)},
    "b wins": {"a": [errors(0.5, seed=1), 9.0], "b": errors(0.8, seed=2)},
    "Plain sampling is best": {"a": [errors(0.5), 9.0], "b": errors(2.0)},
    "Nothing can be told": {"a": errors(1.0, seed=3)},
    "a is biased: its mean error has z = ": {"a": errors(0.2, bias=0.2), "b": errors(0.5)},
    "zero for all that can be told": {"a": errors(1e-9), "b": errors(0.5)},
    "a ratio of variances, or a coefficient": {"plain": errors(1e-9), "a": errors(1e-9)},
    "holds NaN": {"a": errors(np.nan)},
}


@pytest.mark.parametrize("sentence", VERDICTS)
def test_verdict(sentence):
    found = judged(**VERDICTS[sentence])
    assert sentence in found.explain()
    json.dumps(found.to_dict())
    assert found.plot().axes


def test_what_is_biased_never_wins():
    found = judged(**VERDICTS["a is biased: its mean error has z = "])
    assert found.winner == "b"
    assert found["a"].bias_z > Z_MAX


def test_the_same_errors_have_a_ratio_of_one_without_width():
    found = judged(a=errors(1.0))["a"].ratio
    assert found.value == found.lower == found.upper == 1


def test_the_interval_is_the_jackknife_of_the_log(x64):
    a, b = errors(0.5, seed=1, R=30).sq_errors, errors(1.0, seed=2, R=30).sq_errors
    log_ratio, error = log_ratio_of(a, b)
    left_out = [math.log(np.delete(a, i).mean() / np.delete(b, i).mean()) for i in range(30)]
    assert log_ratio == pytest.approx(math.log(a.mean() / b.mean()))
    assert error == pytest.approx(math.sqrt(29 * np.var(left_out)))


def test_bias_score_is_standard_normal_without_a_bias():
    """Over 60 sets of repetitions, for errors of one, and of several uneven, directions."""
    rng = np.random.default_rng(0)
    for scales in ([1.0], [3.0, 1.0, 1.0, 0.5]):
        e = rng.normal(size=(60, 200, len(scales))) * scales
        z = []
        for x in e:
            products, mean = (x[1:] * x[:-1]).sum(1), (x.mean(0) ** 2).sum()
            run = Run((x**2).sum(1), products, mean, 0.0)
            z.append(row("a", run, run.sq_errors, 8, rd.plain(), 0.0, 0.0).bias_z)
        assert abs(np.mean(z)) < 0.6
        assert 0.6 < np.std(z) < 1.4
        assert max(z) < Z_MAX


def test_compare_names_the_example_that_is_not_finite():
    broken = POINTS.copy()
    broken[7, 1] = np.nan
    with pytest.raises(ValueError, match="gradient of example 7 of `data` is not finite"):
        compared({}, broken)


def test_digits():
    """A finite population: softmax regression, SVRG with half the examples."""
    data = fb.training.load("digits")
    x, y = data.x.reshape(len(data.x), -1)[:120], data.y[:120]

    def softmax(w, example):
        return fb.losses.cross_entropy(example[0] @ w, example[1])

    w = 0.1 * jax.random.normal(jax.random.key(0), (64, 10))
    near = w + 0.02 * jax.random.normal(jax.random.key(1), w.shape)
    found = rd.compare(
        softmax, w, (x, y), jax.random.key(2), batch_size=20, repetitions=200,
        estimators={
            "svrg": rd.svrg(jax.jit(lambda d: rd.anchor_at(softmax, near, d))((x, y))),
        },
    )  # fmt: skip
    for own in found.rows:
        z = (own.variance.value - own.predicted) / own.variance.standard_error
        assert abs(z) < Z_MAX, (own.name, z)
        assert own.bias_z < Z_MAX
    assert found["svrg"].draws == 10
    assert found.winner == "svrg"


def test_a_probability_of_zero_that_is_traced_gives_nan():
    data = (X.astype(np.float32), Y.astype(np.float32))

    @jax.jit
    def run(p):
        return rd.estimate(rd.importance(p), loss, PARAMS, data, jax.random.key(0), 2)

    found = run(jnp.array([1.0, 0.0, 1.0, 1.0]))
    assert STATUS[int(found.status)][0] == "probability not positive"
    assert np.isnan(flat(found.gradient)).all()


def test_nan_in_one_example_has_a_status():
    x = X.copy()
    x[2] = np.nan
    found = rd.estimate(rd.plain(replace=False), loss, PARAMS, (x, Y), jax.random.key(0), 4)
    assert STATUS[int(found.status)][0] == "not finite"


def run(estimator, size=2, data=(X, Y)):
    """Traced only: errors of form need no numbers."""
    key = jax.random.key(0)
    return jax.eval_shape(lambda: rd.estimate(estimator, loss, PARAMS, data, key, size))


ERRORS = {
    "labels traced": (
        lambda: jax.jit(lambda s: run(rd.stratified(s)))(np.arange(4)), TypeError,
        "`stratified`: `labels` must be known on the host",
    ),
    "labels too few": (lambda: run(rd.stratified([0, 1])), ValueError, "each of the 4 examples"),
    "labels are numbers": (
        lambda: rd.stratified([0.5, 1.0]), TypeError, "numpy.digitize",
    ),
    "fewer examples than strata": (
        lambda: run(rd.stratified([0, 1, 2, 3])), ValueError,
        "4 strata need at least 4 examples, one from each, got batch_size=2",
    ),
    "allocation of zero": (
        lambda: rd.stratified([0, 1, 1], allocation=[2, 0]), ValueError, "one int above 0",
    ),
    "allocation and batch size": (
        lambda: run(rd.stratified([0, 1, 1, 0], allocation=[2, 1])), ValueError,
        "draws 3 examples, but batch_size=2",
    ),
    "spread not finite": (
        lambda: rd.allocate([0.5, 0.5], 4, [1.0, np.nan]), ValueError, "finite and not negative",
    ),
    "p of zero": (
        lambda: rd.importance([0.5, 0.0, 0.5]), ValueError,
        "example 1 has 0.0.*norm_probabilities",
    ),
    "p too short": (lambda: run(rd.importance([1.0])), ValueError, "each of the 4 examples"),
    "mix": (lambda: rd.norm_probabilities(jnp.ones(3), 2), ValueError, "from 0 to 1, got 2"),
    "too many without replacement": (
        lambda: run(rd.plain(replace=False), 5), ValueError, "at most the 4 examples",
    ),
    "batch size": (lambda: run(rd.plain(), 0), ValueError, "`batch_size` must be an int above 0"),
    "no estimator": (lambda: run(loss), TypeError, "`estimator` must be made by `plain`"),
    "loss and estimator exchanged": (
        lambda: rd.estimate(loss, rd.plain(), PARAMS, (X, Y), jax.random.key(0), 2), TypeError,
        "must be made by",
    ),
    "anchor": (lambda: rd.svrg(PARAMS), TypeError, "must be made by `anchor_at`"),
    "anchor of another model": (
        lambda: run(rd.svrg(rd.Anchor({"a": np.ones(2)}, {}, 4))), ValueError,
        r"`svrg`: `anchor.params` must have(.|\n)*\['b'\]: expected \(1,\), got no such leaf",
    ),
    "h of another form": (
        lambda: run(rd.control_variate(lambda p, e: p["a"], PARAMS)), ValueError,
        r"`control_variate`: `h\(params, example\)` must have the structure",
    ),
    "mean of another form": (
        lambda: run(rd.control_variate(h, {"a": np.ones(2)})), ValueError,
        "`control_variate`: `mean` must have the structure",
    ),
    "coefficients": (
        lambda: rd.control_variate(h, PARAMS, coefficient=np.ones(2)), ValueError, "one number",
    ),
    "coefficient by name": (
        lambda: rd.control_variate(h, PARAMS, coefficient="best"), ValueError, "LEAVE_ONE_OUT",
    ),
    "leave one out of strata": (
        lambda: rd.control_variate(
            h, PARAMS, coefficient=rd.LEAVE_ONE_OUT, sampling=rd.importance(P)
        ), ValueError, "needs plain sampling with replacement",
    ),
    "leave one out of two": (
        lambda: run(rd.control_variate(h, PARAMS, coefficient=rd.LEAVE_ONE_OUT)), ValueError,
        "at least 3 examples, got 2",
    ),
    "a control on a control": (
        lambda: rd.control_variate(h, PARAMS, sampling=rd.control_variate(h, PARAMS)), TypeError,
        "`sampling` must be",
    ),
    "no control": (
        lambda: rd.variance_ratio(rd.plain(), loss, PARAMS, (X, Y)), TypeError,
        "made by `control_variate` or `svrg`",
    ),
    "name": (lambda: compared({"plain": rd.plain()}), ValueError, "choose another"),
    "odd budget": (
        lambda: compared({"s": rd.control_variate(h, PARAMS, evaluations=1)}, batch_size=7),
        ValueError, "takes 2 gradient evaluations",
    ),
    "few repetitions": (lambda: compared({}, repetitions=3), ValueError, "int from 10 on, got 3"),
    "shape": (
        lambda: rd.plain_variance(np.ones((2, 2)), 2), ValueError, r"\[n\], summed over leaves",
    ),
    "allocation by name": (
        lambda: rd.stratified_variance(np.ones(4), LABELS, 4, "best"), ValueError, "'neyman'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()


def test_an_estimator_without_variance_beside_others():
    """SVRG at its own anchor is the full gradient; a rival must not be divided by its zero."""
    x = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    params = jnp.ones(3)
    loss = lambda w, x: 0.5 * jnp.sum((w - x) ** 2 * x)  # noqa: E731
    rivals = {
        "svrg": rd.svrg(rd.anchor_at(loss, params, x)),
        "without": rd.plain(replace=False),
    }
    found = rd.compare(
        loss, params, x, jax.random.key(0), batch_size=6, repetitions=40, estimators=rivals
    )
    assert found.winner == "svrg"
    assert "its gradient has no variance beyond rounding" in found.explain()
