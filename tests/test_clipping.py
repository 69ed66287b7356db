"""`ClippedMean` against a loop over examples, and against the clipped gradient of JAX Privacy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import LOSSES, Case, batch, parameters
from tolerances import assert_agree

import funcbackprop as fb

CASES = {
    "mlp": Case(fb.models.mlp((12, 16, 8, 5)), (12,), "cross_entropy", batch=7),
    "transformer": Case(
        fb.models.transformer(11, 8, 8, depth=2, heads=2), (6,), "next_token", batch=6
    ),
}
# Norms to clip to, as quantiles of the norms of the examples; beyond 0 and 1: all, and none.
QUANTILES = (-1, 0.3, 0.5, 2)


# The programs run a few times only.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def problem(name):
    case = CASES[name]
    loss = fb.example_loss(case.model.apply, LOSSES[case.loss])
    return loss, parameters(case), jax.tree.map(jnp.asarray, batch(case))


def one_by_one(loss, params, batch):
    """Lists of the leaves of g_i, in float64."""
    gradient = compiled(jax.grad(loss))
    count = len(jax.tree.leaves(batch)[0])
    examples = (jax.tree.map(lambda x, i=i: x[i], batch) for i in range(count))
    return [
        [np.asarray(g, np.float64) for g in jax.tree.leaves(gradient(params, example))]
        for example in examples
    ]


def norm(gradient):
    return np.sqrt(sum(np.sum(g**2) for g in gradient))


def clipped_mean(gradients, max_norm, weights):
    mean = [np.zeros_like(g) for g in gradients[0]]
    for gradient, weight in zip(gradients, weights, strict=True):
        if weight > 0:
            length = norm(gradient)
            factor = min(1.0, max_norm / length) if length > 0 else 1.0
            mean = [
                m + weight / weights.sum() * factor * g for m, g in zip(mean, gradient, strict=True)
            ]
    return mean


def norm_at(gradients, quantile):
    norms = [norm(g) for g in gradients]
    if quantile < 0:
        return 1e-3 * min(norms)
    return 10 * max(norms) if quantile > 1 else float(np.quantile(norms, quantile))


@pytest.mark.parametrize("method", ["factored", "materialize"])
@pytest.mark.parametrize("name", CASES)
def test_loop_over_examples(name, method):
    loss, params, given = problem(name)
    gradients = one_by_one(loss, params, given)
    count = len(gradients)

    @compiled
    def measured(max_norm, weights):
        measure = fb.gradient_statistics(loss, fb.ClippedMean(max_norm), method=method)
        return measure(params, given, weights)[1]

    for weights in (np.ones(count), np.resize([1.0, 0.0, 2.5], count)):
        for quantile in QUANTILES:
            max_norm = norm_at(gradients, quantile)
            got = jax.tree.leaves(measured(max_norm, jnp.asarray(weights, jnp.float32)))
            expected = clipped_mean(gradients, max_norm, weights)
            size = min(max_norm, max(np.abs(g).max() for one in gradients for g in one))
            for a, b in zip(got, expected, strict=True):
                assert_agree(a, b, "float32", size, f"{name}, {quantile}")


def test_a_gradient_of_zero_is_left_as_it_is():
    _, clipped = fb.gradient_statistics(lambda w, x: w * x, fb.ClippedMean(1))(
        jnp.float32(1), jnp.array([0.0, 0.0, 5.0])
    )
    assert float(clipped) == pytest.approx(1 / 3)


def test_the_norm_is_over_all_parameters():
    """g_i = (3 x, 4 x): for x = 1 the norm is 5, and no leaf alone is that long."""
    loss = lambda p, x: 3 * p["a"] * x + 4 * p["b"] * x  # noqa: E731
    _, clipped = fb.gradient_statistics(loss, fb.ClippedMean(4.5))(
        {"a": jnp.float32(1), "b": jnp.float32(1)}, jnp.ones(2)
    )
    assert float(clipped["a"]) == pytest.approx(3 * 4.5 / 5)
    assert float(clipped["b"]) == pytest.approx(4 * 4.5 / 5)


# JAX Privacy 2.0 calls a function that Optax renamed.
@pytest.mark.filterwarnings("ignore:optax.global_norm is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_clipped_gradient_of_jax_privacy(name):
    clipping = pytest.importorskip("jax_privacy.clipping", exc_type=ImportError)
    loss, params, given = problem(name)
    gradients = one_by_one(loss, params, given)
    count, max_norm = len(gradients), norm_at(gradients, 0.5)
    padding = np.arange(count) == 2

    theirs = clipping.clipped_grad(
        loss, l2_clip_norm=max_norm, keep_batch_dim=False, normalize_by=count
    )
    measure = compiled(fb.gradient_statistics(loss, fb.ClippedMean(max_norm)))
    size = max(np.abs(g).max() for one in gradients for g in one)
    for kept, options in (
        (np.ones(count), {}),
        (1.0 - padding, {"is_padding_example": jnp.asarray(padding)}),
    ):
        with jax.numpy_rank_promotion("allow"):
            expected = compiled(theirs)(params, given, **options)
        _, got = measure(params, given, jnp.asarray(kept, jnp.float32))
        for a, b in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
            # Their divisor is B, ours is the total weight.
            assert_agree(a, b * (count / kept.sum()), "float32", size, name)
