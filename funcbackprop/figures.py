"""How figures look. Plain data in, a matplotlib figure out; no JAX and no pyplot state.

A curve is a dict `seed -> (steps, values)`; None or NaN stands for a value that could not be had.
Several seeds are drawn as their mean with a band from the smallest to the largest. What a log axis
cannot hold is drawn as a hollow marker at the edge and named in the legend, never left out.
"""

import contextlib
import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = Mapping[Any, tuple[Any, Any]]  # seed -> (steps, values): sequences of equal length

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
_MARKERS = "os^Dvp<*"
_BLUE, _RED, _GREEN = PALETTE[:3]
_LEVEL = {"color": "#333333", "linestyle": (0, (5, 3)), "linewidth": 1.3}
_HOLLOW = {"linestyle": "none", "markerfacecolor": "white", "markersize": 8, "zorder": 4}
_HOLLOW |= {"clip_on": False}

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

_WIDTH = 9.0  # inches
_MOST_LINES = 8  # layers drawn as lines; more make a heat map
_MOST_ROWS = 40  # rows with a label of their own
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_STEP_LABEL = "updates made (0 is the initialisation; logarithmic from 1 on)"


def save(figure: "Figure", path: str | os.PathLike) -> Path:
    """Write a figure to `path` in the format of its ending; the file appears whole or not at all.

    Raises:
      OSError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
    try:
        with _style():
            figure.savefig(partial, format=path.suffix[1:] or "png")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


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


def _styled(draw):
    @functools.wraps(draw)
    def wrapped(*args, **kwargs):
        with _style():
            return draw(*args, **kwargs)

    return wrapped


def _panels(count: int, width: float = _WIDTH, height: float = 4.6, **kwargs) -> tuple[Any, list]:
    """A figure with `count` panels side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False, **kwargs)
    return figure, list(axes[0])


@_styled
def learning_curves(
    training: Curve, measured: Mapping[str, Mapping[str, Curve]], title: str = "Loss"
) -> "Figure":
    """Loss and other metrics while training, a panel for each metric.

    Args:
      training: the loss of every mini-batch; drawn light, with a running mean over the steps
        within 10 % of each step.
      measured: metric -> name of the data ("train", "test") -> curve. "loss" joins the mini-batch
        loss in the first panel; at most three more metrics get a panel.
      title: of the first panel.

    >>> figure = learning_curves({0: ([0, 1, 2], [2.3, 1.9, 1.2])}, {})
    >>> figure.axes[0].get_title(loc="left")
    'Loss'
    """
    others = [name for name in measured if name != "loss"][:3]
    figure, axes = _panels(1 + len(others), width=_WIDTH if not others else 6.2 * (len(others) + 1))
    _loss_panel(axes[0], training, measured.get("loss", {}), title)
    for ax, name in zip(axes[1:], others, strict=True):
        _metric_panel(ax, name, measured[name])
    return figure


def _loss_panel(ax, training, measured, title):
    shown = [band(curve) for curve in measured.values()]
    for seed, (steps, values) in training.items():
        label = "each mini-batch" if seed == next(iter(training)) else None
        ax.plot(steps, _array(values), color="#9bb8cc", linewidth=0.7, alpha=0.7, label=label)
    if training:
        smooth = {seed: (steps, _running_mean(steps, x)) for seed, (steps, x) in training.items()}
        _band_line(ax, band(smooth), color=_BLUE, linewidth=1.6, label="its running mean")
    for (name, curve), color, marker in zip(
        measured.items(), (PALETTE[7], _RED, *PALETTE[2:]), _MARKERS, strict=False
    ):
        _band_line(ax, band(curve), color=color, marker=marker, label=_with_last(name, curve))
    raw = [_array(values) for _, values in training.values()]
    _value_axis(ax, np.concatenate([*raw, *(x for b in shown for x in b[1:4]), np.zeros(0)]))
    _mark_not_finite(ax, training)
    _finish(ax, title, "loss (mean over examples)", [*training.values(), *shown])


def _metric_panel(ax, name, curves):
    for (split, curve), color, marker in zip(
        curves.items(), (PALETTE[7], _RED, *PALETTE[2:]), _MARKERS, strict=False
    ):
        _band_line(ax, band(curve), color=color, marker=marker, label=_with_last(split, curve))
    unit = "fraction of examples" if name == "accuracy" else "mean over examples"
    if name == "accuracy":
        low = min((float(np.nanmin(band(c).low, initial=1)) for c in curves.values()), default=0)
        ax.set_ylim(-0.01 if low < 0.5 else None, 1.005)
    _finish(ax, name.capitalize(), f"{name} ({unit})", [band(c) for c in curves.values()])


