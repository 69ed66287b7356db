"""A chain of layers as columns of units, with the strongest weights between them."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .style import GOOD, HARM, canvas, styled, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ALL_UNITS = 12  # columns up to this size show every unit
_LABELLED = 12  # up to this many weights each has its label on it; more have numbers and a list
_LINE = 0.21  # height of a line of text, inches
_ROW = 0.26  # of the list
_LISTED = 40  # weights in the list, at most
_PLACES = (0.2, 0.35, 3.75, 5.1, 6.0)  # of its columns
_PATH = "#F0E442"
_WEAK = "#c4c4c4"


class _Plan(NamedTuple):
    """Where everything stands, in inches."""

    shown: list[list[int]]  # units of each column
    at: dict[tuple[int, int], tuple[float, float]]  # (column, unit) -> centre
    radius: float
    width: float  # of the network, without the list on its right
    list_width: float
    bottom: float
    top: float
    height: float


@styled
def network_by_units(picture: Mapping[str, Any], title: str | None = None) -> "Figure":
    """Units as circles, the strongest weights as coloured lines, from the input to the prediction.

    Args:
      picture: what `funcbackprop.effect.chain.picture` makes, with "title", "prediction", "target"
        (texts) and "of", "loss" or "prediction".
      title: of the figure.
    """
    labelled = picture["weights"] <= _LABELLED
    plan = _plan(picture, labelled)
    figure, ax = canvas(plan.width + plan.list_width, plan.height)
    _draw_path(ax, picture, plan)
    _draw_edges(ax, picture, plan)
    _draw_units(ax, picture, plan)
    _draw_output(ax, picture, plan)
    (_label_edges if labelled else _number_and_list)(ax, picture, plan)
    ax.text(0.35, plan.height - 0.45, title or picture["title"], fontsize=15, weight="bold")
    _legend(ax, picture, plan)
    return figure


def _plan(picture, labelled) -> _Plan:
    columns = picture["columns"]
    shown = _shown(picture)
    slots = [len(units) + (_hidden(columns, shown, c) > 0) for c, units in enumerate(shown)]
    pitch = 2.2 if labelled else max(0.5, min(0.75, 7.5 / max(slots)))
    radius = 0.34 if labelled else min(0.27, 0.42 * pitch)
    gap = 3.6 if labelled else max(1.0, min(3.2, 13 / len(columns)))
    listed = 0.0 if labelled else 6.3
    bottom = 1.5
    height = max(
        pitch * (max(slots) - 1) + 2 * radius + 0.7,
        0 if labelled else _ROW * (sum(map(len, _listed(picture))) + 1),
    )
    at = {}
    for c, units in enumerate(shown):
        for i, unit in enumerate(units):
            y = bottom + height / 2 + pitch * ((slots[c] - 1) / 2 - i)
            at[c, unit] = 1.15 + gap * c, y
    width = 1.15 + gap * (len(columns) - 1) + (1.3 if _is_single(columns) else 2.6)
    top = bottom + height + 0.1
    width = max(width, 8.2 - listed)
    return _Plan(shown, at, radius, width, listed, bottom, top, top + 1.4)


def _is_single(columns) -> bool:
    return math.prod(columns[-1]["shape"]) == 1


def _shown(picture) -> list[list[int]]:
    """The units of each column: all of a few, else those at the strongest weights."""
    columns, found = picture["columns"], []
    for c, column in enumerate(columns):
        count = math.prod(column["shape"])
        if count <= _ALL_UNITS:
            found.append(list(range(count)))
            continue
        units = {picture["path"][c]} if picture["path"] else set()
        for edge in picture["edges"]:
            if edge["rank"]:
                units |= {edge["source"]} if edge["column"] == c else set()
                units |= {edge["target"]} if edge["column"] == c - 1 else set()
        units |= {b["target"] for b in picture["besides"] if b["column"] == c}
        found.append(sorted(units) or [0])
    return found


def _hidden(columns, shown, c) -> int:
    return math.prod(columns[c]["shape"]) - len(shown[c])


def color_of(slope: float, of: str) -> str:
    """Blue where raising the weight helps: it lowers the loss, or raises the prediction."""
    return GOOD if (slope < 0) == (of == "loss") else HARM


def _line(plan: _Plan, weight) -> Any:
    """Both ends of an edge; None if a unit is not shown."""
    ends = [(weight["column"], weight["source"]), (weight["column"] + 1, weight["target"])]
    found = [plan.at.get(end) for end in ends]
    return None if None in found else (found[0], found[1])


def _width(picture, weight) -> float:
    largest = max((e["share"] for e in (*picture["edges"], *picture["besides"])), default=0)
    return 1.2 + 6.5 * weight["share"] / largest if largest > 0 else 1.2


def _draw_path(ax: "Axes", picture, plan: _Plan) -> None:
    path = picture["path"]
    if path is None:
        return
    points = [plan.at[c, unit] for c, unit in enumerate(path)]
    ax.plot(
        *zip(*points, strict=True), color=_PATH, linewidth=19, alpha=0.75, zorder=1,
        solid_capstyle="round", solid_joinstyle="round", gid="path",
    )  # fmt: skip


def _draw_edges(ax: "Axes", picture, plan: _Plan) -> None:
    for edge in sorted(picture["edges"], key=lambda e: -(e["rank"] or math.inf)):
        ends = _line(plan, edge)
        if ends is None:
            continue
        strong = edge["rank"] is not None or edge["on_path"]
        ax.plot(
            *zip(*ends, strict=True),
            color=color_of(edge["slope"], picture["of"]) if strong else _WEAK,
            linewidth=_width(picture, edge) if strong else 0.8,
            zorder=3 if strong else 2,
            solid_capstyle="butt",
            gid="strong" if strong else "weak",
        )


def _draw_units(ax: "Axes", picture, plan: _Plan) -> None:
    from matplotlib.patches import Circle

    rings: dict[Any, Any] = {}
    for beside in picture["besides"]:
        place = beside["column"], beside["target"]
        rings[place] = max(rings.get(place, beside), beside, key=lambda b: b["share"])
    for (c, unit), center in plan.at.items():
        ring = rings.get((c, unit))
        idle = c == len(picture["columns"]) - 1 and not picture["columns"][c]["shares"][unit] > 0
        shade = _WEAK if idle else "#555555"
        look: dict[str, Any] = {"edgecolor": shade, "linewidth": 1.2}
        if ring is not None:
            color = color_of(ring["slope"], picture["of"])
            look = {"edgecolor": color, "linewidth": 1.2 + _width(picture, ring)}
        ax.add_patch(Circle(center, plan.radius, facecolor="white", zorder=5, **look))
        ax.text(*center, _inside(picture, plan, c, unit), zorder=6, ha="center", va="center",
                color=shade if idle else "black",
                fontsize=12 if plan.radius > 0.3 else 9)  # fmt: skip
    for c, column in enumerate(picture["columns"]):
        _draw_heads(ax, picture, plan, c, column)


def _inside(picture, plan, c, unit) -> str:
    columns = picture["columns"]
    if c == len(columns) - 1 and _is_single(columns):
        return picture["prediction"]
    values = columns[c]["values"]
    if values is not None and plan.radius > 0.3:
        return values[unit]
    return _index(columns[c], unit)


def _index(column, unit) -> str:
    """The number of a unit, along each axis."""
    found = []
    for n in reversed(column["shape"]):
        found.append(unit % n)
        unit //= n
    return ",".join(map(str, reversed(found))) if len(found) > 1 else str(unit or sum(found))


def _draw_heads(ax, picture, plan: _Plan, c, column) -> None:
    """Title and number of units above a column, and how many more there are below."""
    x = plan.at[c, plan.shown[c][0]][0]
    lowest = min(plan.at[c, unit][1] for unit in plan.shown[c])
    count = math.prod(column["shape"])
    last = c == len(picture["columns"]) - 1
    name = "input" if c == 0 else f"layer {c}"
    if last:
        name = "prediction" if _is_single(picture["columns"]) else "output"
    what = "channel" if column["channels"] else "input" if c == 0 else "unit"
    gap = plan.at[1, plan.shown[1][0]][0] - plan.at[0, plan.shown[0][0]][0]
    units = f"{count:,} {what}{'s' * (count != 1)}"
    ax.text(x, plan.top + 0.5, name, ha="center", weight="bold")
    title = _shorten(column["title"], gap - 0.2, 10) if c else units
    for y, text in ((0.28, title), (0.08, units if c else "")):
        ax.text(x, plan.top + y, text, ha="center", color="#666666", fontsize=10)
    if hidden := _hidden(picture["columns"], plan.shown, c):
        ax.text(x, lowest - plan.radius - 0.12, f"⋮\n… {hidden:,} more", ha="center", va="top",
                color="#666666", fontsize=10, linespacing=1.0)  # fmt: skip
    if column["values"] is not None and plan.radius > 0.3:
        for unit in plan.shown[c]:
            y = plan.at[c, unit][1] + plan.radius + 0.07
            label = f"{what} {_index(column, unit)}"
            ax.text(x, y, label, ha="center", color="#666666", fontsize=9, zorder=6)


def _shorten(name: str, width: float, size: float) -> str:
    """The end of a name that fits `width` inches."""
    most = max(6, int(width / text_width("x", size)))
    return name if len(name) <= most else "…" + name[len(name) - most + 1 :]


def _draw_output(ax: "Axes", picture, plan: _Plan) -> None:
    """The prediction, beside the last column or, of a single output, in its unit."""
    columns = picture["columns"]
    last = len(columns) - 1
    units = [plan.at[last, unit] for unit in plan.shown[last]]
    x = units[0][0]
    if _is_single(columns):
        ax.text(x, units[0][1] + plan.radius + 0.14, picture["target"], ha="center",
                color="#444444", fontsize=10)  # fmt: skip
        return
    shares = columns[last]["shares"]
    total = sum(shares[unit] for unit in plan.shown[last]) or 1.0
    middle = sum(shares[unit] * plan.at[last, unit][1] for unit in plan.shown[last]) / total
    middle = middle if total > 0 and any(shares) else (plan.bottom + plan.top) / 2
    for unit, (_, y) in zip(plan.shown[last], units, strict=True):
        if shares[unit] > 0:
            ax.annotate("", (x + 1.25, middle), (x + plan.radius, y), zorder=2,
                        arrowprops={"arrowstyle": "-", "color": _WEAK,
                                    "linestyle": ":"})  # fmt: skip
    ax.text(x + 1.25, middle, f"{picture['prediction']}\n{picture['target']}".strip(), va="center",
            bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": "#555555"})  # fmt: skip
    ax.text(x + 1.15, plan.top + 0.5, "prediction", weight="bold")


def _label_edges(ax: "Axes", picture, plan: _Plan) -> None:
    """Each weight's name, value and derivative on its line, where it hides nothing."""
    taken = [(x, y + 0.12, plan.radius + 0.1, plan.radius + 0.15) for x, y in plan.at.values()]
    edges = [edge for edge in picture["edges"] if _line(plan, edge) is not None]
    steepness = lambda e: -abs(_line(plan, e)[0][1] - _line(plan, e)[1][1])  # noqa: E731
    for edge in sorted(edges, key=steepness, reverse=True):
        (x0, y0), (x1, y1) = _line(plan, edge)
        text = _two_lines(edge, picture["of"])
        half = max(text_width(line, 10) for line in text.split("\n")) / 2 + 0.05, _LINE
        tries = (0.5, 0.45, 0.55, 0.4, 0.6, 0.34, 0.66, 0.3, 0.7, 0.27, 0.73, 0.25, 0.75)
        others = [_line(plan, e) for e in edges if e is not edge and e["column"] == edge["column"]]
        t = min(tries, key=lambda t: _hides(t, edge, others, half, taken, plan))
        spot = x0 + t * (x1 - x0), y0 + t * (y1 - y0)
        taken.append((*spot, *half))
        _note(ax, spot, text, edge, picture["of"])
    for beside in picture["besides"]:
        x, y = plan.at[beside["column"], beside["target"]]
        _note(ax, (x, y - plan.radius - 0.3), _two_lines(beside, picture["of"]), beside,
              picture["of"])  # fmt: skip


