"""Hessian-vector products against dense Hessians, by formula and by `jax.hessian`."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import quick

import funcbackprop as fb
from funcbackprop.curvature import hvp

# Two derivatives in float64, against a dense Hessian: the issue asks for 1e-10.
TOLERANCE = 1e-10


def example_loss(p, example):
    x, y = example
    hidden = jnp.tanh(p["w"] @ x + p["b"])
    return jnp.log1p(jnp.exp(-y * hidden.sum())) + 0.1 * jnp.sum(p["w"] ** 4)


def problem(n=7):
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(3, 2))), "b": jnp.asarray(rng.normal(size=3))}
    batch = jnp.asarray(rng.normal(size=(n, 2))), jnp.asarray(rng.choice([-1.0, 1.0], size=n))
    vector = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
    return params, batch, vector


def dense(loss, params, batch, vector, weights):
    """The Hessian of each example, written out, times the vector; then the weighted mean."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    v, _ = jax.flatten_util.ravel_pytree(vector)
    hessian = quick(jax.hessian(lambda f, e: loss(unravel(f), e)))
    total = 0
    for i in np.flatnonzero(np.asarray(weights) > 0):
        example = jax.tree.map(lambda x, i=i: np.asarray(x)[i], batch)
        total = total + weights[i] * (np.asarray(hessian(flat, example)) @ np.asarray(v))
    return unravel(jnp.asarray(total / np.sum(weights)))


@pytest.mark.core
@pytest.mark.parametrize("weighted", [False, True])
def test_dense_hessian(x64, weighted):
    params, batch, vector = problem()
    w = None
    if weighted:
        w = np.array([1.0, 0.5, 0.0, 2.0, 1.0, 0.0, 0.3])
        batch = (batch[0].at[2].set(jnp.nan), batch[1].at[5].set(jnp.inf))
    found = quick(lambda *x: hvp(example_loss, *x, weights=w))(params, batch, vector)
    expected = dense(example_loss, params, batch, vector, np.ones(7) if w is None else w)
    chex.assert_trees_all_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.core
@pytest.mark.parametrize("chunk", [1, 3, 4, 6])
@pytest.mark.parametrize("weighted", [False, True])
def test_chunks(x64, chunk, weighted):
    """Chunks without an example of positive weight, and a last one that is not full."""
    params, batch, vector = problem()
    w = np.array([0.0, 0.0, 0.0, 2.0, 1.0, 0.0, 0.3]) if weighted else None
    if weighted:
        batch = (batch[0].at[jnp.array([0, 1, 5])].set(jnp.nan), batch[1].at[2].set(jnp.inf))
    found = quick(lambda *x: hvp(example_loss, *x, weights=w, chunk_size=chunk))
    expected = dense(example_loss, params, batch, vector, np.ones(7) if w is None else w)
    found = found(params, batch, vector)
    chex.assert_trees_all_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_chunks_of_examples_with_keys(x64):
    batch = fb.attach_keys(jnp.arange(5.0), jax.random.key(1))
    loss = lambda w, e: jnp.sum(jax.random.normal(e[1], (2,)) * w**3) * e[0]  # noqa: E731
    call = lambda chunk: quick(  # noqa: E731
        lambda w, b: hvp(loss, w, b, w, weights=jnp.array([1.0, 0, 2, 1, 0]), chunk_size=chunk)
    )(jnp.array([1.0, 2.0]), batch)
    np.testing.assert_allclose(call(2), call(None), rtol=TOLERANCE)


def test_chunks_in_half_precision_are_added_in_single():
    """256 equal parts: bfloat16 would stop adding at 2^-8 of the sum."""
    loss = lambda w, x: jnp.sum(w**2) * x  # noqa: E731
    w = jnp.ones(2, jnp.bfloat16)
    found = hvp(loss, w, jnp.ones(1024, jnp.bfloat16), w, chunk_size=1)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(found), 2, rtol=1e-2)


def test_memory_of_chunks_does_not_grow():
    """A float32 weight of each example is kept, and no more."""
    loss = lambda w, x: jnp.sum(jnp.tanh(w @ x) ** 2)  # noqa: E731
    w = jnp.ones((32, 8))

    def temporaries(examples, chunk):
        call = quick(lambda w, x: hvp(loss, w, x, w, weights=x[:, 0], chunk_size=chunk))
        given = jax.ShapeDtypeStruct((examples, 8), jnp.float32)
        return call.lower(w, given).compile().memory_analysis().temp_size_in_bytes

    grown = lambda chunk: (temporaries(2010, chunk) - temporaries(510, chunk)) / 1500  # noqa: E731
    assert grown(64) <= 16
    assert grown(None) > 4 * 32


def test_linear_regression_by_formula(x64):
    x = np.random.default_rng(1).normal(size=(6, 4))
    v = np.arange(4.0)
    loss = lambda w, x: 0.5 * jnp.dot(w, x) ** 2  # noqa: E731
    found = quick(lambda *args: hvp(loss, *args))(jnp.ones(4), x, v)
    np.testing.assert_allclose(found, x.T @ (x @ v) / 6, rtol=TOLERANCE)


