"""B_noise, the optimal step, and preconditioned noise scales, against closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import quick
from scipy import stats as distributions
from tolerances import Z_MAX, assert_agree

import funcbackprop as fb
from funcbackprop.curvature import hvp
from funcbackprop.noise import (
    STATUS,
    curvature_noise_scale,
    noise_scale,
    preconditioned_loss,
    preconditioned_noise_scale,
    preconditioner,
)

H = np.array([[3.0, 1.0], [1.0, 2.0]])
SPREAD = np.array([[1.0, 0.5], [0.0, 2.0]])  # Sigma = SPREAD' SPREAD
WHERE = np.array([1.0, -1.5])


def quadratic(w, x):
    """Loss w'H_i w/2 + <w, x>, with E H_i = H; H_i and the gradient of an example depend."""
    noise, h = x
    return 0.5 * h * w @ jnp.asarray(H, w.dtype) @ w + jnp.dot(w, noise)


def draw(key, n):
    """Noise x ~ N(0, Sigma), and h = z^2, of mean 1, which depends on it."""
    z = jax.random.normal(key, (n, 2))
    return z @ jnp.asarray(SPREAD, z.dtype), z[:, 0] ** 2


def truths(w):
    """tr(H Sigma), G'HG, |G|^2. Var(z^2) = 2 and Cov(z^2, z) = 0, so Sigma gains 2 G G'."""
    G = H @ w
    Sigma = SPREAD.T @ SPREAD + 2 * np.outer(G, G)
    return np.trace(H @ Sigma), G @ H @ G, G @ G


@quick
def estimates(where, keys):
    """At each row of `where`, from 42 examples of its own."""

    def one(x):
        w, key = x
        key_x, key_r = jax.random.split(key)
        found = curvature_noise_scale(quadratic, w, draw(key_x, 42), key_r)
        return found, found.optimal_step(10)

    return jax.lax.map(one, (where, keys), batch_size=100)


def z_score(x, truth):
    x = np.asarray(x, np.float64)
    return abs(x.mean() - truth) / (x.std(ddof=1) / np.sqrt(len(x)))


@pytest.mark.core
def test_quadratic_with_known_curvature_and_noise():
    """Unbiased, although the curvature of an example depends on its gradient."""
    keys = jax.random.split(jax.random.key(0), 1000)
    found, step = estimates(jnp.tile(jnp.asarray(WHERE, jnp.float32)[None], (1000, 1)), keys)
    trace, curvature, sq_norm = truths(WHERE)
    for x, truth in zip(found[:3], (trace, curvature, sq_norm), strict=True):
        assert z_score(x.value, truth) < Z_MAX
    ratios = {
        "B_noise": (found.B_noise, trace / curvature),
        "max_step": (found.max_step, sq_norm / curvature),
        "step": (step, sq_norm / (curvature + trace / 10)),
    }
    for name, (x, truth) in ratios.items():
        coverage = np.mean((x.lower <= truth) & (truth <= x.upper))
        assert coverage > 0.9, (name, coverage)


def test_stationary_sgd_of_a_quadratic():
    """With independent sampling eta/eps_opt(B) = 2, and so B_noise = B (2 eps_max/eta - 1).

    Where the loss stays as it is, E |G|^2 = eta/2 E(G'HG + tr(H Sigma)/B), averages over the
    stationary law. The estimators, unbiased at each w, must show it.
    """
    eta, B, runs = 0.15, 4, 1000
    key_x, key_e = jax.random.split(jax.random.key(5))

    def step(w, key):
        x, h = draw(key, runs * B)
        x, h = x.reshape(runs, B, 2).mean(1), h.reshape(runs, B).mean(1)
        return w - eta * (h[:, None] * (w @ jnp.asarray(H, w.dtype)) + x), None

    w, _ = jax.lax.scan(step, jnp.zeros((runs, 2)), jax.random.split(key_x, 80))
    exact = np.array([truths(np.asarray(row, np.float64)) for row in w])
    found, _ = estimates(w, jax.random.split(key_e, runs))
    for trace, curvature, sq_norm in (exact.T, [np.asarray(x.value) for x in found[:3]]):
        assert z_score(sq_norm - eta / 2 * (curvature + trace / B), 0) < Z_MAX
        eps_max = sq_norm.mean() / curvature.mean()
        B_noise = trace.mean() / curvature.mean()
        assert eta * (1 + B_noise / B) / eps_max == pytest.approx(2, rel=0.15)


@quick
def at(w, batch, key, weights):
    return curvature_noise_scale(quadratic, w, batch, key, weights=weights)


