"""Where parameters act: units against second derivatives; which networks are chains of layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from model_cases import CASES, example_input, parameters

from funcbackprop.contract import differentiable
from funcbackprop.effect.chain import layers_of, strongest_path
from funcbackprop.graph import network
from tests.libraries import build

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def as_people_write_it():
    """Arrays of different rank are added."""
    with jax.numpy_rank_promotion("allow"):
        yield


def array(*shape):
    return jnp.asarray(RNG.uniform(0.5, 1.5, shape), jnp.float32)


def conv(dims, groups=1):
    numbers = {"feature_group_count": groups, "dimension_numbers": dims}
    return lambda w, x: lax.conv_general_dilated(x[None], w, (1, 1), "SAME", **numbers)[0]


# name -> (y(w, x), shape of w, of x, the axes of y and of x whose entries are units)
BILINEAR = {
    "x w": (lambda w, x: x @ w, (3, 2), (3,), (0,), (0,)),
    "w x": (lambda w, x: w @ x, (2, 3), (3,), (0,), (0,)),
    "a vector": (jnp.dot, (3,), (3,), (), (0,)),
    "a sum of products": (lambda w, x: jnp.sum(w * x), (3,), (3,), (), (0,)),
    "a sum over rows": (lambda w, x: jnp.sum(w * x[:, None], 0), (3, 2), (3,), (0,), (0,)),
    "two axes": (lambda w, x: jnp.einsum("abc,ab->c", w, x), (2, 3, 4), (2, 3), (0,), (0, 1)),
    "axes swapped": (lambda w, x: jnp.einsum("bca,ab->c", w, x), (3, 4, 2), (2, 3), (0,), (0, 1)),
    "heads": (lambda w, x: jnp.einsum("hi,hij->hj", x, w), (2, 3, 4), (2, 3), (0, 1), (0, 1)),
    "heads out": (lambda w, x: jnp.einsum("i,ihj->hj", x, w), (3, 2, 4), (3,), (0, 1), (0,)),
    "reshaped": (lambda w, x: x.ravel() @ w.reshape(6, 4), (2, 3, 4), (2, 3), (0,), (0, 1)),
    "x reshaped": (lambda w, x: w @ x.reshape(3, 2).T.ravel(), (4, 6), (6,), (0,), (0,)),
    "split": (lambda w, x: (x @ w).reshape(2, 2), (3, 4), (3,), (0, 1), (0,)),
    "transposed, scaled": (lambda w, x: (0.5 * w).T @ x, (3, 2), (3,), (0,), (0,)),
    "masked": (lambda w, x: (w * np.ones((3, 2))).astype(jnp.float16) @ x, (2, 3)[::-1], (2,),
               (0,), (0,)),
    "at positions": (lambda w, x: x @ w, (3, 2), (5, 3), (1,), (1,)),
    "vmap": (lambda w, x: jax.vmap(lambda t: w @ t)(x), (2, 3), (5, 3), (1,), (1,)),
    "NHWC": (conv(("NHWC", "HWIO", "NHWC")), (2, 2, 2, 4), (3, 3, 2), (2,), (2,)),
    "NCHW": (conv(("NCHW", "OIHW", "NCHW")), (4, 2, 2, 2), (2, 3, 3), (0,), (0,)),
    "groups": (conv(("NHWC", "HWIO", "NHWC"), 2), (2, 2, 2, 6), (3, 3, 4), (2,), (2,)),
    "depthwise": (conv(("NHWC", "HWIO", "NHWC"), 4), (2, 2, 1, 4), (3, 3, 4), (2,), (2,)),
}  # fmt: skip


def numbers(shape, axes):
    """The number of the unit of each entry of an array."""
    grid = np.zeros(shape, int)
    for k in axes:
        steps = np.arange(shape[k]).reshape([-1 if j == k else 1 for j in range(len(shape))])
        grid = grid * shape[k] + steps
    return grid


@pytest.mark.parametrize("name", BILINEAR)
def test_an_entry_connects_the_units_that_it_connects(name):
    """One entry of w alone, one unit of x alone: the only unit of y that is not 0."""
    y, w_shape, x_shape, y_axes, x_axes = BILINEAR[name]
    w, x = np.asarray(array(*w_shape)), np.asarray(array(*x_shape))
    (use,) = network(y, w, x).uses
    assert use.kind == ("kernel" if len(w_shape) == 4 else "matrix")
    assert use.source == ("data", 0)
    sources, targets = (np.broadcast_to(a, w_shape).ravel() for a in (use.sources, use.targets))
    run, of_x = jax.jit(y), numbers(x_shape, x_axes)
    for entry, (source, target) in enumerate(zip(sources, targets, strict=True)):
        alone = np.where(np.arange(w.size).reshape(w_shape) == entry, w, 0)
        for unit in range(of_x.max() + 1):
            out = np.asarray(run(alone, np.where(of_x == unit, x, 0)))
            touched = set(numbers(out.shape, y_axes)[out != 0].tolist())
            assert touched == ({target} if unit == source else set())


def norm(h):
    return (h - h.mean()) / jnp.sqrt(h.var() + 1e-5)


def groups(h, count=2):
    g = h.reshape(*h.shape[:-1], count, -1)
    g = (g - g.mean((0, 1, 3), keepdims=True)) / jnp.sqrt(g.var((0, 1, 3), keepdims=True) + 1e-5)
    return g.reshape(h.shape)


def pooled(h):
    return lax.reduce_window(h, -jnp.inf, lax.max, (2, 2, 1), (2, 2, 1), "VALID")


def dense(p, h):
    return h @ p["w"] + p["b"]


CONV = conv(("NHWC", "HWIO", "NHWC"))
TWO = {"w": array(4, 6), "b": array(6), "v": array(6, 3), "c": array(3)}
IMAGE = {"k": array(3, 3, 1, 4), "gain": array(4), "b": array(4), "v": array(16, 3)}
SQUARE = {"w": array(4, 4), "v": array(4, 4), "u": array(4, 3)}

# name -> (predict(p, x), params, x)
CHAINS = {
    "plain": (lambda p, x: jnp.tanh(dense(p, x)) @ p["v"] + p["c"], TWO, array(4)),
    "jit, remat, custom_jvp": (
        jax.jit(lambda p, x: jax.checkpoint(lambda h: jax.nn.relu(h))(dense(p, x)) @ p["v"]), TWO,
        array(4)),
    "a batch of one, one class": (
        lambda p, x: jax.nn.softmax(jax.nn.gelu(dense(p, x[None])) @ p["v"])[0, 2], TWO, array(4)),
    "a norm between": (lambda p, x: norm(dense(p, x)) @ p["v"], TWO, array(4)),
    "dropout by a constant": (
        lambda p, x: (dense(p, x) * np.array([1, 0, 1, 1, 0, 1])) @ p["v"], TWO, array(4)),
    "units turned over": (lambda p, x: dense(p, x).reshape(2, 3).T.ravel() @ p["v"], TWO, array(4)),
    "pooled and flattened": (
        lambda p, x: pooled(jax.nn.relu(CONV(p["k"], x) + p["b"])).ravel() @ p["v"],
        IMAGE, array(4, 4, 1)),
    "a group norm": (
        lambda p, x: pooled(groups(CONV(p["k"], x)) * p["gain"] + p["b"]).ravel() @ p["v"],
        IMAGE, array(4, 4, 1)),
    "tokens": (
        lambda p, x: jnp.tanh(p["w"][x].mean(0)) @ p["v"], TWO, jnp.array([0, 3, 1])),
}  # fmt: skip

OTHERS = {
    "residual": lambda p, x: (x + jnp.tanh(x @ p["w"])) @ p["u"],
    "residual inside": lambda p, x: (x @ p["w"] + x @ p["w"] @ p["v"]) @ p["u"],
    "tied": lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"].T @ p["u"],
    "side by side": lambda p, x: (jnp.tanh(x @ p["w"]) * (x @ p["v"])) @ p["u"],
    "a scan": lambda p, x: lax.scan(
        lambda h, t: (jnp.tanh(h @ p["w"] + t @ p["v"]), None), x, jnp.ones((3, 4)))[0] @ p["u"],
    "a loop": lambda p, x: lax.fori_loop(0, 3, lambda _, h: jnp.tanh(h @ p["w"]), x) @ p["u"],
    "a branch": lambda p, x: lax.cond(
        x[0] > 0, lambda: x @ p["w"], lambda: x @ p["v"]) @ p["u"],
    "units mixed up": lambda p, x: jnp.sort(x @ p["w"])[:, None].T @ p["u"],
    "low rank": lambda p, x: x @ (p["w"] @ p["v"]) @ p["u"],
    "slices": lambda p, x: jnp.tanh(x @ p["w"][:, :2]) @ p["u"][:2],
    "a made matrix": lambda p, x: jax.scipy.linalg.expm(p["w"]) @ x @ p["u"],
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_chains(name):
    predict, params, x = CHAINS[name]
    found = network(predict, params, x)
    layers = layers_of(found)
    assert layers is not None
    assert len(layers) == 2
    for use in found.uses:
        assert use.sources is not None, use


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_chain(name):
    found = network(OTHERS[name], SQUARE, array(4))
    assert layers_of(found) is None
    out = jax.grad(lambda p: OTHERS[name](p, array(4)).sum())(SQUARE)
    used = {k for k, leaf in enumerate(jax.tree.leaves(out)) if np.any(np.asarray(leaf) != 0)}
    assert used <= {use.leaf for use in found.uses}
    assert found.output


def test_a_channel_is_found_again_after_flattening():
    predict, params, x = CHAINS["pooled and flattened"]
    use = network(predict, params, x).uses[-1]
    channel = np.arange(4)

    def logits(scale):  # of one channel, after pooling
        h = pooled(jax.nn.relu(CONV(params["k"], x) + params["b"])) * scale
        return h.ravel()

    moves = np.asarray(jax.jacobian(logits)(jnp.ones(4))) != 0  # [16, 4]
    np.testing.assert_array_equal(moves, use.sources == channel)


def test_biases_and_the_values_of_units():
    predict, params, x = CHAINS["plain"]
    found = network(predict, params, x, values=True).uses
    np.testing.assert_allclose(found[0].values, x)
    np.testing.assert_allclose(found[2].values, jnp.tanh(dense(params, x)), rtol=1e-6)
    assert [use.kind for use in found] == ["matrix", "beside", "matrix", "beside"]
    np.testing.assert_array_equal(found[1].sources, np.arange(6))
    assert found[1].source == ("use", 0)
    scalar = network(lambda p, x: p["g"] * (x @ p["w"]), {"g": 2.0, "w": array(3, 2)}, array(3))
    assert scalar.uses[1].sources is None  # it stands at both units


@pytest.mark.parametrize("library", ["linen", "nnx", "equinox", "haiku"])
def test_the_same_layers_from_every_library(library):
    try:
        loss, params, batch = build(f"{library} mlp", "float32")
    except ImportError as error:
        pytest.skip(str(error))
    kept, join = differentiable(params, "test")
    example = jax.tree.map(lambda a: a[0], batch)
    found = network(lambda p, e: loss(join(p), e), kept, example)
    layers = layers_of(found)
    shapes = [found.uses[k].source_shape + found.uses[k].shape for k in layers]
    sizes = [n for n, _ in shapes] + [shapes[-1][1]]
    assert (sizes[0], sizes[-1], len(layers)) == (12, 5, 3)
    assert all(shapes[k][1] == shapes[k + 1][0] for k in range(2))
    assert [use.kind for use in found.uses] == ["matrix", "beside"] * 3


@pytest.mark.parametrize("name", CASES)
def test_the_models(name):
    """Perceptrons and convolutional nets are chains; recurrence, attention, residuals are none."""
    case = CASES[name]
    found = network(case.model.apply, parameters(case), example_input(case))
    layers = layers_of(found)
    assert (layers is not None) == name.startswith(("mlp", "convnet"))
    leaves = len(jax.tree.leaves(parameters(case)))
    assert {use.leaf for use in found.uses} == set(range(leaves))
    comes_round = any(r >= k for k, use in enumerate(found.uses) for r in use.reads)
    assert comes_round == name.startswith(("lstm", "transformer"))


def test_the_strongest_path_is_the_best_of_all(x64):
    rng = np.random.default_rng(1)
    shares = [rng.uniform(size=shape) for shape in ((3, 4), (4, 2), (2, 3))]
    paths = np.stack(np.meshgrid(*map(range, (3, 4, 2, 3)), indexing="ij"), -1).reshape(-1, 4)
    product = np.prod([s[paths[:, k], paths[:, k + 1]] for k, s in enumerate(shares)], 0)
    assert strongest_path(shares) == paths[product.argmax()].tolist()
    assert strongest_path([np.zeros((2, 2))]) is None
