"""Parameter trees of nested dicts, lists and tuples of NumPy arrays."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .kinds import KINDS


def map_leaves(f: Callable, tree: Any) -> Any:
    """`tree` with f applied to every leaf."""
    if isinstance(tree, dict):
        return {key: map_leaves(f, value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map_leaves(f, value) for value in tree)
    return f(tree)


def as_float64(tree: Any) -> Any:
    """The leaves as float64 NumPy arrays."""
    return map_leaves(lambda leaf: np.asarray(leaf).astype(np.float64), tree)


def zeros(tree: Any) -> Any:
    """Zeros to add gradients to."""
    return map_leaves(np.zeros_like, tree)


def at(tree: Any, path: tuple) -> Any:
    """The part of the tree at the end of a path of keys and indices."""
    for key in path:
        tree = tree[key]
    return tree


def at_depth(tree: Any, l: int) -> Any:
    """Slice l of every stacked leaf: views, so that what is added to them is added to the tree."""
    return map_leaves(lambda leaf: leaf[l, ...], tree)


def add(dparams: dict, grads: Any, sizes: Any) -> None:
    """Add the `Terms` of one layer to its gradients and sizes, in place."""
    for key, terms in dparams.items():
        if isinstance(terms, dict):
            add(terms, grads[key], sizes[key])
        else:
            grads[key] += terms.value
            sizes[key] += terms.size


def where(path: tuple) -> str:
    """A path as a user writes it: `params['layers'][0]['w']`."""
    return "params" + "".join(f"[{key!r}]" for key in path)


def check(params: Any, layers: tuple) -> None:
    """ValueError listing every leaf that is missing, unexpected, or stacked to a wrong depth."""
    want = dict(_expected(layers, (), None))
    got = dict(_leaves(params, ()))
    wrong = [f"  {where(path)}: missing" for path in want if path not in got]
    wrong += [f"  {where(path)}: not a parameter of this model" for path in got if path not in want]
    wrong += [
        f"  {where(path)}: expected {depth} layers on the first axis, got shape {got[path].shape}"
        for path, depth in want.items()
        if path in got and depth is not None and got[path].shape[:1] != (depth,)
    ]
    if wrong:
        raise ValueError(
            "`layerwise`: `params` does not have the structure that this model's `init` makes:\n"
            + "\n".join(wrong)
        )


def _expected(layers, root, depth) -> Iterator[tuple[tuple, int | None]]:
    for layer in layers:
        path = root + layer.at
        inner = dict(layer.options)["depth"] if layer.kind == "repeat" else depth
        yield from _expected(layer.layers, path, inner)
        if layer.kind in KINDS:
            yield from ((path + leaf, depth) for leaf in KINDS[layer.kind].leaves)


def _leaves(tree, path) -> Iterator[tuple[tuple, np.ndarray]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, (*path, key))
    elif isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            yield from _leaves(value, (*path, i))
    else:
        yield path, tree
