"""Models by Flax NNX, Flax Linen, Equinox and Haiku: factored statistics equal their definition.

`python tests/library_table.py` prints what is found for each.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcbackprop as fb
from tests.libraries import MODELS, build
from tests.libraries.compare import compare, statistics

# One model of each library in every run; the others with `-m full`.
EVERY_RUN = ("nnx transformer", "linen convolutional", "equinox convolutional", "haiku recurrent")
SOME = [
    name if name.startswith(EVERY_RUN) else pytest.param(name, marks=pytest.mark.full)
    for name in MODELS
]
WITH_PADDING = (
    "nnx convolutional",
    "linen mlp",
    "equinox convolutional",
    "haiku recurrent",
)
WEIGHTS = np.array([1.0, 0.0, 2.0, 0.5, 0.0, 3.0])


@pytest.fixture(autouse=True)
def as_the_libraries_want_it():
    """They add arrays of different rank."""
    with jax.numpy_rank_promotion("allow"):
        yield


def built(name, dtype):
    try:
        return build(name, dtype)
    except ImportError as error:
        pytest.skip(str(error))


def check(name, dtype, **options):
    error, where = compare(built(name, dtype), dtype, **options).largest
    assert error <= 1, f"{name}, {where}: {error:.2g} times the tolerance"


@pytest.mark.parametrize("name", SOME)
def test_factored_equals_the_definition_float32(name):
    check(name, "float32")


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith(EVERY_RUN)])
def test_factored_equals_the_definition_float64(x64, name):
    check(name, "float64")


@pytest.mark.full
@pytest.mark.parametrize("name", ["nnx mlp", "haiku mlp"])
def test_without_jit(name):
    check(name, "float32", jit=False)


@pytest.mark.parametrize("name", WITH_PADDING)
def test_weights_and_padding(name):
    """Padding of NaN (of token 0, where examples are tokens) changes nothing."""
    model = built(name, "float32")
    padding = WEIGHTS == 0

    def poisoned(x):
        return x.at[padding].set(np.nan if x.dtype.kind == "f" else 0)

    padded = jax.tree.map(poisoned, model[2])
    error, where = compare(model, "float32", WEIGHTS, padded).largest
    assert error <= 1, f"{name}, {where}: {error:.2g} times the tolerance"


@pytest.mark.parametrize("name", MODELS)
def test_every_leaf_has_a_form(name):
    loss, params, batch = built(name, "float32")
    batch = jax.tree.map(lambda x: jnp.concatenate([x] * 4), batch)
    plan = fb.plan(loss, statistics(1.0))(params, batch)
    assert not plan.fallbacks, plan
    assert len(plan.leaves) == len(jax.tree.leaves(params))
    assert plan.written <= 0.05 * plan.examples * plan.parameters * 4
