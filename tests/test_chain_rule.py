"""The general reference: its interface, whole programs, and what it does not use."""

import threading

import cases
import jax
import jax.numpy as jnp
import model_cases
import numpy as np
import pytest
from tolerances import assert_agree

import funcbackprop as fb
from funcbackprop.graph import UnsupportedPrimitive
from funcbackprop.reference import layerwise, value_and_grad, vjp

pytestmark = pytest.mark.core

W, (X, *_) = np.random.default_rng(0).normal(size=(2, 4, 4))


def network(w, x):
    """Scan, cond, remat, embedding, convolution, sort and a custom rule in one function."""

    @jax.custom_jvp
    def swish(z):
        return z * jax.nn.sigmoid(z)

    swish.defjvp(lambda p, t: (swish(*p), t[0] * 100.0))  # wrong, and never used

    def body(carry, t):
        return swish(jnp.tanh(carry @ w) + t), jnp.max(carry)

    last, largest = jax.lax.scan(jax.checkpoint(body), x, w[:3])
    picked = last[jnp.array([1, 1, 3])]
    image = jnp.convolve(jnp.sort(picked.ravel()), w[0])
    return jax.lax.cond(x[0] > 0, jnp.sum, lambda z: jnp.mean(z**2), image) + jnp.sum(largest)


def true_network(w, x):
    """`network` without the custom rule."""
    wrong, jax.custom_jvp = jax.custom_jvp, lambda f: _plain(f)
    try:
        return network(w, x)
    finally:
        jax.custom_jvp = wrong


def _plain(f):
    f.defjvp = lambda rule: None
    return f


def poison(monkeypatch):
    """Every derivative rule of JAX raises from now on."""
    from jax._src.interpreters import ad

    def raises(*args, **kwargs):
        raise AssertionError("a derivative rule of JAX was used")

    tables = [value for value in vars(ad).values() if isinstance(value, dict)]
    tables = [t for t in tables if t and all(hasattr(key, "bind") for key in t)]
    assert len(tables) >= 2
    for table in tables:
        for primitive in list(table):
            monkeypatch.setitem(table, primitive, raises)
    for name in ("jvp", "linearize", "linear_jaxpr", "backward_pass", "backward_pass3"):
        if hasattr(ad, name):
            monkeypatch.setattr(ad, name, raises)


def test_the_backward_pass_uses_no_rule_of_jax(x64, monkeypatch):
    value, grads = jax.value_and_grad(true_network, (0, 1))(W, X)
    got, pullback = vjp(network, W, X)
    poison(monkeypatch)
    with pytest.raises(AssertionError, match="rule of JAX was used"):
        jax.grad(lambda x: jnp.sin(x) * x)(0.5)
    dw, dx = pullback(1.0)
    assert_agree(got, value, np.float64)
    assert_agree(dw, grads[0], np.float64)
    assert_agree(dx, grads[1], np.float64)


