"""Which weights are responsible for an error: what each does to the prediction and to the loss."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from .. import losses, tables
from ..contract import batch_size, checked_weights, differentiable, leaf_names, same_structure
from ..files import json_safe
from ..graph import Network, UnsupportedPrimitive, network

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 130
# How far a weight is followed beyond the first-order change, as multiples of it, to the other side
# too; and how many points are looked at for a sign change.
_REACH, _POINTS = 16.0, 129
_SMALL = 100  # up to this many weights the values of the units are drawn


@dataclasses.dataclass(frozen=True)
class Responsibility:
    """What every weight does to one prediction and to its loss. On the host, in NumPy.

    Attributes:
      prediction: the number that was predicted.
      target: what it should have been; None if no target was given, or if this is of a batch.
      loss: of the prediction, or its mean over a batch; None without a target.
      of_prediction: d prediction/d weight, by path and weight: `params['w1']` -> array.
      of_loss: d loss/d weight, likewise; None without a target.
      of_step: g_k u_k, what the given step at each weight changes of the loss (of the prediction
        without a target); None without `updates`.
      values: the weights themselves.
    """

    prediction: float
    target: float | None
    loss: float | None
    of_prediction: dict[str, np.ndarray]
    of_loss: dict[str, np.ndarray] | None
    of_step: dict[str, np.ndarray] | None
    values: dict[str, np.ndarray]
    _predict_with: Callable = dataclasses.field(repr=False)
    _network: Callable[[], Network] = dataclasses.field(repr=False)

    @property
    def shares(self) -> dict[str, np.ndarray]:
        """The share of every weight in |gradient|^2 of the loss, or of the prediction without a
        target; they add up to 1."""
        gradient = self.of_prediction if self.of_loss is None else self.of_loss
        squares = {path: np.asarray(g, np.float64) ** 2 for path, g in gradient.items()}
        total = sum(x.sum() for x in squares.values())
        return {path: x / total if total > 0 else x for path, x in squares.items()}

    def leaves(self) -> str:
        """A table of the leaves: share of the squared gradient, change of the loss by the step."""
        return self._table("leaf", {path: (path, x.sum()) for path, x in self.shares.items()})

    def rows(self, count: int = 10) -> str:
        """A table of the `count` rows (along the first axis of a leaf with two axes or more) with
        the largest shares."""
        found = {}
        for path, x in self.shares.items():
            if x.ndim < 2:
                continue
            for k, share in enumerate(x.reshape(len(x), -1).sum(1)):
                found[f"{path}[{k}]"] = ((path, k), share)
        largest = sorted(found.items(), key=lambda item: -item[1][1])[:count]
        return self._table("row", dict(largest))

    def _table(self, what, found):
        head = [what, "share of |gradient|²"]
        cells = [[name, tables.percent(share)] for name, (_, share) in found.items()]
        if self.of_step is not None:
            head.append("change of the loss")
            for cell, (place, _) in zip(cells, found.values(), strict=True):
                path, row = place if isinstance(place, tuple) else (place, ...)
                cell.append(float(np.sum(self.of_step[path][row])))
        return tables.text(cells, head, None, _WIDTH)

    def top(self, count: int = 10) -> str:
        """A table of the `count` weights with the largest shares: where they stand, their value,
        what they do to prediction and loss; with a target, the change of each alone that would
        bring it."""
        places = self._largest(count)
        head = ["weight", "value", "d prediction"]
        cells = [
            [_name(p), float(self._at(self.values, p)), float(self._at(self.of_prediction, p))]
            for p in places
        ]
        for title, tree in (("d loss", self.of_loss), ("change of the loss", self.of_step)):
            if tree is not None:
                head.append(title)
                cells = [[*c, float(self._at(tree, p))] for c, p in zip(cells, places, strict=True)]
        head.append("share")
        cells = [
            [*c, tables.percent(float(self._at(self.shares, p)))]
            for c, p in zip(cells, places, strict=True)
        ]
        if self.target is not None:
            head += ["needed, first order", "needed"]
            cells = [[*c, *self.needed(*p)] for c, p in zip(cells, places, strict=True)]
        return tables.text(cells, head, None, _WIDTH)

    def needed(self, path: str, index: tuple[int, ...] = ()) -> tuple[float | None, float | None]:
        """How much one weight would have to change, alone, for the prediction to be the target.

        Args:
          path: of the leaf, a key of `values`.
          index: of the weight in it.

        Returns:
          `(first order, true)`: (target - prediction)/(d prediction/d weight), and the change
          nearest to 0 that does it; None where there is none within 16 times the first, or where
          the prediction does not depend on the weight.

        Raises:
          ValueError: there is no target.
        """
        if self.target is None:
            raise ValueError("`Responsibility.needed`: there is no target; pass `target=`")
        slope = float(self._at(self.of_prediction, (path, index)))
        gap = self.target - self.prediction
        if gap == 0:
            return 0.0, 0.0
        if slope == 0:
            return None, None
        first = gap / slope
        off = lambda change: self._predict_with(path, index, change) - self.target  # noqa: E731
        return first, _root(off, first)

    def plot(self, k: int = 12, title: str | None = None) -> "Figure":
        """A picture of the network with its strongest weights, from the input to the prediction.

        Where the matrices form a chain (multilayer perceptrons, convolutional nets, with any
        normalisation between): units as columns, weights as lines. The width is the share, the
        colour whether raising the weight raises or lowers the loss (the prediction, without a
        target). A line between channels stands for the sum over the kernel. In large layers only
        the units at the strongest weights are shown. The strongest path from an input to the
        prediction is the one whose product of shares is largest, one weight from each layer.

        Otherwise (residual connections, attention, recurrence, tied weights): the modules in the
        order of the program, with arrows for what each reads, their shares, and the strongest
        weight of each.

        Args:
          k: how many weights are the strongest, biases and gains counted.
          title: of the figure; by default prediction, target and loss.

        Raises:
          ValueError: `k` is no positive integer.

        Cost: `predict` is traced once and, for the values in small nets, run once without jit.
        """
        from .picture import draw

        return draw(self, self._network, k, title)

    def _largest(self, count):
        found = [
            (share, path, np.unravel_index(k, x.shape))
            for path, x in self.shares.items()
            for k, share in enumerate(x.ravel().tolist())
        ]
        found.sort(key=lambda item: -item[0])
        return [(path, tuple(map(int, index))) for _, path, index in found[:count]]

    @staticmethod
    def _at(tree, place):
        path, index = place
        return tree[path][index]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: all fields but `values`, and the shares."""
        names = ("prediction", "target", "loss", "of_prediction", "of_loss", "of_step")
        return json_safe({**{name: getattr(self, name) for name in names}, "shares": self.shares})

    def __str__(self):
        text = f"prediction {tables.number(self.prediction)}"
        if self.target is not None and self.loss is not None:
            text += f", target {tables.number(self.target)}, loss {tables.number(self.loss)}"
        return f"{text}\n\n{self.leaves()}\n\n{self.top()}"