def test_the_definition_by_loops(x64):
    """Parts of one size, H exactly known for each: triples and pairs, one by one."""
    batch, key = draw(jax.random.key(2), 20), jax.random.key(3)
    found = at(jnp.asarray(WHERE), batch, key, jnp.ones(20))
    order = np.asarray(jax.random.permutation(jax.random.split(key)[0], 20)).reshape(4, 5).T
    x, h = (np.asarray(a) for a in batch)
    g = h[:, None] * (H @ WHERE) + x
    means = [g[part].mean(0) for part in order]
    hessians = [h[part].mean() * H for part in order]

    def averages(parts):
        triples = [means[j] @ hessians[k] @ means[each] for j in parts for k in parts
                   for each in parts if len({j, k, each}) == 3]  # fmt: skip
        pairs = [means[j] @ means[k] for j in parts for k in parts if j != k]
        return np.array([np.mean(triples), np.mean(pairs)])

    whole = averages(range(5))
    left = np.array([averages([k for k in range(5) if k != j]) for j in range(5)])
    errors = np.sqrt(4 / 5 * ((left - left.mean(0)) ** 2).sum(0))
    for x, value, error in zip(found[1:3], whole, errors, strict=True):
        assert_agree(x.value, value, "float64")
        assert_agree(x.standard_error, error, "float64", abs(value))
    q = distributions.t(4).ppf(0.975)
    assert float(found.curvature.upper) == pytest.approx(whole[0] + q * errors[0])


