"""What an update does to the loss: by example and leaf, over its length, and while training."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .axes import finish, legend, log_axis, signed_axis
from .bands import Curve, band, extent, floats
from .style import GOOD, HARM, LEVEL, PALETTE, look, panels, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Part of the actual range that is left free above and below, for the prediction to leave through.
_ROOM = 0.25
# How far a rise is drawn, in units of the largest fall.
_MOST_RISE = 1.5
_MOST_LEAVES = 20
_TERMS = (("first_order", "first order ⟨G, u⟩", PALETTE[2], "o", -0.15),
          ("curvature", "curvature u'Hu/2", PALETTE[3], "s", 0.15))  # fmt: skip


@styled
def effect_of_update(result: Mapping[str, Any], title: str | None = None) -> "Figure":
    """Two panels: the change of each example's loss, predicted and actual; and the terms by leaf.

    Args:
      result: `UpdateEffect.to_dict()`, with names of leaves that fit beside the axis, "level" of
        the intervals, and "told", the shares of the examples whose loss "falls",
        "rises" and "stays", as texts.
      title: of the left panel.
    """
    leaves = _leaves(result)
    height = max(5.6, 2.4 + 0.36 * (len(leaves) + 2))
    figure, (left, right) = panels(2, width=13.4, height=height, width_ratios=(1, 1.15))
    _examples(left, result)
    left.set_title(title or "Change of each example's loss")
    _by_leaf(right, result, leaves)
    right.set_title(f"Mean change by leaf, {100 * result['level']:g} % intervals")
    legend(figure)
    return figure


def _examples(ax: "Axes", result) -> None:
    each = {name: floats(values) for name, values in result["of_examples"].items()}
    kept = floats(result["weights"]) > 0
    actual = each["actual"][kept]
    predicted = (each["first_order"] + each["curvature"])[kept]
    for color, marker, chosen, name in (
        (GOOD, "o", actual < 0, "falls"),
        (HARM, "^", actual > 0, "rises"),
        (PALETTE[6], "s", actual == 0, "stays"),
    ):
        if chosen.any():
            label = f"loss {name}: {result['told'][name]} of the examples"
            ax.plot(predicted[chosen], actual[chosen], marker, color=color, alpha=0.6, label=label,
                    markersize=5, markeredgewidth=0)  # fmt: skip
    finite = np.isfinite(predicted) & np.isfinite(actual)
    ends = np.concatenate([predicted[finite], actual[finite], [0.0]])
    low, high = float(ends.min()), float(ends.max())
    room = 0.05 * (high - low or 1.0)
    ends = [low - room, high + room]
    ax.plot(ends, ends, label="actual = predicted", **LEVEL)
    ax.axhline(0, color="#999999", linewidth=0.8)
    ax.axvline(0, color="#999999", linewidth=0.8)
    ax.set(xlim=ends, ylim=ends, aspect="equal", anchor="N")
    ax.locator_params(nbins=6)
    ax.set(xlabel="predicted, first order + curvature (loss)", ylabel="actual (loss)")
    if not finite.all():
        ax.text(0.97, 0.03, f"{int((~finite).sum()):,} examples have no finite value",
                transform=ax.transAxes, ha="right")  # fmt: skip


def _leaves(result) -> list[str]:
    """The leaves whose terms are largest, largest first."""
    terms = [result[f"{name}_by_leaf"] for name, *_ in _TERMS]
    size = lambda leaf: max(abs(term[leaf]["value"] or 0.0) for term in terms)  # noqa: E731
    return sorted(terms[0], key=lambda leaf: -size(leaf))[:_MOST_LEAVES]


def _by_leaf(ax: "Axes", result, leaves) -> None:
    """Points with intervals: predicted and actual of all leaves, then the terms of each."""
    total = (
        ("predicted", "predicted, their sum", PALETTE[0], "D", -0.3),
        ("actual", "actual", "#000000", "X", 0.3),
    )
    for name, label, color, marker, shift in (*total, *_TERMS):
        found = [(0, result[name])]
        if f"{name}_by_leaf" in result:
            by_leaf = result[f"{name}_by_leaf"]
            found += [(1 + row, by_leaf[leaf]) for row, leaf in enumerate(leaves)]
        y = np.array([row for row, _ in found]) + shift
        value, lower, upper = (
            floats(estimate[key] for _, estimate in found) for key in ("value", "lower", "upper")
        )
        ax.hlines(y, lower, upper, color=color, alpha=0.7)
        ax.plot(value, y, marker, color=color, label=label)
    names = ["all leaves", *leaves]
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.axhline(0.5, color="#999999", linewidth=0.8)
    ax.axvline(0, color="#999999", linewidth=0.8)
    hidden = len(result["first_order_by_leaf"]) - len(leaves)
    more = f"; {hidden} smaller leaves are not shown" if hidden else ""
    ax.set_xlabel(f"change of the mean loss (loss){more}")


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
