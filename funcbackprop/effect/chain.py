"""A network whose matrices form a chain, as columns of units and the strongest weights between
them: plain data for a figure."""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import tables
from ..graph import Network, Use

# Up to this many edges all are drawn, the weak ones in grey.
ALL_EDGES = 300
_PART = re.compile(r"\['([^']*)'\]|\[([^\]]*)\]|\.(\w+)")
UNITS = ("matrix", "kernel", "lookup")


class Leaves(NamedTuple):
    """What is known of the parameters, leaf by leaf; `slopes` are derivatives of the loss, or of
    the prediction where there is no target."""

    names: list[str]
    shares: list[np.ndarray]
    slopes: list[np.ndarray]
    values: list[np.ndarray]


class _Group(NamedTuple):
    """The weights of one use: from each input unit to each output unit, or at each unit.

    Attributes:
      column: of the input units, or of the units at which a bias stands.
      edge: of each entry of the leaf, (input unit) * outputs + (output unit).
      count, share, slope: [inputs * outputs], number of entries of an edge, and sums over them.
    """

    leaf: int
    kind: str
    column: int
    outputs: int
    edge: np.ndarray
    count: np.ndarray
    share: np.ndarray
    slope: np.ndarray


def layers_of(network: Network) -> list[int] | None:
    """The uses that are layers, if each reads all of the one before it and nothing else."""
    uses = network.uses
    layers = [k for k, use in enumerate(uses) if use.kind in UNITS]
    if not layers or any(r >= k for k, use in enumerate(uses) for r in use.reads):
        return None  # no layer, or a loop
    behind = [frozenset[int]()] * len(uses)

    def read_by(reads):
        return frozenset().union(*(behind[r] for r in reads))

    for k, use in enumerate(uses):
        behind[k] = frozenset([k]) if use.kind in UNITS else read_by(use.reads)
    leaves = [use.leaf for use in uses]
    for last, k in zip([None, *layers], layers, strict=False):
        alone = leaves.count(uses[k].leaf) == 1
        reads = read_by(uses[k].reads) == (frozenset() if last is None else {last})
        if not (alone and reads and _fits(uses, k, last)):
            return None
    return layers if read_by(network.output) == {layers[-1]} else None


def _fits(uses: Sequence[Use], k: int, last: int | None) -> bool:
    """Whether a layer's input units are the output units of the one before."""
    use = uses[k]
    if use.sources is None or use.targets is None:
        return False
    if last is None:
        return use.source is None or use.source[0] == "data"
    single = use.source is None and math.prod(uses[last].shape) == 1
    return use.source == ("use", last) or single


def picture(network: Network, layers: Sequence[int], leaves: Leaves, k: int) -> dict[str, Any]:
    """Columns of units, the strongest weights and the strongest path.

    Args:
      layers: what `layers_of` found.
      k: how many weights are the strongest.

    Returns:
      "columns": dicts with "title", "shape" of the units, and "values" of them as text, or None;
      the last has "shares" of what comes in.
      "edges", "besides": weights between two columns, and at one (biases, gains): dicts with
      "column" (of the input), "source", "target", "share", "slope", "name", "value" and "texts" of
      slope and share, and "rank" from 1 on, None if it is not among the strongest, and "on_path".
      "path": the unit in each column on the strongest path; None if no path has a share.
      "left_out": leaf -> share, of those that have no place at units.
      "weights": how many edges, biases and gains there are.
    """
    groups = _groups(network, layers, leaves)
    between = groups[: len(layers)]
    rank = _ranks(groups, k)
    path = strongest_path([group.share.reshape(-1, group.outputs) for group in between])
    shown = {(n, e) for n, e in rank if n < len(layers)}
    edges = [int(np.count_nonzero(group.count)) for group in groups]
    if sum(edges[: len(layers)]) <= ALL_EDGES:
        every = (np.flatnonzero(group.count).tolist() for group in between)
        shown |= {(n, e) for n, some in enumerate(every) for e in some}
    steps = zip(path, path[1:], between, strict=False) if path is not None else ()
    along = {(n, i * group.outputs + j) for n, (i, j, group) in enumerate(steps)}
    beside = {(n, e) for n, e in rank if n >= len(layers)}
    there = {group.leaf for group in groups}
    return {
        "columns": _columns(network, layers, leaves, groups),
        "edges": [
            _weight(groups[n], e, leaves, rank.get((n, e)), (n, e) in along)
            for n, e in sorted(shown | along)
        ],
        "besides": [_weight(groups[n], e, leaves, rank[n, e], False) for n, e in sorted(beside)],
        "path": path,
        "left_out": {
            name: float(share.sum())
            for n, (name, share) in enumerate(zip(leaves.names, leaves.shares, strict=True))
            if n not in there
        },
        "weights": sum(edges),
    }


def _groups(network, layers, leaves) -> list[_Group]:
    found = []
    for column, n in enumerate(layers):
        use = network.uses[n]
        inputs, outputs = math.prod(use.source_shape), math.prod(use.shape)
        edge = use.sources * outputs + use.targets
        found.append(_group(use, leaves, column, edge, inputs, outputs))
    counts = [use.leaf for use in network.uses]
    for use in network.uses:
        told = use.kind == "beside" and use.sources is not None and counts.count(use.leaf) == 1
        at = _place(network, layers, use) if told else None
        if at is not None:
            units = math.prod(network.uses[layers[at]].shape)
            found.append(_group(use, leaves, at + 1, use.sources, 1, units))
    return found


