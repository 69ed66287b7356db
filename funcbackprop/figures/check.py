"""The gradient of every leaf against a reference."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .axes import legend, log_axis
from .bands import floats
from .style import HOLLOW, LEVEL, look, panels, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_LEAVES = 40


@styled
def gradient_check(leaves: Sequence[Mapping]) -> "Figure":
    """Error of every leaf in units of its bound, at each step that was compared.

    Args:
      leaves: dicts with "leaf", "step", "error_in_bounds" (None where there is none) and "ok".
        With more than 40 different leaves the 40 of largest error are drawn.
    """
    names = list(dict.fromkeys(row["leaf"] for row in leaves))
    chosen = _worst(leaves, names)
    place = {name: k for k, name in enumerate(chosen)}
    leaves = [row for row in leaves if row["leaf"] in place]
    steps = sorted({row["step"] for row in leaves})
    figure, (ax,) = panels(1, width=10, height=2.4 + 0.29 * len(chosen))
    log_axis(ax, np.append(_errors(leaves), 1.0), "x")
    ax.axvline(1.0, label="what rounding explains", **LEVEL)
    for k, step in enumerate(steps):
        shift = 0.4 * (k - (len(steps) - 1) / 2) / len(steps)
        _dots(ax, [row for row in leaves if row["step"] == step], place, shift, look(k))
    _edges(ax, leaves, place)
    ax.set_yticks(range(len(chosen)), chosen)
    ax.set_ylim(len(chosen) - 0.4, -0.6)
    ax.set_title("JAX's gradient against the reference")
    few = "" if chosen == names else f"\n{len(chosen)} of {len(names)} leaves: the largest errors"
    ax.set_xlabel("error in units of its rounding bound" + few)
    legend(figure)
    return figure


def _dots(ax, rows, place, shift, look):
    """The rows of one step: full marks where they agree, hollow ones where not."""
    agrees = np.array([row["ok"] for row in rows])
    x = _errors(rows)
    y = np.array([place[row["leaf"]] for row in rows]) + shift
    label = f"step {rows[0]['step']:,}"
    right, wrong = (x > 0) & agrees, (x > 0) & ~agrees
    dots = {**look, "linestyle": "none", "markersize": 7, "zorder": 3}
    ax.plot(x[right], y[right], label=label, **dots)
    if wrong.any():
        ax.plot(x[wrong], y[wrong], label=f"{label}, does not agree", **(dots | HOLLOW))


def _edges(ax, rows, place):
    """Leaves with an error of exactly 0, or none, at the edges of the log axis."""
    errors = _errors(rows)
    y = np.array([place[row["leaf"]] for row in rows])
    for some, edge, marker, label in (
        (errors == 0, 0.0, "<", "exactly equal (left edge)"),
        (np.isnan(errors), 1.0, "X", "no error: not finite or not audited (right edge)"),
    ):
        if some.any():
            style = HOLLOW | {"marker": marker, "color": "#333333", "label": label}
            x = np.full(some.sum(), edge)
            ax.plot(x, y[some], transform=ax.get_yaxis_transform(), **style)


def _worst(leaves, names):
    """At most 40 leaf names, those of largest (or no) error, in their order."""
    errors = dict.fromkeys(names, -1.0)
    for row in leaves:
        error = row["error_in_bounds"]
        errors[row["leaf"]] = max(errors[row["leaf"]], math.inf if error is None else error)
    largest = set(sorted(names, key=lambda name: -errors[name])[:_MOST_LEAVES])
    return [name for name in names if name in largest]


def _errors(rows):
    return floats(row["error_in_bounds"] for row in rows)