def _hides(t, edge, others, half, taken, plan: _Plan) -> float:
    """What a label at the share `t` of a line would hide: other things, and other lines."""
    (x0, y0), (x1, y1) = _line(plan, edge)
    y, reach = y0 + t * (y1 - y0), half[0] / (x1 - x0)
    crossed = sum(
        abs(a[1] + (t + part * reach) * (b[1] - a[1]) - y) < half[1] + 0.04
        for a, b in others
        for part in (-0.9, -0.6, -0.3, 0, 0.3, 0.6, 0.9)
    )
    return _overlap((x0 + t * (x1 - x0), y, *half), taken) + 0.03 * crossed


def _note(ax, spot, text, weight, of) -> None:
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
    color = color_of(weight["slope"], of) if weight["rank"] else "#666666"
    ax.text(*spot, text, ha="center", va="center", fontsize=10, color=color, bbox=box, zorder=7)


def _two_lines(weight, of) -> str:
    slope, share = weight["texts"]
    return f"{weight['name']} = {weight['value']}\nd {of} {slope}  ·  {share}"


def _overlap(box, taken: Sequence) -> float:
    """The area that a box (centre, half sizes) shares with others."""
    x, y, w, h = box
    total = 0.0
    for x2, y2, w2, h2 in taken:
        across = min(x + w, x2 + w2) - max(x - w, x2 - w2)
        along = min(y + h, y2 + h2) - max(y - h, y2 - h2)
        total += max(across, 0) * max(along, 0)
    return total


