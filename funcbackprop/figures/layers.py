"""Variance and signal-to-noise ratio of the mini-batch gradient, layer by layer."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .axes import draw_band, draw_edge, edge_reason, finish, legend, log_axis, log_limits, log_ticks
from .bands import Curve, band, extent
from .noise import SQUARED_GRADIENT
from .style import LEVEL, look, panels, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_LINES = 8  # layers drawn as lines; more make a heat map
_MOST_LABELS = 40  # rows of the heat map with a label of their own


class _Panel(NamedTuple):
    curves: Mapping[str, Curve]
    title: str
    label: str
    level: float | None  # a value with a meaning of its own
    colors: str  # of the heat map


@styled
def layer_variance(variance: Mapping[str, Curve], signal_to_noise: Mapping[str, Curve]) -> "Figure":
    """Variance of the mini-batch gradient and its signal-to-noise ratio, layer by layer.

    Lines for up to 8 layers, a heat map (layers down, measured steps across) for more.

    Args:
      variance: layer -> curve of S/B, in squared gradient.
      signal_to_noise: layer -> curve of B |G|^2 / S, a pure number.
    """
    both = (
        _Panel(variance, "Variance S/B", SQUARED_GRADIENT, None, "viridis"),
        _Panel(signal_to_noise, "Signal to noise B|G|²/S", "signal to noise (ratio)", 1.0, "PuOr"),
    )
    return _lines(both) if len(variance) <= _MOST_LINES else _maps(both)


def _lines(both):
    figure, axes = panels(2, width=12.4, height=5.2)
    for ax, panel in zip(axes, both, strict=True):
        bands = {name: band(curve) for name, curve in panel.curves.items()}
        log_axis(ax, extent(bands.values()))
        for k, (name, b) in enumerate(bands.items()):
            draw_band(ax, b, log=True, label=name, **look(k))
        if panel.level:
            ax.axhline(panel.level, label="signal = noise", **LEVEL)
        reason = edge_reason(np.concatenate([b.mean for b in bands.values()]))
        for k, b in enumerate(bands.values()):
            draw_edge(ax, b.steps[~(b.mean > 0)], top=False, label=reason, **look(k))
        steps = np.concatenate([[0], *(b.steps for b in bands.values())])
        finish(ax, panel.title, panel.label, steps)
    legend(figure)
    return figure


def _maps(both):
    names = list(both[0].curves)
    height = 1.9 + 0.27 * min(len(names), _MOST_LABELS)
    figure, axes = panels(2, width=13.0, height=height, sharey=True)
    holes = [_heat_map(figure, *pair) for pair in zip(axes, both, strict=True)]
    every = math.ceil(len(names) / _MOST_LABELS)
    axes[0].set_yticks(range(0, len(names), every), names[::every])
    if any(holes):
        from matplotlib.patches import Patch

        patch = Patch(facecolor="#eeeeee", edgecolor="#999999", hatch="////")
        figure.legend([patch], ["at or below 0, or no estimate"], loc="outside lower center")
    return figure


def _heat_map(figure, ax, panel):
    """Draw layers against measured steps; whether a cell had no value on the log scale."""
    from matplotlib.colors import LogNorm

    grid, steps = _grid(panel.curves)
    low, high = log_limits(grid)
    if panel.level:  # the middle of the colors
        reach = max(high / panel.level, panel.level / low)
        low, high = panel.level / reach, panel.level * reach
    ax.set_facecolor("#eeeeee")
    ax.patch.set(hatch="////", edgecolor="#999999")
    ax.grid(False)
    image = ax.imshow(
        np.ma.masked_invalid(grid),
        aspect="auto",
        cmap=panel.colors,
        norm=LogNorm(low, high),
        interpolation="nearest",
    )
    shown = sorted({round(k) for k in np.linspace(0, len(steps) - 1, min(len(steps), 7))})
    ax.set_xticks(shown, [f"{steps[k]:,.0f}" for k in shown])
    ax.set_xlabel("training step (those measured)")
    ax.set_title(panel.title)
    bar = figure.colorbar(image, ax=ax, location="bottom", aspect=40, pad=0.02)
    bar.set_label(panel.label)
    log_ticks(bar.ax.xaxis, low, high)
    return bool(np.isnan(grid).any())


def _grid(curves):
    """Means over seeds, layers x steps, NaN where there is none above zero; and the steps."""
    bands = [band(curve) for curve in curves.values()]
    steps = sorted({step for b in bands for step in b.steps})
    grid = np.full((len(bands), len(steps)), np.nan)
    for row, b in zip(grid, bands, strict=True):
        row[np.searchsorted(steps, b.steps)] = np.where(b.mean > 0, b.mean, np.nan)
    return grid, steps
