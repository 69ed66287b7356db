"""The density of the Hessian's eigenvalues."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .bands import floats
from .style import look, panels, styled

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
