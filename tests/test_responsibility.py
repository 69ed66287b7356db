"""Responsibility: by finite differences, by definition, and by changing one weight at a time."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
