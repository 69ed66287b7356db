"""Loss and other metrics while training."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from .axes import draw_band, finish, legend, log_axis
from .bands import Curve, Limits, band, extent, floats, running_mean
from .style import MARKERS, PALETTE, panels, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLUE, _LIGHT_BLUE, _RED = PALETTE[0], "#9bb8cc", PALETTE[1]
_COLORS = (PALETTE[7], *PALETTE[1:7])  # of the data's names; blue is the mini-batch


@styled
def learning_curves(
    training: Curve,
    measured: Mapping[str, Mapping[str, Curve]],
    title: str = "Loss",
    *,
    limits: Mapping[str, Mapping[str, Limits]] | None = None,
) -> "Figure":
    """Loss and other metrics while training, a panel for each metric.

    Args:
      training: the loss of every mini-batch; drawn light, with a running mean over the steps
        within 10 % of each step.
      measured: metric -> name of the data ("train", "test") -> curve. "loss" joins the mini-batch
        loss in the first panel.
      title: of the first panel.
      limits: metric -> name of the data -> limits, drawn as bands for a single seed.

    >>> figure = learning_curves({0: ([0, 1, 2], [2.3, 1.9, 1.2])}, {})
    >>> figure.axes[0].get_title(loc="left")
    'Loss'
    """
    others = [name for name in measured if name != "loss"]
    columns = 2 if others else 1
    rows = math.ceil((1 + len(others)) / columns)
    figure, axes = panels(columns, rows, width=12.4 if others else 9, height=0.6 + 4.2 * rows)
    splits = list(dict.fromkeys(name for curves in measured.values() for name in curves))
    looks = {name: _look(k) for k, name in enumerate(splits)}
    bands = {name: _bands(curves, (limits or {}).get(name)) for name, curves in measured.items()}
    _loss_panel(axes[0], training, bands.get("loss", {}), looks, title)
    for ax, name in zip(axes[1:], others, strict=False):
        _metric_panel(ax, name, bands[name], looks)
    for ax in axes[1 + len(others) :]:
        ax.remove()
    legend(figure)
    return figure


def _bands(curves, limits):
    return {split: band(curve, (limits or {}).get(split)) for split, curve in curves.items()}


def _look(k):
    return {"color": _COLORS[k % len(_COLORS)], "marker": MARKERS[k % len(MARKERS)]}


def _loss_panel(ax, training, shown, looks, title):
    for steps, values in training.values():
        ax.plot(steps, floats(values), color=_LIGHT_BLUE, lw=0.7, alpha=0.7, label="mini-batch")
    if training:
        smooth = {seed: (steps, running_mean(steps, x)) for seed, (steps, x) in training.items()}
        draw_band(ax, band(smooth), color=_BLUE, lw=1.6, label="mini-batch, running mean")
    for name, b in shown.items():
        draw_band(ax, b, **looks[name], label=name)
    raw = [floats(values) for _, values in training.values()]
    ends = [x for b in shown.values() for x in (b.mean, b.high)]
    _value_axis(ax, np.concatenate([*ends, *raw]))
    _mark_not_finite(ax, training)
    every = [*(steps for steps, _ in training.values()), *(b.steps for b in shown.values())]
    finish(ax, title, "loss (mean over examples)", np.concatenate([[0], *every]))


def _value_axis(ax, values):
    """A log axis where all values are positive and span a factor of 3, else a linear one."""
    known = values[np.isfinite(values)]
    if len(known) and known.min() > 0 and known.max() > 3 * known.min():
        log_axis(ax, known)


def _mark_not_finite(ax, training):
    """A cross at the upper edge at the first step of each seed whose loss is not finite."""
    first = [
        np.asarray(steps)[np.isnan(floats(values))][:1]
        for steps, values in training.values()
        if np.isnan(floats(values)).any()
    ]
    if first:
        style = {"marker": "X", "color": _RED, "markersize": 11, "linestyle": "none", "zorder": 5}
        transform, name = ax.get_xaxis_transform(), "loss not finite from here"
        ax.plot(
            np.concatenate(first), [0.97] * len(first), transform=transform, label=name, **style
        )


def _metric_panel(ax, name, bands, looks):
    for split, b in bands.items():
        draw_band(ax, b, **looks[split], label=split)
    if name == "accuracy":
        low = np.nanmin(extent(bands.values()), initial=1)
        ax.set_ylim(-0.02 if low < 0.5 else None, 1.02)
    unit = "fraction correct" if name == "accuracy" else "mean over examples"
    steps = np.concatenate([b.steps for b in bands.values()])
    finish(ax, name[:1].upper() + name[1:], f"{name} ({unit})", steps)
