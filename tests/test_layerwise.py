"""The float64 reference against JAX, against central differences, and its errors."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import model_cases
import numpy as np
import pytest
from model_cases import CASES, CORE, SMOOTH, each_case
from tolerances import assert_agree

import funcbackprop as fb
from funcbackprop.reference import layerwise


def reference(case):
    return layerwise.value_and_grad(case.model, model_cases.LOSSES[case.loss])


def assert_trees_agree(got, want, sizes, dtype):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for name, a, b, m in zip(
        fb.contract.leaf_names(want), *map(jax.tree.leaves, (got, want, sizes)), strict=True
    ):
        assert_agree(a, b, dtype, m, name)


def check_against_jax(case, dtype, seeds=(0,)):
    by_jax, by_hand = model_cases.jax_value_and_grad(case), reference(case).with_sizes
    for seed in seeds:
        params, batch = model_cases.parameters(case, seed), model_cases.batch(case, seed + 1)
        value, grads = by_jax(params, batch)
        assert jax.tree.leaves(grads)[0].dtype == dtype
        want, want_grads, sizes = by_hand(params, batch)
        assert_agree(value, want, dtype)
        assert_trees_agree(grads, want_grads, sizes, dtype)


@pytest.mark.parametrize("name", each_case())
def test_agrees_with_jax_in_float64(name, x64):
    check_against_jax(CASES[name], np.dtype("float64"))


@pytest.mark.parametrize("name", each_case((*CORE, *SMOOTH[:3], "transformer")))
def test_agrees_with_jax_in_float32(name):
    check_against_jax(CASES[name], np.dtype("float32"))


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_jax_for_more_seeds(name, x64):
    check_against_jax(CASES[name], np.dtype("float64"), range(8))


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_jax_for_more_seeds_in_float32(name):
    check_against_jax(CASES[name], np.dtype("float32"), range(8))


WIDE = {
    "mlp": model_cases.Case(fb.models.mlp((64, 128, 128, 10)), (64,), "cross_entropy", 32),
    "convnet": model_cases.Case(fb.models.convnet((8, 16), 10), (16, 16, 3), "cross_entropy", 16),
    "lstm": model_cases.Case(fb.models.lstm(30, 32, depth=2), (32,), "next_token", 8),
    "transformer": model_cases.Case(
        fb.models.transformer(30, 32, 32, 4, 4, tied=True), (32,), "next_token", 8
    ),
}


@pytest.mark.full
@pytest.mark.parametrize("name", WIDE)
def test_agrees_with_jax_at_larger_sizes(name, x64):
    check_against_jax(WIDE[name], np.dtype("float64"))


@pytest.mark.full
@pytest.mark.parametrize("name", WIDE)
def test_agrees_with_jax_at_larger_sizes_in_float32(name):
    case = WIDE[name]
    # With a spread of 0.5 logits of hundreds would test the conditioning, not the rules.
    params, batch = model_cases.parameters(case, spread=0.1), model_cases.batch(case)
    _, grads = model_cases.jax_value_and_grad(case)(params, batch)
    _, want, sizes = reference(case).with_sizes(params, batch)
    assert_trees_agree(grads, want, sizes, np.float32)


def direction(params, seed):
    """A random direction of length 1."""
    rng = np.random.default_rng(seed)
    d = jax.tree.map(lambda p: rng.normal(size=p.shape), params)
    return jax.tree.map(lambda x: x / np.sqrt(inner(d, d)), d)


def inner(a, b):
    return sum(np.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def along(params, d, h):
    return jax.tree.map(lambda p, d: np.asarray(p, np.float64) + h * d, params, d)


@pytest.mark.parametrize("name", each_case())
def test_agrees_with_central_differences(name):
    case = CASES[name]
    params, batch, f = model_cases.parameters(case), model_cases.batch(case), reference(case)
    _, grads = f(params, batch)
    for seed in range(3):
        d, h = direction(params, seed), 1e-5
        numerical = (f(along(params, d, h), batch)[0] - f(along(params, d, -h), batch)[0]) / (2 * h)
        # Truncation h^2 and rounding eps / h are near 1e-10; 100 for the third derivative.
        assert abs(numerical - inner(grads, d)) < 1e-8 * max(1, np.sqrt(inner(grads, grads)))


@pytest.mark.parametrize("name", SMOOTH)
def test_taylor_remainder_is_of_second_order(name):
    case = CASES[name]
    params, batch, f = model_cases.parameters(case), model_cases.batch(case), reference(case)
    value, grads = f(params, batch)
    d = direction(params, 0)
    steps = 0.5 ** np.arange(5, 10)
    remainders = [
        abs(f(along(params, d, h), batch)[0] - value - h * inner(grads, d)) for h in steps
    ]
    slope = np.polyfit(np.log(steps), np.log(remainders), 1)[0]
    assert slope == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("name", each_case(("mlp", "mlp_image", "convnet", "lstm")))
def test_weights_are_relative_and_remove_their_rows(name):
    case = CASES[name]
    params, (x, y), f = model_cases.parameters(case), model_cases.batch(case), reference(case)
    weights = np.array([2.0, 0.0, 1.0, 0.0])
    poisoned = x.copy()
    poisoned[1::2] = np.nan if np.issubdtype(x.dtype, np.floating) else 10**6
    value, grads = f(params, (poisoned, y), weights)
    first, third = (f(params, (x[i : i + 1], y[i : i + 1])) for i in (0, 2))
    assert value == pytest.approx((2 * first[0] + third[0]) / 3, rel=1e-13)
    want = jax.tree.map(lambda a, b: (2 * a + b) / 3, first[1], third[1])
    assert_trees_agree(grads, want, jax.tree.map(lambda _: 0.0, want), np.float64)


def test_zero_by_structure_is_exactly_zero(x64):
    case = CASES["transformer"]
    params, (x, y) = model_cases.parameters(case), model_cases.batch(case)
    _, grads = reference(case)(params, (x, y))
    assert not grads["position"]["table"][6:].any()  # T = 6 of at most 8 positions
    unused = np.setdiff1d(np.arange(9), x)
    assert len(unused) == 0 or not grads["embed"]["table"][unused].any()
    _, all_padding, sizes = reference(case).with_sizes(params, (x, np.full_like(y, -1)))
    assert not any(leaf.any() for leaf in jax.tree.leaves(all_padding))
    assert not any(jax.tree.leaves(sizes))


@pytest.mark.core
def test_key_bias_is_zero_by_mathematics_and_judged_by_its_size(x64):
    case = CASES["transformer"]
    params, batch = model_cases.parameters(case), model_cases.batch(case)
    _, grads, sizes = reference(case).with_sizes(params, batch)
    bias, m = (tree["blocks"]["attention"]["k"]["b"] for tree in (grads, sizes))
    assert 0 < np.abs(bias).max() < 1e-12 * m


def test_sizes_grow_by_kappa_where_the_loss_derivative_cancels():
    model = fb.models.mlp((1, 2))
    f = layerwise.value_and_grad(model, fb.losses.cross_entropy)
    batch = np.ones((1, 1)), np.array([0])
    for gap in (0.0, 2.0, 10.0, 20.0):
        params = {"layers": [{"w": np.array([[gap, 0.0]]), "b": np.zeros(2)}]}
        _, grads, sizes = f.with_sizes(params, batch)
        p = 1 / (1 + np.exp(-gap))
        kappa = max(1, 0.1 * (1 + p) / (1 - p))
        assert sizes["layers"][0]["b"] == pytest.approx(kappa * (1 - p), rel=1e-6)
        assert np.abs(grads["layers"][0]["b"]).max() == pytest.approx(1 - p, rel=1e-6)


@pytest.mark.core
def test_a_tie_in_max_pooling_goes_to_the_first_maximum(x64):
    model = fb.models.convnet((2,), 3, activation="tanh", pool=2, kernel=1)
    case = model_cases.Case(model, (4, 4, 1), "squared_error", 2)
    x, y = model_cases.batch(case)
    x = np.ones_like(x)  # every window is a tie; distinct head weights tell which entry won
    params = model_cases.parameters(case)
    _, grads = model_cases.jax_value_and_grad(case)(params, (x, y))
    _, want, sizes = reference(case).with_sizes(params, (x, y))
    assert_trees_agree(grads, want, sizes, np.float64)
    pooled, saved = layerwise.images.max_pool({}, np.zeros((1, 2, 2, 1)), {"size": 2})
    _, dx = layerwise.images.max_pool_backward({}, saved, np.ones_like(pooled))
    assert dx.ravel().tolist() == [1, 0, 0, 0]
    jax_dx = jax.grad(lambda x: model_pool(x).sum())(jnp.zeros((2, 2, 1)))
    np.testing.assert_array_equal(jax_dx, dx[0])


def model_pool(x):
    spec = fb.models.convnet((1,), 1).spec
    (pool,) = (layer for layer in spec.layers if layer.kind == "max_pool")
    return fb.models.layers.run_layers([pool], {}, x, None, "test")


@pytest.mark.parametrize("f", ["gelu", "relu", "sigmoid"])
def test_derivatives_are_finite_and_right_in_the_tails(f):
    smooth = layerwise.smooth
    x = np.array([-1e300, -800.0, -60.0, -50.0, -5.0, 0.0, 5.0, 50.0, 60.0, 800.0, 1e300])
    y, dy = getattr(smooth, f)(x), getattr(smooth, "d" + f)(x)
    assert np.isfinite(y).all()
    assert np.isfinite(dy).all()
    # At 0 relu' is 0, gelu' and sigma' are their limits.
    assert dy[5] == {"gelu": 0.5, "relu": 0.0, "sigmoid": 0.25}[f]
    assert dy[-1] == (0 if f == "sigmoid" else 1)
    assert dy[0] == 0


def test_tanh_derivative_does_not_cancel():
    # 1 - tanh(20)^2 is 0 in float64; sech^2(20) = 4 e^-40 to relative e^-40.
    assert layerwise.smooth.dtanh(np.array(20.0)) == pytest.approx(4 * np.exp(-40.0), rel=1e-14)


def test_the_reference_does_not_import_jax():
    code = (
        "import sys, types; sys.modules['jax'] = None; sys.modules['optax'] = None; "
        "import funcbackprop.reference.layerwise"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


MLP = fb.models.mlp((2, 3, 1))
PARAMS = {
    "layers": [{"w": np.ones((2, 3)), "b": np.ones(3)}, {"w": np.ones((3, 1)), "b": np.ones(1)}]
}
BATCH = np.ones((4, 2)), np.ones((4, 1))


def test_errors_of_construction():
    with pytest.raises(ValueError, match=r"`model` must be one of funcbackprop.models.*object"):
        layerwise.value_and_grad(object(), fb.losses.squared_error)
    with pytest.raises(ValueError, match=r"`loss` must be one of .*next_token.*, got <lambda>"):
        layerwise.value_and_grad(MLP, lambda p, t: 0.0)
    with pytest.raises(ValueError, match=r"covers dropout at rate 0, got rate=0.1"):
        layerwise.value_and_grad(fb.models.mlp((2, 3, 1), dropout=0.1), fb.losses.squared_error)
    model = fb.models.transformer(5, 4, 4, 1, 1, dropout=0.1)
    with pytest.raises(ValueError, match=r"covers dropout at rate 0, got rate=0.1"):
        layerwise.value_and_grad(model, fb.losses.next_token)
    strange = dataclasses.replace(MLP.spec, layers=(fb.models.Layer("sorting"),))
    with pytest.raises(ValueError, match=r"no rule for a layer of kind 'sorting'; known: act"):
        layerwise.value_and_grad(MLP._replace(spec=strange), fb.losses.squared_error)


WRONG_CALLS = {
    "missing": (
        {"layers": [PARAMS["layers"][0], {"w": np.ones((3, 1))}]},
        BATCH,
        None,
        r"params\['layers'\]\[1\]\['b'\]: missing",
    ),
    "unexpected": (
        PARAMS | {"extra": np.ones(1)},
        BATCH,
        None,
        r"params\['extra'\]: not a parameter of this model",
    ),
    "input_size": (
        PARAMS,
        (np.ones((4, 5)), BATCH[1]),
        None,
        r"dense at params\['layers'\]\[0\] with parameters .* does not fit .* \(4, 5\)",
    ),
    "target_shape": (PARAMS, (BATCH[0], np.ones(4)), None, r"shape \(4, 1\), got \(4,\)"),
    "batch": (PARAMS, (BATCH[0], np.ones((3, 1))), None, r"equal length B >= 1, got .*\(3, 1\)"),
    "weights_shape": (PARAMS, BATCH, np.ones(3), r"`weights` must be 4 finite .* shape \(3,\)"),
    "weights_zero": (PARAMS, BATCH, np.zeros(4), r"not all 0"),
    "weights_negative": (PARAMS, BATCH, np.array([1, 1, 1, -1.0]), r">= 0"),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_errors_of_calls(name):
    params, batch, weights, message = WRONG_CALLS[name]
    with pytest.raises(ValueError, match=message):
        layerwise.value_and_grad(MLP, fb.losses.squared_error)(params, batch, weights)


def test_errors_about_depth_tokens_and_labels():
    case = CASES["transformer"]
    params, (x, y) = model_cases.parameters(case), model_cases.batch(case)
    shallow = params | {"blocks": jax.tree.map(lambda p: p[:1], params["blocks"])}
    with pytest.raises(ValueError, match=r"\['gain'\]: expected 2 layers on the first axis"):
        reference(case)(shallow, (x, y))
    with pytest.raises(ValueError, match=r"tokens must be in 0..8, got 9..9"):
        reference(case)(params, (np.full_like(x, 9), y))
    with pytest.raises(ValueError, match=r"tokens must be integers, got float64"):
        reference(case)(params, (x.astype(np.float64), y))
    with pytest.raises(ValueError, match=r"labels in 0..8, got 9..9"):
        reference(case)(params, (x, np.full_like(y, 9)))


def test_grads_are_float64_numpy_for_float32_parameters():
    case = CASES["mlp"]
    value, grads = reference(case)(model_cases.parameters(case), model_cases.batch(case))
    assert isinstance(value, float)
    assert {(type(g), g.dtype) for g in jax.tree.leaves(grads)} == {
        (np.ndarray, np.dtype("float64"))
    }
