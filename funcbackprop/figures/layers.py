"""Layer by layer: variance and signal of the mini-batch gradient, and shares of a whole."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .axes import draw_band, draw_edge, edge_reason, finish, legend, log_axis, log_limits, log_ticks
from .bands import Curve, Limits, band, log_extent
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
    signed: bool  # shares from -1 to 1; else a log axis
    limits: Mapping[str, Limits]


@styled
def layer_variance(
    variance: Mapping[str, Curve],
    signal_to_noise: Mapping[str, Curve],
    *,
    variance_limits: Mapping[str, Limits] | None = None,
    ratio_limits: Mapping[str, Limits] | None = None,
) -> "Figure":
    """Variance of the mini-batch gradient and its signal-to-noise ratio, layer by layer.

    Lines for up to 8 layers, a heat map (layers down, measured steps across) for more.

    Args:
      variance: layer -> curve of S/B, in squared gradient.
      signal_to_noise: layer -> curve of B |G|^2 / S, a pure number.
      variance_limits, ratio_limits: layer -> limits, drawn as bands where there are lines of a
        single seed.
    """
    ratio = ("Signal to noise B|G|²/S", "signal to noise (ratio)", 1.0, "PuOr", False)
    both = (
        _Panel(
            *(variance, "Variance S/B", SQUARED_GRADIENT, None, "viridis", False),
            variance_limits or {},
        ),
        _Panel(signal_to_noise, *ratio, ratio_limits or {}),
    )
    return _lines(both) if len(variance) <= _MOST_LINES else _maps(both)


@styled
def layer_shares(
    gradient: Mapping[str, Curve],
    change: Mapping[str, Curve],
    *,
    gradient_limits: Mapping[str, Limits] | None = None,
    change_limits: Mapping[str, Limits] | None = None,
) -> "Figure":
    """Each layer's share of the squared gradient, and of what the next update changes.

    Lines for up to 8 layers, a heat map for more.

    Args:
      gradient: layer -> curve of its |G|^2 over the sum of their absolute values.
      change: layer -> curve of -<G, u> over the sum of the absolute values: above zero, the
        layer's part of the update lowers the loss.
      gradient_limits, change_limits: layer -> limits, drawn as bands where there are lines of a
        single seed.
    """
    look = (None, "PuOr", True)
    fall = ("Share of the fall of the loss", "share, to first order", *look)
    both = (
        _Panel(
            *(gradient, "Share of |G|²", "share of the squared gradient", *look),
            gradient_limits or {},
        ),
        _Panel(change, *fall, change_limits or {}),
    )
    return _lines(both) if len(gradient) <= _MOST_LINES else _maps(both)


def _lines(both):
    figure, axes = panels(2, width=12.4, height=5.2)
    for ax, panel in zip(axes, both, strict=True):
        bands = {name: band(x, panel.limits.get(name)) for name, x in panel.curves.items()}
        if not panel.signed:
            log_axis(ax, log_extent(bands.values()))
        for k, (name, b) in enumerate(bands.items()):
            draw_band(ax, b, log=not panel.signed, label=name, **look(k))
        if panel.signed:
            means = np.concatenate([b.mean for b in bands.values()])
            ax.set_ylim(min(-0.1, np.nanmin(means, initial=0) - 0.15), 1.05)
            ax.axhline(0, **LEVEL)
        else:
            _mark_edges(ax, panel, bands)
        steps = np.concatenate([[0], *(b.steps for b in bands.values())])
        finish(ax, panel.title, panel.label, steps)
    legend(figure)
    return figure


def _mark_edges(ax, panel, bands):
    if panel.level:
        ax.axhline(panel.level, label="signal = noise", **LEVEL)
    reason = edge_reason(np.concatenate([b.mean for b in bands.values()]))
    for k, b in enumerate(bands.values()):
        draw_edge(ax, b.steps[~(b.mean > 0)], top=False, label=reason, **look(k))


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
    grid, steps = _grid(panel.curves, panel.signed)
    norm = _norm(grid, panel)
    ax.set_facecolor("#eeeeee")
    ax.patch.set(hatch="////", edgecolor="#999999")
    ax.grid(False)
    image = ax.imshow(
        np.ma.masked_invalid(grid),
        aspect="auto",
        cmap=panel.colors,
        norm=norm,
        interpolation="nearest",
    )
    shown = sorted({round(k) for k in np.linspace(0, len(steps) - 1, min(len(steps), 7))})
    ax.set_xticks(shown, [f"{steps[k]:,.0f}" for k in shown])
    ax.set_xlabel("training step (those measured)")
    ax.set_title(panel.title)
    bar = figure.colorbar(image, ax=ax, location="bottom", aspect=40, pad=0.02)
    bar.set_label(panel.label)
    if not panel.signed:
        log_ticks(bar.ax.xaxis, *bar.ax.get_xlim())
    return bool(np.isnan(grid).any())


def _norm(grid, panel):
    from matplotlib.colors import LogNorm, Normalize

    if panel.signed:
        reach = np.nanmax(np.abs(grid), initial=0) or 1
        return Normalize(-reach, reach)
    low, high = log_limits(grid)
    if panel.level:  # the middle of the colors
        reach = max(high / panel.level, panel.level / low)
        low, high = panel.level / reach, panel.level * reach
    return LogNorm(low, high)


def _grid(curves, signed):
    """Means over seeds, layers x steps, NaN where the axis holds none; and the steps."""
    bands = [band(curve) for curve in curves.values()]
    steps = sorted({step for b in bands for step in b.steps})
    grid = np.full((len(bands), len(steps)), np.nan)
    for row, b in zip(grid, bands, strict=True):
        shown = b.mean if signed else np.where(b.mean > 0, b.mean, np.nan)
        row[np.searchsorted(steps, b.steps)] = shown
    return grid, steps