def test_padding_and_the_size_of_weights(x64):
    x, h = draw(jax.random.key(2), 20)
    w, padded = np.ones(20), x.at[3].set(jnp.nan)
    w[[3, 9]] = 0
    found, double = (
        at(jnp.asarray(WHERE), (padded, h), jax.random.key(1), jnp.asarray(w * c)) for c in (1, 2)
    )
    assert int(found.examples) == 18
    assert np.isfinite(found.B_noise.value)
    for a, b in zip(jax.tree.leaves(found[:5]), jax.tree.leaves(double[:5]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    nan = at(jnp.asarray(WHERE), (padded, h), jax.random.key(1), jnp.ones(20))
    assert STATUS[int(nan.B_noise.status)][0] == "not finite"
    assert np.isnan(nan.trace.value)


def test_no_curvature_to_be_seen_is_unbounded(x64):
    found = at(jnp.zeros(2), draw(jax.random.key(2), 20), jax.random.key(1), jnp.ones(20))
    assert STATUS[int(found.B_noise.status)][0] == "unbounded"
    assert np.isinf(found.B_noise.lower)
    assert "B_noise" in str(found)
    assert "any number" in found.explain()
    assert found.to_dict()["B_noise"]["lower"] is None
    assert int(found.optimal_step(1e-6).status) in (0, int(found.B_noise.status))


CURVED_ERRORS = {
    "parts": ({"parts": 3}, "`parts` must be at least 4"),
    "probes": ({"probes": 0}, "`probes` at least 1"),
    "examples": ({"parts": 8}, "8 parts need at least 16 examples, two for each, got 10"),
}


@pytest.mark.parametrize("name", CURVED_ERRORS)
def test_errors_of_curvature(name):
    arguments, message = CURVED_ERRORS[name]
    with pytest.raises(ValueError, match=message):
        curvature_noise_scale(
            quadratic,
            jnp.ones(2),
            (jnp.ones((10, 2)), jnp.ones(10)),
            jax.random.key(0),
            **arguments,
        )


# Preconditioned.


def gradients(n=40):
    return np.random.default_rng(0).normal(size=(n, 3)) * [1.0, 3.0, 0.2] + [1.0, 0.5, 0.3]


P = np.array([0.5, 2.0, 5.0])


@functools.partial(quick, static_argnames="metric")
def through_the_engine(preconditioner, g, w, metric):
    """`noise_scale` in other coordinates, where the gradients of the loss are sqrt(a) g."""
    loss = lambda p, x: jnp.dot(jnp.concatenate([p["a"], p["b"]]), x)  # noqa: E731
    params = jax.tree.map(jnp.ones_like, preconditioner)
    scaled, at = preconditioned_loss(loss, params, preconditioner, metric=metric)
    stats = {"mean": fb.Mean(), "sq_norms": fb.SquaredNorms(), "inner": fb.InnerWithMean()}
    _, s = fb.gradient_statistics(scaled, stats)(at, g, w)
    return noise_scale(**s, weights=w)


@pytest.mark.core
@pytest.mark.parametrize("metric", ["inverse", "identity"])
@pytest.mark.parametrize("weighted", [False, True])
def test_preconditioned_definition(x64, metric, weighted):
    """Matrices, written out; and `noise_scale` of the loss in other coordinates gives the same."""
    g = gradients()
    w = np.random.default_rng(1).uniform(0.5, 2, 40) if weighted else np.ones(40)
    mean = (w[:, None] * g).sum(0) / w.sum()
    V = (w[:, None] * (g - mean) ** 2).sum(0) / (w.sum() - (w**2).sum() / w.sum())
    how = {"weights": w} if weighted else {"examples": 40}
    tree = lambda x: {"a": jnp.asarray(x[:2]), "b": jnp.asarray(x[2:])}  # noqa: E731
    found = preconditioned_noise_scale(tree(mean), tree(V), tree(P), metric=metric, **how)
    with_errors = through_the_engine(tree(P), jnp.asarray(g), w, metric)
    D, share = np.diag(P), (w**2).sum() / w.sum() ** 2
    A = D if metric == "inverse" else D @ D
    S = np.trace(A @ np.diag(V))
    sq_norm = mean @ A @ mean - share * S
    assert_agree(found.S.value, S, "float64")
    assert_agree(found.sq_gradient_norm.value, sq_norm, "float64", S)
    assert_agree(found.B_simple.value, S / sq_norm, "float64", S / abs(sq_norm))
    assert_agree(found.per_leaf["b"].S.value, A[2, 2] * V[2], "float64")
    assert np.isnan(found.B_simple.standard_error)
    assert "preconditioned_loss" in found.explain()
    assert_agree(with_errors.S.value, S, "float64")
    if not weighted:  # with weights, pairs of examples are another unbiased |G|^2
        assert_agree(with_errors.B_simple.value, S / sq_norm, "float64", S / abs(sq_norm))
    assert np.isfinite(with_errors.B_simple.lower)


OPTIMIZERS = {
    "adam": (optax.adam(0.1, b2=0.99), {"b2": 0.99}),
    "adamw": (optax.adamw(0.1, weight_decay=0.0), {}),
    "chain": (optax.chain(optax.clip_by_global_norm(1e6), optax.adam(0.1, eps_root=1e-3)),
              {"eps_root": 1e-3}),
    "rmsprop": (optax.rmsprop(0.1, eps=1e-4), {"eps": 1e-4}),
    "rmsprop outside": (optax.rmsprop(0.1, eps_in_sqrt=False), {"eps_in_sqrt": False}),
    "rmsprop corrected": (optax.rmsprop(0.1, bias_correction=True), {}),
    "centred": (optax.rmsprop(0.1, centered=True, eps=1e-3), {"eps": 1e-3}),
    "amsgrad": (optax.amsgrad(0.1), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_preconditioner_is_what_the_optimizer_uses(name):
    """The update after a step divides by the same numbers: those of the state it leaves."""
    optimizer, options = OPTIMIZERS[name]
    params = {"w": jnp.array([1.0, 2.0, 3.0])}
    state = optimizer.init(params)
    for k in range(3):
        g = {"w": jnp.array([1.0, -2.0, 0.1]) * (k + 1)}
        before = state
        updates, state = optimizer.update(g, state, params)
    found = preconditioner(state, **options)["w"]
    assert not np.allclose(found, preconditioner(before, **options)["w"])
    momentum = g["w"]
    if "rmsprop" not in name and name != "centred":
        moments = optax.tree_utils.tree_get(state, "mu")["w"]
        momentum = moments / (1 - 0.9**3)
    np.testing.assert_allclose(updates["w"], -0.1 * found * momentum, rtol=1e-4)


def test_before_the_first_step_nothing_is_known():
    state = optax.adam(0.1).init(jnp.ones(2))
    found = preconditioned_noise_scale(jnp.ones(2), jnp.ones(2), preconditioner(state), examples=10)
    assert STATUS[int(found.B_simple.status)][0] == "no step taken"
    assert np.isnan(found.S.value)


PRECONDITIONED = {
    "metric": (
        {"metric": "fisher", "examples": 3},
        "`metric` must be one of 'inverse', 'identity'",
    ),
    "no count": ({}, "pass the number of `examples` or their `weights`, not both"),
    "shape": ({"preconditioner": jnp.ones(3), "examples": 3}, "`preconditioner` must have the"),
}


@pytest.mark.parametrize("name", PRECONDITIONED)
def test_errors_of_preconditioned(name):
    arguments, message = PRECONDITIONED[name]
    arguments = {"preconditioner": jnp.ones(2), **arguments}
    with pytest.raises(ValueError, match=message):
        preconditioned_noise_scale(jnp.ones(2), jnp.ones(2), **arguments)


def test_errors_of_preconditioner():
    params = jnp.ones(2)
    with pytest.raises(ValueError, match="got none in EmptyState"):
        preconditioner(optax.sgd(0.1).init(params))
    both = optax.chain(optax.scale_by_adam(), optax.scale_by_rms()).init(params)
    with pytest.raises(ValueError, match=r"of one optimizer(.|\n)*got 2; pass the state of one"):
        preconditioner(both)
    with pytest.raises(ValueError, match="`preconditioned_loss`: `metric`"):
        preconditioned_loss(quadratic, params, params, metric="fisher")


def test_product_of_the_quadratic_is_known():
    """What the closed forms above rest on."""
    batch = draw(jax.random.key(0), 5)
    product = quick(lambda *x: hvp(quadratic, *x))
    found = product(jnp.ones(2), batch, np.array([1.0, 0.0], np.float32))
    np.testing.assert_allclose(found, batch[1].mean() * H[:, 0], rtol=1e-5)
