"""The noise tracker inside optax: a chain changes nothing, and where accumulation must stand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import quick
from tolerances import assert_agree

import funcbackprop as fb
from funcbackprop.noise import track, tracked, tracked_noise, tracker

K, M = 4, 8  # micro-batches in a step, examples in each
DECAY = 0.9
TRACK = tracker(decay=DECAY)


def row(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def gradients(steps):
    rng = np.random.default_rng(0)
    shapes = {"a": (steps, 3, 2), "b": (steps, 4)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def loop(optimizer, g, **norms):
    """The states after one call with each row of `g`, and the updates."""
    params = row(g, 0)
    update = quick(optimizer.update)
    state, updates = optimizer.init(params), []
    for i in range(len(jax.tree.leaves(g)[0])):
        update_of, state = update(row(g, i), state, params, **row(norms, i))
        updates.append(update_of)
    return state, updates


def test_a_member_of_a_chain_changes_no_update():
    g = gradients(6)
    norms = np.linspace(100, 200, 12, dtype=np.float32).reshape(6, 2)
    plain = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1))
    state, updates = loop(optax.chain(track(decay=DECAY), plain), g, sq_norms=norms)
    _, expected = loop(plain, g)
    for a, b in zip(updates, expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    alone = TRACK.init()
    for i in range(6):
        alone = TRACK.update(alone, row(g, i), sq_norms=norms[i])
    found = fb.noise.tracked_state(state)
    jax.tree.map(lambda a, b: assert_agree(a, b, "float32"), found, alone)


def test_inject_hyperparams():
    make = lambda learning_rate: optax.chain(track(micro_size=2), optax.sgd(learning_rate))  # noqa: E731
    optimizer = optax.inject_hyperparams(make)(learning_rate=0.1)
    state, _ = loop(optimizer, gradients(3), micro_sq_norms=np.full((3, 2), 30.0))
    assert fb.noise.tracked_state(state).steps == 3


def micro_batches(steps, seed=3):
    """Mean gradients [steps K, 20] of M examples with S = 20 and |G|^2 = 1, and norms of those."""
    rng = np.random.default_rng(seed)
    G = np.eye(20)[0]
    examples = G + rng.normal(size=(steps * K, M, 20))
    return examples.mean(1).astype(np.float32), (examples**2).sum(2).astype(np.float32)


MULTI_STEPS = {
    "means": (optax.MultiSteps(optax.sgd(1.0), K), None),
    "sums": (optax.MultiSteps(optax.sgd(1.0), K, use_grad_mean=False), K),
    "by itself": (optax.MultiSteps(optax.sgd(1.0), K).gradient_transformation(), K),
}


@pytest.mark.parametrize("name", MULTI_STEPS)
def test_around_accumulation_all_micro_batches_are_seen(name):
    inner, every = MULTI_STEPS[name]
    g, _ = micro_batches(20)
    optimizer = tracked(inner, micro_size=M, every=every, decay=DECAY)
    state, updates = loop(optimizer, g)
    _, expected = loop(inner, g)
    np.testing.assert_array_equal(updates, expected)
    stacked = g.reshape(20, K, -1)
    alone = TRACK.init()
    for parts in stacked:
        alone = TRACK.update(alone, micro_gradients=parts, micro_size=M)
    assert state.noise.steps == 20
    for a, b in zip(state.noise.slots[:2], alone.slots[:2], strict=True):
        assert_agree(a, b, "float32", size=30.0)
    assert state.parts == state.sum_of_sq_norms == 0
    # Scalars only, where MultiSteps has the mean.
    assert (state.mean is None) == (name != "by itself")


def test_inside_accumulation_the_norms_of_one_micro_batch_meet_the_mean_of_all():
    """Truth: S = 20, |G|^2 = 1. The wrong wiring finds what its docstring says."""
    g, norms = micro_batches(400)
    wrong, _ = loop(optax.MultiSteps(optax.chain(track(), optax.sgd(0.0)), K), g, sq_norms=norms)
    right, _ = loop(tracked(optax.MultiSteps(optax.sgd(0.0), K), micro_size=M), g)
    wrong, right = (tracked_noise(x, last=1.0) for x in (wrong, right))
    assert wrong.steps == right.steps == 400
    expected = 20 * (1 - 1 / (K * M)) / (1 - 1 / M), 1 - 20 * (1 - 1 / K) / (M - 1)
    for estimate, truth in zip(wrong[:2], expected, strict=True):
        assert abs(estimate.value - truth) < 4 * estimate.standard_error
    for estimate, truth in zip(right[:2], (20, 1), strict=True):
        assert abs(estimate.value - truth) < 4 * estimate.standard_error
    assert wrong.sq_gradient_norm.upper < 0  # it says so with certainty, and is wrong
    assert np.isinf(wrong.B_simple.value)
    assert right.B_simple.lower < 20 < right.B_simple.upper
    print(wrong.sq_gradient_norm, right.B_simple)


def test_in_a_step_that_gives_its_memory_back():
    optimizer = tracked(optax.MultiSteps(optax.sgd(0.0), K), micro_size=M)
    step = fb.training.make_step(lambda w, x: 0.5 * jnp.sum((w - x) ** 2), optimizer)
    state = fb.training.init_state(jnp.zeros(3), optimizer, seed=0)
    for i in range(2 * K):
        state, _ = step(state, 1 + jax.random.normal(jax.random.key(i), (M, 3)))
    noise = fb.noise.tracked_state(state.opt_state)
    assert (noise.steps, noise.skipped) == (2, 0)


def test_a_schedule_of_accumulation():
    g, _ = micro_batches(3)  # 12 micro-batches: 2, 2, 4, 4
    every = lambda step: jnp.where(step < 2, 2, 4)  # noqa: E731
    state, _ = loop(tracked(optax.MultiSteps(optax.sgd(1.0), every), micro_size=M), g)
    expected = [np.var(x, 0, ddof=1).sum() * M for x in (g[:2], g[2:4], g[4:8], g[8:])]
    assert_agree(state.noise.slots.S[:4], np.array(expected), "float32", size=30.0)
    assert state.noise.steps == 4


@pytest.mark.parametrize("name", ["refused", "by itself", "poisoned"])
def test_a_micro_batch_that_is_not_finite_in_accumulation(name):
    g, _ = micro_batches(3)
    g[1] = np.nan
    skip = {"should_skip_update_fn": optax.skip_not_finite} if name == "refused" else {}
    inner = optax.MultiSteps(optax.sgd(1.0), K, **skip)
    every = None
    if name == "by itself":
        inner, every = inner.gradient_transformation(), K
    state, _ = loop(tracked(inner, micro_size=M, every=every), g)
    noise = state.noise
    if name == "poisoned":  # its accumulator stays NaN
        assert (noise.steps, noise.skipped) == (0, 3)
    else:
        first = [0, 2, 3, 4] if name == "refused" else [0, 2, 3]
        expected = np.var(g[first], 0, ddof=1).sum() * M
        assert_agree(noise.slots.S[0], expected, "float32", size=30.0)
        assert (noise.steps, noise.skipped) == (2 if name == "refused" else 3, 0)
        assert noise.parts_left_out == 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(noise))


TRANSFORM = track()
ERRORS = {
    "optax, none": (
        lambda: TRANSFORM.update(jnp.ones(2), TRANSFORM.init(None)),
        r"`track`: exactly one of `sq_norms`, `micro_sq_norms`.*update\(",
    ),
    "no every": (
        lambda: tracked(optax.sgd(1.0), micro_size=1),
        "`every` must be the number of micro-batches in a step",
    ),
    "other every": (
        lambda: tracked(optax.MultiSteps(optax.sgd(1.0), 4), micro_size=1, every=3),
        "`every` is 3, but the optax.MultiSteps inside accumulates 4",
    ),
    "micro_size": (
        lambda: tracked(optax.MultiSteps(optax.sgd(1.0), 4), micro_size=0),
        "`micro_size` must be a number of examples above 0",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    call, text = ERRORS[name]
    with pytest.raises(ValueError, match=text):
        call()


def test_what_is_no_optimizer():
    with pytest.raises(TypeError, match="must be an optax transformation such as"):
        tracked(3, micro_size=1)
