"""The plan, what cannot be differentiated, memory, and what is said of wrong input."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import build

import funcbackprop as fb

BOTH = {"mean": fb.Mean(), "sq_norms": fb.SquaredNorms()}
MODELS = {
    "mlp": (fb.models.mlp((8, 16, 12, 4)), (8,), False),
    "convnet": (fb.models.convnet((3, 4), 4), (8, 8, 1), False),
    "lstm": (fb.models.lstm(9, 6), (5,), True),
    "transformer": (fb.models.transformer(9, 5, 8, depth=2, heads=2), (5,), True),
    "transformer, tied, remat": (
        fb.models.transformer(9, 5, 8, depth=2, heads=2, tied=True, remat=True),
        (5,),
        True,
    ),
}


def problem(name, examples=4):
    model, shape, tokens = MODELS[name]
    rng = np.random.default_rng(0)
    if tokens:
        x, y = (jnp.asarray(rng.integers(0, 9, (examples, *shape)), jnp.int32) for _ in range(2))
        loss = fb.losses.next_token
    else:
        x = jnp.asarray(rng.normal(size=(examples, *shape)), jnp.float32)
        y, loss = jnp.asarray(rng.integers(0, 4, examples)), fb.losses.cross_entropy
    params = model.init(jax.random.key(0), x[0])
    return fb.example_loss(model.apply, loss), params, (x, y)


@pytest.mark.core
@pytest.mark.parametrize("name", MODELS)
def test_no_leaf_of_the_models_falls_back(name):
    loss, params, batch = problem(name)
    batch = jax.tree.map(lambda x: jnp.concatenate([x] * 6), batch)
    plan = fb.plan(loss, BOTH)(params, batch)
    assert plan.fallbacks == ()
    assert plan.written <= 0.05 * plan.examples * plan.parameters * 4
    forms = {leaf.leaf: leaf.form for leaf in plan.leaves}
    for path, form in forms.items():
        if path.endswith("['w']") or "w_" in path:
            assert form in ("outer products", "convolution"), (path, form)
    if "table" in str(forms) and "tied" in name:
        assert forms["params['embed']['table']"] == "outer products + rows"


def test_where_a_weight_lies_and_what_it_is_called_changes_no_entry():
    loss, params, batch = build("placed and named", "float32")
    (leaf,) = fb.plan(loss, BOTH)(params, batch).leaves
    assert leaf.form == "outer products"


def expm_loss(p, x):
    return jnp.sum(jnp.sin(x @ jax.scipy.linalg.expm(p["a"])))


EXPM = {"a": jnp.eye(6) / 3, "b": jnp.ones(3)}


def test_a_fallback_says_where_and_why():
    plan = fb.plan(expm_loss, BOTH)(EXPM, jnp.ones((4, 6)))
    (leaf,) = plan.fallbacks
    assert leaf.leaf == "params['a']"
    assert leaf.form == "written out"
    assert leaf.written == 4 * 36 * 4
    assert "`dot_general` at" in leaf.reason
    assert "test_plan.py" in leaf.reason
    text = str(plan)
    assert "params['a'] is written out: `dot_general`" in text
    assert max(map(len, text.splitlines()[:4])) <= 120
    assert json.loads(json.dumps(plan.to_dict()))["leaves"][0]["form"] == "written out"


def test_the_plan_names_the_line_and_the_kernel():
    def loss(p, x):
        return jnp.sum(jnp.sin(x @ p))

    (leaf,) = fb.plan(loss, fb.SquaredNorms())(jnp.ones((3, 2)), jnp.ones((4, 7, 3))).leaves
    assert leaf.source.startswith("test_plan.py:")
    assert leaf.algorithm == "entries of 1"  # 1.6 * 2 * 7^2 (3 + 2) is more than (2 * 7 + 72) 3 * 2
    (leaf,) = fb.plan(loss, fb.SquaredNorms())(jnp.ones((9, 8)), jnp.ones((4, 3, 9))).leaves
    assert leaf.algorithm == "products of positions"
    (leaf,) = fb.plan(loss, fb.SquaredNorms())(jnp.ones((9, 8)), jnp.ones((4, 9))).leaves
    assert (leaf.algorithm, leaf.written) == ("product of norms", 0)


def test_what_was_not_chosen():
    """Ways with a name of their own, once each, at the cost of the whole leaf; or none."""

    def loss(p, x):
        return jnp.sum(jnp.sin(x @ p["w"]) + p["b"])

    params, x = {"w": jnp.ones((9, 8)), "b": jnp.ones((1, 8))}, jnp.ones((4, 3, 9))
    plan = fb.plan(loss, {**BOTH, "inner": fb.InnerWithMean(), "v": fb.Variance()})(params, x)
    bias, weight = plan.leaves
    assert bias.alternatives == ()
    names = [name for name, _ in weight.alternatives]
    assert names
    assert len(set(names)) == len(names)
    assert weight.algorithm not in names
    assert all(flops >= weight.flops for _, flops in weight.alternatives)
    first, second = str(plan).split("What would have taken longer:\n")
    assert "examples," in first
    rows = second.splitlines()[2:]
    assert len(rows) == len(names)
    assert all(row.startswith("params['w']") for row in rows)


def test_a_plan_without_a_choice_has_one_table():
    plan = fb.plan(lambda p, x: jnp.sum(p * x), fb.Mean())(jnp.ones(2), jnp.ones((4, 2)))
    assert str(plan).splitlines()[-1].startswith("4 examples, 2 parameters.")


def test_a_memory_limit_measures_a_fallback_in_chunks():
    stats = {
        "variance": fb.Variance(),
        "inner": fb.InnerWithMean(),
        "gram": fb.Gram(),
        "sum": fb.WeightedSum(jnp.arange(7.0)),
    }
    x = jax.random.normal(jax.random.key(0), (7, 6))
    weights = jnp.array([1.0, 0, 2, 1, 1, 0, 3])
    limited = fb.gradient_statistics(expm_loss, stats, memory_limit=2 * 4 * 36)
    chex.assert_trees_all_close(
        limited(EXPM, x, weights),
        fb.gradient_statistics(expm_loss, stats, method="materialize")(EXPM, x, weights),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.core
@pytest.mark.parametrize("method", ["factored", "materialize"])
def test_integers_and_keys_are_left_out(method):
    params = {"w": jnp.ones(2), "step": jnp.int32(3), "key": jax.random.key(0), "on": True}
    directions = {**params, "step": None, "key": None, "on": None}

    def loss(p, x):
        return jnp.where(p["on"], p["step"], 0) * jnp.sum(p["w"] * x)

    stats = {**BOTH, "p": fb.Projection(directions), "v": fb.Variance()}
    x = jnp.arange(6.0).reshape(3, 2)
    _, g = jax.jit(fb.gradient_statistics(loss, stats, method=method))(params, x)
    assert {k for k, v in g["mean"].items() if v is None} == {"step", "key", "on"}
    np.testing.assert_allclose(g["mean"]["w"], 3 * x.mean(0))
    np.testing.assert_allclose(g["sq_norms"]["w"], 9 * (x**2).sum(1))
    np.testing.assert_allclose(g["p"], 3 * x.sum(1))
    with pytest.raises(TypeError, match=r"gradients need real or complex floating-point param"):
        fb.gradient_statistics(loss, fb.Mean(), method=method)({"step": 3}, x)


def test_prints_of_the_loss_are_kept(capfd):
    def loss(p, x):
        jax.debug.print("example {}", x[0])
        return jnp.sum((x @ p) ** 2)

    measure = fb.gradient_statistics(loss, fb.SquaredNorms())
    jax.block_until_ready(measure(jnp.ones((3, 2)), jnp.arange(12.0).reshape(4, 3)))
    jax.effects_barrier()
    assert sorted(capfd.readouterr().out.split()[1::2]) == ["0.0", "3.0", "6.0", "9.0"]


class Largest:
    """The largest entry of all gradients: a statistic with the four functions alone."""

    per_example = False
    needs_mean = False

    def init(self, params):
        return jnp.full((), -jnp.inf)

    def add(self, state, grads, weights, mean):
        return jnp.maximum(state, jnp.max(jnp.concatenate([g.ravel() for g in grads.values()])))

    def merge(self, a, b):
        return jnp.maximum(a, b)

    def finalize(self, state, params):
        return state


def test_a_statistic_with_the_four_functions_alone_is_taken_from_entries():
    loss = lambda p, x: jnp.sum((x @ p["w"]) ** 2)  # noqa: E731
    params, x = {"w": jnp.ones((3, 2))}, jax.random.normal(jax.random.key(0), (4, 3))
    stats = {"largest": Largest(), "mean": fb.Mean()}
    _, g = fb.gradient_statistics(loss, stats)(params, x)
    grads = jax.vmap(jax.grad(loss), (None, 0))(params, x)
    assert float(g["largest"]) == float(grads["w"].max())
    chex.assert_trees_all_close(g["mean"]["w"], grads["w"].mean(0), rtol=1e-6)


def line(p, x):
    return jnp.sum(p["w"] * x)


def measured(stat, examples=3):
    return fb.gradient_statistics(line, stat)({"w": jnp.ones(2)}, jnp.ones((examples, 2)))


ERRORS = {
    "coefficients": (
        lambda: measured(fb.WeightedSum(jnp.ones(4))),
        "`WeightedSum`: `coefficients` must have one number for each of the 3 examples",
    ),
    "coefficients, shape": (
        lambda: fb.WeightedSum(jnp.ones(())),
        r"`coefficients` must be \[B\] or \[K, B\], got shape \(\)",
    ),
    "max_norm": (lambda: fb.ClippedMean(0.0), "`max_norm` must be above 0, got 0.0"),
    "edges": (lambda: fb.Histogram((1.0, 1.0)), "`edges` must be a list of increasing numbers"),
    "dim": (lambda: fb.Sketch(0, jax.random.key(0)), "`dim` must be an int from 1 to 2"),
    "fn of another shape": (
        lambda: measured(fb.MeanOf(jnp.sum)),
        r"`fn` must map an array of shape \(2,\) to numbers of the same shape",
    ),
    "directions, structure": (
        lambda: measured(fb.Projection({"v": jnp.ones(2)})),
        "`directions` must be a tree like `params`",
    ),
    "directions, shape": (
        lambda: measured(fb.Projection({"w": jnp.ones(3)})),
        r"must have the shapes of those of `params`(.|\n)*\[\(2,\)\], got \[\(3,\)\]",
    ),
    "two Gram matrices": (
        lambda: fb.Gram().merge(jnp.ones((2, 2)), jnp.ones((2, 2))),
        "`Gram`: the results of two micro-batches have no inner products with each other",
    ),
    "two means": (
        lambda: fb.InnerWithMean().merge({"w": jnp.ones(2)}, {"w": jnp.ones(3)}),
        "`InnerWithMean`: the results of two micro-batches are relative to different means",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    call, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_fn_must_be_a_function():
    with pytest.raises(TypeError, match=r"`fn` must be a function of arrays such as jnp\.sign"):
        fb.MeanOf("sign")


def test_sketches_have_unbiased_norms_and_inner_products():
    """|z| < 4 over 200 keys, in units of the standard error of the mean."""
    loss = lambda p, x: jnp.dot(p, x)  # noqa: E731
    x = jax.random.normal(jax.random.key(0), (2, 30))
    keys = jax.random.split(jax.random.key(1), 200)

    def products(key):
        _, sketch = fb.gradient_statistics(loss, fb.Sketch(8, key))(jnp.zeros(30), x)
        return sketch @ sketch.T

    found = np.asarray(jax.vmap(products)(keys), np.float64)
    error = found.std(0, ddof=1) / np.sqrt(len(keys))
    z = (found.mean(0) - np.asarray(x @ x.T, np.float64)) / error
    assert np.abs(z).max() < 4
    norms = np.outer(*[np.linalg.norm(np.asarray(x), axis=1)] * 2)
    assert (found.std(0) < 1.3 * np.sqrt(2 / 8) * norms).all()