def test_neither_does_the_forward_pass(x64, monkeypatch):
    _, expected = vjp(network, W, X)
    poison(monkeypatch)
    jax.clear_caches()
    _, pullback = vjp(network, W, X)
    for a, b in zip(pullback(1.0), expected(1.0), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_global_flag_is_not_touched():
    seen = []
    stop = threading.Event()

    def watch():
        while not stop.is_set():
            seen.append(jnp.asarray(1.5).dtype)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        (y, pullback) = vjp(network, np.float32(W), np.float32(X))
        gradients = pullback(1.0)
    finally:
        stop.set()
        watcher.join()
    assert set(seen) == {jnp.dtype("float32")}
    assert not jax.config.jax_enable_x64
    assert {np.asarray(a).dtype for a in (y, *gradients)} == {np.dtype(float)}


def test_a_wrong_custom_rule_shows():
    @jax.custom_vjp
    def cube(x):
        return x**3

    cube.defvjp(lambda x: (x**3, x), lambda x, dy: (2 * x * dy,))
    _, pullback = vjp(lambda x: jnp.sum(cube(x)), np.float32([1.0, 2.0]))
    np.testing.assert_allclose(pullback(1.0)[0], [3.0, 12.0], rtol=1e-15)


def test_random_numbers_are_those_of_the_program(key):
    def loss(w, key):
        keys = jax.random.split(key)
        mask = jax.random.bernoulli(keys[0], 0.5, w.shape)
        return jnp.sum(jnp.where(mask, w, 0.0) ** 2 * jax.random.normal(keys[1], w.shape))

    w = np.arange(8, dtype=np.float32)
    value, pullback = vjp(loss, w, key)
    assert_agree(value, loss(w, key), np.float32)
    gradient, of_key = pullback(1.0)
    assert_agree(gradient, jax.grad(loss)(w, key), np.float32)
    assert of_key.dtype == jax.dtypes.float0


def test_a_carry_of_explicit_dtype():
    def loss(w):
        def body(carry, x):
            return (carry + jnp.float32(1) * jnp.sin(w) * x).astype(jnp.float32), None

        return jax.lax.scan(body, jnp.zeros((), jnp.float32), jnp.arange(3, dtype=jnp.bfloat16))[0]

    value, pullback = vjp(loss, np.float32(0.5))
    assert_agree(value, 3 * np.sin(0.5), np.float64)
    assert_agree(pullback(1.0)[0], 3 * np.cos(0.5), np.float64)


def test_what_is_computed_from_integers_is_computed_in_float64():
    def f(x):
        return jnp.sum(x * jnp.sqrt(jnp.arange(1, 4, dtype=jnp.float32)))

    value, pullback = vjp(f, np.ones(3, np.float32))
    assert_agree(value, np.sqrt([1, 2, 3]).sum(), np.float64)
    assert_agree(pullback(1.0)[0], np.sqrt([1, 2, 3]), np.float64)


def test_a_decision_on_what_was_rounded():
    """In the program x rounds to 1, and that decides; in float64 nothing is rounded."""

    def f(x):
        rounded = jax.lax.reduce_precision(x, 8, 3)
        return jnp.where(rounded == 1, 2 * rounded, 3 * x)

    value, pullback = vjp(f, np.float32(1.01))
    assert pullback(1.0) == (jax.grad(f)(np.float32(1.01)),) == (2.0,)
    assert value == 2 * float(np.float32(1.01))
    assert [d.primitive for d in pullback.decisions] == ["eq"]


def test_bits_are_those_of_the_program():
    def f(x):
        odd = jax.lax.bitcast_convert_type(2 * x, jnp.int32) & 1
        return jnp.sum(jnp.where(odd == 0, x, 3 * x))

    x = np.nextafter(np.float32([1.0, 1.0, 2.0]), np.float32([1.0, 2.0, 3.0]))
    _, pullback = vjp(f, x)
    np.testing.assert_array_equal(pullback(1.0)[0], jax.grad(f)(x))


def test_decisions_that_float64_would_take_otherwise_are_listed():
    def loss(x):
        def body(carry, t):
            # In float32, 1e8 + 1 - 1e8 is 0.
            return jnp.where((x + 1e8) - 1e8 > 0.5 * t, 2 * x, 3 * x) + 0 * carry, None

        return jax.lax.scan(body, x, jnp.array([1.0, -1.0]))[0]

    _, pullback = vjp(loss, np.float32(1.0))
    assert pullback(1.0)[0] == 2.0
    _, pullback = vjp(lambda x: loss(x) + jnp.maximum((x + 1e8) - 1e8, 0.5), np.float32(1.0))
    assert [(d.primitive, d.where, d.differing, d.total) for d in pullback.decisions] == [
        ("gt", (("scan", 0),), 1, 1),
        ("max", (), 1, 1),
    ]
    # The program's own decisions: the first branch is not taken, 0.5 is the larger.
    assert pullback(1.0)[0] == 2.0
    assert "test_chain_rule.py" in str(pullback.decisions[0])
    assert "scan iteration 0: 1 of 1 would be decided otherwise" in str(pullback.decisions[0])


def test_a_float64_program_has_no_such_decisions(x64):
    _, pullback = vjp(network, W, X)
    assert pullback.decisions == ()


def test_pullback_is_linear_and_can_be_called_again():
    _, pullback = vjp(lambda w: (jnp.sin(w), {"a": w * w}, jnp.argmax(w)), np.float32([1.0, 2.0]))
    one = pullback((np.ones(2), {"a": np.zeros(2)}, 0))[0]
    other = pullback((np.zeros(2), {"a": np.ones(2)}, 0))[0]
    both = pullback((2 * np.ones(2), {"a": 3 * np.ones(2)}, 0))[0]
    np.testing.assert_allclose(one, np.cos([1.0, 2.0]), rtol=1e-15)
    np.testing.assert_allclose(both, 2 * one + 3 * other, rtol=1e-15)


def test_one_value_in_several_outputs():
    _, pullback = vjp(lambda w: (w, w, jnp.float32(3)), np.float32(2.0))
    assert pullback((1.0, 10.0, 5.0)) == (11.0,)


def test_unused_and_empty_inputs():
    _, pullback = vjp(lambda p: jnp.sum(p["a"]) * 2, {"a": np.zeros((0, 2)), "b": np.ones(3)})
    gradient = pullback(1.0)[0]
    assert gradient["a"].shape == (0, 2)
    assert not gradient["b"].any()


@pytest.mark.parametrize("name", cases.CASES)
def test_whole_losses_agree_with_jax(name, x64):
    loss, params, batch = cases.build(name, np.float64)
    weights = (
        np.linspace(0.0, 1.0, len(jax.tree.leaves(batch)[0])) if name != "batch of 1" else None
    )
    losses, _, want = fb.per_example.mean_gradient(loss)(params, batch, weights)
    found = value_and_grad(loss).details(params, batch, weights)
    assert_agree(found.value, np.average(losses, weights=weights), np.float64)
    within_bounds(found, want)


@pytest.mark.parametrize("name", cases.CASES)
def test_rounding_of_float32_stays_within_its_bound(name):
    loss, params, batch = cases.build(name, np.float32)
    _, _, got = jax.jit(fb.per_example.mean_gradient(loss))(params, batch)
    within_bounds(value_and_grad(loss).details(params, batch), got)


def within_bounds(found, got):
    """Each element of JAX's gradient lies within seven standard deviations of the rounding."""
    trees = found.grads, got, found.deviations
    for name, a, b, s in zip(
        fb.contract.leaf_names(got), *map(jax.tree.leaves, trees), strict=True
    ):
        assert np.asarray(a).dtype == np.result_type(np.asarray(b).dtype, float), name
        assert np.all(np.abs(a - np.asarray(b)) <= 7 * s + 1e-37), name


def test_a_batch_is_the_mean_over_its_examples(x64):
    for name in ("tied embedding", "cond on the example", "recurrent"):
        loss, params, batch = cases.build(name, np.float64)
        value, grads = value_and_grad(loss)(params, batch)
        values, singles = [], []
        for i in range(len(jax.tree.leaves(batch)[0])):
            example = jax.tree.map(lambda x, i=i: x[i], batch)
            y, pullback = vjp(loss, params, example)
            values.append(y)
            singles.append(pullback(1.0)[0])
        assert_agree(value, np.mean(values), np.float64)
        for a, *b in zip(jax.tree.leaves(grads), *map(jax.tree.leaves, singles), strict=True):
            assert_agree(a, np.mean(b, 0), np.float64)


@pytest.mark.parametrize("name", model_cases.each_case())
def test_agrees_with_the_textbook(name, x64):
    case = model_cases.CASES[name]
    loss = model_cases.LOSSES[case.loss]
    params, batch = model_cases.parameters(case), model_cases.batch(case)
    value, want, sizes = layerwise.value_and_grad(case.model, loss).with_sizes(params, batch)
    got = value_and_grad(fb.example_loss(case.model.apply, loss))(params, batch)
    assert_agree(got[0], value, np.float64)
    for a, b, m in zip(*map(jax.tree.leaves, (got[1], want, sizes)), strict=True):
        assert_agree(a, b, np.float64, m)


@pytest.mark.parametrize("name", model_cases.each_case(model_cases.CORE))
def test_of_a_float32_model_agrees_with_the_textbook(name):
    """The same numbers to float64, although the program is float32: nothing is rounded."""
    case = model_cases.CASES[name]
    loss = model_cases.LOSSES[case.loss]
    params, batch = model_cases.parameters(case), model_cases.batch(case)
    _, want, sizes = layerwise.value_and_grad(case.model, loss).with_sizes(params, batch)
    _, got = value_and_grad(fb.example_loss(case.model.apply, loss))(params, batch)
    for a, b, m in zip(*map(jax.tree.leaves, (got, want, sizes)), strict=True):
        # The float32 program holds its constants (1e-5, sqrt(2 / pi)) in float32.
        assert_agree(a, b, np.float32, 0.1 * m)


def squared(w, x):
    return jnp.sum((w - x) ** 2), {"x": x}


def test_auxiliary_output_and_weights():
    w, x = np.float32([1.0, 2.0]), np.float32([[0.0, 1.0], [np.nan, 0.0], [3.0, 3.0]])
    weights = np.array([1.0, 0.0, 3.0])
    (value, aux), grad = value_and_grad(squared, has_aux=True)(w, x, weights)
    assert value == (2 + 3 * 5) / 4
    np.testing.assert_array_equal(grad, [(2 - 12) / 4, (2 - 6) / 4])
    np.testing.assert_array_equal(aux["x"], x[[0, 2]])


def test_random_keys_as_auxiliary_output(key):
    def loss(w, key):
        return jnp.sum(w * jax.random.normal(key, w.shape)), key

    keys = jax.random.split(key, 3)
    (_, aux), _ = value_and_grad(loss, has_aux=True)(np.ones(2, np.float32), keys)
    np.testing.assert_array_equal(jax.random.key_data(aux), jax.random.key_data(keys))


def test_errors():
    w, x = np.ones(2, np.float32), np.ones((3, 2), np.float32)
    f = value_and_grad(lambda w, x: jnp.sum(w * x))
    with pytest.raises(TypeError, match="`loss` must be callable, got int"):
        value_and_grad(3)
    with pytest.raises(ValueError, match=r"`weights` must have shape \(3,\)"):
        f(w, x, np.ones(2))
    with pytest.raises(ValueError, match="all `weights` are 0"):
        f(w, x, np.zeros(3))
    with pytest.raises(TypeError, match=r"floating-point parameters, got\n.*int32\[2\]"):
        f(np.ones(2, np.int32), x)
    with pytest.raises(ValueError, match="`batch` needs one leading axis"):
        f(w, (x, np.float32(1)))
    with pytest.raises(ValueError, match="must be a real floating-point scalar"):
        value_and_grad(lambda w, x: w * x)(w, x)
    _, pullback = vjp(lambda w: {"y": w * w}, w)
    with pytest.raises(ValueError, match=r"structure of the outputs, PyTreeDef\(\{'y': \*\}\)"):
        pullback(np.ones(2))
    with pytest.raises(ValueError, match=r"shapes of the outputs, \[\(2,\)\], got \[\(3,\)\]"):
        pullback({"y": np.ones(3)})


def test_a_primitive_without_a_rule():
    from jax.extend.core import Primitive
    from jax.interpreters import batching

    strange = Primitive("strange")
    strange.def_impl(lambda x: x)
    strange.def_abstract_eval(lambda x: x)
    batching.defvectorized(strange)
    with pytest.raises(UnsupportedPrimitive, match=r"`strange` at .*test_chain_rule.py:\d+.*Cover"):
        vjp(lambda x: strange.bind(x) * 2, np.ones(2, np.float32))


def through_a_callback(w, x):
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    y = jax.pure_callback(lambda z: np.asarray(z) * 2, shape, w["a"] * x, vmap_method="sequential")
    return jnp.sum(y) + jnp.sum(w["b"] ** 2 * x)


def test_a_callback_is_reported_and_not_passed_over():
    w = {"a": np.float32(1), "b": np.float32(3)}
    x = np.ones((2, 2), np.float32)
    found = value_and_grad(through_a_callback).details(w, x)
    assert list(found.unaudited) == ["params['a']"]
    assert "pure_callback at" in found.unaudited["params['a']"][0]
    assert found.value == 2 * 2 + 2 * 9
    assert found.grads["b"] == 12
    with pytest.raises(UnsupportedPrimitive, match=r"params\['a'\]: pure_callback at .*test_chain"):
        value_and_grad(through_a_callback)(w, x)
    with pytest.raises(UnsupportedPrimitive, match="the gradient passes what the reference cannot"):
        vjp(through_a_callback, w, x[0])[1](1.0)


def test_terms_that_cancel_bound_the_rounding():
    """Terms of size 1 that cancel: the gradient is near 0, its rounding is not."""
    case = model_cases.CASES["transformer"]
    loss = fb.example_loss(case.model.apply, model_cases.LOSSES[case.loss])
    params, batch = model_cases.parameters(case), model_cases.batch(case)
    found = value_and_grad(loss).details(params, batch)
    bias, s = (t["blocks"]["attention"]["k"]["b"] for t in (found.grads, found.deviations))
    assert np.abs(bias).max() < 1e-7 * s.min()
    for a, s in zip(jax.tree.leaves(found.grads), jax.tree.leaves(found.deviations), strict=True):
        assert 1e-9 < np.max(s) < 1e-5 * max(1, np.abs(a).max())


def test_cancellation_in_the_loss_reaches_every_bound():
    """softmax - onehot near the optimum: rounding grows against the gradient."""
    w1, w2 = np.float32([[1.0]]), np.float32([[1.0, 0.0]])

    def loss(p, x):
        logits = (x @ p[0]) @ p[1]
        return -jax.nn.log_softmax(logits)[0]

    ratios = []
    for gap in (1.0, 10.0, 15.0):
        found = value_and_grad(loss).details((w1, gap * w2), np.ones((1, 1), np.float32))
        ratios.append((found.deviations[0] / np.abs(found.grads[0])).item())
    assert ratios[0] < 30 * 2.0**-24
    assert 0.1 < ratios[1] / (2.0**-24 * np.exp(10)) < 10
    assert 0.1 < ratios[2] / (2.0**-24 * np.exp(15)) < 10


def test_bounds_know_the_precision_of_products():
    """bfloat16 operands: the bound grows by the ratio of the units, and no more."""

    def loss(p, x):
        return jnp.sum(jnp.tanh(jnp.matmul(x, p)) ** 2)

    p, x = (np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32) for _ in range(2))
    largest = []
    for precision in ("float32", "tensorfloat32", "bfloat16"):
        with jax.default_matmul_precision(precision):
            largest.append(np.max(value_and_grad(loss).details(p, x[None]).deviations))
    assert largest[0] < 1e-5
    assert 2.0**-11 / 4 < largest[1] < 100 * 2.0**-11
    assert 4 < largest[2] / largest[1] < 16


def test_a_float64_program_is_bounded_by_its_float32_shadow(x64):
    """sin(1e8 w): the derivative loses eight digits, in float64 too."""
    found = value_and_grad(lambda w, x: jnp.sin(w * x)).details(
        np.float64(1.2345678), np.array([1e8])
    )
    relative = found.deviations / np.abs(found.grads)
    assert 1e-10 < relative < 1e-7
