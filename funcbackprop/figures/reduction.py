"""Estimators of the mean gradient, compared with plain sampling."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .axes import legend, log_axis
from .bands import floats
from .style import HOLLOW, LEVEL, look, panels, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def variance_ratios(rows: Sequence[Mapping]) -> "Figure":
    """Ratio of each estimator's variance to that of plain sampling, without and with the set-up.

    Args:
      rows: dicts with "name", "ratio" and "ratio_with_setup" (dicts with "value", "lower" and
        "upper", None where unknown), as `Row.to_dict` gives them.
    """
    figure, (ax,) = panels(1, width=9, height=2.2 + 0.5 * max(1, len(rows)))
    kinds = (("ratio", "at equal gradient evaluations"), ("ratio_with_setup", "with the set-up"))
    known = [_numbers(rows, kind) for kind, _ in kinds]
    log_axis(ax, np.append(np.concatenate(known, axis=None), 1.0), "x")
    ax.axvline(1.0, label="plain sampling", **LEVEL)
    for k, ((_, label), (value, lower, upper)) in enumerate(zip(kinds, known, strict=True)):
        y = np.arange(len(rows)) + 0.24 * (k - 0.5)
        shown = value > 0
        dots: dict[str, Any] = {**look(k), "linestyle": "none", "markersize": 7}
        ax.hlines(y[shown], lower[shown], upper[shown], color=look(k)["color"], linewidth=2)
        ax.plot(value[shown], y[shown], label=label, **dots)
        _edge(ax, y[value == 0], 0.0, "no variance left (left edge)", k)
        _edge(ax, y[np.isnan(value)], 1.0, "no value (right edge)", k)
    ax.set_yticks(range(len(rows)), [row["name"] for row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_title("Variance of the gradient estimate")
    ax.set_xlabel("ratio to plain sampling, with 95 % interval")
    legend(figure)
    return figure


def _numbers(rows, kind):
    """Values and limits, [3, rows]; a limit that is not known is the value."""
    value, lower, upper = (
        floats(row[kind][name] for row in rows) for name in ("value", "lower", "upper")
    )
    return np.stack([value, *(np.where(np.isnan(x), value, x) for x in (lower, upper))])


def _edge(ax, y, x, label, k):
    if len(y):
        style = HOLLOW | look(k) | {"marker": "<" if x == 0 else "X", "label": label}
        ax.plot(np.full(len(y), x), y, transform=ax.get_yaxis_transform(), **style)
