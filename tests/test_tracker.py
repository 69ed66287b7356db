"""The noise tracker: definitions by NumPy, its sources, coverage under correlation, errors."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import quick
from scipy import stats as distributions
from tolerances import assert_agree

import funcbackprop as fb
from funcbackprop.noise import STATUS, Moments, track, tracked_noise, tracker
from funcbackprop.noise.estimate import quantile

DECAY = 0.9
TRACK = tracker(decay=DECAY)


def pair(S, sq_norm, status=0):
    """A step of which S and |G|^2 are known."""
    zero = jnp.zeros(())
    return Moments(jnp.asarray(S), jnp.asarray(sq_norm), zero, zero, zero, jnp.int32(status))


def after(S, sq_norm, status=0):
    """The state after all of these steps."""

    def step(state, x):
        return TRACK.update(state, moments=pair(*x, status)), None

    return jax.lax.scan(step, TRACK.init(), (S, sq_norm))[0]


recorded = quick(after)


def drawn(steps, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return 10 + rng.normal(size=steps).astype(dtype), 2 + rng.normal(size=steps).astype(dtype)


def status(estimate):
    return STATUS[int(estimate.status)][0]


# The state and the estimate by their definitions.


def slots_of(x, slots=32):
    """Means of equal runs of steps, as few as fit in so many slots; how long; the rest is last."""
    length = 1
    while len(x) >= slots * length:
        length *= 2
    return [x[i : i + length].mean() for i in range(0, len(x), length)], length


@pytest.mark.parametrize("steps", [1, 15, 31, 32, 33, 150])
def test_the_state_is_means_of_runs_and_weighted_sums(steps, x64):
    S, sq_norm = drawn(steps, np.float64)
    S[steps // 2] = sq_norm[steps // 3] = np.nan
    state = recorded(S, sq_norm)
    kept = np.isfinite(S) & np.isfinite(sq_norm)
    ages = np.arange(kept.sum())[::-1]
    for x, slots, recent in (
        (S, state.slots.S, state.recent.S),
        (sq_norm, state.slots.sq_gradient_norm, state.recent.sq_gradient_norm),
    ):
        means, length = slots_of(x[kept])
        assert_agree(slots, np.pad(means, (0, 32 - len(means))), "float64")
        assert_agree(recent, ((1 - DECAY) * DECAY**ages * x[kept]).sum(), "float64")
        assert state.length == length
    assert_agree(state.recent_weight, 1 - DECAY ** kept.sum(), "float64")
    assert (state.steps, state.skipped) == (kept.sum(), (~kept).sum())
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("steps", "last"), [(200, 0.5), (143, 1.0), (20, 0.5)])
def test_the_interval_is_that_of_the_slots_in_the_window(steps, last, dtype, request):
    if dtype == "float64":
        request.getfixturevalue("x64")
    S, sq_norm = drawn(steps, dtype)
    found = tracked_noise(recorded(S, sq_norm), last=last)
    means, length = slots_of(S)
    full = steps // length
    window = slice(int(np.floor(full * (1 - last))), full)
    x = np.array([means, slots_of(sq_norm)[0]], np.float64)[:, window]
    n = x.shape[1]
    assert (found.window, found.slot_length) == (n * length, length)
    covariance = np.cov(x) / n
    q = distributions.t.ppf(0.975, n - 1)
    tolerance = {"float32": 2e-5, "float64": 1e-12}[dtype]
    near = functools.partial(np.testing.assert_allclose, rtol=tolerance)
    near(found.S.value, x[0].mean())
    near(found.S.standard_error, np.sqrt(covariance[0, 0]), rtol=100 * tolerance)
    near(found.sq_gradient_norm.value, x[1].mean())
    near(found.B_simple.value, x[0].mean() / x[1].mean())
    for r in (found.B_simple.lower, found.B_simple.upper):
        moved = np.array([1, -float(r)])
        near((moved @ x.mean(1)) ** 2, q**2 * moved @ covariance @ moved, rtol=5e-3)
    apart = x[0] * x[1].mean() - x[1] * x[0].mean()
    near(found.correlation, apart[1:] @ apart[:-1] / (apart @ apart), rtol=1000 * tolerance)
    recent = found.recent
    weights = DECAY ** np.arange(steps)[::-1]
    near(recent.S, np.average(S, weights=weights), rtol=10 * tolerance)
    near(recent.B_simple, np.average(S, weights=weights) / np.average(sq_norm, weights=weights),
         rtol=10 * tolerance)  # fmt: skip


# What is averaged.


def test_a_mean_of_ratios_would_have_the_wrong_sign():
    """Gradients 1 or 3: S is 1, |G|^2 is 4."""
    outcomes = np.array([(a, b) for a in (1.0, 3.0) for b in (1.0, 3.0)], np.float32)
    mean, one = outcomes.mean(1), outcomes[:, 0]
    S, sq_norm = 2 * (one**2 - mean**2), 2 * mean**2 - one**2  # one small batch in the large one
    assert np.mean(S / sq_norm) == pytest.approx(-19 / 7)
    found = TRACK.estimate(recorded(np.tile(S, 8), np.tile(sq_norm, 8)), last=1.0)
    assert found.B_simple.value == pytest.approx(1 / 4)
    state = TRACK.init()
    update = quick(TRACK.update)
    for x in np.tile(outcomes, (8, 1)):  # both small batches
        state = update(state, x.mean(), sq_norms=x**2)
    found = TRACK.estimate(state, last=1.0)
    assert (found.S.value, found.sq_gradient_norm.value) == (pytest.approx(1), pytest.approx(4))


def autoregressive(key, steps, phi):
    """Pairs of stationary mean (10, 1), each correlated with the one before by phi."""
    noise = jax.random.normal(key, (steps, 2))
    start = noise[0] / jnp.sqrt(1 - phi**2)
    _, x = jax.lax.scan(lambda x, e: (phi * x + e,) * 2, start, noise)
    x = x * jnp.sqrt(1 - phi**2)
    return 10 + 3 * x[:, 0], 1 + 0.5 * x[:, 0] + 0.87 * x[:, 1]


@pytest.mark.parametrize(("steps", "phi", "naive_covers"), [(1000, 0.5, 0.80), (2000, 0.9, 0.45)])
def test_coverage_when_steps_are_correlated(steps, phi, naive_covers):
    def one(key):
        S, sq_norm = autoregressive(key, steps, phi)
        B = tracked_noise(after(S, sq_norm)).B_simple
        S, sq_norm = S[steps // 2 :], sq_norm[steps // 2 :]
        ratio = S.mean() / sq_norm.mean()
        error = jnp.std(S - ratio * sq_norm) / jnp.sqrt(len(S)) / sq_norm.mean()
        return (B.lower <= 10) & (B.upper >= 10), jnp.abs(ratio - 10) <= quantile() * error, B

    keys = jax.random.split(jax.random.key(0), 1000)
    covered, naive, B = jax.jit(jax.vmap(one))(keys)
    print(f"phi {phi}: {covered.mean():.3f}, as if independent {naive.mean():.3f}")
    assert 0.90 <= covered.mean() <= 0.985
    assert naive.mean() < naive_covers
    assert np.isfinite(B.upper).all()


def test_correlation_beside_a_short_slot_is_said():
    """200 steps of correlation time 10: the interval covers too seldom, and says why."""

    def one(key, phi):
        return tracked_noise(after(*autoregressive(key, 200, phi)), last=1.0).B_simple.status

    keys = jax.random.split(jax.random.key(1), 400)
    by_phi = [np.asarray(quick(jax.vmap(lambda k, p=p: one(k, p)))(keys)) for p in (0.0, 0.9)]
    independent, correlated = (np.mean(x == 52) for x in by_phi)
    assert independent < 0.10
    assert correlated > 0.8


# Sources.


def gradients(k, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        "a": (1 + rng.normal(size=(k, 3, 2))).astype(dtype),
        "b": rng.normal(size=(k, 4)).astype(dtype),
    }


def sq_norms(g):
    return sum((x.reshape(len(x), -1) ** 2).sum(1) for x in jax.tree.leaves(g))


def mean(g):
    return jax.tree.map(lambda x: x.mean(0), g)


def of_replicas(g, **more):
    def device(own):
        updates = jax.tree.map(lambda x: jax.lax.pmean(x, "devices"), own)
        return TRACK.update(
            TRACK.init(), updates, replica_gradient=own, axis_name="devices", **more
        )

    return jax.tree.map(lambda x: x[0], jax.vmap(device, axis_name="devices")(g))


def of_shares(name, g, **more):
    """Norms of 2 parts on each of 4 devices."""

    def device(own):
        updates = jax.tree.map(lambda x: jax.lax.pmean(x.mean(0), "devices"), own)
        norms = sum((x.reshape(2, -1) ** 2).sum(1) for x in jax.tree.leaves(own))
        given = {name: norms, "axis_name": "devices", **more}
        return TRACK.update(TRACK.init(), updates, **given)

    parts = jax.tree.map(lambda x: x.reshape(4, 2, *x.shape[1:]), g)
    return jax.tree.map(lambda x: x[0], jax.vmap(device, axis_name="devices")(parts))


SOURCES = {
    "examples": lambda g, m: TRACK.update(TRACK.init(), mean(g), sq_norms=sq_norms(g)),
    "leaves": lambda g, m: TRACK.update(
        TRACK.init(), mean(g), sq_norms={k: sq_norms({k: x}) for k, x in g.items()}
    ),
    "norms": lambda g, m: TRACK.update(
        TRACK.init(), mean(g), micro_sq_norms=sq_norms(g), micro_size=m
    ),
    "gradients": lambda g, m: TRACK.update(TRACK.init(), micro_gradients=g, micro_size=m),
    "replicas": lambda g, m: of_replicas(g, micro_size=m),
    "shares": lambda g, m: of_shares("sq_norms", g),
    "shares of norms": lambda g, m: of_shares("micro_sq_norms", g, micro_size=m),
    "moments": lambda g, m: TRACK.update(
        TRACK.init(), moments=fb.noise.moments(mean(g), sq_norms(g))
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_sources_agree(name):
    """On eight gradients, with any name: of examples, of micro-batches or replicas of one."""
    g = gradients(8)
    flat = np.concatenate([x.reshape(8, -1) for x in g.values()], 1).astype(np.float64)
    products = flat @ flat.T
    pairs = (products.sum() - np.trace(products)) / 56
    state = SOURCES[name](g, 1)
    np.testing.assert_allclose(state.slots.S[0], flat.var(0, ddof=1).sum(), rtol=1e-6)
    np.testing.assert_allclose(state.slots.sq_gradient_norm[0], pairs, rtol=1e-6)
    assert (state.steps, state.skipped, state.parts_left_out) == (1, 0, 0)


@pytest.mark.parametrize("name", ["norms", "gradients"])
def test_unequal_micro_batches(name):
    g, sizes = gradients(5), np.array([4.0, 1.0, 0.0, 8.0, 3.0], np.float32)
    g["b"][2] = np.nan  # the size 0 leaves it out
    expected = fb.noise.noise_scale_of_batches(g, sizes)
    if name == "norms":
        average = {k: np.average(np.delete(x, 2, 0), 0, np.delete(sizes, 2)) for k, x in g.items()}
        given = {"micro_sq_norms": sq_norms(g)}
    else:
        average, given = None, {"micro_gradients": g}
    state = TRACK.update(TRACK.init(), average, micro_size=sizes, **given)
    np.testing.assert_allclose(state.slots.S[0], expected.S.value, rtol=2e-6)
    found, truth = state.slots.sq_gradient_norm[0], expected.sq_gradient_norm.value
    np.testing.assert_allclose(found, truth, rtol=1e-5)
    assert state.parts_left_out == 0


def test_weights_are_those_of_the_moments():
    g, w = gradients(6), np.array([1, 0, 2, 0.5, 0, 3], np.float32)
    average = {k: np.average(x, 0, w) for k, x in g.items()}
    norms = np.where(w > 0, sq_norms(g), np.nan)  # padding
    expected = fb.noise.moments(average, np.where(w > 0, norms, 0), weights=w)
    state = TRACK.update(TRACK.init(), average, sq_norms=norms, weights=w)
    np.testing.assert_allclose(state.slots.S[0], expected.S, rtol=1e-6)
    np.testing.assert_allclose(
        state.slots.sq_gradient_norm[0], expected.sq_gradient_norm, rtol=1e-5
    )
    assert (state.skipped, state.parts_left_out) == (0, 0)


def test_what_does_not_cancel_where_the_mean_dominates():
    g = jax.tree.map(lambda x: x + np.float32(1e4), gradients(8))
    exact = sum(x.astype(np.float64).var(0, ddof=1).sum() for x in g.values())
    for name in ("gradients", "replicas"):
        found = TRACK.estimate(SOURCES[name](g, 1)).recent
        np.testing.assert_allclose(found.S, exact, rtol=1e-3)
        assert status(found) == "ok"
    for name in ("examples", "norms", "moments"):
        assert status(TRACK.estimate(SOURCES[name](g, 1)).recent) == "below rounding"


def on_eight_devices():
    script = Path(__file__).with_name("tracker_on_devices.py")
    devices = {"JAX_NUM_CPU_DEVICES": "8", "NPROC": "32"}
    done = subprocess.run(
        [sys.executable, script],
        env=os.environ | devices,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_in_shard_map_two_numbers_are_added_up_over_devices():
    answers = on_eight_devices()
    for source, expected in answers["expected"].items():
        np.testing.assert_allclose(answers["found"][source], expected, rtol=2e-6)
    # The sizes of the reductions that a step without the tracker does not have.
    assert answers["extra"] == {"replicas": [2], "examples": [6]}
    assert "`replica_gradient` is the same on all devices" in answers["errors"]["same"]
    assert "it must be the mean over them" in answers["errors"]["not reduced"]


# What is not finite.


def test_a_micro_batch_that_is_not_finite_is_left_out():
    g = gradients(4)
    three = jax.tree.map(lambda x: x[[0, 1, 3]], g)
    expected = TRACK.update(TRACK.init(), micro_gradients=three, micro_size=2)
    g["a"][2, 0, 0] = np.nan
    state = TRACK.update(TRACK.init(), micro_gradients=g, micro_size=2)
    for a, b in zip(state.slots, expected.slots, strict=True):
        assert_agree(a, b, "float32")
    assert (state.steps, state.skipped, state.parts_left_out) == (1, 0, 1)
    norms = TRACK.update(
        TRACK.init(), mean(three), micro_sq_norms=sq_norms(g), micro_size=2
    )  # the mean of what is left
    np.testing.assert_allclose(norms.slots.S[0], expected.slots.S[0], rtol=1e-6)
    assert norms.parts_left_out == 1


@pytest.mark.parametrize(
    "bad", ["updates", "all but one", "one weight", "no weight", "inf"], ids=str
)
def test_a_step_that_is_not_finite_is_skipped(bad):
    g = gradients(3)
    state = TRACK.update(TRACK.init(), mean(g), sq_norms=sq_norms(g))
    if bad == "updates":
        found = TRACK.update(state, {"a": np.float32(np.nan)}, sq_norms=sq_norms(g))
    elif bad == "inf":
        found = TRACK.update(state, moments=pair(np.inf, 1.0))
    elif bad == "all but one":
        g["b"][1:] = np.inf
        found = TRACK.update(state, micro_gradients=g, micro_size=1)
    else:
        w = np.array([0, float(bad == "one weight"), 0])
        found = TRACK.update(state, mean(g), sq_norms=sq_norms(g), weights=w)
    assert found.skipped == 1
    same = jax.tree.map(np.array_equal, found._replace(skipped=state.skipped), state)
    assert all(jax.tree.leaves(same))
    assert "1 steps were left out" in TRACK.estimate(found).explain()


def test_statuses():
    assert status(TRACK.estimate(TRACK.init()).B_simple) == "no step recorded"
    assert status(TRACK.estimate(recorded(*drawn(1) * np.array(np.nan))).S) == "not finite"
    few = TRACK.estimate(recorded(*drawn(14)))
    assert status(few.B_simple) == status(few.S) == "too few steps"
    assert np.isfinite(few.B_simple.value)
    assert np.isnan(few.B_simple.lower)
    assert np.isfinite(TRACK.estimate(recorded(*drawn(15))).B_simple.lower)
    S, sq_norm = drawn(64)
    lost = TRACK.estimate(recorded(S, sq_norm, 3))
    assert status(lost.B_simple) == status(lost.recent) == "below rounding"
    near_zero = TRACK.estimate(recorded(S, sq_norm - 1.9), last=1.0).B_simple
    assert status(near_zero) == "unbounded above"
    assert np.isinf(near_zero.upper)
    assert near_zero.lower > 10
    negative = TRACK.estimate(recorded(S, sq_norm - 3))
    assert status(negative.B_simple) == "gradient not above zero"
    assert negative.sq_gradient_norm.value < 0
    assert negative.recent.sq_gradient_norm < 0
    assert np.isinf(negative.recent.B_simple)
    drift = TRACK.estimate(recorded(S + np.arange(64, dtype=np.float32), sq_norm))
    assert status(drift.S) == "correlated slots"


def test_it_prints_and_becomes_json():
    found = TRACK.estimate(recorded(*drawn(100)))
    text = str(found)
    assert "B simple: " in text
    assert "recent B simple: " in text
    assert "for the 52 steps up to step 100 of 100, in slots of 4." in text
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["B_simple"]["status"] == "ok"
    assert plain["recent"]["B_simple"] > 0
    assert found.explain() == STATUS[0][1]
    assert str(TRACK.estimate(TRACK.init())).count("no step recorded") == 3

    texts = []
    jax.eval_shape(lambda s: texts.append(str(TRACK.estimate(s))), TRACK.init())
    assert texts == ["TrackedNoise(traced)"]


# In loops.


def test_scan_and_jit_agree_with_a_loop():
    g = gradients(40)
    parts = jax.tree.map(lambda x: x.reshape(10, 4, *x.shape[1:]), g)

    def step(state, part):
        return TRACK.update(state, micro_gradients=part, micro_size=2), None

    scanned, _ = jax.jit(lambda p: jax.lax.scan(step, TRACK.init(), p))(parts)
    state = TRACK.init()
    for i in range(10):
        state, _ = step(state, jax.tree.map(lambda x, i=i: x[i], parts))
    jax.tree.map(lambda a, b: assert_agree(a, b, "float32"), scanned, state)


def test_resuming_is_exact(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    S, sq_norm = drawn(90)
    update = jax.jit(lambda state, a, b: TRACK.update(state, moments=pair(a, b)))

    def run(state, steps):
        for i in steps:
            state = update(state, S[i], sq_norm[i])
        return state

    middle = run(TRACK.init(), range(50))
    saved = fb.training.TrainState(jnp.zeros(2), (middle,), jnp.int32(50), jax.random.key(0))
    checkpoints = fb.training.checkpoints.Checkpoints(tmp_path)
    checkpoints.save(50, saved)
    like = saved._replace(opt_state=(TRACK.init(),))
    restored = checkpoints.restore(like).opt_state[0]
    checkpoints.close()
    whole, resumed = run(middle, range(50, 90)), run(restored, range(50, 90))
    assert jax.tree.structure(whole) == jax.tree.structure(resumed)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
        assert a.dtype == b.dtype


# Errors.


G3 = gradients(3)
UPDATE = functools.partial(TRACK.update, TRACK.init())
ERRORS = {
    "none": (lambda: UPDATE(mean(G3)), "exactly one of `sq_norms`, `micro_sq_norms`.*got none"),
    "two": (
        lambda: UPDATE(mean(G3), sq_norms=jnp.ones(3), micro_sq_norms=jnp.ones(3)),
        "got `sq_norms`, `micro_sq_norms`",
    ),
    "no mean": (lambda: UPDATE(sq_norms=jnp.ones(3)), "`sq_norms` needs `updates` too: the mean"),
    "no size": (lambda: UPDATE(micro_gradients=G3), "needs `micro_size` too: the number of exam"),
    "no axis": (
        lambda: UPDATE(mean(G3), replica_gradient=mean(G3), micro_size=1),
        "`replica_gradient` needs `axis_name` too",
    ),
    "weights": (
        lambda: UPDATE(micro_gradients=G3, micro_size=1, weights=jnp.ones(3)),
        "`weights` does not go with `micro_gradients`",
    ),
    "one example": (lambda: UPDATE(mean(G3), sq_norms=jnp.ones(1)), "holds 1 example, and a"),
    "one micro-batch": (
        lambda: UPDATE(mean(G3), micro_sq_norms=jnp.ones(1), micro_size=1),
        "`micro_sq_norms` holds 1 micro-batch",
    ),
    "shape": (lambda: UPDATE(mean(G3), sq_norms=jnp.ones((3, 2))), r"\[B\] of squared norms"),
    "shape of norms": (
        lambda: UPDATE(mean(G3), micro_sq_norms=jnp.ones(()), micro_size=1),
        r"must have shape \[k\]",
    ),
    "sizes": (
        lambda: UPDATE(micro_gradients=G3, micro_size=jnp.ones(2)),
        r"or have shape \(3,\), one for each micro-batch; got shape \(2,\)",
    ),
    "negative size": (
        lambda: UPDATE(micro_gradients=G3, micro_size=-1),
        "`micro_size` must not be negative, got -1",
    ),
    "one device": (
        lambda: of_replicas(jax.tree.map(lambda x: x[:1], G3), micro_size=1),
        "needs two devices or more on the axis 'devices'",
    ),
    "moments": (lambda: UPDATE(moments=pair(jnp.ones(2), 1.0)), "must be those of one step"),
    "decay": (lambda: tracker(decay=1.0), "`tracker`: `decay` must be at least 0 and below 1"),
    "slots": (lambda: track(slots=33), "`track`: `slots` must be an even number of 32 or more"),
    "last": (lambda: tracked_noise(TRACK.init(), last=0.0), "`last` must be above 0"),
    "no state": (lambda: tracked_noise(optax.sgd(1.0).init(0.0)), "one tracker, got none; put"),
    "two states": (lambda: tracked_noise((TRACK.init(),) * 2), "got 2; pass the part"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    call, text = ERRORS[name]
    with pytest.raises(ValueError, match=text):
        call()
