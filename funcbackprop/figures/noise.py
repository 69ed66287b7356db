"""Spread and size of the gradient, and the noise scale, while training."""

from typing import TYPE_CHECKING

import numpy as np

from .axes import draw_band, draw_edge, edge_reason, finish, legend, log_axis
from .bands import Curve, band, extent
from .style import LEVEL, look, panels, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SQUARED_GRADIENT = "squared gradient (loss² / parameter²)"


@styled
def gradient_noise(variance: Curve, sq_norm: Curve, title: str | None = None) -> "Figure":
    """S = tr(Sigma) and the unbiased |G|^2 while training, on a log axis.

    Args:
      variance: S, the summed variance of one example's gradient.
      sq_norm: the unbiased estimate of |G|^2. Estimates at or below zero are drawn as hollow
        markers at the lower edge.
      title: of the figure.
    """
    figure, (ax,) = panels(1)
    shown = (
        (band(variance), "S", "variance of one example's gradient"),
        (band(sq_norm), "|G|²", "squared norm of the mean gradient"),
    )
    log_axis(ax, extent(b for b, *_ in shown))
    for k, (b, symbol, meaning) in enumerate(shown):
        draw_band(ax, b, log=True, label=f"{symbol}: {meaning}", **look(k))
        name = f"{symbol}: {edge_reason(b.mean)}"
        draw_edge(ax, b.steps[~(b.mean > 0)], top=False, label=name, **look(k))
    finish(ax, title or "Spread and size of the gradient", SQUARED_GRADIENT, shown[0][0].steps)
    legend(figure)
    return figure


@styled
def noise_scale(
    scale: Curve, batch_size: float | None = None, title: str | None = None
) -> "Figure":
    """The gradient noise scale S/|G|^2 while training, with the run's batch size as a level.

    Args:
      scale: the noise scale in examples; where it is None (no upper bound, or not measurable) a
        hollow triangle stands at the upper edge.
      batch_size: examples in a mini-batch.
      title: of the figure.
    """
    figure, (ax,) = panels(1)
    b = band(scale)
    log_axis(ax, np.append(extent([b]), batch_size or np.nan))
    draw_band(ax, b, log=True, label="noise scale S/|G|²", **look(0))
    if batch_size:
        ax.axhline(batch_size, label=f"batch size: {batch_size:,} examples", **LEVEL)
    name = "no finite estimate" + (" for at least one seed" if len(scale) > 1 else "")
    draw_edge(ax, b.steps[b.missing], top=True, label=name, **(look(0) | {"marker": "^"}))
    finish(ax, title or "Gradient noise scale", "noise scale (examples)", b.steps)
    legend(figure)
    return figure
