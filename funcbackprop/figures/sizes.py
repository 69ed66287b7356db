"""The variance of the mini-batch gradient against the batch size: predicted and seen."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .axes import legend, log_axis
from .bands import floats
from .noise import SQUARED_GRADIENT
from .style import LEVEL, look, panels, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def variance_at_sizes(found: Mapping[str, Mapping[str, Any]], title: str | None = None) -> "Figure":
    """Marks with intervals, seen across mini-batches; lines with bands, predicted as S/B.

    Left both, on log axes; right what was seen in units of the prediction.

    Args:
      found: label -> "sizes" [n], examples in a mini-batch; "seen" and "predicted", each a dict of
        "value", "lower" and "upper" [n], where None stands for what could not be had.
      title: of the left panel.
    """
    figure, (left, right) = panels(2, width=12.4, height=5.2)
    log_axis(left, np.concatenate([floats(x["seen"]["value"]) for x in found.values()]))
    for k, (label, x) in enumerate(found.items()):
        size, (color, marker) = floats(x["sizes"]), look(k).values()
        predicted, low, high = _numbers(x["predicted"])
        left.plot(size, predicted, color=color)
        left.fill_between(size, low, high, color=color, alpha=0.18, linewidth=0)
        at = size * 1.04 ** (k - (len(found) - 1) / 2)
        for ax, unit in ((left, np.ones_like(predicted)), (right, predicted)):
            value, low, high = (number / unit for number in _numbers(x["seen"]))
            ax.vlines(at, low, high, color=color, alpha=0.7)
            ax.plot(at, value, color=color, marker=marker, linestyle="none", label=label)
    left.plot([], [], color="#333333", label="line: S/B, from single examples")
    right.axhline(1, label="as predicted", **LEVEL)
    left.set_title(title or "Variance of the mini-batch gradient")
    right.set_title("Seen / predicted")
    left.set_ylabel(SQUARED_GRADIENT)
    right.set(ylabel="seen across mini-batches, over S/B (ratio)", ylim=(0, None))
    for ax in (left, right):
        log_axis(ax, np.concatenate([floats(x["sizes"]) for x in found.values()]), "x")
        ax.set_xlabel("examples in a mini-batch, B")
    legend(figure)
    return figure


def _numbers(entry):
    return (floats(entry[key]) for key in ("value", "lower", "upper"))
