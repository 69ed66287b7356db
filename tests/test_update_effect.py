"""The effect of an update: by formula, by the definition of each term, and against the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import quick
from model_cases import CASES, LOSSES, parameters
from model_cases import batch as batch_of
from updates import loss, problem

import funcbackprop as fb

TOLERANCE = 1e-10


def by_definition(params, updates, batch):
    """Of each example <g_i, u>, u'H_i u/2 by leaf, and the change of its loss."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    u, _ = jax.flatten_util.ravel_pytree(updates)
    first, second, actual = [], [], []
    for i in range(len(batch[0])):
        example = batch[0][i], batch[1][i]
        g = jax.grad(loss)(params, example)
        H = jax.hessian(lambda f, e=example: loss(unravel(f), e))(flat)
        product = unravel(H @ u)
        first.append(jax.tree.map(lambda a, b: float(jnp.sum(a * b)), g, updates))
        second.append(jax.tree.map(lambda a, b: float(jnp.sum(a * b)) / 2, product, updates))
        moved = jax.tree.map(jnp.add, params, updates)
        actual.append(float(loss(moved, example) - loss(params, example)))
    stacked = lambda trees: jax.tree.map(lambda *x: np.array(x), *trees)  # noqa: E731
    return stacked(first), stacked(second), np.array(actual)


def assert_is_mean_of(estimate, x, weights=None):
    w = np.ones(len(x)) if weights is None else np.asarray(weights)
    mean = np.average(x, weights=w)
    W, squares = w.sum(), (w**2).sum()
    spread = np.sum(w * (x - mean) ** 2) / (W - squares / W)
    np.testing.assert_allclose(estimate.value, mean, rtol=TOLERANCE, atol=TOLERANCE)
    error = np.sqrt(spread * squares / W**2)
    np.testing.assert_allclose(estimate.standard_error, error, rtol=1e-8)


@pytest.mark.core
@pytest.mark.parametrize("weighted", [False, True])
def test_every_term_is_a_mean_over_examples(x64, weighted):
    params, updates, batch = problem()
    first, second, actual = by_definition(params, updates, batch)
    weights = np.array([1, 2, 0, 1, 0.5, 1, 3, 1, 1, 0, 1, 2]) if weighted else None
    if weighted:  # what stands in padding does not matter
        batch = batch[0].at[2].set(jnp.nan), batch[1].at[9].set(jnp.inf)
    found = quick(lambda *x: fb.update_effect(loss, *x, weights))(params, updates, batch)
    total = [sum(jax.tree.leaves(x)) for x in (first, second)]
    assert_is_mean_of(found.first_order, total[0], weights)
    assert_is_mean_of(found.curvature, total[1], weights)
    assert_is_mean_of(found.predicted, total[0] + total[1], weights)
    assert_is_mean_of(found.actual, actual, weights)
    assert_is_mean_of(found.error, actual - total[0] - total[1], weights)
    assert_is_mean_of(found.share_helped, (actual < 0).astype(float), weights)
    for leaf in params:
        assert_is_mean_of(found.first_order_by_leaf[leaf], first[leaf], weights)
        assert_is_mean_of(found.curvature_by_leaf[leaf], second[leaf], weights)
    kept = np.ones(12, bool) if weights is None else weights > 0
    np.testing.assert_allclose(found.of_examples["actual"], np.where(kept, actual, 0), atol=1e-12)


@jax.custom_vjp
def slope(x):
    return 1 / jnp.cosh(x) ** 2


slope.defvjp(lambda x: (slope(x), x), lambda x, dy: (-2 * dy * jnp.tanh(x) * slope(x),))


@jax.custom_vjp
def own_tanh(x):
    return jnp.tanh(x)


own_tanh.defvjp(lambda x: (jnp.tanh(x), x), lambda x, dy: (dy * slope(x),))


def test_rules_that_forbid_forward_mode(x64):
    """JAX refuses the derivative of a gradient that calls a custom_vjp."""
    params, updates, batch = problem()

    def reverse_only(p, example):
        x, y = example
        return jnp.log1p(jnp.exp(-y * jnp.sum(own_tanh(p["w"] @ x + p["b"]))))

    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(jax.grad(lambda p: reverse_only(p, (batch[0][0], 1.0))), (params,), (updates,))
    expected = quick(lambda *x: fb.update_effect(loss, *x))(params, updates, batch)
    found = quick(lambda *x: fb.update_effect(reverse_only, *x))(params, updates, batch)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


