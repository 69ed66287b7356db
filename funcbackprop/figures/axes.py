"""Axes: training steps, logarithmic values, what they cannot hold, and legends."""

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from .bands import Band
from .style import HOLLOW

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LINEAR_STEPS = 12  # runs up to this long have a linear axis


def draw_band(ax: "Axes", b: Band, *, log: bool = False, **look) -> None:
    """The mean as a line and the band; on a log axis only what is above zero, up to the edges."""
    ax.plot(b.steps, np.where(b.mean > 0, b.mean, np.nan) if log else b.mean, **look)
    if np.nanmax(b.high - b.low, initial=0) > 0:
        low, high = np.clip([b.low, b.high], *ax.get_ylim()) if log else (b.low, b.high)
        ax.fill_between(b.steps, low, high, color=look["color"], alpha=0.18, linewidth=0)


def draw_edge(ax: "Axes", steps: np.ndarray, *, top: bool, **look) -> None:
    """Hollow markers at the upper or lower edge, for values that a log axis cannot hold."""
    if len(steps):
        y = [0.985 if top else 0.015] * len(steps)
        ax.plot(steps, y, transform=ax.get_xaxis_transform(), **(HOLLOW | look))


def edge_reason(values: np.ndarray) -> str:
    """Why some of `values` stand at the edge of a log axis, for the legend."""
    cases = (("at or below 0", values <= 0), ("no estimate", np.isnan(values)))
    return " or ".join(text for text, some in cases if some.any())


def finish(ax: "Axes", title: str, label: str, steps) -> None:
    """Title and labels, and the axis of training steps."""
    ax.set_title(title)
    ax.set_ylabel(label)
    last = max(steps, default=0)
    _linear_steps(ax, last) if last <= _LINEAR_STEPS else _log_steps(ax, last)


def _linear_steps(ax, last):
    ax.set_xlim(-0.04 * max(last, 10), max(last, 0.4) * 1.04)
    _set_ticks(ax.xaxis, np.arange(last + 1), _plain)
    ax.set_xlabel("training step")


def _log_steps(ax, last):
    """Logarithmic from 1 on, with room for step 0 on its left."""
    ax.set_xscale("symlog", linthresh=1, linscale=0.5)
    ax.set_xlim(-0.12, last * 1.12)
    decades = 10.0 ** np.arange(math.floor(math.log10(last)) + 1)
    multiples = (1, 2, 5) if last < 250 else (1, 3) if last < 10_000 else (1,)
    ticks = sorted(decade * m for decade in decades for m in multiples if decade * m <= last)
    if last > 1.3 * ticks[-1]:
        ticks.append(last)
    _set_ticks(ax.xaxis, [0, *ticks], _plain)
    ax.set_xlabel("training step (logarithmic from 1 on)")


def log_axis(ax: "Axes", values: np.ndarray, axis: Literal["x", "y"] = "y") -> None:
    """Make an axis logarithmic, with room around `values`."""
    low, high = log_limits(values)
    ax.set(**{f"{axis}scale": "log", f"{axis}lim": (low, high)})
    log_ticks(ax.xaxis if axis == "x" else ax.yaxis, low, high)


def log_limits(values: np.ndarray) -> tuple[float, float]:
    """Limits of a log axis with some room around the values above zero, a factor of 10 at least."""
    known = values[np.isfinite(values) & (values > 0)]
    if not len(known):
        return 0.1, 10.0
    room = max(1.6, (known.max() / known.min()) ** 0.06)
    low, high = known.min() / room, known.max() * room
    widen = max(1.0, math.sqrt(10 * low / high))
    return float(low / widen), float(high * widen)


def signed_axis(ax: "Axes", values: np.ndarray, decades: int = 3) -> None:
    """A vertical axis for both signs: logarithmic from the largest value over `decades` down, and
    linear about zero."""
    known = np.abs(values[np.isfinite(values)])
    top = math.ceil(math.log10(known.max())) if known.max(initial=0) > 0 else 0
    smallest = known.min(initial=10.0**top, where=known > 0)
    bottom = min(max(math.floor(math.log10(smallest)), top - decades), top - 1)
    ax.set_yscale("symlog", linthresh=10.0**bottom, linscale=0.5)
    powers = [10.0**k for k in range(bottom, top + 1)]
    low, high = np.nanmin(values, initial=0), np.nanmax(values, initial=0)
    room = 10.0**bottom / 3
    ax.set_ylim(1.3 * low - room, 1.3 * high + room)
    ticks = [*(-x for x in reversed(powers)), 0, *powers]
    _set_ticks(ax.yaxis, [x for x in ticks if 1.3 * low <= x <= 1.3 * high], _signed)


def _signed(x):
    return "0" if x == 0 else ("-" if x < 0 else "") + power_of_ten(abs(x))


def log_ticks(axis: "Axis", low: float, high: float) -> None:
    """At most about ten ticks: plain numbers where all are of ordinary size, else powers of ten."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    multiples = (1, 2, 5) if last - first <= 3 else (1,)
    every = max(1, math.ceil((last - first) / 8))
    ticks = [m * 10.0**k for k in range(first, last + 1, every) for m in multiples]
    ordinary = low >= 5e-4 and high <= 2e5
    _set_ticks(axis, [x for x in ticks if low <= x <= high], _plain if ordinary else power_of_ten)


def _set_ticks(axis, ticks, text):
    from matplotlib.ticker import FixedLocator, NullLocator

    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(lambda x, _: text(x))
    axis.set_minor_locator(NullLocator())


def _plain(x):
    return f"{x:,.10g}"


def power_of_ten(x: float) -> str:
    """A number with one digit as text.

    >>> power_of_ten(1e-5), power_of_ten(200)
    ('10⁻⁵', '2·10²')
    """
    digit, exponent = f"{x:.0e}".split("e")
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPTS)
    return power if digit == "1" else f"{digit}·{power}"


def legend(figure: "Figure") -> None:
    """One legend below all panels, each name once."""
    found = {}
    for ax in figure.axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    if found:
        characters = 11 * figure.get_figwidth()  # in a line of the legend, about
        columns = int(characters // (max(map(len, found)) + 6))
        columns = max(1, min(len(found), columns))
        figure.legend(found.values(), found, loc="outside lower center", ncols=columns)
