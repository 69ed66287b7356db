"""What a loss, a batch and its weights are: the contract that every other room rests on.

A loss is written for one example, `loss(params, example) -> scalar`. A batch is the same pytree
with one leading axis of equal length B on every leaf. Weights [B] are relative importances; a
weight of zero marks padding.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import keystr, tree_leaves_with_path

from .graph import is_concrete, to_varying, varying_axes

Loss = Callable[[chex.ArrayTree, chex.ArrayTree], Any]


def example_loss(apply: Callable, loss: Callable, rng: bool = False) -> Loss:
    """Join a model and a loss of one example: `loss(apply(params, x), y)`.

    Args:
      apply: `apply(params, x) -> prediction` for one example; with `rng=True` it is called as
        `apply(params, x, key=key)`.
      loss: `loss(prediction, y) -> scalar`, for instance `funcbackprop.losses.cross_entropy`.
      rng: whether the example carries a random key: `((x, y), key)`, as `attach_keys` makes it.

    Returns:
      `loss(params, (x, y)) -> scalar`, or `loss(params, ((x, y), key)) -> scalar` with `rng=True`.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> loss = fb.example_loss(lambda params, x: params["w"] * x, fb.losses.squared_error)
    >>> print(loss({"w": jnp.array([2.0])}, (jnp.array([3.0]), jnp.array([5.0]))))
    0.5
    """
    if rng:

        def with_key(params, example):
            (x, y), key = example
            return loss(apply(params, x, key=key), y)

        return with_key

    def without_key(params, example):
        x, y = example
        return loss(apply(params, x), y)

    return without_key


def one_example(batch_loss: Loss) -> Loss:
    """The loss of one example from a loss that was written for a batch.

    The example gets a leading axis of length 1 on every leaf. This is right if the batch loss is
    the mean of independent examples; `funcbackprop.check_separable` tests that.

    Args:
      batch_loss: `batch_loss(params, batch) -> scalar`.

    Returns:
      `loss(params, example) -> scalar`.

    Raises:
      ValueError: when the loss is called, if it uses the name of an axis of examples (`pmean`,
        batch normalisation over devices): its examples are not independent.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> batch_loss = lambda params, x: jnp.mean((x @ params) ** 2)
    >>> print(fb.one_example(batch_loss)(jnp.ones(2), jnp.array([1.0, 2.0])))
    9.0
    """

    def loss(params, example):
        try:
            return batch_loss(params, jax.tree.map(lambda x: jnp.asarray(x)[None], example))
        except NameError as error:
            if "axis name" not in str(error):
                raise
            raise ValueError(
                f"`one_example`: the loss combines examples across an axis ({error}), so it has no "
                "value for one example. Leave the collective out (axis_name=None), and use running "
                "statistics in place of those of the batch"
            ) from error

    return loss


def attach_keys(batch: chex.ArrayTree, key: chex.PRNGKey) -> tuple[chex.ArrayTree, chex.PRNGKey]:
    """Give every example of a batch a random key of its own.

    Randomness is part of the example: a key that the loss closes over would give every example the
    same dropout mask.

    Args:
      batch: pytree with a leading axis of length B on every leaf.
      key: one key, typed (`jax.random.key`) or raw (`jax.random.PRNGKey`).

    Returns:
      `(batch, keys)`, itself a batch: keys are [B], or [B, 2] from a raw key. The loss of one
      example takes `(example, key)`.

    Raises:
      ValueError: the leaves of `batch` have no common leading length.

    >>> import funcbackprop as fb, jax, jax.numpy as jnp
    >>> batch, keys = fb.attach_keys(jnp.zeros((4, 2)), jax.random.key(0))
    >>> keys.shape
    (4,)
    """
    return batch, jax.random.split(key, batch_size(batch, "attach_keys"))


@dataclasses.dataclass(frozen=True)
class Problem:
    """A whole problem for the command line: `funcbackprop study module:problem`.

    Only `loss`, `params`, `data` and `name` are required. A part of a report whose ingredient is
    missing says which field would give it.

    Attributes:
      loss: `loss(params, example) -> scalar`, or `(scalar, aux)` with `has_aux=True`. With
        `rng=True` the example is `(example, key)`.
      params: a pytree of arrays, or `key -> params` (several seeds need the latter).
      data: a pytree of arrays with a leading axis of length N on every leaf, or a pure function
        `(seed, epoch, step) -> batch`.
      name: what the run is called, and its folder; no slash.
      test_data: as `data` (arrays), held out.
      weights: [N], relative importances of the examples of `data`, where these are arrays.
      predict: `predict(params, example) -> prediction`, without randomness.
      metrics: name -> `metric(params, example) -> scalar`, averaged over examples.
      rng: whether the loss draws random numbers (dropout): see `attach_keys`.
      has_aux: whether the loss returns `(scalar, aux)`.
      optimizer: an optax transformation; None takes the command line's.
      reference: `reference(params, batch, weights=None) -> (value, grads)`, a gradient to check
        against beside the general chain rule; see `funcbackprop.check_gradients`.
      groups: `path -> name` for the layers of tables and figures, where path is a leaf's path as
        text, `['layers'][0]['w']`; None groups the leaves by their parent.

    Raises:
      TypeError, ValueError: a field is no function, mapping or optimizer where one is expected, or
        `name` is empty or has a slash, or there are `weights` of a data function. The rest is
        checked when the problem is run.

    >>> import funcbackprop as fb, jax, jax.numpy as jnp
    >>> model = fb.models.mlp((2, 8, 1))
    >>> x = jax.random.normal(jax.random.key(0), (100, 2))
    >>> problem = fb.Problem(
    ...     loss=fb.example_loss(model.apply, fb.losses.squared_error),
    ...     params=lambda key: model.init(key, x[0]),
    ...     data=(x, jnp.sum(x, axis=1, keepdims=True)),
    ...     name="sums",
    ... )
    """

    loss: Loss
    params: Any
    data: Any
    name: str
    _: dataclasses.KW_ONLY
    test_data: Any = None
    weights: Any = None
    predict: Callable | None = None
    metrics: Mapping[str, Callable] | None = None
    rng: bool = False
    has_aux: bool = False
    optimizer: optax.GradientTransformation | None = None
    reference: Callable | None = None
    groups: Callable[[str], str] | None = None

    def __post_init__(self):
        for field in ("loss", "predict", "reference", "groups"):
            value = getattr(self, field)
            if not callable(value) and not (value is None and field != "loss"):
                raise TypeError(f"`Problem`: `{field}` must be callable, got {_describe(value)}")
        if not isinstance(self.name, str) or not self.name or "/" in self.name:
            raise ValueError(
                "`Problem`: `name` must be a non-empty string without a slash (a folder is named "
                f"after it), got {self.name!r}"
            )
        if self.optimizer is not None and not hasattr(self.optimizer, "update"):
            raise TypeError(
                "`Problem`: `optimizer` must be an optax transformation such as optax.adam(1e-3), "
                f"got {_describe(self.optimizer)}"
            )
        if self.weights is not None and callable(self.data):
            raise ValueError(
                "`Problem`: `weights` belong to the examples of arrays, but `data` is a function; "
                "leave `weights` out, and multiply by the weight, as part of the example, in `loss`"
            )
        if self.metrics is not None and not isinstance(self.metrics, Mapping):
            raise TypeError(
                "`Problem`: `metrics` must map names to functions (params, example) -> scalar, "
                f"got {_describe(self.metrics)}"
            )

    @property
    def draws_params(self) -> bool:
        """Whether `params` is a function of a key, not a model that is a pytree and can be called
        (an Equinox module)."""
        return callable(self.params) and jax.tree_util.all_leaves([self.params])


def batch_size(batch: chex.ArrayTree, caller: str) -> int:
    """The common leading length B of a batch; ValueError names every leaf that disagrees."""
    leaves = [(keystr(path), jnp.shape(leaf)) for path, leaf in tree_leaves_with_path(batch)]
    if not leaves:
        raise ValueError(
            f"`{caller}`: `batch` has no arrays, so the number of examples is unknown; "
            "pass a pytree with a leading axis of examples on every leaf"
        )
    lengths = {shape[0] for _, shape in leaves if shape}
    if len(lengths) != 1 or any(not shape for _, shape in leaves):
        listing = "\n".join(f"  batch{path}: shape {shape}" for path, shape in leaves)
        raise ValueError(
            f"`{caller}`: every leaf of `batch` needs one leading axis of equal length (the "
            f"examples), got\n{listing}\n"
            "Close over what is shared by all examples, and give each scalar an axis [B]."
        )
    (size,) = lengths
    if size == 0:
        raise ValueError(f"`{caller}`: `batch` holds 0 examples; pass at least one")
    return size


def checked_weights(weights: Any, size: int, caller: str) -> chex.Array:
    """`weights` as a float array [B]; None is all ones.

    A weight that is negative or not finite raises ValueError; where values are not known (under
    tracing, or on devices of other processes) it becomes NaN, and so does what is computed from it.
    """
    if weights is None:
        return jnp.ones(size, dtype=jnp.result_type(float))
    weights = jnp.asarray(weights)
    if weights.shape != (size,):
        raise ValueError(
            f"`{caller}`: `weights` must have shape ({size},), one for each example, "
            f"got {weights.shape}"
        )
    weights = weights.astype(jnp.promote_types(weights.dtype, jnp.result_type(float)))
    valid = (weights >= 0) & (weights < jnp.inf)
    if not is_concrete(valid):
        return jnp.where(valid, weights, jnp.nan)
    wrong = np.flatnonzero(~np.asarray(valid))
    if len(wrong):
        raise ValueError(
            f"`{caller}`: `weights` must be finite and not negative; row {wrong[0]} has "
            f"{weights[wrong[0]]} ({len(wrong)} such rows). A weight of 0 marks padding"
        )
    return weights


def checked_params(params: chex.ArrayTree, caller: str) -> None:
    """Raise TypeError where a parameter leaf cannot be differentiated, naming every such leaf."""
    bad = [
        f"  params{keystr(path)}: {_describe(leaf)}"
        for path, leaf in tree_leaves_with_path(params)
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    ]
    if bad:
        raise TypeError(
            f"`{caller}`: gradients need real or complex floating-point parameters, got\n"
            + "\n".join(bad)
            + "\nClose the loss over leaves that are not to be differentiated."
        )


def differentiable(params: chex.ArrayTree, caller: str) -> tuple[chex.ArrayTree, Callable]:
    """`(params without what cannot be differentiated, join)`; `join` puts that back.

    Integers, booleans and random keys have no gradient: None stands in their place, in results too.
    TypeError if nothing is left.
    """
    inexact = lambda p: jnp.issubdtype(jnp.result_type(p), jnp.inexact)  # noqa: E731
    leaves, treedef = jax.tree.flatten(params)
    if leaves and not any(map(inexact, leaves)):
        checked_params(params, caller)
    kept = treedef.unflatten([p if inexact(p) else None for p in leaves])
    if all(map(inexact, leaves)):
        return kept, lambda p: p

    def join(given):
        rest = iter(jax.tree.leaves(given))
        return treedef.unflatten([next(rest) if inexact(p) else p for p in leaves])

    return kept, join


def scalar_loss(loss: Loss, has_aux: bool, caller: str) -> Callable:
    """`loss` with its output checked at trace time: `(params, example) -> (scalar, aux)`."""

    def checked(params, example):
        out = loss(params, example)
        if has_aux and not (isinstance(out, tuple) and len(out) == 2):
            raise TypeError(
                f"`{caller}`: with has_aux=True the loss must return (scalar, aux), "
                f"got {_describe(out)}"
            )
        value, aux = out if has_aux else (out, ())
        if isinstance(value, tuple | list | dict):
            raise TypeError(
                f"`{caller}`: the loss must return a scalar, got {_describe(value)}; "
                "pass has_aux=True if it returns (scalar, aux)"
            )
        value = jnp.asarray(value)
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(
                f"`{caller}`: the loss of one example must be a real floating-point scalar, got "
                f"shape {value.shape} and dtype {value.dtype}. The loss is called with one example "
                "(no leading batch axis); wrap a loss written for batches in "
                "funcbackprop.one_example"
            )
        return value, aux

    return checked


def without_aux(problem: Problem) -> Loss:
    """The problem's loss, without what else it returns."""
    if not problem.has_aux:
        return problem.loss
    return lambda params, example: problem.loss(params, example)[0]


