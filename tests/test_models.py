"""The models: shapes, purity, initialisation, dropout, specs and errors."""

import json

import chex
import jax
import jax.numpy as jnp
import model_cases
import numpy as np
import pytest
from model_cases import CASES, each_case

import funcbackprop as fb

models = fb.models
TOKENS = np.array([1, 2, 3])


@pytest.mark.parametrize("name", each_case(("mlp", "convnet", "lstm", "transformer")))
def test_apply_gives_the_same_under_all_transformations(name):
    case = CASES[name]
    params, x = model_cases.parameters(case), model_cases.example_input(case, batch=3)
    apply = case.model.apply

    @jax.jit
    @chex.assert_max_traces(1)
    def batched(params, x):
        return jax.vmap(apply, (None, 0))(params, x)

    chex.clear_trace_counter()
    single = jax.jit(apply)
    want = jnp.stack([single(params, row) for row in x])
    chex.assert_trees_all_close(apply(params, x[0]), want[0], rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(batched(params, x), want, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(batched(params, x), batched(params, x[::-1])[::-1], rtol=1e-4)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(apply(p, x[0]) ** 2)))(params)
    chex.assert_trees_all_equal_shapes_and_dtypes(grads, params)
    chex.assert_tree_all_finite(grads)


class Variants(chex.TestCase):
    """`apply` as chex runs it: with and without jit, and on the device."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)
    def test_apply(self):
        case = CASES["mlp"]
        params, x = model_cases.parameters(case), model_cases.example_input(case)
        out = self.variant(case.model.apply)(params, x)
        chex.assert_shape(out, (3,))
        chex.assert_tree_all_finite(out)


@pytest.mark.core
@pytest.mark.parametrize("name", ["mlp_gelu", "convnet_avg", "lstm_depth_2", "transformer"])
def test_init_makes_plain_trees_of_the_default_dtype(name, key):
    case = CASES[name]
    init, x = jax.jit(case.model.init), model_cases.example_input(case)
    params = init(key, x)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, model_cases.parameters(case))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    chex.assert_trees_all_equal(params, init(key, x))
    assert all(np.any(leaf != other) for leaf, other in different_weights(params, init, x))
    chex.assert_tree_all_finite(jax.jit(case.model.apply)(params, x))


def different_weights(params, init, x):
    """Pairs of weight matrices from two keys; biases and gains start equal."""
    pairs = zip(*map(jax.tree.leaves, (params, init(jax.random.key(1), x))), strict=True)
    return [(a, b) for a, b in pairs if len(np.unique(a)) > 2]


def test_init_in_float64(key, x64):
    case = CASES["transformer"]
    params = jax.eval_shape(case.model.init, key, model_cases.example_input(case))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float64")}


def test_initial_spreads_are_those_of_their_papers(key):
    @jax.jit
    def draw(key):
        he = models.mlp((400, 300, 2)).init(key, np.ones(400))["layers"]
        glorot = models.mlp((400, 300, 2), "tanh").init(key, np.ones(400))["layers"]
        conv = models.convnet((64,), 2).init(key, np.ones((4, 4, 16)))["conv"]
        blocks = models.transformer(9, 4, 64, 2, 2).init(key, TOKENS)["blocks"]
        b = models.lstm(5, 3).init(key, TOKENS)["lstm"][0]["b"]
        return he, glorot, conv, blocks, b

    he, glorot, conv, blocks, b = jax.tree.map(np.asarray, draw(key))
    assert np.std(he[0]["w"]) == pytest.approx(np.sqrt(2 / 400), rel=0.02)
    assert np.std(glorot[0]["w"]) == pytest.approx(np.sqrt(2 / 700), rel=0.02)
    assert np.std(conv[0]["w"]) == pytest.approx(np.sqrt(2 / (9 * 16)), rel=0.02)
    assert np.std(blocks["mlp_in"]["w"]) == pytest.approx(0.02, rel=0.02)
    for residual in (blocks["mlp_out"], blocks["attention"]["out"]):
        assert np.std(residual["w"]) == pytest.approx(0.02 / 2, rel=0.02)
    assert not np.array_equal(blocks["mlp_in"]["w"][0], blocks["mlp_in"]["w"][1])
    assert b.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_the_lstm_and_the_transformer_are_causal():
    for name in ("lstm_depth_2", "transformer_one_head"):
        case = CASES[name]
        params, x = model_cases.parameters(case), model_cases.example_input(case)
        apply, later = jax.jit(case.model.apply), x.copy()
        later[3] = (later[3] + 1) % 5
        change = np.abs(apply(params, x) - apply(params, later)).max(1)
        assert change[:3].max() == 0
        assert change[3] > 0


@pytest.mark.core
def test_remat_changes_the_program_and_not_the_gradient():
    plain, remat = (models.transformer(7, 5, 4, 2, 2, remat=r) for r in (False, True))
    params = model_cases.parameters(model_cases.Case(plain, (5,), "next_token"))
    x = np.arange(5)

    def gradient(model):
        loss = fb.example_loss(model.apply, fb.losses.next_token)
        return jax.jit(jax.grad(lambda p: loss(p, (x, x))))

    assert "remat" in str(jax.make_jaxpr(gradient(remat))(params))
    assert "remat" not in str(jax.make_jaxpr(gradient(plain))(params))
    chex.assert_trees_all_close(
        gradient(plain)(params), gradient(remat)(params), rtol=1e-4, atol=1e-6
    )


def test_dropout_needs_a_key_and_keeps_the_mean(key):
    model = models.mlp((3, 2000, 1), "tanh", dropout=0.25)
    params = model.init(key, np.ones(3))
    without = model.apply(params, np.ones(3))
    assert without == models.mlp((3, 2000, 1), "tanh").apply(params, np.ones(3))
    keys = jax.random.split(key, 400)
    outs = jax.jit(jax.vmap(lambda k: model.apply(params, np.ones(3), key=k)[0]))(keys)
    assert jnp.std(outs) > 0
    z = (jnp.mean(outs) - without[0]) / (jnp.std(outs) / np.sqrt(len(keys)))
    assert abs(z) < 4


def test_every_layer_of_a_repeat_draws_its_own_dropout_mask(key):
    def masks(layers, options):
        layer = models.spec.layer("repeat", layers=layers, **options)
        x = jnp.ones(200)
        return models.layers.run_layers([layer], {}, x, key, "test")

    half = models.spec.layer("dropout", rate=0.5)
    kept = jnp.mean(masks((half,), {"depth": 2, "remat": False}) > 0)
    assert 0.1 < kept < 0.4  # 1/4; one mask used twice would keep 1/2


@pytest.mark.parametrize("name", CASES)
def test_a_spec_is_plain_and_readable(name):
    spec = CASES[name].model.spec
    assert json.loads(json.dumps(spec.to_dict())) == spec.to_dict()
    assert hash(spec) == hash(spec)
    assert str(spec).startswith(f"{spec.kind}(")
    assert len(str(spec).splitlines()) >= 3 + len(spec.layers)


def test_a_spec_lists_nested_layers_with_their_paths():
    text = str(CASES["transformer_tied_remat"].model.spec)
    assert "repeat              params['blocks']               depth=3, remat=True" in text
    assert ". . attention       params['blocks']['attention']" in text
    assert "tied_output         params['embed']" in text


def test_every_kind_in_the_table_has_a_reference_and_a_case():
    def kinds(layers):
        return {k for l in layers for k in {l.kind} | kinds(l.layers)}

    used = set().union(*(kinds(case.model.spec.layers) for case in CASES.values()))
    table = set(models.layers.KINDS)
    assert table - {"dropout"} <= used <= table | set(models.layers.COMPOSITES)
    assert table == set(fb.reference.layerwise.kinds.KINDS)


CONSTRUCTION = {
    "heads": (
        lambda: models.transformer(9, 8, 6, 1, 4),
        ValueError,
        r"`transformer`: `width` must be divisible by `heads`, got width=6 and heads=4",
    ),
    "activation": (
        lambda: models.mlp((2, 1), "swish"),
        ValueError,
        r"`mlp`: `activation` must be one of 'relu', 'tanh', 'gelu', got 'swish'",
    ),
    "empty": (lambda: models.mlp(()), ValueError, r"`sizes` must hold at least 2 positive"),
    "one_size": (lambda: models.mlp((3,)), ValueError, r"at least 2 positive integers, got \(3,\)"),
    "zero": (lambda: models.mlp((3, 0)), ValueError, r"`sizes\[1\]` must be a positive .*, got 0"),
    "float": (lambda: models.mlp((3, 2.0)), TypeError, r"`sizes\[1\]` must be a positive integer"),
    "not_a_list": (lambda: models.mlp(3), TypeError, r"must be a sequence of positive integers"),
    "channels": (lambda: models.convnet((), 2), ValueError, r"`channels` must hold at least 1"),
    "padding": (lambda: models.convnet((2,), 2, padding="same"), ValueError, r"'SAME', 'VALID'"),
    "pooling": (lambda: models.convnet((2,), 2, pooling="min"), ValueError, r"'max', 'avg'"),
    "head": (lambda: models.convnet((2,), 2, head="x"), ValueError, r"'flatten', 'mean', got 'x'"),
    "dropout_1": (lambda: models.mlp((2, 1), dropout=1.0), ValueError, r"probability in \[0, 1\)"),
    "dropout_negative": (lambda: models.lstm(3, 2, dropout=-0.1), ValueError, r"got -0.1; pass"),
    "depth": (lambda: models.lstm(3, 2, depth=0), ValueError, r"`depth` must be a positive"),
}


@pytest.mark.parametrize("name", CONSTRUCTION)
def test_errors_of_construction(name):
    make, error, message = CONSTRUCTION[name]
    with pytest.raises(error, match=message):
        make()


INPUTS = {
    "mlp_size": (
        "mlp",
        np.ones(4),
        r"`mlp.apply` \(dense at params\['layers'\]\[0\]\): expected 5",
    ),
    "mlp_batch": ("mlp", np.ones((8, 5)), r"got 40 .* for a batch use jax.vmap"),
    "image_rank": ("convnet", np.ones((8, 8)), r"image of shape \[H, W, C\], got shape \(8, 8\)"),
    "channels": ("convnet", np.ones((8, 8, 3)), r"expected 2 channels, got shape \(8, 8, 3\)"),
    "image_size": ("convnet", np.ones((12, 8, 2)), r"dense at params\['head'\]\): expected 16 inp"),
    "too_small": ("convnet", np.ones((2, 2, 2)), r"window of side 2 does not fit a feature map of"),
    "kernel": ("convnet_valid", np.ones((2, 9, 1)), r"kernel of side 3 does not fit .*'SAME'"),
    "too_long": ("transformer", np.ones(9, int), r"9 tokens, longer than max_length=8; shorten"),
    "float_tokens": ("lstm", np.ones(3), r"integer tokens of shape \[T\], .* got float32 of"),
    "token_batch": ("transformer", np.ones((2, 3), int), r"of shape \(2, 3\). `apply` takes one"),
    "no_tokens": ("lstm", np.ones(0, int), r"T >= 1, got int32 of shape \(0,\)"),
}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_errors_of_inputs(name, jit):
    case_name, x, message = INPUTS[name]
    case = CASES[case_name]
    apply = jax.jit(case.model.apply) if jit else case.model.apply
    with pytest.raises(ValueError, match=message):
        apply(model_cases.parameters(case), x)


def test_init_checks_the_example(key):
    with pytest.raises(ValueError, match=r"`mlp.init` \(dense at .*\): expected 5 inputs, got 4"):
        CASES["mlp"].model.init(key, np.ones(4))
    with pytest.raises(ValueError, match=r"`transformer.init`.*longer than max_length=8"):
        CASES["transformer"].model.init(key, np.ones(9, int))


def test_parameters_of_another_model_are_refused():
    params = model_cases.parameters(CASES["mlp"])
    with pytest.raises(ValueError, match=r"`lstm.apply`: `params` has no params\['embed'\]; pass"):
        CASES["lstm"].model.apply(params, TOKENS)


@pytest.mark.core
def test_a_token_out_of_range_is_nan_not_a_number():
    case = CASES["lstm_one_token"]
    params = model_cases.parameters(case)
    for token in (-1, 4):
        assert jnp.isnan(case.model.apply(params, np.array([token]))).all()
