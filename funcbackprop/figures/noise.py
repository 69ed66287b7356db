"""Spread and size of the gradient, and the noise scale, while training."""

from typing import TYPE_CHECKING

import numpy as np

from .axes import draw_band, draw_edge, edge_reason, finish, legend, log_axis
from .bands import Curve, Limits, band, extent, floats, log_extent
from .style import LEVEL, look, panels, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SQUARED_GRADIENT = "squared gradient (loss² / parameter²)"


@styled
def gradient_noise(
    variance: Curve,
    sq_norm: Curve,
    title: str | None = None,
    *,
    variance_limits: Limits | None = None,
    sq_norm_limits: Limits | None = None,
) -> "Figure":
    """S = tr(Sigma) and the unbiased |G|^2 while training, on a log axis.

    Args:
      variance: S, the summed variance of one example's gradient.
      sq_norm: the unbiased estimate of |G|^2. Estimates at or below zero are drawn as hollow
        markers at the lower edge.
      title: of the figure.
      variance_limits, sq_norm_limits: lower and upper limits, drawn as a band for a single seed.
    """
    figure, (ax,) = panels(1)
    shown = (
        (band(variance, variance_limits), "S", "variance of one example's gradient"),
        (band(sq_norm, sq_norm_limits), "|G|²", "squared norm of the mean gradient"),
    )
    log_axis(ax, log_extent(b for b, *_ in shown))
    for k, (b, symbol, meaning) in enumerate(shown):
        draw_band(ax, b, log=True, label=f"{symbol}: {meaning}", **look(k))
        name = f"{symbol}: {edge_reason(b.mean)}"
        draw_edge(ax, b.steps[~(b.mean > 0)], top=False, label=name, **look(k))
    finish(ax, title or "Spread and size of the gradient", SQUARED_GRADIENT, shown[0][0].steps)
    legend(figure)
    return figure


@styled
def noise_scale(
    scale: Curve,
    batch_size: float | None = None,
    title: str | None = None,
    *,
    limits: Limits | None = None,
) -> "Figure":
    """The gradient noise scale S/|G|^2 while training, with the run's batch size as a level.

    Args:
      scale: the noise scale in examples; where it is None (no upper bound, or not measurable) a
        hollow triangle stands at the upper edge.
      batch_size: examples in a mini-batch.
      title: of the figure.
      limits: of the noise scale, drawn as a band for a single seed; up to the upper edge where the
        upper limit is None.
    """
    figure, (ax,) = panels(1)
    b = band(scale, limits)
    log_axis(ax, np.append(log_extent([b]), batch_size or np.nan))
    draw_band(ax, b, log=True, label="noise scale S/|G|²", **look(0))
    if batch_size:
        ax.axhline(batch_size, label=f"batch size: {batch_size:,} examples", **LEVEL)
    name = "no finite estimate" + (" for at least one seed" if len(scale) > 1 else "")
    draw_edge(ax, b.steps[b.missing], top=True, label=name, **(look(0) | {"marker": "^"}))
    finish(ax, title or "Gradient noise scale", "noise scale (examples)", b.steps)
    legend(figure)
    return figure


@styled
def tracked_noise_scale(
    scale: Curve,
    lower: Curve,
    upper: Curve,
    batch_size: float | None = None,
    title: str | None = None,
) -> "Figure":
    """The noise scale that was tracked at every step, with its 95 % interval.

    Args:
      scale, lower, upper: of the window, in examples; one line and interval for each seed. An
        upper limit that is None reaches the upper edge; a scale that is None is not drawn.
      batch_size: examples in a mini-batch.
      title: of the figure.
    """
    figure, (ax,) = panels(1)
    bands = [band(x) for x in (scale, lower, upper)]
    log_axis(ax, np.append(extent(bands), batch_size or np.nan))
    top = ax.get_ylim()[1]
    for k, (seed, (steps, values)) in enumerate(scale.items()):
        color = look(k)["color"]
        name = f"seed {seed}" if len(scale) > 1 else "last half of the steps, with 95 % interval"
        low, high = floats(lower[seed][1]), floats(upper[seed][1])
        high = np.where(np.isfinite(low) & np.isnan(high), top, high)
        ax.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
        values = floats(values)
        ax.plot(steps, np.where(values > 0, values, np.nan), color=color, label=name)
    if batch_size:
        ax.axhline(batch_size, label=f"batch size: {batch_size:,} examples", **LEVEL)
    label = "noise scale (examples)"
    finish(ax, title or "Noise scale, tracked at every step", label, bands[0].steps)
    legend(figure)
    return figure