@_styled
def gradient_noise(variance: Curve, sq_norm: Curve, title: str | None = None) -> "Figure":
    """S = tr(Sigma) and the unbiased |G|^2 while training, on a log axis.

    Args:
      variance: S, the summed variance of one example's gradient.
      sq_norm: the unbiased estimate of |G|^2. Estimates at or below zero are drawn as hollow
        markers at the lower edge.
      title: of the figure.
    """
    figure, (ax,) = _panels(1)
    bands = [band(variance), band(sq_norm)]
    names = (
        "S = tr Σ: spread of the examples' gradients",
        "|G|²: squared norm of the mean gradient (unbiased)",
    )
    for b, name, color, marker in zip(bands, names, (_BLUE, _RED), "os", strict=True):
        _band_line(ax, b, color=color, marker=marker, label=name, log=True)
    _log_axis(ax, *(x for b in bands for x in b[1:4]))
    for b, color, marker, name in zip(bands, (_BLUE, _RED), "os", ("S", "|G|²"), strict=True):
        _edge_markers(ax, b, color, marker, f"{name} estimated at or below 0", top=False)
    _finish(ax, title or "Spread and size of the gradient", _SQUARED, bands)
    return figure


_SQUARED = "squared gradient  (loss² / parameter²)"


@_styled
def noise_scale(
    scale: Curve, batch_size: float | None = None, title: str | None = None
) -> "Figure":
    """The gradient noise scale S/|G|^2 while training, with the run's batch size as a level.

    Args:
      scale: the noise scale in examples; where it is None (no upper bound, or not measurable) a
        hollow arrow stands at the upper edge.
      batch_size: examples in a mini-batch.
      title: of the figure.
    """
    figure, (ax,) = _panels(1)
    b = band(scale)
    _band_line(ax, b, color=_BLUE, marker="o", label="noise scale S / |G|²", log=True)
    _log_axis(ax, *b[1:4], np.array([batch_size or np.nan]))
    if batch_size:
        ax.axhline(
            batch_size,
            label=f"batch size of the run: {tables.number(batch_size)} examples",
            **_LEVEL,
        )
    several = " for at least one seed" if len(scale) > 1 else ""
    _edge_markers(ax, b, _BLUE, "^", f"no finite estimate{several}", top=True, where=b.missing)
    _finish(ax, title or "Noise scale of the gradient", "noise scale (examples)", [b])
    return figure


@_styled
def layer_variance(variance: Mapping[str, Curve], signal_to_noise: Mapping[str, Curve]) -> "Figure":
    """Variance of the mini-batch gradient and its signal-to-noise ratio, layer by layer.

    Lines for up to 8 layers, a heat map (layers down, measured steps across) for more.

    Args:
      variance: layer -> curve of S/B, in squared gradient.
      signal_to_noise: layer -> curve of B |G|^2 / S, a pure number.
    """
    panels = (
        (variance, "Variance of the batch gradient, S/B", _SQUARED),
        (signal_to_noise, "Signal to noise, B|G|²/S", "signal to noise (ratio)"),
    )
    if len(variance) <= _MOST_LINES:
        return _layer_lines(panels)
    return _layer_maps(panels)


def _layer_lines(panels):
    figure, axes = _panels(2, width=12.4, height=5.2)
    for ax, (curves, title, unit) in zip(axes, panels, strict=True):
        bands = [band(curve) for curve in curves.values()]
        names = tables.labels(list(curves), 28)
        for b, name, color, marker in zip(bands, names, PALETTE, _MARKERS, strict=False):
            _band_line(ax, b, color=color, marker=marker, label=name, log=True)
        _log_axis(ax, *(x for b in bands for x in b[1:4]))
        if title.startswith("Signal"):
            ax.axhline(1, label="signal = noise", **_LEVEL)
        for b, color, marker in zip(bands, PALETTE, _MARKERS, strict=False):
            _edge_markers(ax, b, color, marker, "at or below 0 (any layer)", top=False)
        _finish(ax, title, unit, bands, legend=False)
    _shared_legend(figure, axes)
    return figure


def _layer_maps(panels):
    names = list(panels[0][0])
    height = 1.9 + 0.27 * min(len(names), _MOST_ROWS)
    figure, axes = _panels(2, width=13.0, height=height, sharey=True)
    empty = [
        _heat_map(figure, ax, curves, title, unit)
        for ax, (curves, title, unit) in zip(axes, panels, strict=True)
    ]
    every = math.ceil(len(names) / _MOST_ROWS)
    axes[0].set_yticks(range(0, len(names), every), tables.labels(names, 34)[::every])
    if any(empty):
        from matplotlib.patches import Patch

        patch = Patch(facecolor="#eeeeee", edgecolor="#999999", hatch="////")
        figure.legend([patch], ["estimate at or below 0, or none"], loc="outside lower center")
    return figure


