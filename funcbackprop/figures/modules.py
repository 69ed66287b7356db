"""A network of any form, module by module: what each reads, its share, its strongest weight."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from .style import PALETTE, canvas, styled, text_width
from .units import color_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 26  # boxes; more are put together
_STEP = 0.62  # from box to box, inches
_BOX = 0.42  # height of a box
_BAR = 3.0  # length of the longest bar
_ARROW = "#888888"


@styled
def network_by_modules(picture: Mapping[str, Any], title: str | None = None) -> "Figure":
    """Modules from above in the order of the program: arrows for what each reads, on their left
    where they skip some; a bar for the share; and the strongest weight.

    Args:
      picture: what `funcbackprop.effect.picture.boxes` makes, with "title" and
        "prediction" (texts) and "of", "loss" or "prediction".
      title: of the figure.
    """
    picture = _fewer(picture)
    boxes = picture["boxes"]
    arcs = _arcs(picture)
    depth = max((arc.level for arc in arcs), default=0)
    left = 0.6 + 0.2 * depth
    width = max(text_width(_label(box), 10) for box in (*boxes, {"name": "prediction"})) + 0.3
    width = max(1.7, min(3.4, width))
    bar = left + width + 0.25
    height = _STEP * (len(boxes) + 2) + 1.9
    figure, ax = canvas(bar + _BAR + 5.6, height)
    row = lambda n: height - 1.15 - _STEP * (n + 1)  # noqa: E731  -1 is the input
    ax.text(0.35, height - 0.45, title or picture["title"], fontsize=15, weight="bold")
    _heads(ax, picture, bar, row(-1))
    names = ["input", *map(_label, boxes), f"prediction {picture['prediction']}"]
    for n, name in enumerate(names):
        _draw_box(ax, name, left, row(n - 1), width, inner=0 < n < len(names) - 1)
    for n, box in enumerate(boxes):
        _draw_share(ax, box, boxes, bar, row(n), picture["of"])
    for arc in arcs:
        _draw_arc(ax, left, width, row(arc.start), row(arc.end), arc)
    _caption(ax, picture, arcs)
    return figure


def _label(box) -> str:
    return box["name"]


def _fewer(picture) -> dict[str, Any]:
    """At most `_MOST` boxes: those with the largest shares; what they read through others stays."""
    boxes = picture["boxes"]
    if len(boxes) <= _MOST:
        return {**picture, "hidden": []}
    order = sorted(range(len(boxes)), key=lambda n: -(boxes[n]["share"] or 0))
    kept = sorted(order[:_MOST])
    place = {n: i for i, n in enumerate(kept)}
    through: dict[int, set[int]] = {}
    for n, box in enumerate(boxes):
        behind = set().union(*(through[m] for m in box["reads"]))
        through[n] = {place[n]} if n in place else behind
    seen = lambda ms: sorted(set().union(*(through[m] for m in ms)))  # noqa: E731
    loops = lambda ms: sorted(place[m] for m in ms if m in place)  # noqa: E731
    return {
        **picture,
        "boxes": [
            {**boxes[n], "reads": seen(boxes[n]["reads"]), "loops": loops(boxes[n]["loops"])}
            for n in kept
        ],
        "output": seen(picture["output"]),
        "hidden": [boxes[n] for n in order[_MOST:]],
    }


class _Arc(NamedTuple):
    """An arrow from one row to another.

    Attributes:
      start, end: rows; -1 is the input. A start between two rows stands for all that the second of
        them reads.
      level: its distance from the boxes; 0 for neighbours.
      back: whether it leads upwards, or to the same row.
    """

    start: float
    end: int
    level: int
    back: bool


def _arcs(picture) -> list[_Arc]:
    """Arrows, with levels such that those over the same rows do not cover each other."""
    boxes = picture["boxes"]
    reads = [frozenset(box["reads"]) for box in boxes]
    ends = [(m, n) for n in range(len(boxes)) for m in _gathered(reads, reads[n], n)]
    ends += [(m, len(boxes)) for m in _gathered(reads, frozenset(picture["output"]), len(boxes))]
    ends += [(-1, n) for n, box in enumerate(boxes) if box["input"]]
    ends += [(m, n) for n, box in enumerate(boxes) for m in box["loops"]]
    found: list[_Arc] = []
    for start, end in sorted(ends, key=lambda e: (abs(e[1] - e[0]), e)):
        level = 0
        if end - start != 1:
            low, high = min(start, end), max(start, end)
            over = {
                arc.level
                for arc in found
                if min(arc.start, arc.end) < high and max(arc.start, arc.end) > low
            }
            level = next(n for n in range(1, len(ends) + 2) if n not in over)
        found.append(_Arc(start, end, level, end <= start))
    return found


def _gathered(reads, read: frozenset[int], n: int) -> list[float]:
    """What a box reads; where all that an earlier box reads is among it, as along residual
    connections, one arrow from above that box instead of many."""
    before = [m for m in range(n) if len(reads[m]) > 1 and reads[m] <= read]
    if not before:
        return sorted(read)
    m = max(before, key=lambda m: (len(reads[m]), m))
    return [m - 0.5, *sorted(read - reads[m])]


def _heads(ax: "Axes", picture, bar, y) -> None:
    for x, text in (
        (bar, f"share of |gradient|² of the {picture['of']}"),
        (bar + _BAR + 1.0, f"strongest weight: value, d {picture['of']}, share"),
    ):
        ax.text(x, y, text, weight="bold", fontsize=10, va="center")


def _draw_box(ax: "Axes", name, x, y, width, inner) -> None:
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=0.08"
    ax.add_patch(
        FancyBboxPatch(
            (x, y - _BOX / 2), width, _BOX, boxstyle=style, zorder=3,
            facecolor="#eef4f9" if inner else "white", edgecolor="#555555",
        )
    )  # fmt: skip
    most = int((width - 0.2) / text_width("x", 10))
    text = name if len(name) <= most else "…" + name[len(name) - most + 1 :]
    ax.text(x + width / 2, y, text, ha="center", va="center", fontsize=10, zorder=4)


def _draw_share(ax: "Axes", box, boxes, x, y, of) -> None:
    if box["share"] is None:
        ax.text(x, y, "the same weights as above", fontsize=10, color="#666666", va="center")
        return
    largest = max(b["share"] or 0 for b in boxes) or 1
    start = x
    for n, part in enumerate(box["slices"] or [box["share"]]):
        length = _BAR * part / largest
        ax.barh(y, length, _BOX * 0.75, left=start, color=PALETTE[5 * (n % 2)], zorder=2)
        if box["slices"] and length > 0.2:
            ax.text(start + length / 2, y, str(n), ha="center", va="center", color="white",
                    fontsize=9, weight="bold")  # fmt: skip
        start += length
    ax.text(start + 0.08, y, box["percent"], fontsize=10, va="center")
    best = box["strongest"]
    if best is not None:
        text = f"{best['name']} = {best['value']},  {best['texts'][0]},  {best['texts'][1]}"
        ax.text(
            x + _BAR + 1.0, y, text, fontsize=10, va="center", color=color_of(best["slope"], of)
        )


def _draw_arc(ax: "Axes", left, width, start, end, arc: _Arc) -> None:
    """An arrow between neighbours, or around those between, on the left."""
    look: dict[str, Any] = {"arrowstyle": "-|>", "color": _ARROW, "shrinkA": 0, "shrinkB": 0}
    middle = left + width / 2
    if arc.level == 0:
        ends = (middle, end + _BOX / 2), (middle, start - _BOX / 2)
        ax.annotate("", *ends, arrowprops=look)
        return
    out = left - 0.15 - 0.2 * arc.level
    color = PALETTE[3] if arc.back else _ARROW
    apart = 0.16 if arc.back else 0.08
    first = left
    if arc.start != int(arc.start):  # from above a box
        first = middle
        ax.plot(middle, start, "o", color=color, markersize=4, zorder=4)
    else:
        start -= apart
    end += apart
    line = {"color": color, "linewidth": 1.4, "linestyle": "--" if arc.back else "-"}
    ax.plot([first, out, out, left - 0.1], [start, start, end, end], zorder=1, **line)
    ax.annotate("", (left, end), (left - 0.15, end), arrowprops={**look, "color": color})


def _caption(ax: "Axes", picture, arcs) -> None:
    of = picture["of"]
    better, worse = ("lowers", "raises") if of == "loss" else ("raises", "lowers")
    told = [f"Blue weight: raising it {better} the {of}; orange: {worse} it."]
    if any(box["loops"] for box in picture["boxes"]):
        told.append("Dashed: read in a loop's next round, or where a module is used again.")
    if any(box["slices"] for box in picture["boxes"]):
        told.append("Numbers in a bar: slices of weights that a loop takes one by one.")
    lines = [" ".join(told[:2]), *told[2:]]
    if any(arc.start != int(arc.start) for arc in arcs):
        lines.append("Arrow from a dot: all that the box below the dot reads.")
    if picture["hidden"]:
        share = sum(box["share"] or 0 for box in picture["hidden"])
        lines.append(f"{len(picture['hidden'])} more modules with {100 * share:.2g} % together.")
    if picture["without"]:
        more = len(picture["without"]) - 6
        names = ", ".join(picture["without"][:6]) + (f" and {more} more" if more > 0 else "")
        lines.append(f"Without influence: {names}.")
    ax.text(0.35, 0.2, "\n".join(lines), fontsize=9.5, color="#555555", linespacing=1.35)
