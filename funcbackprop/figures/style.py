"""The style that all figures share, and how one is written to a file."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ParamSpec, TypeVar

from ..files import whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

# Okabe and Ito's palette, safe for the common kinds of colour blindness; grey in place of yellow.
PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#777777",
    "#000000",
)
MARKERS = "os^Dvp<*"
GOOD, HARM = PALETTE[0], PALETTE[1]

LEVEL = {"color": "#333333", "linestyle": (0, (5, 3)), "linewidth": 1.3}
HOLLOW: dict[str, Any] = {
    "linestyle": "none",
    "markerfacecolor": "none",
    "markeredgewidth": 1.8,
    "markersize": 8,
    "zorder": 4,
    "clip_on": False,
}

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "axes.titlesize": 14,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.labelsize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "lines.markersize": 6,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "savefig.dpi": 130,
    "agg.path.chunksize": 10_000,
    "text.parse_math": False,  # a layer may be called "a$b$c"
}


def look(k: int) -> dict[str, str]:
    """Color and marker of the k-th line."""
    return {"color": PALETTE[k % len(PALETTE)], "marker": MARKERS[k % len(MARKERS)]}


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """The library's style on top of matplotlib's own defaults, whatever the user has set."""
    try:
        from matplotlib import style
    except ImportError as error:
        raise ImportError(
            'figures need matplotlib: pip install "funcbackprop[study]"', name="matplotlib"
        ) from error
    with style.context(["default", _STYLE]):
        yield


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """`draw` in the library's style."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with _style():
            return draw(*args, **kwargs)

    return wrapped


def panels(
    columns: int, rows: int = 1, width: float = 9.0, height: float = 4.8, **kwargs
) -> tuple["Figure", list["Axes"]]:
    """A figure of `width` x `height` inches with its panels, row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **kwargs)
    return figure, list(axes.flat)


def text_width(text: str, size: float) -> float:
    """The width of a line of text in inches, about."""
    return len(text) * 0.6 * size / 72


def canvas(width: float, height: float) -> tuple["Figure", "Axes"]:
    """A figure to draw on freely: its coordinates are inches, from the lower left corner."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    return figure, ax


def save(figure: "Figure", path: str | os.PathLike) -> Path:
    """Write a figure to `path` in the format of its ending; the file appears whole or not at all.

    Raises:
      OSError: the folder does not exist or cannot be written.
      ValueError: matplotlib does not know the format.
    """
    path = Path(path)
    with whole(path) as partial, partial.open("wb") as file:
        write(figure, file, path.suffix[1:] or "png")
    return path


def write(figure: "Figure", file: BinaryIO, format: str = "png") -> None:
    """Write a figure to an open file; ValueError where matplotlib does not know the format."""
    with _style():
        figure.savefig(file, format=format)
