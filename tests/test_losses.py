"""The losses of one example: values, gradients, padding and errors."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcbackprop import losses

LOGITS = jnp.array([1.0, -2.0, 0.5])


@pytest.mark.core
def test_gradients_have_their_closed_forms():
    p = jax.nn.softmax(LOGITS)
    chex.assert_trees_all_close(
        jax.grad(losses.cross_entropy)(LOGITS, 2), p - jnp.array([0.0, 0, 1]), rtol=1e-5
    )
    target = jnp.array([0.0, 1.0, 0.3])
    chex.assert_trees_all_close(
        jax.grad(losses.squared_error)(LOGITS, target), LOGITS - target, rtol=1e-6
    )
    chex.assert_trees_all_close(
        jax.grad(losses.binary_cross_entropy)(LOGITS, target),
        jax.nn.sigmoid(LOGITS) - target,
        rtol=1e-5,
    )


def test_scalars_and_integer_labels():
    assert losses.squared_error(3.0, 1.0) == 2.0
    assert losses.binary_cross_entropy(0.0, 1) == pytest.approx(np.log(2))
    assert losses.binary_cross_entropy(jnp.array(100.0), jnp.array(1)) == 0.0
    assert losses.binary_cross_entropy(jnp.array(-100.0), True) == 100.0


def test_a_sum_over_independent_labels():
    each = [losses.binary_cross_entropy(z, y) for z, y in zip(LOGITS, (0, 1, 1), strict=True)]
    together = losses.binary_cross_entropy(LOGITS, jnp.array([0, 1, 1]))
    assert together == pytest.approx(float(sum(each)), rel=1e-6)


@pytest.mark.core
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_padding_never_spreads(bad):
    logits = jnp.stack([LOGITS, LOGITS[::-1], jnp.full(3, bad)])
    targets = jnp.array([0, 2, -1])
    value, grad = jax.value_and_grad(losses.next_token)(logits, targets)
    want, want_grad = jax.value_and_grad(losses.next_token)(logits[:2], targets[:2])
    assert value == pytest.approx(float(want), rel=1e-6)
    chex.assert_trees_all_close(grad[:2], want_grad, rtol=1e-6)
    assert not grad[2].any()


def test_the_mean_is_over_the_tokens_that_are_not_padding():
    logits, targets = jnp.tile(LOGITS, (4, 1)), jnp.array([-1, 1, -5, 0])
    each = [losses.cross_entropy(LOGITS, k) for k in (1, 0)]
    assert losses.next_token(logits, targets) == pytest.approx(float(sum(each)) / 2, rel=1e-6)


def test_all_padding_is_zero():
    value, grad = jax.value_and_grad(losses.next_token)(
        jnp.full((2, 3), jnp.nan), -jnp.ones(2, int)
    )
    assert value == 0
    assert not grad.any()


@pytest.mark.parametrize("label", [-1, 3, 100])
def test_a_label_out_of_range_is_nan_not_a_number(label):
    assert jnp.isnan(losses.cross_entropy(LOGITS, label))
    if label > 0:
        assert jnp.isnan(losses.next_token(LOGITS[None], jnp.array([label])))


def test_under_jit_and_vmap():
    batch = jnp.stack([LOGITS, -LOGITS]), jnp.array([0, 1])
    values = jax.jit(jax.vmap(losses.cross_entropy))(*batch)
    assert values.shape == (2,)
    values = jax.jit(jax.vmap(losses.next_token))(batch[0][:, None], batch[1][:, None])
    assert values.shape == (2,)


ERRORS = {
    "batch": (losses.cross_entropy, (jnp.zeros((2, 3)), 0), ValueError, r"use jax.vmap for a bat"),
    "one_hot": (losses.cross_entropy, (LOGITS, jnp.zeros(3)), ValueError, r"scalar `label`, got"),
    "float_label": (losses.cross_entropy, (LOGITS, 1.0), TypeError, r"`label` must be integers"),
    "broadcast": (losses.squared_error, (LOGITS, LOGITS[:, None]), ValueError, r"\(3,\) and \(3,"),
    "binary": (losses.binary_cross_entropy, (LOGITS, 1), ValueError, r"`logit` and `label` must"),
    "tokens": (losses.next_token, (jnp.zeros((2, 3)), jnp.zeros(2)), TypeError, r"`targets` must"),
    "lengths": (losses.next_token, (jnp.zeros((2, 3)), jnp.zeros(3, int)), ValueError, r"\[T, V\]"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    loss, arguments, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        loss(*arguments)
