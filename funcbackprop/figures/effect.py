"""What an update does to the loss: over the length of the step, and while training."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .axes import finish, legend, log_axis, signed_axis
from .bands import Curve, band, extent, floats
from .style import LEVEL, look, panels, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Part of the actual range that is left free above and below, for the prediction to leave through.
_ROOM = 0.25
# How far a rise is drawn, in units of the largest fall.
_MOST_RISE = 1.5


@styled
def along_update(result: dict[str, Any], title: str | None = None) -> "Figure":
    """Predicted and actual change of the loss over the length of the step, and their difference.

    Args:
      result: `to_dict()` of a `funcbackprop.AlongUpdate`.
      title: of the left panel.
    """
    figure, (left, right) = panels(2, width=12.4, height=5.0)
    scales = floats(result["scales"])
    for k, name in enumerate(("actual", "predicted")):
        value, low, high = _estimate(result[name])
        color, marker = look(k).values()
        left.plot(scales, value, label=name, color=color, marker=marker)
        left.fill_between(scales, low, high, color=color, alpha=0.18, linewidth=0)
    _limit(left, _estimate(result["actual"]))
    left.axhline(0, color="#333333", linewidth=0.8)
    best = floats([result["best_scale"]["value"]])[0]
    if scales.min() < best < scales.max():
        left.axvline(best, label="smallest predicted loss", **LEVEL)
    left.set_title(title or "Change of the loss along the update")
    left.set_ylabel("change of the loss")
    _differences(right, scales, result)
    for ax in (left, right):
        log_axis(ax, scales, "x")
        ax.set_xlabel("length of the step (1: the update)")
    legend(figure)
    return figure


def _estimate(entry):
    return tuple(floats(entry[name]) for name in ("value", "lower", "upper"))


def _limit(ax, actual):
    """The range of the actual change with its intervals, which the prediction may leave; where the
    loss falls, its rise is cut so that the fall can be seen."""
    low, high = (f(np.append(np.concatenate(actual), 0)) for f in (np.nanmin, np.nanmax))
    high = min(high, _MOST_RISE * -low) if low < 0 else high
    room = _ROOM * ((high - low) or 1)
    ax.set_ylim(low - room, high + room)


def _differences(ax, scales, result):
    value, low, high = _estimate(result["error"])
    ends = np.abs([low, high])
    bottom = np.where(low * high > 0, ends.min(0), np.finfo(float).tiny)  # it may be nothing
    actual = np.abs(_estimate(result["actual"])[0])
    ax.plot(scales, actual, label="|actual|", **look(0))
    ax.plot(scales, np.abs(value), label="|actual - predicted|", **look(2))
    ax.fill_between(scales, bottom, ends.max(0), color=look(2)["color"], alpha=0.18, linewidth=0)
    rounding = floats([result["rounding"]])[0]
    if rounding > 0:
        ax.axhline(rounding, label="rounding of the losses", **(LEVEL | {"linestyle": ":"}))
    log_axis(ax, np.concatenate([actual, np.abs(value), [rounding]]))
    ax.set_title("Beyond second order")
    ax.set_ylabel("change of the loss, absolute")


@styled
def effect_while_training(
    predicted: Curve, actual: Curve, lower: Curve, upper: Curve, title: str | None = None
) -> "Figure":
    """Predicted and actual change of the loss by the next update, at each measured step.

    Args:
      predicted, actual: changes of the loss; below zero it falls.
      lower, upper: of the actual change, for the examples that were measured.
      title: of the figure.
    """
    figure, (ax,) = panels(1)
    bands = [band(x) for x in (actual, predicted, lower, upper)]
    signed_axis(ax, extent(bands))
    low, high = bands[2].low, bands[3].high
    for k, name in enumerate(("actual, with 95 % interval", "predicted")):
        color, marker = look(k).values()
        of = bands[k]
        ax.plot(of.steps, of.mean, label=name, color=color, marker=marker, markersize=8 - 3 * k)
    ax.fill_between(bands[0].steps, low, high, color=look(0)["color"], alpha=0.18, linewidth=0)
    ax.axhline(0, label="above: the update raises the loss", **LEVEL)
    label = "change of the loss by the next update"
    finish(ax, title or "What the next update does", label, bands[0].steps)
    legend(figure)
    return figure