def _listed(picture) -> tuple[list, list]:
    """The strongest weights, and those on the strongest path that are not among them."""
    weights = [*picture["edges"], *picture["besides"]]
    strong = sorted((w for w in weights if w["rank"]), key=lambda w: w["rank"])
    return strong[:_LISTED], [w for w in weights if w["on_path"] and not w["rank"]]


def _number_and_list(ax: "Axes", picture, plan: _Plan) -> None:
    """A number at each of the strongest weights, and a list of them on the right."""
    strong, along = _listed(picture)
    taken: list[Any] = [(x, y, plan.radius, plan.radius) for x, y in plan.at.values()]
    badge: dict[str, Any] = {"boxstyle": "circle,pad=0.18", "facecolor": "white"}
    for weight in strong:
        color = color_of(weight["slope"], picture["of"])
        if weight in picture["besides"]:
            x, y = plan.at[weight["column"], weight["target"]]
            spots = [(x + 0.75 * plan.radius * a, y + 1.0 * plan.radius * b)
                     for a in (1, -1) for b in (1, -1)]  # fmt: skip
        else:
            (x0, y0), (x1, y1) = _line(plan, weight)
            tries = [0.5 + s * d for d in (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3) for s in (1, -1)]
            spots = [(x0 + t * (x1 - x0), y0 + t * (y1 - y0)) for t in tries]
        spot = min(spots, key=lambda p: _overlap((*p, 0.14, 0.14), taken))
        taken.append((*spot, 0.14, 0.14))
        ax.text(*spot, weight["rank"], fontsize=8, ha="center", va="center", zorder=8,
                color=color, bbox={**badge, "edgecolor": color})  # fmt: skip
    _list(ax, picture, plan, strong, along)


