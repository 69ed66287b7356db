"""Windows that slide over an array: pooling, and its derivative inside a loss."""

import itertools
import math

import numpy as np

from . import arithmetic
from .kinds import general, linear, opaque
from .reductions import broadcast, run_entrywise

# --- geometry, shared with convolutions ---------------------------------------------------------


def _placed(n, padding, dilation):
    """(padded size, entries that stay, their places) along one axis.

    Entry j goes to place low + j dilation. Negative padding cuts entries off.
    """
    low, high = padding
    size = max(0, low + (max(0, n - 1) * dilation + min(n, 1)) + high)
    first = max(0, math.ceil(-low / dilation))
    last = min(n, math.ceil((size - low) / dilation))
    count = max(0, last - first)
    place = low + first * dilation
    return size, slice(first, first + count), _every(place, count, dilation)


def _every(start, count, step):
    """`count` indices from `start` on, `step` apart."""
    return slice(start, start + (count - 1) * step + 1, step) if count else slice(0, 0)


def padded(x, padding, dilation, fill):
    """x with its entries `dilation` apart and padding around them, filled with `fill`."""
    axes = [_placed(n, pair, d) for n, pair, d in zip(x.shape, padding, dilation, strict=True)]
    sizes, kept, places = zip(*axes, strict=True) if axes else ((), (), ())
    if sizes == x.shape and kept == places:
        return x
    out = np.full(sizes, fill, x.dtype)
    out[places] = x[kept]
    return out


def unpadded(dout, shape, padding, dilation):
    """The transpose of `padded`: cotangents of its entries."""
    dx = np.zeros(shape, dout.dtype)
    axes = [_placed(n, pair, d) for n, pair, d in zip(shape, padding, dilation, strict=True)]
    dx[tuple(kept for _, kept, _ in axes)] = dout[tuple(places for *_, places in axes)]
    return dx


