"""An iterable of mini-batches, checked one by one: what comes, with which weights, and its end."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from ...contract import batch_size, checked_weights, filled

_CALLER = "gradient_variance"


class MiniBatch(NamedTuple):
    """One mini-batch, its weights [B], and its number in the stream, from 0."""

    batch: chex.ArrayTree
    weights: chex.Array
    number: int


def mini_batches(
    batches: Any, weighted: bool, size: int | None, padded: bool = True
) -> Iterator[MiniBatch]:
    """The mini-batches one after the other, those whose weights are all zero left out.

    Of a data set, which is cut in mini-batches of `size`, the last is `padded` to that size with
    rows of weight zero: one shape is compiled once.

    Raises:
      ValueError, TypeError: `batches` is of the wrong kind or empty, or a mini-batch has another
        structure than the first.
    """
    items = _items(batches) if size is None else _cut(batches, weighted, size)
    first, found = None, False
    for number, item in enumerate(items):
        batch, weights = _pair(item, number) if weighted else (item, None)
        if size is not None and number and padded:
            batch, weights = filled(batch, weights, size)
        form = _form(batch)
        first = form if first is None else first
        _same_form(first, form, number)
        weights = checked_weights(weights, batch_size(batch, _CALLER), _CALLER)
        if np.any(np.asarray(weights) > 0):
            found = True
            yield MiniBatch(batch, weights, number)
    if first is None:
        raise ValueError(
            f"`{_CALLER}`: `batches` is empty. A generator can be gone through only once; if this "
            "one was used before, make it anew"
        )
    if not found:
        raise ValueError(f"`{_CALLER}`: every weight is 0, so there are no examples")


def _items(batches) -> Iterable:
    if isinstance(batches, Mapping) or hasattr(batches, "shape"):
        raise ValueError(
            f"`{_CALLER}`: `batches` must be an iterable of mini-batches, got "
            f"{type(batches).__name__}. If it is a data set with a leading axis of examples, pass "
            "batch_size= too, and it is cut"
        )
    if isinstance(batches, tuple) and all(hasattr(x, "shape") for x in batches):
        forms = {str(_form(x)[1]) for x in batches}
        if len(forms) > 1:
            raise ValueError(
                f"`{_CALLER}`: `batches` is a tuple of arrays of different form, "
                f"{[jnp.shape(x) for x in batches[:4]]}: is it one data set? Pass batch_size= too, "
                "and it is cut into mini-batches"
            )
    if not isinstance(batches, Iterable):
        raise TypeError(
            f"`{_CALLER}`: `batches` must be an iterable of mini-batches, got "
            f"{type(batches).__name__}"
        )
    return batches


def _cut(data, weighted, size) -> Iterator:
    """A data set in consecutive mini-batches; the last may be smaller."""
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f"`{_CALLER}`: `batch_size` must be an int of at least 1, got {size!r}")
    if isinstance(data, Iterator):
        raise ValueError(
            f"`{_CALLER}`: with `batch_size`, `batches` must be a data set (a pytree of arrays "
            f"with a leading axis of examples), got {type(data).__name__}; leave `batch_size` out "
            "for an iterable of mini-batches"
        )
    if weighted:
        batch_size(_pair(data, 0)[0], _CALLER)
    for start in range(0, batch_size(data, _CALLER), size):
        stop = start + size
        yield jax.tree.map(lambda x, a=start, b=stop: x[a:b], data)


def _pair(item, number):
    if isinstance(item, tuple | list) and len(item) == 2:
        return item
    raise ValueError(
        f"`{_CALLER}`: with weighted=True every item of `batches` must be a pair (batch, weights), "
        f"got {type(item).__name__} at mini-batch {number}"
    )


def _form(batch):
    """Structure of one example: paths, shapes without the leading axis, dtypes."""
    return jax.tree.structure(batch), {
        keystr(path): f"{jax.dtypes.result_type(x)}{list(jnp.shape(x)[1:])}"
        for path, x in tree_leaves_with_path(batch)
    }


def _same_form(want, got, number):
    if want == got:
        return
    (tree, want), (other, got) = want, got
    wrong = [
        f"  batch{path}: {want.get(path, 'no such leaf')} at first, then "
        f"{got.get(path, 'no such leaf')}"
        for path in dict.fromkeys([*want, *got])
        if want.get(path) != got.get(path)
    ] or [f"  {tree} at first, then {other}"]
    raise ValueError(
        f"`{_CALLER}`: every mini-batch must have the structure, dtypes and shape of an example of "
        f"the first one; mini-batch {number} differs:\n" + "\n".join(wrong)
    )
