"""`check_gradients` on gradients that are right, wrong and not finite; `check_separable`."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcbackprop as fb
from funcbackprop.reference.rules import RULES

PARAMS = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([0.1, -0.2])}
BATCH = (
    jnp.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]]),
    jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]),
)


def loss(p, example):
    x, y = example
    return 0.5 * jnp.sum((x @ p["w"] + p["b"] - y) ** 2)


def by_hand(params, batch, weights=None):
    x, y = (np.asarray(a, np.float64) for a in batch)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    x, y = (np.where(w[:, None] > 0, a, 0) for a in (x, y))
    error = x @ np.asarray(params["w"], np.float64) + np.asarray(params["b"], np.float64) - y
    share = (w / w.sum())[:, None]
    grads = {"w": x.T @ (share * error), "b": (share * error).sum(0)}
    return 0.5 * np.sum(share * error**2), grads


def changed(leaf, change):
    grads = by_hand(PARAMS, BATCH)[1]
    return {**grads, leaf: change(grads[leaf])}


# what is done to the gradient -> (leaf, change, verdict)
FAULTS = {
    "1/B in one leaf": ("w", lambda g: g / 3, "differs"),
    "sign": ("b", lambda g: -g, "differs"),
    "1 % in one leaf": ("b", lambda g: 1.01 * g, "differs"),
    "one element": ("w", lambda g: g + np.array([[0, 0], [0, 1e-3]]), "differs"),
    "NaN": ("w", lambda g: g * np.array([[1, 1], [np.nan, 1]]), "not finite"),
    "zero": ("b", lambda g: 0 * g, "differs"),
}


@pytest.mark.core
def test_right_gradients_agree():
    report = fb.check_gradients(loss, PARAMS, BATCH, reference=by_hand)
    assert report.ok
    assert [leaf.leaf for leaf in report.leaves] == ["params['b']", "params['w']"]
    assert report.value == pytest.approx(report.reference_value, rel=1e-6)
    assert "Every leaf agrees" in str(report)


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found_in_their_leaf(name):
    leaf, change, verdict = FAULTS[name]
    report = fb.check_gradients(loss, PARAMS, BATCH, changed(leaf, change), reference=by_hand)
    verdicts = {x.leaf: x.verdict for x in report.leaves}
    other = {"w": "b", "b": "w"}[leaf]
    assert verdicts == {f"params['{leaf}']": verdict, f"params['{other}']": "agrees"}
    assert not report.ok
    assert verdict in str(report)
    json.dumps(report.to_dict(), allow_nan=False)


def test_worst_element_and_errors():
    grads = changed("w", FAULTS["one element"][1])
    report = fb.check_gradients(loss, PARAMS, BATCH, grads, reference=by_hand)
    leaf = report.leaves[1]
    assert leaf.worst_index == (1, 1)
    expected = by_hand(PARAMS, BATCH)[1]["w"]
    assert leaf.got - leaf.expected == pytest.approx(1e-3)
    assert leaf.relative_error == pytest.approx(1e-3 / np.abs(expected).max())
    a, b = grads["w"].ravel(), expected.ravel()
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert leaf.cosine_error == pytest.approx(1 - cosine, abs=1e-15)


def test_a_leaf_that_is_zero_by_mathematics_is_judged_by_its_rounding():
    """softmax does not see a shift: terms of size 1 cancel, in JAX to rounding only."""

    def shifted(p, x):
        return -jax.nn.log_softmax(x + p["shift"])[0] + jnp.sum(p["w"] * x)

    params = {"shift": jnp.float32(0.3), "w": jnp.ones(4)}
    batch = jax.random.normal(jax.random.key(0), (6, 4))
    report = fb.check_gradients(shifted, params, batch)
    assert report.ok, str(report)
    grads = {"shift": np.float32(1e-3), "w": batch.mean(0)}
    report = fb.check_gradients(shifted, params, batch, grads)
    assert {x.leaf: x.verdict for x in report.leaves} == {
        "params['shift']": "differs",
        "params['w']": "agrees",
    }


def test_a_given_reference_that_is_not_the_chain_rule_is_noted():
    def half(params, batch, weights=None):
        value, grads = by_hand(params, batch, weights)
        return value, {**grads, "b": grads["b"] / 2}

    report = fb.check_gradients(loss, PARAMS, BATCH, reference=half)
    assert [x.verdict for x in report.leaves] == ["differs", "agrees"]
    assert "params['b']: the given reference differs from the chain rule, by 50 %" in report.notes


def test_weights_and_nan_in_padding():
    batch = jax.tree.map(lambda x: x.at[1].set(jnp.nan), BATCH)
    weights = jnp.array([1.0, 0.0, 3.0])
    report = fb.check_gradients(loss, PARAMS, batch, weights=weights, reference=by_hand)
    assert report.ok, str(report)
    assert report.value == pytest.approx(report.reference_value, rel=1e-6)


def _fitted(seed=0):
    """A model that has memorised its batch: softmax - onehot cancels everywhere."""
    model = fb.models.mlp((8, 32, 2), "tanh")
    x = jax.random.normal(jax.random.key(seed), (64, 8))
    y = (x[:, 0] > 0).astype(jnp.int32)
    loss = fb.example_loss(model.apply, fb.losses.cross_entropy)
    optimizer = optax.adam(3e-2)
    step = fb.training.make_step(loss, optimizer)
    state = fb.training.init_state(model.init(jax.random.key(1), x[0]), optimizer, 0)
    state = fb.training.fit(step, state, lambda number: ((x, y), None), steps=1500)
    reference = fb.reference.layerwise.value_and_grad(model, fb.losses.cross_entropy)
    return loss, state.params, (x, y), reference


def test_a_fitted_model_is_never_said_to_agree_with_a_wrong_gradient():
    loss, params, batch, reference = _fitted()
    _, grads = reference(params, batch)
    right = fb.check_gradients(loss, params, batch, reference=reference)
    assert {x.verdict for x in right.leaves} <= {"agrees", "precision"}, str(right)
    for factor in (0.0, -1.0, 2.0, 1.1):
        wrong = jax.tree.map(lambda g, f=factor: np.float32(f * g), grads)
        report = fb.check_gradients(loss, params, batch, wrong, reference=reference)
        assert "agrees" not in {x.verdict for x in report.leaves}, str(report)


def test_precision_says_where_the_digits_go():
    def cancelling(p, x):
        large = jnp.float32(1e7)
        lost = (p * x + large) - large
        return jnp.sum(lost**2)

    report = fb.check_gradients(cancelling, jnp.full(3, 1.234), jnp.ones((2, 3)))
    (leaf,) = report.leaves
    assert leaf.verdict == "precision", str(report)
    assert not report.ok
    assert report.undecided == report.leaves
    assert not report.findings
    assert leaf.resolution > 0.1
    assert "`sub` at" in leaf.reason
    assert "rounding in float32 would hide a change of" in leaf.reason
    assert leaf.source.file == __file__


def test_both_losses_are_shown():
    report = fb.check_gradients(
        *(loss, PARAMS, BATCH), reference=lambda p, b, w: (7.35, by_hand(p, b)[1])
    )
    assert "by the reference 7.35" in str(report)


@pytest.mark.core
def test_the_default_reference_follows_the_loss():
    report = fb.check_gradients(loss, PARAMS, BATCH, weights=jnp.array([1.0, 0.0, 3.0]))
    assert report.ok, str(report)
    assert report.reference_value == pytest.approx(report.value, rel=1e-6)
    assert not fb.check_gradients(loss, PARAMS, BATCH, changed("w", lambda g: 1.01 * g)).ok


def _through_a_callback(p, example):
    x, y = example
    shape = jax.ShapeDtypeStruct(y.shape, y.dtype)

    @jax.custom_vjp
    def double(z):
        return jax.pure_callback(lambda z: 2 * np.asarray(z), shape, z, vmap_method="sequential")

    double.defvjp(lambda z: (double(z), None), lambda _, dz: (2 * dz,))
    return jnp.sum(double(x @ p["w"]) ** 2) + jnp.sum(p["b"] ** 2 * y)


def test_what_passes_a_callback_is_not_said_to_agree():
    report = fb.check_gradients(_through_a_callback, PARAMS, BATCH)
    verdicts = {x.leaf: x.verdict for x in report.leaves}
    assert verdicts == {"params['w']": "not audited", "params['b']": "agrees"}
    assert not report.ok
    assert "pure_callback at" in str(report)
    assert "test_check.py" in str(report)
    json.dumps(report.to_dict(), allow_nan=False)


def _doubled(rule_factor):
    @jax.custom_vjp
    def double(x):
        return 2 * x

    double.defvjp(lambda x: (double(x), None), lambda _, dy: (rule_factor * dy,))
    return lambda p, example: jnp.sum(double(example[0] @ p["w"]) ** 2) + jnp.sum(p["b"] ** 2)


def test_a_report_of_a_wrong_rule():
    report = fb.check_gradients(_doubled(3), PARAMS, BATCH)
    b, w = report.leaves
    assert (b.verdict, w.verdict) == ("agrees", "wrong rule")
    assert report.findings == (w,)
    assert not report.undecided
    assert w.source.file == __file__
    assert "`double` at" in w.reason
    assert "it is 1.5 times the reference" in w.reason
    assert "worst element: w[" in str(report)
    assert "intended=('<name>',)" in str(report).splitlines()[-1] + str(report).splitlines()[-2]
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_report_as_html_and_as_a_graph():
    report = fb.check_gradients(_doubled(3), PARAMS, BATCH)
    page = report._repr_html_()
    assert "wrong rule" in page
    assert "<script" not in page
    marks = report.annotations()
    keys = report.program.keys()
    assert set(marks) <= set(keys.values())
    levels = {key: mark.level for key, mark in marks.items() if mark.level}
    assert levels["params['w']"] == "bad"
    assert levels["params['b']"] == "good"
    (call,) = (k for e, k in keys.items() if getattr(e, "name", "") == "custom_vjp_call")
    assert levels[call] == "bad"
    assert any("cotangent" in mark.text for mark in marks.values())
    assert "wrong rule" in report.to_html()


def test_what_is_intended_is_taken_as_right():
    report = fb.check_gradients(_doubled(3), PARAMS, BATCH, intended=("double", "nothing"))
    assert report.ok, str(report)
    assert "the rule of `double` at" in report.notes[0]
    assert "intended 'nothing' matched nothing that a gradient passes" in report.notes
    # What stands around it is still checked.
    grads = jax.tree.map(np.asarray, _gradient(_doubled(3)))
    wrong = {**grads, "w": 1.01 * grads["w"]}
    report = fb.check_gradients(_doubled(3), PARAMS, BATCH, wrong, intended=("double",))
    assert report.leaves[1].verdict == "differs"


def _gradient(loss):
    return jax.grad(lambda p: jnp.mean(jax.vmap(loss, (None, 0))(p, BATCH)))(PARAMS)


def test_assert_gradients_match():
    fb.assert_gradients_match(loss, PARAMS, BATCH)
    with pytest.raises(AssertionError, match=r"do not match the reference:\n(.|\n)*wrong rule"):
        fb.assert_gradients_match(_doubled(3), PARAMS, BATCH)
    fb.assert_gradients_match(_doubled(3), PARAMS, BATCH, intended=("double",))
    with pytest.raises(AssertionError, match="not audited"):
        fb.assert_gradients_match(_through_a_callback, PARAMS, BATCH)
    fb.assert_gradients_match(_through_a_callback, PARAMS, BATCH, undecided=True)


def test_a_rule_around_a_callback_can_be_taken_as_right():
    report = fb.check_gradients(_through_a_callback, PARAMS, BATCH, intended=("double",))
    assert report.ok, str(report)


def test_what_cannot_be_followed_is_compared_with_a_given_reference():
    def reference(params, batch, weights=None):
        x, y = (np.asarray(a, np.float64) for a in batch)
        w, b = (np.asarray(params[k], np.float64) for k in "wb")
        z = 2 * x @ w
        grads = {"w": 4 * x.T @ z / len(x), "b": 2 * b * y.mean(0)}
        return np.mean(np.sum(z**2, 1) + np.sum(b**2 * y, 1)), grads

    assert fb.check_gradients(_through_a_callback, PARAMS, BATCH, reference=reference).ok
    wrong = lambda *a: (0.0, jax.tree.map(lambda g: 1.1 * g, reference(*a)[1]))  # noqa: E731
    report = fb.check_gradients(_through_a_callback, PARAMS, BATCH, reference=wrong)
    assert [x.verdict for x in report.leaves] == ["differs", "differs"]


def test_a_loss_that_cannot_be_followed_at_all(monkeypatch):
    monkeypatch.delitem(RULES, "tan")  # as a primitive of a later JAX has no rule
    unknown = lambda p, example: jnp.sum(jnp.tan(p["w"])) + jnp.sum(p["b"])  # noqa: E731
    report = fb.check_gradients(unknown, PARAMS, BATCH)
    assert {x.verdict for x in report.leaves} == {"not audited"}
    assert "`tan` at" in report.leaves[0].reason
    assert report.program is None
    with pytest.raises(ValueError, match="the loss could not be followed, so there is no graph"):
        report.to_html()


def _recurrent(p, x, factor=1.0):
    """A loop through whose state the gradient passes again and again."""

    @jax.custom_vjp
    def state(h):
        return h

    state.defvjp(lambda h: (h, None), lambda _, dh: (factor * dh,))

    def cell(h, v):
        h = jnp.tanh(state(h) @ p["u"] + v @ p["w"])
        return h, jnp.sum(h * p["out"])

    _, ys = jax.lax.scan(cell, jnp.zeros(4), x)
    return jnp.sum(ys**2)


def _recurrent_problem():
    rng = np.random.default_rng(0)
    shapes = {"u": (4, 4), "w": (2, 4), "out": (4,)}
    params = {k: rng.normal(size=v).astype(np.float32) / 2 for k, v in shapes.items()}
    return params, rng.normal(size=(5, 6, 2)).astype(np.float32)


@pytest.mark.parametrize("factor", [0.5, -1.0, 1.01, 0.0])
def test_a_factor_in_a_loop_is_found_from_the_gradient_alone(factor):
    params, batch = _recurrent_problem()
    mean = lambda p: jnp.mean(jax.vmap(lambda x: _recurrent(p, x, factor))(batch))  # noqa: E731
    report = fb.check_gradients(_recurrent, params, batch, jax.grad(mean)(params))
    verdicts = {x.leaf: x.verdict for x in report.leaves}
    assert verdicts == {
        "params['out']": "agrees",
        "params['u']": "differs",
        "params['w']": "differs",
    }
    said = report.leaves[1].suspects
    counts = float(said.split("counts ")[1].split(" times")[0])
    assert counts == pytest.approx(factor, abs=0.02)
    assert "(dot_general)" in said or "copy" in said
    assert str(report).count("All errors are those") == 1


def test_layerwise_reference_of_a_model():
    model = fb.models.mlp((4, 5, 3))
    params = model.init(jax.random.key(0), jnp.zeros(4))
    batch = (jax.random.normal(jax.random.key(1), (6, 4)), jnp.arange(6) % 3)
    reference = fb.reference.layerwise.value_and_grad(model, fb.losses.cross_entropy)
    loss = fb.example_loss(model.apply, fb.losses.cross_entropy)
    report = fb.check_gradients(loss, params, batch, reference=reference)
    assert report.ok, str(report)
    lines = str(report).splitlines()
    assert lines[2].startswith("layers.0.b  agrees")
    assert max(len(line) for line in lines[: len(report.leaves) + 2]) <= 80


def test_errors():
    with pytest.raises(ValueError, match=r"`grads` must have the structure(.|\n)*\['b'\]"):
        fb.check_gradients(loss, PARAMS, BATCH, {"w": PARAMS["w"]}, reference=by_hand)
    with pytest.raises(ValueError, match="`reference` must return"):
        fb.check_gradients(loss, PARAMS, BATCH, reference=lambda p, b, w: 1.0)
    with pytest.raises(TypeError, match="a sequence of names, got the string 'f'; write"):
        fb.check_gradients(loss, PARAMS, BATCH, intended="f")


# --- check_separable -----------------------------------------------------------------------------

X = jnp.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5], [2.0, 1.0]])
W = {"w": jnp.array([0.3, -0.7]), "scale": jnp.array(1.5)}
MASK = jnp.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
TOKENS = jnp.arange(12.0).reshape(4, 3) / 7


def _per_example(p, x):
    return jnp.tanh(x @ p["w"] * p["scale"]) ** 2


def _batch_norm(p, x):
    x = (x - x.mean(0, keepdims=True)) / jnp.sqrt(x.var(0, keepdims=True) + 1e-3)
    return jnp.mean(_per_example(p, x))


def _masked(p, batch):
    x, mask = batch
    return jnp.sum(mask * jnp.tanh(x * p["scale"]) ** 2) / jnp.sum(mask) + 0 * p["w"][0]


def _in_batch_negatives(p, x):
    z = x * p["w"][None]
    return -jnp.mean(jnp.diag(jax.nn.log_softmax(z @ z.T * p["scale"])))


SEPARABILITY = {
    "mean": (lambda p, x: jnp.mean(_per_example(p, x)), X, None, "separable"),
    "sum": (lambda p, x: jnp.sum(_per_example(p, x)), X, None, "summed"),
    "batch norm": (_batch_norm, X, None, "coupled"),
    "in-batch negatives": (_in_batch_negatives, X, None, "coupled"),
    "mask over the batch": (_masked, (TOKENS, MASK), None, "mask-normalised"),
    "mask, with its weights": (_masked, (TOKENS, MASK), MASK.sum(1), "separable"),
    "not finite": (lambda p, x: jnp.mean(jnp.log(x @ p["w"])) * p["scale"], X, None, "not finite"),
    "NaN in padding": (
        lambda p, x: jnp.mean(_per_example(p, x)),
        X.at[0].set(jnp.nan),
        jnp.array([0.0, 1.0, 1.0, 1.0]),
        "separable",
    ),
}


@pytest.mark.parametrize("name", SEPARABILITY)
def test_separability(name):
    batch_loss, batch, weights, verdict = SEPARABILITY[name]
    result = fb.check_separable(batch_loss, W, batch, weights)
    assert result.verdict == verdict, str(result)
    assert result.ok == (verdict == "separable")
    assert result.explain() in str(result)
    json.dumps(result.to_dict(), allow_nan=False)


def test_mask_normalised_returns_the_token_counts_as_weights():
    result = fb.check_separable(_masked, W, (TOKENS, MASK))
    np.testing.assert_allclose(np.array(result.weights) * 3, MASK.sum(1), rtol=1e-3)


def test_coupling_names_the_leaf():
    def batch_loss(p, x):
        return jnp.mean(x @ p["w"]) + 100 * p["scale"] * jnp.mean(x[0]) * jnp.mean(x[-1])

    assert fb.check_separable(batch_loss, W, X).leaf == "params['scale']"


def test_separable_needs_two_examples():
    with pytest.raises(ValueError, match="at least 2 examples, got 1"):
        fb.check_separable(lambda p, x: jnp.mean(x @ p["w"]), W, X[:1])
    with pytest.raises(ValueError, match="at least 2 examples need a positive weight, got 1"):
        fb.check_separable(lambda p, x: jnp.mean(x @ p["w"]), W, X, jnp.array([1.0, 0, 0, 0]))


def test_a_loss_that_is_not_finite_for_one_example_says_so():
    def batch_loss(p, x):
        z = x @ p["w"]
        return jnp.mean(p["scale"] * z / z.std())

    result = fb.check_separable(batch_loss, W, X)
    assert result.leaf == "a batch of 1"
    assert "is coupled" in str(result)