def count_windows(sizes, window, strides, dilation):
    """How many windows fit, for each axis."""
    spans = (d * (w - 1) + 1 if w else 0 for w, d in zip(window, dilation, strict=True))
    return tuple(
        max(0, (n - span) // s + 1) for n, span, s in zip(sizes, spans, strides, strict=True)
    )


def offsets(window, strides, dilation, counts):
    """For each position in the window, row by row: where all windows have it, as an index."""
    for position in itertools.product(*map(range, window)):
        axes = zip(position, dilation, counts, strides, strict=True)
        yield tuple(_every(k * d, n, s) for k, d, n, s in axes)


class Windows:
    """The windows of one equation over an array of this shape."""

    def __init__(self, p, shape):
        ones = (1,) * len(shape)
        self.shape, self.padding = shape, p["padding"]
        self.base = p.get("base_dilation", ones)
        window, strides = p["window_dimensions"], p["window_strides"]
        dilation = p.get("window_dilation", ones)
        axes = zip(shape, self.padding, self.base, strict=True)
        self.sizes = tuple(_placed(n, pair, d)[0] for n, pair, d in axes)
        self.counts = count_windows(self.sizes, window, strides, dilation)
        self.offsets = list(offsets(window, strides, dilation, self.counts))

    def views(self, x, fill):
        """For each position in the window: the entries of x that the windows have there."""
        x = padded(x, self.padding, self.base, fill)
        return [x[index] for index in self.offsets]

    def scatter(self, parts, dtype):
        """The transpose of `views`."""
        total = np.zeros(self.sizes, dtype)
        for index, values in zip(self.offsets, parts, strict=True):
            total[index] += values
        return unpadded(total, self.shape, self.padding, self.base)


# --- sums ---------------------------------------------------------------------------------------


def _sum_forward(p, x):
    windows = Windows(p, x.shape)
    return sum(windows.views(x, 0), np.zeros(windows.counts, x.dtype))


def _sum_pull(local, dys):
    windows = Windows(local.p, local.x[0].shape)
    return [windows.scatter([dys[0]] * len(windows.offsets), dys[0].dtype)]


# --- selections: which position of the window, decided in the program's own precision ------------

_BY_FIRST = "the first of tied values, row by row, is selected"
_COMPARE = {"ge": (np.greater_equal, -np.inf), "le": (np.less_equal, np.inf)}


def _select(views, stays, selected, best):
    """Position of the value that stays when each window is gone through row by row."""
    for k, view in enumerate(views):
        kept = stays(best, view)
        selected, best = np.where(kept, selected, k), np.where(kept, best, view)
    return selected


def _choose_in(p, x, compare):
    (stays, worst), x = _COMPARE[compare], x.astype(np.result_type(x, float))
    first, *others = Windows(p, x.shape).views(x, worst)
    return (_select([first, *others], stays, np.zeros(first.shape, int), first),)


def _taken(p, selected, x, fill):
    """The entry of x at the selected position of each window; 0 where none was selected."""
    windows = Windows(p, x.shape)
    out = np.zeros(windows.counts, x.dtype)
    for k, view in enumerate(windows.views(x, fill)):
        np.copyto(out, view, where=selected == k)
    return out


def _given(p, selected, dy, shape):
    """The transpose of `_taken`: each entry of dy goes to the selected position of its window."""
    windows = Windows(p, shape)
    parts = (np.where(selected == k, dy, 0) for k in range(len(windows.offsets)))
    return windows.scatter(parts, dy.dtype)


def _extreme_rule(compare, extreme):
    worst = _COMPARE[compare][1]

    def forward(p, choice, x):
        # A NaN anywhere in a window is its extreme value.
        nan = sum(np.isnan(view) for view in Windows(p, x.shape).views(x, worst))
        return np.where(nan > 0, np.nan, _taken(p, choice[0], x, worst))

    def pull(local, dys):
        return [_given(local.p, local.choice[0], dys[0], local.x[0].shape)]

    return general(
        pull,
        formula=f"dx = sum of dy over the windows whose {extreme} x is",
        forward=forward,
        choose=lambda p, x: _choose_in(p, x, compare),
        square=pull,
        convention=f"{_BY_FIRST}; padding is selected before an entry that is as extreme",
    )


def _choose_scatter(p, source, operand):
    return _choose_in(p, operand, p["select_prim"].name)


def _scatter_forward(p, choice, source, operand):
    return _given(p, choice[0], source, operand.shape)


def _scatter_pull(local, dys):
    return [_taken(local.p, local.choice[0], dys[0], 0), None]


def _choose_gather(p, tangents, operand):
    """As JAX: -1, none, where no entry of the window is better than the worst value."""
    stays, worst = _COMPARE[p["select_prim"].name]
    windows = Windows(p, operand.shape)
    none, best = np.full(windows.counts, -1), np.full(windows.counts, worst)
    return (_select(windows.views(operand, worst), stays, none, best),)


def _gather_forward(p, choice, tangents, operand):
    return _taken(p, choice[0], tangents, 0)


def _gather_pull(local, dys):
    return [_given(local.p, local.choice[0], dys[0], local.x[0].shape), None]


# --- reduce_window: its program runs on the tape, on all windows at once ------------------------


VIEWS = linear(
    lambda local, dys: [Windows(local.p, local.x[0].shape).scatter(dys, dys[0].dtype), None],
    formula="dx = sum of dy over the windows",
    forward=lambda p, x, fill: tuple(Windows(p, x.shape).views(x, fill)),
    exact=True,
)
SELECT = arithmetic.RULES["select_n"]


def reduce_window(tape, equation, inputs):
    """(... ((initial (+) x_0) (+) x_1) ...) in each window, where (+) is a program.

    Places in the padding, and between entries that are dilated, are passed over.
    """
    half, p, program = len(inputs) // 2, equation.params, equation.programs["jaxpr"]
    operands, initial = inputs[:half], inputs[half:]
    views = [tape.part(equation, VIEWS, pair, **p) for pair in zip(operands, initial, strict=True)]
    windows = Windows(p, operands[0].own.shape)
    held = windows.views(np.ones(windows.shape, bool), False)
    folded = [broadcast(tape, equation, x, windows.counts) for x in initial]
    for there, *position in zip(held, *views, strict=True):
        further = run_entrywise(tape, equation, program, [*folded, *position])
        if not there.all():
            cases = zip(folded, further, strict=True)
            which = tape.constant(there)
            further = [tape.part(equation, SELECT, [which, *pair])[0] for pair in cases]
        folded = further
    return folded


RULES = {
    "reduce_window_sum": linear(
        _sum_pull, formula="dx = sum of dy over the windows that hold x", forward=_sum_forward
    ),
    "reduce_window_max": _extreme_rule("ge", "maximum"),
    "reduce_window_min": _extreme_rule("le", "minimum"),
    "select_and_scatter_add": general(
        _scatter_pull,
        formula="d source = dy at the selected entry of each window; 0 for the operand",
        forward=_scatter_forward,
        choose=_choose_scatter,
        square=_scatter_pull,
        convention=_BY_FIRST,
    ),
    "select_and_gather_add": general(
        _gather_pull,
        formula="d tangents = dy at the selected entry of each window; 0 for the operand",
        forward=_gather_forward,
        choose=_choose_gather,
        square=_gather_pull,
        convention=f"{_BY_FIRST}; none, where all are as extreme as the padding",
    ),
    "select_and_scatter": opaque(
        "its two programs are not entered; JAX has no derivative for it either"
    ),
}

STRUCTURED = {"reduce_window": reduce_window}

FORMULAS = {"reduce_window": "the derivatives of its program, position by position in the window"}
