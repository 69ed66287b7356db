"""Variance and signal-to-noise ratio of the mini-batch gradient at one point, leaf by leaf."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .axes import edge_reason, legend, log_axis
from .noise import SQUARED_GRADIENT
from .style import HOLLOW, LEVEL, PALETTE, panels, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_LEAVES = 60  # those with the largest variance
_SEEN = "seen across mini-batches"
_PREDICTED = "from single examples"


@styled
def variance_by_leaf(result: Mapping[str, Any], title: str | None = None) -> "Figure":
    """Variance and signal-to-noise ratio of the mini-batch gradient, with 95 % intervals.

    Points on a log axis, a row for each leaf and one for the total. Beside the variance predicted
    from single examples stands the one seen across mini-batches, where it was measured on its own.

    Args:
      result: `GradientVariance.to_dict()`, with names of leaves that fit beside the axis.
      title: of the left panel.
    """
    rows = _rows(result)
    figure, axes = panels(2, width=12.4, height=1.9 + 0.3 * len(rows), sharey=True)
    variance, ratio = axes
    coupled = result["unit"] == "batch"
    shown = [("batch_variance", _SEEN if coupled else _PREDICTED, 0, -0.13 * (not coupled))]
    shown += [] if coupled else [("across_batches", _SEEN, 1, 0.13)]
    _draw(variance, rows, shown)
    _draw(ratio, rows, [("batch_signal_to_noise", "", 0, 0.0)])
    ratio.axvline(1, label="signal = noise", **LEVEL)
    _name_rows(variance, [name for name, _ in rows])
    variance.set_title(title or "Variance of the mini-batch gradient")
    variance.set_xlabel(f"{SQUARED_GRADIENT}, with 95 % interval")
    ratio.set_title("Signal to noise")
    ratio.set_xlabel("|G|² / variance (ratio), with 95 % interval")
    legend(figure)
    return figure


def _rows(result):
    """`(name, estimates)`: the total, then the leaves in order, or the most variable of many."""
    leaves = list(result["per_leaf"].items())
    if len(leaves) > _MOST_LEAVES:
        size = lambda row: row[1]["batch_variance"]["value"] or 0.0  # noqa: E731
        kept = {name for name, _ in sorted(leaves, key=size)[-_MOST_LEAVES:]}
        leaves = [row for row in leaves if row[0] in kept]
    return [("total", result["total"]), *leaves]


def _draw(ax: "Axes", rows, shown):
    """Points with their intervals; what a log axis cannot hold stands at its left edge."""
    found = [(_numbers(rows, name), *look) for name, *look in shown]
    known = np.concatenate([x[x > 0] for numbers, *_ in found for x in numbers])
    log_axis(ax, known, "x")
    left = ax.get_xlim()[0]
    for (value, lower, upper), label, k, shift in found:
        y = np.arange(len(rows)) + shift
        color = PALETTE[k]
        inside = value > 0
        low = np.where(lower > 0, lower, left)
        ax.hlines(y[inside], low[inside], np.maximum(upper, value)[inside], color=color, alpha=0.6)
        ax.plot(value[inside], y[inside], "os"[k], color=color, label=label or "_", clip_on=False)
        if not inside.all():
            name = edge_reason(value)
            edge = [0.012] * int((~inside).sum())
            look = HOLLOW | {"color": color, "marker": "os"[k]}
            ax.plot(edge, y[~inside], transform=ax.get_yaxis_transform(), label=name, **look)


def _numbers(rows, name):
    """Value, lower and upper limit [rows]; NaN where there is none."""
    cells = [[e[name][key] for key in ("value", "lower", "upper")] for _, e in rows]
    return np.array(cells, np.float64).T


def _name_rows(ax, names):
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)  # in the order of the parameters, from above
    ax.axhline(0.5, color="#999999", linewidth=0.8)