def _name(place):
    path, index = place
    return path + (f"[{', '.join(map(str, index))}]" if index else "")


def responsibility(
    predict: Callable[[Any, Any], chex.Array],
    params: chex.ArrayTree,
    example: Any,
    target: Any = None,
    loss: Callable[[chex.Array, Any], chex.Array] | None = None,
    weights: Any = None,
    *,
    updates: Any = None,
) -> Responsibility:
    """Which weights are responsible for a prediction, and for its error.

    The gradient of the prediction says how each weight moves it; that of the loss, how each weight
    is to blame for the error; its square, as a share of all, how much. With `updates`, g_k u_k is
    what the step at that weight changes of the loss, to first order.

    Args:
      predict: `predict(params, x) -> number` of one input; for a classifier, the score of one
        class.
      params: a tree; integers, booleans and random keys in it are not differentiated.
      example: x, the input of one example; with `weights`, a batch of them.
      target: what the prediction should have been; a number, or [B] with `weights`.
      loss: `loss(prediction, target) -> number`; half the squared error by default.
      weights: [B], relative importances. Then all is the mean over the batch.
      updates: a tree like `params`: a step, such as what an optax optimizer returns.

    Returns:
      `Responsibility`; `print` it, or its `top(k)`, `rows(k)`, `leaves()`.

    Raises:
      TypeError, ValueError: the prediction is no number, or an argument has the wrong form.

    Cost: two gradients; `needed`, some evaluations of `predict` for each weight.

    A net of two layers predicts 0.80 where 1.00 was right. The weight that pushed it away most is
    the first at the output. Changed alone, it would bring 1.00 as the first order says; a weight at
    the input would have to change more, for its unit saturates:

    >>> import jax.numpy as jnp
    >>> def net(w, x):
    ...     return jnp.dot(w["out"], jnp.tanh(w["in"] @ x))
    >>> w = {"in": jnp.array([[0.5, 0.5], [1.0, -0.5]]), "out": jnp.array([0.8, 0.4447])}
    >>> found = responsibility(net, w, jnp.array([1.0, 0.6]), target=1.0)
    >>> print(f"{found.prediction:.2f}")
    0.80
    >>> print(max(found.shares, key=lambda path: found.shares[path].max()))
    params['out']
    >>> print("%.2f and %.2f" % found.needed("params['out']", (0,)))
    0.30 and 0.30
    >>> print("%.2f and %.2f" % found.needed("params['in']", (0, 0)))
    0.45 and 0.75
    """
    kept, join = differentiable(params, "responsibility")
    batch = (example, target) if weights is not None else jax.tree.map(_one, (example, target))
    size = batch_size(batch, "responsibility")
    shares = checked_weights(weights, size, "responsibility")
    shares = shares / jnp.sum(shares)
    predictions = jax.vmap(_number(predict, join), (None, 0))
    error = losses.squared_error if loss is None else loss

    def predicted(p):
        return jnp.sum(shares * predictions(p, batch[0]))

    def cost(p):
        each = jax.vmap(error)(predictions(p, batch[0]), jnp.asarray(batch[1], shares.dtype))
        return jnp.sum(shares * each)

    prediction, of_prediction = jax.value_and_grad(predicted)(kept)
    value, of_loss = (None, None) if target is None else jax.value_and_grad(cost)(kept)
    of_step = None
    if updates is not None:
        same_structure(updates, kept, "updates", "responsibility")
        gradient = of_prediction if of_loss is None else of_loss
        of_step = jax.tree.map(lambda g, u: g * u, gradient, updates)
    return Responsibility(
        prediction=float(prediction),
        target=None if target is None or weights is not None else float(target),
        loss=None if value is None else float(value),
        of_prediction=_arrays(of_prediction),
        of_loss=None if of_loss is None else _arrays(of_loss),
        of_step=None if of_step is None else _arrays(of_step),
        values=_arrays(kept),
        _predict_with=functools.partial(_moved, jax.jit(predicted), kept),
        _network=functools.partial(_wired, predict, join, kept, batch[0], weights is None),
    )