def filled(batch: chex.ArrayTree, weights: Any, size: int) -> tuple[chex.ArrayTree, np.ndarray]:
    """`(batch, weights [size])`: copies of its first examples, of weight 0, fill the batch up."""
    count = batch_size(batch, "filled")
    rows = np.resize(np.arange(count), size)
    weights = np.ones(count, np.float32) if weights is None else np.asarray(weights)
    weights = np.where(np.arange(size) < count, weights[rows], 0)
    return jax.tree.map(lambda x: x[rows], batch), weights


def without_padding(
    batch: chex.ArrayTree, weights: chex.Array, row: chex.ArrayTree | None = None
) -> chex.ArrayTree:
    """`batch` with every row of weight 0 replaced by `row`, or by its own `first_row`.

    NaN or inf in padding then never enters a product, forward or backward (0 x NaN is NaN).
    """
    row = first_row(batch, weights) if row is None else row
    keep = weights > 0
    fill = lambda x, r: jnp.where(rows(keep, jnp.asarray(x)), x, r)  # noqa: E731
    return jax.tree.map(fill, batch, row)


def first_row(batch: chex.ArrayTree, weights: chex.Array) -> chex.ArrayTree:
    """The first row of positive weight, with its axis kept."""
    first = jnp.argmax(weights > 0)[None]
    # A gather: of a sharded batch one row is sent, where a slice would send them all.
    return jax.tree.map(lambda x: jnp.asarray(x).at[first].get(mode="promise_in_bounds"), batch)