def _list(ax, picture, plan: _Plan, strong, along) -> None:
    heads = ("", "strongest weights", "value", f"d {picture['of']}", "share")
    rows: list[tuple[Any, ...]] = [(heads, None)]
    rows += [(_cells(w), w) for w in strong]
    if along:
        rows += [(("", "others on the strongest path", "", "", ""), None)]
        rows += [(_cells(w), w) for w in along]
    y = plan.top + 0.5
    for i, (cells, weight) in enumerate(rows):
        y -= 0 if i == 0 else _ROW if weight is not None else 1.4 * _ROW
        look: dict[str, Any] = {"weight": "bold"}
        if weight is not None:
            look = {"color": color_of(weight["slope"], picture["of"])}
        for j, (place, cell) in enumerate(zip(_PLACES, cells, strict=True)):
            side = "left" if j == 1 else "right"
            ax.text(plan.width + place, y, cell, ha=side, fontsize=10, **look)


def _cells(weight) -> tuple[str, ...]:
    name = _shorten(weight["name"], 2.6, 10)
    return (str(weight["rank"] or ""), name, weight["value"], *weight["texts"])


def _legend(ax: "Axes", picture, plan: _Plan) -> None:
    from matplotlib.lines import Line2D

    of = picture["of"]
    better, worse = ("lowers", "raises") if of == "loss" else ("raises", "lowers")
    line = lambda color, width: Line2D([], [], color=color, linewidth=width)  # noqa: E731
    weights = [w for w in (*picture["edges"], *picture["besides"]) if w["rank"] or w["on_path"]]
    used = {color_of(w["slope"], of) for w in weights}
    both = ((GOOD, better), (HARM, worse))
    handles = [line(color, 4) for color, _ in both if color in used]
    names = [f"raising the weight {what} the {of}" for color, what in both if color in used]
    if any(edge["rank"] is None and not edge["on_path"] for edge in picture["edges"]):
        handles.append(line(_WEAK, 1))
        names.append(f"not among the {picture['k']} strongest")
    if picture["path"] is not None:
        handles.append(line(_PATH, 10))
        names.append("strongest path: largest product of shares")
    columns = 2 if plan.width + plan.list_width < 11 else 4
    ax.legend(handles, names, loc="lower left", bbox_to_anchor=(0.3, 0.62), ncols=columns,
              bbox_transform=ax.transData, borderaxespad=0, fontsize=10)  # fmt: skip
    ax.text(0.35, 0.2, _caption(picture, plan), fontsize=9.5, color="#555555", linespacing=1.35)


def _caption(picture, plan: _Plan) -> str:
    """What width, circles and rings mean, and what is not drawn, in lines that fit."""
    of = picture["of"]
    told = [f"Width and %: share of |gradient|² of the {of}; d {of}: its derivative."]
    if any(w["value"].startswith("sum of") for w in picture["edges"] if w["rank"]):
        told.append("Convolutions: one line for each pair of channels, summed over the kernel.")
    if picture["besides"]:
        told.append("Coloured rings: biases and gains.")
    if any(column["values"] for column in picture["columns"]) and plan.radius > 0.3:
        told.append("In circles: the values.")
    left = {name: share for name, share in picture["left_out"].items() if share > 0}
    if left:
        told.append(f"Not drawn: {', '.join(left)} ({100 * sum(left.values()):.2g} %).")
    lines, width = [""], plan.width + plan.list_width - 0.7
    for word in " ".join(told).split():
        if text_width(f"{lines[-1]} {word}", 9.5) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
