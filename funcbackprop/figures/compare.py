"""Several runs side by side: a line for each run, with its band."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from .axes import draw_band, draw_edge, finish, legend, log_axis
from .bands import Curve, Limits, band, extent, log_extent
from .style import LEVEL, look, panels, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A run's curve, and limits that are drawn where it has a single seed.
Line = tuple[Curve, Limits | None]


@styled
def metrics_of_runs(measured: Mapping[str, Mapping[str, Line]]) -> "Figure":
    """A panel for each metric, with a line for each run.

    Args:
      measured: title of the panel -> label of the run -> its curve, with limits or None. A run
        keeps its color in every panel.

    >>> one = {0: ([0, 10], [2.0, 0.1])}
    >>> figure = metrics_of_runs({"test loss": {"a": (one, None), "b": (one, None)}})
    >>> figure.axes[0].get_title(loc="left")
    'Test loss'
    """
    columns = min(2, len(measured))
    rows = math.ceil(len(measured) / columns)
    figure, axes = panels(columns, rows, width=9 if columns == 1 else 12.4, height=0.8 + 4.2 * rows)
    labels = list(dict.fromkeys(label for lines in measured.values() for label in lines))
    for ax, (title, lines) in zip(axes, measured.items(), strict=False):
        bands = {label: band(*line) for label, line in lines.items()}
        _metric_axis(ax, title, bands)
        for label, b in bands.items():
            draw_band(ax, b, log=False, **look(labels.index(label)), label=label)
        steps = np.concatenate([b.steps for b in bands.values()])
        finish(ax, title[:1].upper() + title[1:], title, steps)
    for ax in axes[len(measured) :]:
        ax.remove()
    legend(figure)
    return figure


def _metric_axis(ax, title, bands):
    values = np.concatenate([b.mean for b in bands.values()])
    known = values[np.isfinite(values)]
    if title.endswith("accuracy"):
        low = np.nanmin(extent(bands.values()), initial=1)
        ax.set_ylim(-0.02 if low < 0.5 else None, 1.02)
    elif len(known) and known.min() > 0 and known.max() > 3 * known.min():
        log_axis(ax, log_extent(bands.values(), room=1.5))


@styled
def noise_scales_of_runs(
    scales: Mapping[str, Line], batch_sizes: Mapping[str, float], title: str | None = None
) -> "Figure":
    """The noise scale of each run on a log axis, with the batch sizes as levels.

    Args:
      scales: label of the run -> its noise scale in examples, with limits or None. Where there is
        no finite estimate a hollow triangle stands at the upper edge.
      batch_sizes: label of the run -> examples in a mini-batch.
      title: of the figure.
    """
    figure, (ax,) = panels(1)
    bands = {label: band(*line) for label, line in scales.items()}
    sizes = sorted(set(batch_sizes.values()))
    log_axis(ax, np.append(log_extent(bands.values()), sizes))
    for k, (label, b) in enumerate(bands.items()):
        draw_band(ax, b, log=True, label=label, **look(k))
    for size in sizes:
        ax.axhline(size, label=f"batch size: {size:,} examples", **LEVEL)
    for k, b in enumerate(bands.values()):
        edge = look(k) | {"marker": "^"}
        draw_edge(ax, b.steps[b.missing], top=True, label="no finite estimate", **edge)
    steps = np.concatenate([b.steps for b in bands.values()])
    finish(ax, title or "Gradient noise scale", "noise scale (examples)", steps)
    legend(figure)
    return figure
