"""What a model is, in plain Python values: its layers in order and where their parameters live.

Reading a spec needs no JAX. The forward functions (`layers.py`) and the float64 reference
(`funcbackprop.reference.layerwise`) are both written from it, and share nothing else.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tabulate import tabulate


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer: what it computes and where its parameters live.

    Attributes:
      kind: what it computes, such as "dense", "conv2d" or "residual".
      at: keys and indices that lead to the parameters, relative to the enclosing "repeat" or the
        root; () for a layer without parameters.
      options: (name, value) pairs with plain values.
      layers: the layers inside a "residual" (y = x + f(x)) or a "repeat" (the same layers `depth`
        times, parameters stacked along a leading axis).
    """

    kind: str
    at: tuple[str | int, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    layers: tuple["Layer", ...] = ()

    def to_dict(self) -> dict:
        """JSON-safe: lists, strings, numbers, booleans and None only."""
        return {
            "kind": self.kind,
            "at": list(self.at),
            "options": _plain(self.options),
            "layers": [inner.to_dict() for inner in self.layers],
        }


def layer(kind: str, *at: str | int, layers: tuple[Layer, ...] = (), **options: Any) -> Layer:
    """`Layer` as it reads best in a list of layers: `layer("dense", "head", outputs=10)`."""
    return Layer(kind, at, tuple(options.items()), layers)


@dataclasses.dataclass(frozen=True)
class Spec:
    """The description of a model: constructor, its arguments, and the layers in order.

    Attributes:
      kind: name of the constructor.
      options: its arguments, as (name, value) pairs with plain values.
      layers: a `Layer` for each, in order.

    >>> import funcbackprop as fb
    >>> print(fb.models.mlp((2, 3, 1), activation="tanh").spec)
    mlp(sizes=(2, 3, 1), activation='tanh', dropout=0.0)
    layer       parameters           options
    ----------  -------------------  ----------------------------------
    flatten
    dense       params['layers'][0]  inputs=2, outputs=3, init='glorot'
    activation                       name='tanh'
    dense       params['layers'][1]  inputs=3, outputs=1, init='glorot'
    """

    kind: str
    options: tuple[tuple[str, Any], ...]
    layers: tuple[Layer, ...]

    def to_dict(self) -> dict:
        """JSON-safe: lists, strings, numbers, booleans and None only."""
        return {
            "kind": self.kind,
            "options": _plain(self.options),
            "layers": [inner.to_dict() for inner in self.layers],
        }

    def __str__(self) -> str:
        rows = list(_rows(self.layers, "", "params"))
        table = tabulate(rows, headers=("layer", "parameters", "options"), disable_numparse=True)
        title = f"{self.kind}({_listing(self.options)})"
        return "\n".join([title, *(line.rstrip() for line in table.splitlines())])


class Model(NamedTuple):
    """A model as pure functions.

    Attributes:
      init: `init(key, example_input) -> params`, nested dicts and lists of arrays in JAX's default
        float dtype; of the input only shape and dtype count.
      apply: `apply(params, example_input, key=None) -> output`, for one example; without a key
        there is no dropout. `jax.vmap(model.apply, in_axes=(None, 0))` is for a batch.
      spec: the layers in order, in plain Python values; `print(model.spec)` is a table.
    """

    init: Callable
    apply: Callable
    spec: Spec


def where(at: tuple[str | int, ...], root: str = "params") -> str:
    """A path as a user writes it: `params['layers'][0]`."""
    return root + "".join(f"[{key!r}]" for key in at)


def _rows(layers: tuple[Layer, ...], indent: str, root: str) -> Iterator[tuple[str, str, str]]:
    for inner in layers:
        path = where(inner.at, root)
        yield indent + inner.kind, path if inner.at else "", _listing(inner.options)
        yield from _rows(inner.layers, indent + ". ", path)


def _listing(options: tuple[tuple[str, Any], ...]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options)


def _plain(options: tuple[tuple[str, Any], ...]) -> dict:
    return {name: list(v) if isinstance(v, tuple) else v for name, v in options}