def prepared(params, batch, weights, caller: str) -> tuple:
    """`(params, batch, weights [B], padded)`, checked, and with padding rows made harmless."""
    checked_params(params, caller)
    padded = weights is not None
    weights = checked_weights(weights, batch_size(batch, caller), caller)
    if padded:
        batch = without_padding(batch, weights)
    return vary_like(params, (batch, weights)), batch, weights, padded


def wide(x: chex.Numeric) -> jax.Array:
    """At least float32: squares of float16 overflow and sums of bfloat16 stall."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def zero_padding(x: chex.Array, weights: chex.Array) -> chex.Array:
    """`x` [B, ...] with zeros in the rows of weight 0; random keys, which have no zero, stay."""
    if jnp.issubdtype(x.dtype, jax.dtypes.extended):
        return x
    return jnp.where(rows(weights > 0, x), x, jnp.zeros_like(x))


def vary_like(tree: chex.ArrayTree, like: chex.ArrayTree) -> chex.ArrayTree:
    """`tree`, varying over every mesh axis that `like` varies over; a no-op outside `shard_map`.

    Inside `shard_map`, JAX sums the gradient of a replicated parameter over the devices. Cast
    to varying, it stays the gradient of this device's examples.
    """
    axes = frozenset().union(*(varying_axes(x) for x in jax.tree.leaves(like)))

    def vary(x):
        missing = tuple(sorted(axes - varying_axes(x)))
        return to_varying(x, missing) if missing else x

    return jax.tree.map(vary, tree)


def rows(values: chex.Array, like: chex.Array) -> chex.Array:
    """`values` [B] with trailing axes of length 1, to broadcast against `like` [B, ...]."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))


