"""Responsibility: by finite differences, by definition, and by changing one weight at a time."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import CASES, example_input, parameters

import funcbackprop as fb

X = np.array([1.0, 0.6])


def net(w, x):
    return jnp.dot(w["out"], jnp.tanh(w["in"] @ x))


def params():
    return {"in": jnp.array([[0.5, 0.5], [1.0, -0.5]]), "out": jnp.array([0.8, 0.4447])}


def changed(path, index, change):
    w = params()
    name = path.split("'")[1]
    w[name] = w[name].at[index].add(change)
    return w


EVERY = [("params['in']", (i, j)) for i in range(2) for j in range(2)]
EVERY += [("params['out']", (i,)) for i in range(2)]


@pytest.mark.parametrize(("path", "index"), EVERY)
def test_every_weight(path, index, x64):
    found = fb.responsibility(net, params(), X, target=1.0)
    h = 1e-6
    up, down = (float(net(changed(path, index, d), X)) for d in (h, -h))
    np.testing.assert_allclose(found.of_prediction[path][index], (up - down) / (2 * h), rtol=1e-8)
    of_loss = ((up - 1) ** 2 - (down - 1) ** 2) / 2 / (2 * h)
    np.testing.assert_allclose(found.of_loss[path][index], of_loss, rtol=1e-7)
    first, true = found.needed(path, index)
    np.testing.assert_allclose(first, (1 - found.prediction) / found.of_prediction[path][index])
    if true is not None:
        np.testing.assert_allclose(net(changed(path, index, true), X), 1.0, atol=1e-6)
        nearer = np.linspace(0, 0.999, 200)[1:] * abs(true)
        reached = [float(net(changed(path, index, s * d), X)) for d in nearer for s in (1, -1)]
        assert max(reached) < 1
    else:  # the unit saturates before
        assert float(net(changed(path, index, 100.0), X)) < 1


def test_shares_rows_and_steps():
    updates = jax.tree.map(lambda p: -0.1 * jnp.ones_like(p), params())
    found = fb.responsibility(net, params(), X, target=1.0, updates=updates)
    assert sum(x.sum() for x in found.shares.values()) == pytest.approx(1)
    squares = {k: g.astype(float) ** 2 for k, g in found.of_loss.items()}
    total = sum(x.sum() for x in squares.values())
    for path, x in squares.items():
        np.testing.assert_allclose(found.shares[path], x / total)
        np.testing.assert_allclose(found.of_step[path], -0.1 * found.of_loss[path], rtol=1e-6)
    rows = found.rows().splitlines()
    assert "params['in'][0]" in rows[2]
    assert "params['in'][1]" in rows[3]
    assert "change of the loss" in found.leaves()
    top = found.top(3).splitlines()
    assert top[2].startswith("params['out'][0]")
    assert len(top) == 5
    as_dict = json.loads(json.dumps(found.to_dict()))
    assert as_dict["prediction"] == pytest.approx(0.8, abs=1e-3)
    assert "prediction 0.8, target 1" in str(found)


def test_of_a_batch_it_is_the_weighted_mean(x64):
    x = np.random.default_rng(0).normal(size=(4, 2))
    y = np.array([1.0, 0.0, 2.0, 5.0])
    w = np.array([1.0, 2.0, 0.5, 0.0])
    found = fb.responsibility(net, params(), x, target=y, weights=w)
    singles = [fb.responsibility(net, params(), a, target=b) for a, b in zip(x, y, strict=True)]
    for name in ("of_prediction", "of_loss"):
        for path, g in getattr(found, name).items():
            each = [getattr(one, name)[path] for one in singles]
            np.testing.assert_allclose(g, np.average(each, axis=0, weights=w), rtol=1e-12)
    assert found.loss == pytest.approx(np.average([one.loss for one in singles], weights=w))
    assert found.target is None
    assert "needed" not in str(found)


def test_without_a_target_and_with_a_loss_of_ones_own():
    alone = fb.responsibility(net, params(), X)
    assert alone.loss is None
    assert "d loss" not in str(alone)
    with pytest.raises(ValueError, match="there is no target; pass `target=`"):
        alone.needed("params['out']", (0,))
    twice = fb.responsibility(net, params(), X, 1.0, loss=lambda p, t: jnp.abs(p - t))
    np.testing.assert_allclose(
        twice.of_loss["params['out']"], -alone.of_prediction["params['out']"]
    )


def test_a_weight_without_influence_and_a_right_prediction():
    w = {"a": jnp.float32(2.0), "unused": jnp.ones(2), "count": jnp.int32(3)}
    found = fb.responsibility(lambda w, x: w["a"] * x + 0 * w["unused"][0], w, 1.0, target=3.0)
    assert found.needed("params['a']") == pytest.approx((1.0, 1.0))
    assert found.needed("params['unused']", (1,)) == (None, None)
    assert list(found.of_prediction) == ["params['a']", "params['unused']"]
    right = fb.responsibility(lambda w, x: w["a"] * x + 0 * w["unused"][0], w, 1.0, target=2.0)
    assert right.needed("params['a']") == (0.0, 0.0)
    assert "params['a']" in str(right)


def test_errors():
    with pytest.raises(ValueError, match="`predict` must return one number, got shape"):
        fb.responsibility(lambda w, x: w["in"] @ x, params(), X)
    with pytest.raises(ValueError, match="`responsibility`: `updates` must have the structure"):
        fb.responsibility(net, params(), X, updates={"in": np.ones((2, 2))})


def drawn(figure):
    """The lines by kind, and all texts, of a figure of units."""
    (ax,) = figure.axes
    kinds = [line.get_gid() for line in ax.lines]
    return kinds, [text.get_text() for text in ax.texts]


def test_the_picture_of_the_textbook_net():
    found = fb.responsibility(net, params(), X, target=1.0)
    kinds, texts = drawn(found.plot())
    assert sorted(kinds) == ["path"] + 6 * ["strong"]
    for text in (
        "Prediction 0.8, target 1, loss 0.02",
        "0.66",
        "0.6",
        "0.8",
        "target 1",
        "layer 1",
    ):
        assert text in texts
    weights = [text for text in texts if "d loss" in text and " = " in text]
    assert len(weights) == 6
    assert "out[0] = 0.8\nd loss -0.133  ·  37 %" in weights
    (legend,) = [ax.get_legend() for ax in found.plot().axes]
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [
        "raising the weight lowers the loss",
        "strongest path: largest product of shares",
    ]
    colors = {line.get_color() for line in found.plot().axes[0].lines if line.get_gid() == "strong"}
    assert len(colors) == 1
    assert len(set(map(tuple, centers(found.plot())))) == 5


def centers(figure):
    return [patch.center for patch in figure.axes[0].patches]


def test_the_line_of_a_weight_is_as_wide_as_its_share():
    found = fb.responsibility(net, params(), X, target=1.0)
    lines = [line for line in found.plot().axes[0].lines if line.get_gid() == "strong"]
    widths = sorted(line.get_linewidth() for line in lines)
    shares = np.sort(np.concatenate([x.ravel() for x in found.shares.values()]))
    np.testing.assert_allclose(np.diff(widths) / np.diff(shares), 6.5 / shares.max(), rtol=1e-6)


def test_of_a_large_net_the_strongest_are_drawn():
    rng = np.random.default_rng(0)
    w = {"in": rng.normal(size=(30, 40)), "b": rng.normal(size=30), "out": rng.normal(size=(5, 30))}
    w = jax.tree.map(jnp.float32, w)

    def predict(w, x):
        return (w["out"] @ jnp.tanh(w["in"] @ x + w["b"]))[2]

    found = fb.responsibility(predict, w, rng.normal(size=40))
    kinds, texts = drawn(found.plot(k=7, title="a net"))
    best = [line.split("  ")[0] for line in found.top(7).splitlines()[2:]]
    listed = [text for text in texts if text.startswith(("in[", "out[", "b["))]
    assert listed[:7] == [name.replace("params['", "").replace("']", "") for name in best]
    assert kinds.count("path") == 1
    assert kinds.count("weak") == 0  # 1350 edges are too many
    assert "a net" in texts
    assert any(text.endswith("more") for text in texts)
    assert "raising the weight raises the prediction" in legend_texts(found.plot(k=7))


def legend_texts(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_the_picture_of_what_is_no_chain():
    case = CASES["transformer"]
    w = jax.tree.map(jnp.asarray, parameters(case))
    predict = lambda w, x: case.model.apply(w, x)[-1, 3]  # noqa: E731
    found = fb.responsibility(jax.jit(predict), w, example_input(case), target=1.0)
    _, texts = drawn(found.plot())
    for name in ("embed", "blocks.attention.q", "blocks.mlp_out", "head", "input"):
        assert name in texts
    assert texts.index("blocks.attention.q") < texts.index("blocks.mlp_out")
    assert any(text.startswith("Blue weight: raising it lowers the loss") for text in texts)
    assert any("next round" in text for text in texts)


def test_what_cannot_be_followed_is_still_shown():
    w = {
        "a": jnp.array([0.3, 0.4]),
        "b": jnp.array([[1.0, 0.5], [0.2, 2.0]]),
        "unused": jnp.ones(2),
    }
    found = fb.responsibility(lambda w, x: jnp.linalg.det(w["b"]) * w["a"][0] * x, w, 2.0)
    _, texts = drawn(found.plot())
    assert any("a" in text.split(", ") for text in texts)
    assert any("b" in text.split(", ") for text in texts)
    assert any(text.endswith("Without influence: unused.") for text in texts)
    constant = fb.responsibility(lambda w, x: 0 * w["a"][0] + x, w, 2.0)
    assert "prediction 2" in drawn(constant.plot())[1]


@pytest.mark.parametrize("k", [0, -1, 2.5, True, None])
def test_a_wrong_number_of_weights(k):
    found = fb.responsibility(net, params(), X, target=1.0)
    with pytest.raises(ValueError, match=r"`Responsibility\.plot`: `k` is how many .* got"):
        found.plot(k)
