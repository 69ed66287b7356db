"""The contract: adapters, keys and problems."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcbackprop as fb
from funcbackprop.contract import layer_groups
from funcbackprop.usage import initial_params


def test_example_loss_with_a_key():
    def apply(params, x, key=None):
        return params * x + (0.0 if key is None else jax.random.normal(key))

    quiet = fb.example_loss(apply, fb.losses.squared_error)
    noisy = fb.example_loss(apply, fb.losses.squared_error, rng=True)
    x, y = jnp.float32(2), jnp.float32(6)
    assert float(quiet(3.0, (x, y))) == 0.0
    expected = 0.5 * jax.random.normal(jax.random.key(1)) ** 2
    got = noisy(3.0, ((x, y), jax.random.key(1)))
    assert float(got) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.core
def test_one_example_under_vmap_is_the_batch_loss():
    def batch_loss(w, batch):
        return jnp.mean((batch["x"] @ w - batch["y"]) ** 2)

    batch = {"x": jnp.arange(6.0).reshape(3, 2), "y": jnp.ones(3)}
    w = jnp.array([1.0, -1.0])
    singles = jax.vmap(fb.one_example(batch_loss), (None, 0))(w, batch)
    assert float(singles.mean()) == pytest.approx(float(batch_loss(w, batch)))


def test_one_example_refuses_a_loss_that_combines_examples():
    loss = fb.one_example(lambda w, x: jax.lax.pmean(jnp.mean(x @ w), "batch"))
    with pytest.raises(ValueError, match=r"combines examples across an axis .*batch"):
        loss(jnp.ones(2), jnp.ones(2))


class TestVariants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_device=True)
    def test_one_example_and_attach_keys(self):
        loss = fb.one_example(lambda w, x: jnp.mean(x @ w))
        value = self.variant(loss)(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))
        assert float(value) == 11.0
        _, keys = self.variant(fb.attach_keys)(jnp.zeros((3, 2)), jax.random.key(0))
        chex.assert_shape(keys, (3,))


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey], ids=["typed", "raw"])
def test_attach_keys_gives_every_example_its_own(make):
    batch, keys = fb.attach_keys({"x": jnp.zeros((5, 2))}, make(0))
    chex.assert_shape(batch["x"], (5, 2))
    draws = jax.vmap(jax.random.uniform)(keys)
    assert len(set(draws.tolist())) == 5


PROBLEM = {"loss": lambda p, x: p * x, "params": 1.0, "data": jnp.ones(3), "name": "line"}
PROBLEM_ERRORS = {
    "loss": ({"loss": None}, TypeError, "`loss` must be callable, got NoneType"),
    "name": ({"name": ""}, ValueError, "`name` must be a non-empty string"),
    "optimizer": ({"optimizer": "adam"}, TypeError, "must be an optax transformation"),
    "metrics": ({"metrics": [len]}, TypeError, "`metrics` must map names to functions"),
    "reference": ({"reference": 3}, TypeError, "`reference` must be callable, got int"),
    "weights": (
        {"data": lambda seed, epoch, step: jnp.ones(3), "weights": np.ones(3)},
        ValueError,
        "`weights` belong to the examples of arrays, but `data` is a function",
    ),
}


@pytest.mark.parametrize("name", PROBLEM_ERRORS)
def test_problem_errors(name):
    change, kind, message = PROBLEM_ERRORS[name]
    with pytest.raises(kind, match=message):
        fb.Problem(**{**PROBLEM, **change})


def test_problem_is_frozen_and_takes_options_by_name():
    problem = fb.Problem(*PROBLEM.values(), optimizer=optax.sgd(0.1))
    assert problem.rng is False
    with pytest.raises(AttributeError):
        problem.name = "other"
    with pytest.raises(TypeError):
        fb.Problem(*PROBLEM.values(), jnp.ones(3))


@jax.tree_util.register_pytree_node_class
class CallableModel:
    def __init__(self, w):
        self.w = w

    def __call__(self, x):
        return self.w * x

    def tree_flatten(self):
        return (self.w,), None

    @classmethod
    def tree_unflatten(cls, aux, leaves):
        return cls(*leaves)


def test_params_that_can_be_called_are_no_function_of_a_key():
    fixed = fb.Problem(lambda m, x: m(x), CallableModel(jnp.ones(())), jnp.ones(3), "fixed")
    drawn = fb.Problem(lambda m, x: m(x), CallableModel, jnp.ones(3), "drawn")
    assert (fixed.draws_params, drawn.draws_params) == (False, True)
    assert initial_params(fixed, 0) is fixed.params


def test_a_single_array_is_one_layer():
    assert layer_groups(jnp.zeros(3)) == {"params": [""]}


def test_a_variable_of_flax_nnx_is_no_layer():
    """Its path ends in `.value`; the layer is what holds kernel and bias."""
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(2, 3, rngs=rngs)
            self.second = nnx.Linear(3, 1, rngs=rngs)

    params = nnx.split(Model(nnx.Rngs(0)))[1]
    groups = layer_groups(params)
    assert list(groups) == ["first", "second"]
    assert sum(len(paths) for paths in groups.values()) == 4
