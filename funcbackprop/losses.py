"""Losses of one example: `loss(prediction, target) -> scalar`, on top of `optax.losses`.

The loss of a batch is the weighted mean of these; there is no reduction argument to get wrong.
`funcbackprop.example_loss(model.apply, losses.cross_entropy)` joins one to a model.
"""

import chex
import jax.numpy as jnp
import optax

__all__ = ["binary_cross_entropy", "cross_entropy", "next_token", "squared_error"]


def cross_entropy(logits: chex.Array, label: chex.Array) -> chex.Array:
    """Cross-entropy of one label: `log sum_k exp(z_k) - z_label`, in nats.

    Args:
      logits: [K] unnormalised log-probabilities z.
      label: integer scalar in 0..K-1; outside that range the loss is NaN.

    Returns:
      scalar; its gradient in the logits is `softmax(z) - onehot(label)`.

    Raises:
      ValueError: other shapes, such as those of a batch.
      TypeError: the label is no integer.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> print(f"{fb.losses.cross_entropy(jnp.zeros(4), 2):.4f}")  # log 4
    1.3863
    """
    logits, label = jnp.asarray(logits), jnp.asarray(label)
    if logits.ndim != 1 or label.ndim != 0:
        raise ValueError(
            "`cross_entropy`: expected `logits` of shape [K] and a scalar `label`, got shapes "
            f"{logits.shape} and {label.shape}; the loss is written for one example, use jax.vmap "
            "for a batch and `next_token` for a sequence"
        )
    _integers("cross_entropy", "label", label)
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, _in_range(logits, label))


def squared_error(prediction: chex.Array, target: chex.Array) -> chex.Array:
    """Half the squared distance: `1/2 sum_k (p_k - t_k)^2`, so that the gradient is `p - t`.

    Args:
      prediction: array of any shape, scalars included.
      target: array of the same shape (broadcasting would hide a missing axis).

    Returns:
      scalar: the sum (not the mean) over the entries.

    Raises:
      ValueError: the shapes differ.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> print(fb.losses.squared_error(jnp.array([3.0, 1.0]), jnp.array([1.0, 1.0])))
    2.0
    """
    _same_shape("squared_error", prediction=prediction, target=target)
    return jnp.sum(optax.losses.l2_loss(jnp.asarray(prediction), jnp.asarray(target)))


def binary_cross_entropy(logit: chex.Array, label: chex.Array) -> chex.Array:
    """Cross-entropy of independent yes-or-no labels, summed:
    `sum_k -y_k log sigma(z_k) - (1 - y_k) log sigma(-z_k)`, in nats.

    Args:
      logit: scalar or array of any shape, z.
      label: the same shape: 0, 1, or a probability.

    Returns:
      scalar: the sum (not the mean) over the entries; its gradient in z is `sigma(z) - y`.

    Raises:
      ValueError: the shapes differ.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> print(f"{fb.losses.binary_cross_entropy(jnp.array(0.0), 1):.4f}")  # log 2
    0.6931
    """
    _same_shape("binary_cross_entropy", logit=logit, label=label)
    logit = jnp.asarray(logit)
    label = jnp.asarray(label).astype(jnp.promote_types(logit.dtype, jnp.float32))
    return jnp.sum(optax.losses.sigmoid_binary_cross_entropy(logit, label))


def next_token(logits: chex.Array, targets: chex.Array) -> chex.Array:
    """Mean cross-entropy of the T tokens of one sequence that are not padding, in nats.

    `1/n sum_{t: targets_t >= 0} (log sum_v exp(z_tv) - z_{t, targets_t})` with n the number of such
    tokens; 0 if all are padding. Padded positions are removed before any product, so NaN or inf in
    their logits spreads neither into the value nor into the gradient.

    The batch loss is then the mean over *sequences*. For the mean over all *tokens*, give each
    example the weight n, its number of tokens.

    Args:
      logits: [T, V].
      targets: [T] integers in 0..V-1; negative ones are padding; from V on the loss is NaN.
        `targets[t]` belongs to `logits[t]`: the shift by one token is the caller's.

    Returns:
      scalar.

    Raises:
      ValueError: other shapes, such as those of a batch.
      TypeError: the targets are no integers.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> logits = jnp.array([[0.0, 0.0], [jnp.nan, 0.0]])
    >>> print(f"{fb.losses.next_token(logits, jnp.array([1, -1])):.4f}")  # log 2
    0.6931
    """
    logits, targets = jnp.asarray(logits), jnp.asarray(targets)
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(
            "`next_token`: expected `logits` of shape [T, V] and `targets` of shape [T], got "
            f"shapes {logits.shape} and {targets.shape}; the loss is written for one sequence, use "
            "jax.vmap for a batch"
        )
    _integers("next_token", "targets", targets)
    valid = targets >= 0
    logits = jnp.where(valid[:, None], logits, 0)
    targets = jnp.where(valid, targets, 0)
    each = optax.losses.softmax_cross_entropy_with_integer_labels(
        logits, _in_range(logits, targets)
    )
    count = jnp.maximum(jnp.sum(valid), 1).astype(each.dtype)
    return jnp.sum(jnp.where(valid, each, 0)) / count


def _in_range(logits, labels):
    # A negative index would wrap to the last class, silently; K is out of range, which gives NaN.
    return jnp.where(labels < 0, logits.shape[-1], labels)


def _integers(caller, name, value):
    if not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(
            f"`{caller}`: `{name}` must be integers, got {value.dtype}; use argmax of a one-hot "
            "vector, or .astype(int)"
        )


def _same_shape(caller, **arrays):
    (a, b), (shape_a, shape_b) = arrays, [jnp.shape(value) for value in arrays.values()]
    if shape_a != shape_b:
        raise ValueError(
            f"`{caller}`: `{a}` and `{b}` must have the same shape, got {shape_a} and {shape_b}; "
            "reshape one of them (nothing is broadcast)"
        )
