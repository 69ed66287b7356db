"""The Hessian's eigenvalues: their density, and the largest while training."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .axes import draw_band, draw_edge, edge_reason, finish, legend, log_axis
from .bands import Curve, band, extent, floats
from .style import LEVEL, look, panels, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Decades below the peak that are drawn: less is the Gaussians' tails.
_DECADES = 6


@styled
def spectral_density(result: dict[str, Any], title: str | None = None) -> "Figure":
    """The density of the eigenvalues on a logarithmic axis.

    Args:
      result: `to_dict()` of a `funcbackprop.curvature.SpectralDensity`.
      title: of the figure.
    """
    figure, (ax,) = panels(1)
    grid, density = floats(result["grid"]), floats(result["density"])
    peak = np.max(density, initial=0, where=np.isfinite(density))
    if peak > 0:
        ax.plot(grid, np.where(density > 0, density, np.nan), color=look(0)["color"])
        ax.set(yscale="log", ylim=(peak * 10.0**-_DECADES, peak * 3))
    else:
        ax.text(0.5, 0.5, "no finite density", transform=ax.transAxes, ha="center")
    ax.set_title(title or "Eigenvalues of the Hessian")
    ax.set(xlabel="eigenvalue (loss / parameter²)", ylabel="share of eigenvalues per unit")
    return figure


@styled
def sharpness(
    value: Curve,
    upper: Curve,
    threshold: float | None = None,
    preconditioned: bool = False,
    title: str | None = None,
) -> "Figure":
    """The largest eigenvalue of the Hessian while training, and what the optimizer can bear.

    Args:
      value: of one Lanczos process, a lower bound.
      upper: the bound above it.
      threshold: above which full-batch steps diverge; None if it is not known.
      preconditioned: whether the Hessian is, as the optimizer does it.
      title: of the figure.
    """
    figure, (ax,) = panels(1)
    b, above = band(value), band(upper)
    log_axis(ax, np.append(extent([b, above]), threshold or np.nan))
    ax.fill_between(b.steps, b.low, above.high, color=look(0)["color"], alpha=0.18, linewidth=0)
    draw_band(ax, b, log=True, label="sharpness, up to its upper bound", **look(0))
    if threshold:
        ax.axhline(threshold, label="threshold of stability", **LEVEL)
    draw_edge(ax, b.steps[~(b.mean > 0)], top=False, label=edge_reason(b.mean), **look(0))
    label = "largest eigenvalue" + (", preconditioned" if preconditioned else "")
    finish(ax, title or "Sharpness", label, b.steps)
    legend(figure)
    return figure