def leaf_names(
    tree: Any, root: str = "params", is_leaf: Callable[[Any], bool] | None = None
) -> list[str]:
    """Paths of the leaves as a user would write them: `params['layers'][0]['w']`."""
    return [root + keystr(path) for path, _ in tree_leaves_with_path(tree, is_leaf)]


def layer_groups(params, groups: Callable[[str], str] | None = None) -> dict[str, list[str]]:
    """Layer name -> paths of its leaves; by default a leaf's layer is its parent in the tree.

    >>> layer_groups({"layers": [{"w": 1.0, "b": 0.0}], "scale": 2.0})
    {'layers.0': ["['layers'][0]['b']", "['layers'][0]['w']"], 'scale': ["['scale']"]}
    """
    layers: dict[str, list[str]] = {}
    for path, _ in tree_leaves_with_path(params):
        name = groups(keystr(path)) if groups is not None else _parent(path)
        layers.setdefault(name, []).append(keystr(path))
    return layers


def _parent(path) -> str:
    keys = [str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path]
    variable, last = (None, None, *path)[-2:]
    if getattr(last, "name", None) == "value" and hasattr(variable, "key"):
        keys.pop()  # the array inside of a variable of Flax NNX, which is an entry of a dict
    return ".".join(keys[:-1] or keys) or "params"


def same_structure(tree: Any, like: Any, name: str, caller: str) -> None:
    """ValueError listing every leaf at which `tree` and `like` differ in path or shape."""
    got = {keystr(path): jnp.shape(leaf) for path, leaf in tree_leaves_with_path(tree)}
    want = {keystr(path): jnp.shape(leaf) for path, leaf in tree_leaves_with_path(like)}
    wrong = [
        f"  {path or '(root)'}: expected {want.get(path, 'no such leaf')}, "
        f"got {got.get(path, 'no such leaf')}"
        for path in dict.fromkeys([*want, *got])
        if want.get(path) != got.get(path)
    ]
    if wrong:
        raise ValueError(
            f"`{caller}`: `{name}` must have the structure and shapes of `params`:\n"
            + "\n".join(wrong)
        )


def _describe(value: Any) -> str:
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    return f"{type(value).__name__}"