def _place(network, layers, use) -> int | None:
    """Which layer's outputs a bias stands at."""
    if use.source is not None:
        return layers.index(use.source[1]) if use.source[0] == "use" else None
    reads = use.reads
    while len(reads) == 1:
        (last,) = reads
        if last in layers:
            return layers.index(last) if math.prod(network.uses[last].shape) == 1 else None
        reads = network.uses[last].reads
    return None


def _group(use, leaves, column, edge, inputs, outputs) -> _Group:
    edge = np.broadcast_to(edge, leaves.shares[use.leaf].shape).ravel()
    total = lambda x: np.bincount(edge, x, inputs * outputs)  # noqa: E731
    sums = (
        total(None if x is None else np.real(x[use.leaf]).astype(np.float64).ravel())
        for x in (None, leaves.shares, leaves.slopes)
    )
    return _Group(use.leaf, use.kind, column, outputs, edge, *sums)


def _ranks(groups, k) -> dict[tuple[int, int], int]:
    """The k largest shares of all groups: (group, edge) -> place, from 1 on."""
    found = []
    for n, group in enumerate(groups):
        count = min(k, len(group.share))
        largest = np.argpartition(-group.share, count - 1)[:count]
        found += [(-group.share[e], n, e) for e in largest.tolist() if group.share[e] > 0]
    return {(n, e): place + 1 for place, (_, n, e) in enumerate(sorted(found)[:k])}


def strongest_path(shares: Sequence[np.ndarray]) -> list[int] | None:
    """The unit in each column on the path whose product of shares is largest.

    Args:
      shares: [inputs, outputs] of each layer.

    >>> strongest_path([np.array([[0.1, 0.3], [0.0, 0.1]]), np.array([[0.4], [0.1]])])
    [0, 0, 0]
    """
    with np.errstate(divide="ignore"):
        logs = [np.log(x) for x in shares]
    best, back = np.zeros(len(logs[0])), []
    for step in logs:
        through = best[:, None] + step
        back.append(through.argmax(0))
        best = through.max(0)
    if not np.isfinite(best.max()):
        return None
    path = [int(best.argmax())]
    for before in reversed(back):
        path.append(int(before[path[-1]]))
    return path[::-1]


def _columns(network, layers, leaves, groups) -> list[dict[str, Any]]:
    uses = [network.uses[n] for n in layers]
    values = [None if use.values is None else use.values for use in uses]
    known = [None if x is None else [tables.number(float(v), 2) for v in x] for x in values]
    first = "input" if uses[0].kind != "lookup" else "entry"
    titles = [first, *(_module(leaves.names[use.leaf]) for use in uses)]
    shapes = [uses[0].source_shape, *(use.shape for use in uses)]
    kinds = [uses[0].kind, *(use.kind for use in uses)]
    rows = zip(titles, shapes, [*known, None], kinds, strict=True)
    columns: list[dict[str, Any]] = [
        {"title": title, "shape": list(shape), "values": text, "channels": kind == "kernel"}
        for title, shape, text, kind in rows
    ]
    last = groups[len(layers) - 1]
    columns[-1]["shares"] = last.share.reshape(-1, last.outputs).sum(0).tolist()
    return columns


def _module(name: str) -> str:
    """`layers.0` of `layers.0.w`: the module that a weight belongs to."""
    return name.rpartition(".")[0] or name


def dotted(paths: Sequence[str]) -> list[str]:
    """Paths with dots, without `params` and without a first part that all share.

    >>> dotted(["params['net']['layers'][0]['w']", "params['net']['layers'][0]['b']"])
    ['layers.0.w', 'layers.0.b']
    """
    if all(path.endswith(".value") for path in paths):  # as Flax NNX has it at every leaf
        paths = [path.removesuffix(".value") for path in paths]
    found = [[part for x in _PART.findall(path) for part in x if part] for path in paths]
    while len(paths) > 1 and len({x[0] for x in found if x}) == 1:
        if not all(len(x) > 1 and not x[1].isdigit() for x in found):
            break
        found = [x[1:] for x in found]
    return [".".join(x) or path for x, path in zip(found, paths, strict=True)]


def _slice(at: np.ndarray, size: int) -> str:
    """Indices as Python writes them, where it can.

    >>> _slice(np.array([3]), 9), _slice(np.arange(9), 9), _slice(np.array([1, 5]), 8)
    ('3', ':', '1::4')
    """
    steps = np.diff(at)
    if len(at) == 1 or len(at) == size:
        return ":" if len(at) > 1 else str(at[0])
    if len(set(steps.tolist())) > 1:
        return f"{at[0]}…{at[-1]}"
    start, stop, step = (int(x) for x in (at[0], at[-1] + steps[0], steps[0]))
    return f"{start or ''}:{stop if stop < size else ''}" + (f":{step}" if step > 1 else "")


def _weight(group: _Group, e: int, leaves: Leaves, rank, on_path: bool) -> dict[str, Any]:
    """One edge, or one bias, and the name of its entries as Python would index them."""
    shape = leaves.shares[group.leaf].shape
    at = np.flatnonzero(group.edge == e)
    name = leaves.names[group.leaf]
    value = None
    if len(at) == 1:
        value = float(np.real(leaves.values[group.leaf].ravel()[at[0]]))
    places = [np.unique(x) for x in np.unravel_index(at, shape)] if shape else []
    index = ", ".join(map(_slice, places, shape))
    source, target = divmod(e, group.outputs)
    share, slope = float(group.share[e]), float(group.slope[e])
    return {
        "column": group.column,
        "source": source,
        "target": target,
        "share": share,
        "slope": slope,
        "value": f"sum of {len(at)}" if value is None else tables.number(value),
        "name": f"{name}[{index}]" if index else name,
        "texts": (tables.number(slope), tables.percent(share)),
        "rank": rank,
        "on_path": on_path,
    }