def _wired(predict, join, params, batch, single) -> Network:
    """The layers of `predict`; nothing is told if its program cannot be followed."""
    x = jax.tree.map(lambda a: a[0], batch)
    values = single and sum(map(jnp.size, jax.tree.leaves(params))) <= _SMALL
    try:
        return network(lambda p, e: predict(join(p), e), params, x, values=values)
    except UnsupportedPrimitive:
        return Network([], frozenset())


def _one(x):
    """A batch of one."""
    return jnp.asarray(x)[None]


def _number(predict, join):
    def number(p, x):
        out = predict(join(p), x)
        if jnp.shape(out) != ():
            raise ValueError(
                "`responsibility`: `predict` must return one number, got shape "
                f"{jnp.shape(out)}; of several outputs choose one, "
                "lambda params, x: predict(params, x)[0]"
            )
        return out

    return number


def _arrays(tree):
    return dict(zip(leaf_names(tree), map(np.asarray, jax.tree.leaves(tree)), strict=True))


def _moved(predicted, params, path, index, change):
    """The prediction with one weight changed."""
    leaves, treedef = jax.tree.flatten(params)
    k = leaf_names(params).index(path)
    leaves[k] = jnp.asarray(leaves[k]).at[index].add(change)
    return float(predicted(treedef.unflatten(leaves)))


def _root(off: Callable[[float], float], first: float) -> float | None:
    """The root nearest to 0, within some times `first` to either side; None if there is none."""
    here = off(0.0)
    for reach in np.linspace(0, _REACH, _POINTS)[1:]:
        for change in (first * reach, -first * reach):
            if np.sign(off(change)) != np.sign(here):
                root: Any = optimize.brentq(off, 0.0, change, xtol=1e-7 * abs(first))
                return float(root)
    return None
