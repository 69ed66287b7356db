"""What `Responsibility.plot` draws: units and weights of a chain, or the modules."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import tables
from ..graph import Network, Use
from .chain import UNITS, Leaves, dotted, layers_of, picture

if TYPE_CHECKING:
    from .responsibility import Responsibility

_LARGEST_SLICES = 64  # of a stacked leaf


def draw(found: "Responsibility", wiring: Callable[[], Network], k: Any, title: str | None):
    """The figure that fits: columns of units for a chain, boxes in program order for the rest."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(
            "`Responsibility.plot`: `k` is how many of the strongest weights are drawn in colour, "
            f"an integer from 1 on, got {k!r}"
        )
    from ..figures.modules import network_by_modules
    from ..figures.units import network_by_units

    of = "prediction" if found.of_loss is None else "loss"
    slopes = found.of_prediction if found.of_loss is None else found.of_loss
    shares = found.shares
    leaves = Leaves(
        dotted(list(shares)),
        *(list(shares.values()), list(slopes.values()), list(found.values.values())),
    )
    head = {"title": _title(found), "prediction": tables.number(found.prediction), "of": of, "k": k}
    head["target"] = f"target {tables.number(found.target)}" if found.target is not None else ""
    network = wiring()
    layers = layers_of(network)
    if layers is not None:
        return network_by_units({**head, **picture(network, layers, leaves, int(k))}, title)
    return network_by_modules({**head, **boxes(network, leaves)}, title)


def _title(found) -> str:
    parts = [f"Prediction {tables.number(found.prediction)}"]
    for name in ("target", "loss"):
        value = getattr(found, name)
        parts += [f"{name} {tables.number(value)}"] if value is not None else []
    return ", ".join(parts)


def boxes(network: Network, leaves: Leaves) -> dict[str, Any]:
    """The modules in the order of the program, and what each reads.

    Returns:
      "boxes": dicts with "name", "leaves" (their names and shapes), "share" (None where an earlier
      box holds the weights), "percent", "slices" (shares along the first axis of
      stacked leaves, or None),
      "strongest" (one weight as text), "reads" (boxes before it), "loops" (itself in the round
      before, and boxes after it), and "input" (whether the input comes in).
      "output": the boxes that the prediction reads.
    """
    members, home = _members(network, leaves)
    held: list[set[int]] = [{network.uses[k].leaf for k in ks} for ks in members]
    found, taken = [], set()
    for n, ks in enumerate(members):
        own = sorted(held[n] - taken)
        taken |= held[n]
        reads = {(home[r], r >= k) for k in ks for r in network.uses[k].reads}
        found.append({
            **_box(leaves, own, held[n], any(network.uses[k].loop is not None for k in ks)),
            "reads": sorted({m for m, _ in reads if m < n}),
            "loops": sorted({m for m, back in reads if m > n or (back and m == n)}),
            "input": any(not network.uses[k].reads for k in ks),
        })  # fmt: skip
    rest = [k for k in range(len(leaves.names)) if k not in taken]
    alone = [{**_box(leaves, [k], {k}, False), "reads": [], "loops": [], "input": False}
             for k in rest if leaves.shares[k].sum() > 0]  # fmt: skip
    return {
        "boxes": [*found, *alone],
        "output": sorted({home[k] for k in network.output}),
        "without": [leaves.names[k] for k in rest if not leaves.shares[k].sum() > 0],
    }


def _members(network: Network, leaves: Leaves) -> tuple[list[list[int]], dict[int, int]]:
    """The uses of each box, and the box of each use: modules, or a matrix with its bias."""
    members: list[list[int]] = []
    home: dict[int, int] = {}
    of_module: dict[str, int] = {}
    for k, use in enumerate(network.uses):
        module = leaves.names[use.leaf].rpartition(".")[0]
        at = of_module.get(module) if module else _beside_what(network.uses, use, home)
        before = [] if at is None else [network.uses[j].leaf for j in members[at]]
        if use.kind in UNITS and use.leaf in before and home[k - 1] != at:
            at = None  # a weight that is used again, elsewhere
        if at is None:
            at = len(members)
            members.append([])
            of_module.setdefault(module, at)
        members[at].append(k)
        home[k] = at
    return members, home


def _beside_what(uses, use: Use, home) -> int | None:
    if use.kind != "beside" or len(use.reads) != 1:
        return None
    (k,) = use.reads
    return home[k] if k in home and uses[k].kind != "other" else None


def _box(leaves: Leaves, own, held, stacked) -> dict[str, Any]:
    """Name, share and strongest weight of the leaves `own`; `held` are those it uses too."""
    names = [leaves.names[k] for k in sorted(held)]
    module = names[0].rpartition(".")[0]
    if not module or any(name.rpartition(".")[0] != module for name in names):
        module, ends = tables.some(names, 2), names
    else:
        ends = [name.rpartition(".")[2] for name in names]
    shapes = [list(leaves.shares[k].shape) for k in sorted(held)]
    share = float(sum(leaves.shares[k].sum() for k in own)) if own else None
    found = {
        "name": module,
        "leaves": [f"{end} {shape}" for end, shape in zip(ends, shapes, strict=True)],
        "share": share,
        "percent": tables.percent(share),
        "slices": None,
        "strongest": None,
    }
    if not own:
        return found
    slices = [leaves.shares[k].reshape(len(leaves.shares[k]), -1).sum(1) for k in own if stacked]
    if stacked and len({len(x) for x in slices}) == 1 and len(slices[0]) <= _LARGEST_SLICES:
        found["slices"] = np.sum(slices, 0).tolist()
    best = max((float(leaves.shares[k].max(initial=0)), -k) for k in own)
    if best[0] > 0:
        k = -best[1]
        place = np.unravel_index(leaves.shares[k].argmax(), leaves.shares[k].shape)
        index = ", ".join(str(int(x)) for x in place)
        end = ends[sorted(held).index(k)]
        slope = float(np.real(leaves.slopes[k][place]))
        found["strongest"] = {
            "name": f"{end}[{index}]" if index else end,
            "value": tables.number(float(np.real(leaves.values[k][place]))),
            "texts": (tables.number(slope), tables.percent(best[0])),
            "slope": slope,
        }
    return found