def test_several_vectors_by_vmap():
    loss = lambda w, x: jnp.sum(jnp.sin(w) * x)  # noqa: E731
    w, x = jnp.arange(3.0), jnp.ones((2, 3))
    found = quick(jax.vmap(lambda v: hvp(loss, w, x, v)))(jnp.eye(3))
    np.testing.assert_allclose(found, np.diag(-np.sin([0, 1, 2])), rtol=1e-5, atol=1e-6)


@jax.custom_vjp
def cube(x):
    return x**3


cube.defvjp(lambda x: (x**3, x), lambda x, g: (3 * x**2 * g,))


@jax.custom_vjp
def outer(x):
    return cube(x)


# Its forward pass calls another custom_vjp, which forward mode cannot pass.
outer.defvjp(lambda x: (cube(x), x), lambda x, g: (3 * x**2 * g,))


def test_a_custom_vjp_that_forbids_forward_mode(x64):
    w = {"a": jnp.array([2.0, -1.0]), "b": jnp.array([0.5])}
    v = {"a": jnp.array([1.0, 3.0]), "b": jnp.array([2.0])}
    loss = lambda w, x: jnp.sum(outer(w["a"])) * x * w["b"][0]  # noqa: E731
    gradient = jax.grad(lambda w: loss(w, 1.0))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(gradient, (w,), (v,))
    found = quick(lambda w, v: hvp(loss, w, jnp.array([1.0, 3.0]), v))(w, v)
    chunked = quick(lambda w, v: hvp(loss, w, jnp.array([1.0, 3.0]), v, chunk_size=1))(w, v)
    chex.assert_trees_all_close(chunked, found, rtol=TOLERANCE)
    a, b = np.array([2.0, -1.0]), 0.5
    x = 2.0
    expected_a = x * (6 * a * b * np.array([1, 3]) + 3 * a**2 * 2)
    expected_b = [x * (3 * a**2 * np.array([1, 3])).sum()]
    np.testing.assert_allclose(found["a"], expected_a, rtol=TOLERANCE)
    np.testing.assert_allclose(found["b"], expected_b, rtol=TOLERANCE)


def test_other_type_errors_pass():
    def loss(w, x):
        raise TypeError("of the user")

    with pytest.raises(TypeError, match="of the user"):
        hvp(loss, jnp.ones(2), jnp.ones(3), jnp.ones(2))


def test_leaves_that_are_not_differentiated():
    params = {"w": jnp.ones(2), "steps": jnp.int32(3), "key": jax.random.key(0)}
    loss = lambda p, x: p["steps"] * jnp.sum(p["w"] ** 2) * x / 2  # noqa: E731
    for rest in ({"steps": None, "key": None}, {"steps": jnp.int32(7), "key": jax.random.key(1)}):
        found = hvp(loss, params, jnp.ones(4), {"w": jnp.array([1.0, 2.0]), **rest})
        assert found["steps"] is None
        np.testing.assert_allclose(found["w"], [3, 6], rtol=1e-6)


def test_complex_parameters(x64):
    """The derivative of JAX's gradient along v, by differences; by both modes."""
    w, v, x = jnp.array([1 + 2j, 3 - 1j]), jnp.array([1j, 2.0 + 0j]), jnp.ones(1)
    for f in (lambda z: z**3, outer):
        loss = lambda w, x, f=f: jnp.sum(jnp.abs(f(w)) ** 2) * x  # noqa: E731
        gradient = quick(jax.grad(lambda w, loss=loss: loss(w, 1.0)))
        h = 1e-5
        expected = (gradient(w + h * v) - gradient(w - h * v)) / (2 * h)
        found = quick(lambda *args, loss=loss: hvp(loss, *args))(w, x, v)
        np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_all_weights_zero_is_nan():
    loss = lambda w, x: jnp.sum(w**2) * x  # noqa: E731
    found = hvp(loss, jnp.ones(2), jnp.ones(3), jnp.ones(2), weights=jnp.zeros(3))
    assert np.isnan(found).all()


ERRORS = {
    "shape": (jnp.ones(3), r"`vector` must have the structure(.|\n)*expected \(2,\), got \(3,\)"),
    "several": (jnp.ones((4, 2)), r"got \(4, 2\)(.|\n)*For several vectors use jax.vmap"),
    "structure": ({"w": jnp.ones(2)}, r"`hvp`: `vector`(.|\n)*no such leaf"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    vector, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        hvp(lambda w, x: jnp.sum(w) * x, jnp.ones(2), jnp.ones(3), vector)


@pytest.mark.parametrize("size", [0, 2.0, True])
def test_the_size_of_a_chunk_is_a_count(size):
    with pytest.raises(ValueError, match="`hvp`: `chunk_size` expected an integer of at least 1"):
        hvp(lambda w, x: jnp.sum(w) * x, jnp.ones(2), jnp.ones(3), jnp.ones(2), chunk_size=size)


def test_a_loss_of_a_batch_is_refused():
    with pytest.raises(ValueError, match="`hvp`: the loss of one example must be a real"):
        hvp(lambda w, x: w * x, jnp.ones(2), jnp.ones(3), jnp.ones(2))