def _heat_map(figure, ax, curves, title, unit):
    """Draw layers against measured steps; whether a cell had no value on the log scale."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter, NullFormatter

    bands = [band(curve) for curve in curves.values()]
    steps = sorted({step for b in bands for step in b.steps})
    grid = np.full((len(bands), len(steps)), np.nan)
    for row, b in zip(grid, bands, strict=True):
        row[np.searchsorted(steps, b.steps)] = np.where(b.mean > 0, b.mean, np.nan)
    ax.set_facecolor("#eeeeee")
    ax.patch.set(hatch="////", edgecolor="#999999")
    ax.grid(False)
    low, high = _limits(grid)
    image = ax.imshow(
        np.ma.masked_invalid(grid),
        aspect="auto",
        cmap="viridis",
        norm=LogNorm(low, high),
        interpolation="nearest",
    )
    shown = sorted({round(k) for k in np.linspace(0, len(steps) - 1, min(len(steps), 7))})
    ax.set_xticks(shown, [tables.number(int(steps[k])) for k in shown])
    ax.set(xlabel="updates made (the measured steps)")
    ax.set_title(title)
    bar = figure.colorbar(image, ax=ax, location="bottom", aspect=40, pad=0.02)
    bar.set_label(unit)
    bar.ax.xaxis.set_major_locator(_log_locator(low, high))
    bar.ax.xaxis.set_major_formatter(FuncFormatter(_log_text(low, high)))
    bar.ax.xaxis.set_minor_formatter(NullFormatter())
    return bool(np.isnan(grid).any())


@_styled
def gradient_check(leaves: Sequence[Mapping], tolerance: float | None = None) -> "Figure":
    """Relative error of every leaf against the reference, at each step that was compared.

    Args:
      leaves: dicts with "leaf", "step", "relative_error" (None where there is none) and
        "verdict". With more than 40 different leaves the 40 of largest error are drawn.
      tolerance: relative error up to which gradients agree.
    """
    names = list(dict.fromkeys(row["leaf"] for row in leaves))
    chosen = _worst(leaves, names)
    figure, (ax,) = _panels(1, width=10, height=2.4 + 0.29 * len(chosen))
    place = {name: k for k, name in enumerate(chosen)}
    leaves = [row for row in leaves if row["leaf"] in place]
    steps = sorted({row["step"] for row in leaves})
    errors = _array([row["relative_error"] for row in leaves])
    edges = _limits(np.append(errors, tolerance or np.nan))
    ax.set(xscale="log", xlim=edges)
    _log_ticks(ax.xaxis, *edges)
    if tolerance:
        ax.axvline(tolerance, label=f"tolerance {tables.number(tolerance)}", **_LEVEL)
    for k, step in enumerate(steps):
        _check_dots(ax, [r for r in leaves if r["step"] == step], place, k, len(steps))
    _check_edges(ax, leaves, place)
    ax.set_yticks(range(len(chosen)), tables.labels(chosen, 44))
    ax.set_ylim(len(chosen) - 0.4, -0.6)
    some = (
        ""
        if len(chosen) == len(names)
        else f"\n{len(chosen)} of {len(names)} leaves, those of largest error"
    )
    ax.set_title("JAX's gradient against the reference" + some)
    ax.set_xlabel("relative error of the leaf (ratio)")
    _shared_legend(figure, [ax])
    return figure


def _check_dots(ax, rows, place, k, count):
    agrees = np.array([row["verdict"] == "agrees" for row in rows])
    x = _array([row["relative_error"] for row in rows])
    y = np.array([place[row["leaf"]] for row in rows]) + 0.4 * (k - (count - 1) / 2) / count
    color, marker = PALETTE[k % len(PALETTE)], _MARKERS[k % len(_MARKERS)]
    dots = {"color": color, "marker": marker, "linestyle": "none", "markersize": 7, "zorder": 3}
    label = f"step {rows[0]['step']:,}"
    shown = x > 0
    ax.plot(x[shown & agrees], y[shown & agrees], label=label, **dots)
    wrong = shown & ~agrees
    if wrong.any():
        dots |= {"markerfacecolor": "white", "markeredgewidth": 2}
        ax.plot(x[wrong], y[wrong], label=f"{label}, does not agree", **dots)


def _check_edges(ax, rows, place):
    """Leaves with an error of exactly 0, or none, at the edges of the log axis."""
    cases = (
        ([r for r in rows if r["relative_error"] == 0], 0.0, "<", "exactly equal (left edge)"),
        (
            [r for r in rows if not np.isfinite(_array([r["relative_error"]])[0])],
            1.0,
            "X",
            "no error: not finite or not audited (right edge)",
        ),
    )
    for some, edge, marker, label in cases:
        if some:
            y = [place[row["leaf"]] for row in some]
            style = _HOLLOW | {"marker": marker, "color": "#333333", "label": label}
            ax.plot([edge] * len(y), y, transform=ax.get_yaxis_transform(), **style)


def _worst(leaves, names):
    """At most 40 leaf names, those of largest (or no) error, in their order."""
    if len(names) <= _MOST_ROWS:
        return names
    errors = dict.fromkeys(names, -1.0)
    for row in leaves:
        error = row["relative_error"]
        errors[row["leaf"]] = max(errors[row["leaf"]], math.inf if error is None else error)
    largest = set(sorted(names, key=lambda name: -errors[name])[:_MOST_ROWS])
    return [name for name in names if name in largest]


class Band(NamedTuple):
    """Several seeds as one curve: NaN where no seed has a value.

    Attributes:
      steps: every step at which any seed was measured, ascending.
      mean, low, high: mean, smallest and largest of the finite values at each step.
      missing: whether a seed was measured at the step without a finite value.
    """

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    missing: np.ndarray


def band(curve: Curve) -> Band:
    """Mean, smallest and largest value over seeds, at every step; `missing` where a seed has none.

    >>> b = band({0: ([0, 1], [1.0, 4.0]), 1: ([0, 1], [3.0, None])})
    >>> b.mean.tolist(), b.high.tolist(), b.missing.tolist()
    ([2.0, 4.0], [3.0, 4.0], [False, True])
    """
    steps = np.array(sorted({step for x, _ in curve.values() for step in x}), dtype=float)
    table = np.full((len(curve), len(steps)), np.nan)
    missing = np.zeros(len(steps), bool)
    for row, (x, values) in zip(table, curve.values(), strict=True):
        place = np.searchsorted(steps, x)
        row[place] = values = _array(values)
        missing[place] |= ~np.isfinite(values)
    found = np.isfinite(table)
    count = found.sum(axis=0)
    none = count == 0
    mean = np.where(found, table, 0).sum(axis=0) / np.where(none, np.nan, count)
    low = np.where(none, np.nan, np.where(found, table, np.inf).min(axis=0, initial=np.inf))
    high = np.where(none, np.nan, np.where(found, table, -np.inf).max(axis=0, initial=-np.inf))
    return Band(steps, mean, low, high, missing)


def _array(values):
    """A float array with NaN for None and for what is not finite."""
    array = np.array([np.nan if x is None else x for x in values], dtype=float)
    return np.where(np.isfinite(array), array, np.nan)


def _running_mean(steps, values, reach=0.1):
    """Mean over the steps within a factor 1 + `reach` of each step, of the finite values."""
    steps, values = np.asarray(steps, float), _array(values)
    finite = np.isfinite(values)
    sums = np.append(0, np.cumsum(np.where(finite, values, 0)))
    counts = np.append(0, np.cumsum(finite))
    first = np.searchsorted(steps, steps / (1 + reach), side="left")
    last = np.searchsorted(steps, steps * (1 + reach), side="right")
    count = counts[last] - counts[first]
    return (sums[last] - sums[first]) / np.where(finite, np.maximum(count, 1), np.nan)


def _band_line(ax, b, *, color, label, marker=None, linewidth=2.0, log=False):
    """The mean as a line and the range as a band; on a log axis only what is above zero."""
    mean = np.where(b.mean > 0, b.mean, np.nan) if log else b.mean
    ax.plot(b.steps, mean, color=color, marker=marker, label=label, linewidth=linewidth)
    if np.nanmax(b.high - b.low, initial=0) > 0:
        ax.fill_between(b.steps, b.low, b.high, color=color, alpha=0.18, linewidth=0)


def _with_last(name, curve):
    values = band(curve).mean
    known = values[np.isfinite(values)]
    return f"{name} (last: {tables.number(known[-1])})" if len(known) else name


def _mark_not_finite(ax, training):
    """A cross at the upper edge at the first step of each seed whose loss is not finite."""
    bad = [
        np.asarray(steps)[np.isnan(_array(values))][:1]
        for steps, values in training.values()
        if np.isnan(_array(values)).any()
    ]
    if bad:
        style = {"marker": "X", "color": _RED, "markersize": 11, "linestyle": "none"}
        ax.plot(
            np.concatenate(bad),
            [0.97] * len(bad),
            transform=ax.get_xaxis_transform(),
            label="loss not finite from here",
            zorder=5,
            **style,
        )


def _edge_markers(ax, b, color, marker, label, *, top, where=None):
    """Hollow markers at the edge of a log axis for values that it cannot hold."""
    where = ~(b.mean > 0) if where is None else where
    if where.any():
        x = b.steps[where]
        y = [0.985 if top else 0.015] * len(x)
        style = _HOLLOW | {"marker": marker, "color": color, "markeredgewidth": 1.8}
        ax.plot(x, y, transform=ax.get_xaxis_transform(), label=label, **style)


def _value_axis(ax, values):
    """A log axis where all values are positive and span a factor of 3, else a linear one."""
    known = values[np.isfinite(values)]
    if len(known) and known.min() > 0 and known.max() > 3 * known.min():
        _log_axis(ax, known)


def _log_axis(ax, *values):
    low, high = _limits(np.concatenate(values))
    ax.set(yscale="log", ylim=(low, high))
    _log_ticks(ax.yaxis, low, high)


def _limits(values) -> tuple[float, float]:
    """Limits of a log axis with some room around the values above zero, a factor of 10 at least."""
    known = values[np.isfinite(values) & (values > 0)]
    if not len(known):
        return 0.1, 10.0
    low, high = known.min() / 1.6, known.max() * 1.6
    widen = max(1.0, math.sqrt(10 * low / high))
    return float(low / widen), float(high * widen)


def _log_ticks(axis, low, high):
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_locator(_log_locator(low, high))
    axis.set_major_formatter(FuncFormatter(_log_text(low, high)))
    axis.set_minor_formatter(NullFormatter())


def _log_locator(low, high):
    from matplotlib.ticker import FixedLocator

    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    subs = (1, 2, 5) if last - first <= 3 else (1,)
    every = max(1, math.ceil((last - first) / 8))
    ticks = [s * 10.0**k for k in range(first, last + 1, every) for s in subs]
    return FixedLocator([tick for tick in ticks if low <= tick <= high])


def _log_text(low, high):
    """Tick labels: plain numbers where all are of ordinary size, else powers of ten."""
    if low >= 5e-4 and high <= 2e5:
        return lambda x, _: tables.number(x)

    def power(x, _):
        exponent = math.floor(math.log10(x) + 1e-9)
        factor = round(x / 10.0**exponent)
        return ("" if factor == 1 else f"{factor}·") + "10" + str(exponent).translate(_SUPERSCRIPTS)

    return power


def _finish(ax: "Axes", title, ylabel, series, *, legend=True):
    """Title, labels, the axis of steps and a legend below the panel."""
    ax.set_title(title)
    ax.set_ylabel(ylabel)
    steps = [np.asarray(s[0], float) for s in series]
    _step_axis(ax, np.concatenate([*steps, np.zeros(1)]))
    if legend:
        handles, names = _entries([ax])
        ax.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def _step_axis(ax, steps):
    """Steps from 0 on: linear to 12, beyond that logarithmic from 1 on."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    last = steps.max()
    if last <= 12:
        ax.set_xlim(-0.04 * max(last, 10), max(last, 0.4) * 1.04)
        ax.xaxis.set_major_locator(FixedLocator(np.arange(0, last + 1)))
        ax.set_xlabel("updates made (0 is the initialisation)")
    else:
        ax.set_xscale("symlog", linthresh=1, linscale=0.5)
        ax.set_xlim(-0.12, last * 1.12)
        decades = 10.0 ** np.arange(math.floor(math.log10(last)) + 1)
        subs = (1, 2, 5) if last < 250 else (1, 3) if last < 10_000 else (1,)
        ticks = [0, *sorted(d * s for d in decades for s in subs if d * s <= last)]
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.set_xlabel(_STEP_LABEL)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: tables.number(round(x))))
    ax.xaxis.set_minor_locator(NullLocator())


def _entries(axes):
    """Legend handles and names of all panels, each name once."""
    found = {}
    for ax in axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    return list(found.values()), list(found)


def _shared_legend(figure, axes):
    handles, names = _entries(axes)
    if names:
        columns = max(1, min(len(names), 112 // (max(map(len, names)) + 6)))
        figure.legend(handles, names, loc="outside lower center", ncols=columns)