OPTIMIZERS = {"sgd": optax.sgd(1e-2), "adam": optax.adam(1e-4)}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["mlp_gelu", "convnet_avg", "lstm", "transformer"])
def test_small_steps_are_predicted(name, optimizer, x64):
    case = CASES[name]._replace(batch=8)
    batch, params = jax.tree.map(jnp.asarray, (batch_of(case), parameters(case)))
    of_one = fb.example_loss(case.model.apply, LOSSES[case.loss])
    gradient = jax.grad(lambda p: jnp.mean(jax.vmap(of_one, (None, 0))(p, batch)))(params)
    chosen = OPTIMIZERS[optimizer]
    updates, _ = chosen.update(gradient, chosen.init(params), params)
    found = quick(lambda *x: fb.update_effect(of_one, *x))(params, updates, batch)
    assert found.actual.value < 0
    assert abs(found.error.value) < 0.02 * abs(found.actual.value)
    # Beyond second order there is less than what the curvature says, or next to nothing.
    assert abs(found.error.value) < abs(found.curvature.value) + 1e-4 * abs(found.actual.value)


def test_the_same_batch_is_optimistic_by_eta_S_over_B(x64):
    """Many batches: their mean first order is -eta (|G|^2 + S/B); `elsewhere` gives -eta |G|^2."""
    rng, d, B, eta = np.random.default_rng(0), 5, 8, 0.1
    of_one = lambda w, x: 0.5 * jnp.sum((w - x) ** 2)  # noqa: E731
    w = jnp.zeros(d)
    batches = jnp.asarray(1 + rng.normal(size=(2000, B, d)))  # |G|^2 = 5, S = 5

    def both(x):
        updates = -eta * jnp.mean(w[None] - x, 0)
        found = fb.update_effect(of_one, w, updates, x, rate=eta)
        return found.first_order.value, found.elsewhere.value

    same, elsewhere = map(np.asarray, jax.jit(jax.vmap(both))(batches))
    for values, expected in ((same, -eta * (5 + 5 / B)), (elsewhere, -eta * 5)):
        z = (values.mean() - expected) / (values.std(ddof=1) / np.sqrt(len(values)))
        assert abs(z) < 4
    assert same.mean() < elsewhere.mean()


def test_what_it_says():
    params, updates, batch = jax.tree.map(jnp.float32, problem())
    found = fb.update_effect(loss, params, updates, batch, rate=0.1)
    text = str(found)
    for words in ("first order: ", "curvature: ", "actual: ", "elsewhere: ", "params['w']"):
        assert words in text
    assert found.examples(2).count("\n") == 5
    worst = int(np.argmax(found.of_examples["actual"]))
    assert found.examples(2).splitlines()[-1].split()[0] == str(worst)
    as_dict = found.to_dict()
    assert as_dict["first_order_by_leaf"]["params['b']"]["value"] == pytest.approx(
        float(found.first_order_by_leaf["b"].value)
    )
    tiny = jax.tree.map(lambda u: 1e-8 * u, updates)
    assert "below the rounding" in str(fb.update_effect(loss, params, tiny, batch))


def test_the_figure():
    params, updates, batch = jax.tree.map(jnp.float32, problem())
    weights = np.array([1, 2, 0, 1, 0.5, 1, 3, 1, 1, 0, 1, 2])
    found = quick(lambda *x: fb.update_effect(loss, *x, weights))(params, updates, batch)
    figure = found.plot(title="a step")
    left, right = figure.axes
    assert left.get_title(loc="left") == "a step"
    assert len(figure.legends) == 1
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    falls = float(found.share_helped.value)
    assert f"loss falls: {100 * falls:.2g} % of the examples" in names
    assert {"actual = predicted", "actual", "first order ⟨G, u⟩", "curvature u'Hu/2"} <= set(names)
    points = [line for line in left.lines if line.get_label().startswith("loss ")]
    drawn = np.sort(np.concatenate([line.get_ydata() for line in points]))
    np.testing.assert_allclose(drawn, np.sort(found.of_examples["actual"][weights > 0]))
    ticks = [tick.get_text() for tick in right.get_yticklabels()]
    assert ticks[0] == "all leaves"
    assert sorted(ticks[1:]) == ["params['b']", "params['w']"]
    (actual,) = [line for line in right.lines if line.get_label() == "actual"]
    np.testing.assert_allclose(actual.get_xdata(), [found.actual.value], rtol=1e-6)


def test_of_many_leaves_the_largest_are_drawn():
    params = {f"w{k}": jnp.float32(1.0) for k in range(30)}
    updates = {f"w{k}": jnp.float32(k + 1.0) for k in range(30)}
    total = lambda p, x: x * sum(jax.tree.leaves(p))  # noqa: E731
    found = quick(lambda *x: fb.update_effect(total, *x))(params, updates, jnp.ones(3))
    figure = found.plot()
    ticks = [tick.get_text() for tick in figure.axes[1].get_yticklabels()]
    assert ticks == ["all leaves", *(f"params['w{k}']" for k in range(29, 9, -1))]
    assert "10 smaller leaves are not shown" in figure.axes[1].get_xlabel()


def test_errors():
    params, updates, batch = problem()
    with pytest.raises(ValueError, match="`update_effect`: `updates` must have the structure"):
        fb.update_effect(loss, params, {"w": updates["w"]}, batch)
    with pytest.raises(ValueError, match="`rate` must be a number, or a tree like `params`"):
        fb.update_effect(loss, params, updates, batch, rate=np.ones(3))
