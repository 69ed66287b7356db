"""How tables look: text that fits a terminal, HTML for the report; numbers written for people."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

NO_VALUE = "–"  # noqa: RUF001
_ELLIPSIS = "…"
_MIN_COLUMN = 8  # a column is not shortened below this many characters
_GAP = 2  # characters between two columns
_HEADER_PADDING = 2  # tabulate makes a column this much wider than its header

# Floats of this size are written out; others with an exponent.
_SMALLEST, _LARGEST = 1e-4, 1e6


def number(x: Any, digits: int = 3) -> str:
    """A number written for people: `digits` significant digits, thousands separated by commas.

    Args:
      x: a number. None and NaN, which stand for "no value", become a dash.
      digits: significant digits; the digits before the decimal point are always kept.

    Raises:
      TypeError: `x` is not a number.

    >>> [number(x) for x in (0.00123, 2.5, 12345.6, 1.2e-13, 4.56e9)]
    ['0.00123', '2.5', '12,346', '1.2e-13', '4.56e9']
    >>> [number(x) for x in (0, 1234567, float("-inf"))]
    ['0', '1,234,567', '-inf']
    >>> number(None) == number(float("nan")) == NO_VALUE
    True
    """
    if x is None:
        return NO_VALUE
    if not isinstance(x, numbers.Real):
        raise TypeError(f"`number`: `x` must be a number, got {type(x).__name__}")
    if isinstance(x, numbers.Integral):
        return f"{int(x):,}"
    x = float(x)
    if math.isnan(x):
        return NO_VALUE
    if math.isinf(x) or x == 0:
        return f"{x:g}".replace("-0", "0")
    mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
    if not _SMALLEST <= abs(x) < _LARGEST:
        return f"{float(mantissa):g}e{int(exponent)}"
    decimals = max(digits - 1 - int(exponent), 0)
    text = f"{x:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if decimals else text


def with_error(value: float | None, error: float | None, digits: int = 4) -> str:
    """A number with its standard error or deviation, to the decimals that the latter allows.

    >>> [with_error(0.97771, 0.0078), with_error(12345.6, 210.0), with_error(0.5, None)]
    ['0.9777 ± 0.0078', '12,346 ± 210', '0.5']
    """
    if value is None or error is None or not (math.isfinite(value) and math.isfinite(error)):
        return number(value, digits)
    if not _SMALLEST <= error < _LARGEST or abs(value) >= _LARGEST:
        return f"{number(value, digits)} ± {number(error, 2)}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:,.{decimals}f} ± {error:,.{decimals}f}"


def with_interval(value: float | None, lower: float | None, upper: float | None) -> str:
    """A number with its 95 % interval; without an upper limit, what it is at least.

    A value below the interval is an estimate of what cannot be negative: then, what it is at most.

    >>> [with_interval(32.1, 28.0, 37.5), with_interval(None, 300.0, None)]
    ['32.1 [28, 37.5]', 'at least 300']
    >>> with_interval(5.0, 3.0, None), with_interval(-0.1, 0.0, 0.2), with_interval(5.0, None, None)
    ('5 [3, unbounded)', 'at most 0.2', '5')
    """
    if lower is None:
        return number(value)
    if value is not None and value < lower and upper is not None:
        return f"at most {number(upper)}"
    if upper is None:
        low = number(lower)
        return f"at least {low}" if value is None else f"{number(value)} [{low}, unbounded)"
    ends = [number(x) for x in (lower, upper)]
    return number(value) if ends == [number(value)] * 2 else f"{number(value)} [{', '.join(ends)}]"


def capital(text: str) -> str:
    """A text that begins with a capital.

    >>> capital("noise scale S")
    'Noise scale S'
    """
    return text[:1].upper() + text[1:]


def percent(x: float | None, digits: int = 2) -> str:
    """A share in percent; a dash where there is none, or where it is not finite.

    >>> [percent(x) for x in (0.5, 0.0123, 3e-7)]
    ['50 %', '1.2 %', '3e-5 %']
    """
    return NO_VALUE if x is None or not math.isfinite(x) else f"{number(100 * x, digits)} %"


def some(items: Sequence[str], most: int) -> str:
    """The first of several items, and how many more there are.

    >>> some(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def shorten(text: str, width: int) -> str:
    """`text` in at most `width` characters, cut in the middle: both ends of a path tell more.

    >>> shorten("params['encoder']['layers'][0]['w']", 20)
    "params['en…][0]['w']"
    """
    if len(text) <= width:
        return text
    tail = max(width - 1, 0) // 2
    head = max(width - 1 - tail, 0)
    return text[:head] + _ELLIPSIS + text[len(text) - tail :]


def labels(names: Sequence[str], width: int) -> list[str]:
    """Short names that stay distinct, for axes: cut in the middle, and numbered if that fails.

    Where a name is too long, the beginning that all names share is dropped first.

    >>> labels(["encoder.block_0.attention", "encoder.block_1.attention"], 20)
    ['…block_0.attention', '…block_1.attention']
    """
    short = list(names)
    if any(len(name) > width for name in names):
        shared = _shared_beginning(names)
        short = [(_ELLIPSIS if shared else "") + name[shared:] for name in names]
        short = [shorten(name, width) for name in short]
    if len(set(short)) == len(set(names)):
        return short
    return [f"{k}: {shorten(name, width - 4)}" for k, name in enumerate(short)]


def text(
    rows: Sequence[Sequence[Any]],
    headers: Sequence[str],
    title: str | None = None,
    width: int = 100,
    digits: int = 3,
) -> str:
    """A table that fits a terminal.

    Args:
      rows: cells; numbers are written by `number`, None as a dash, everything else by `str`.
      headers: one for each column. A column that holds only numbers is aligned to the right.
      title: a line above the table.
      width: characters in a line. The longest cells are shortened in the middle until the table
        fits; columns of numbers never are.
      digits: significant digits of numbers.

    Raises:
      ValueError: a row has another length than `headers`.

    >>> print(text([["layers.0", 12345.6], ["layers.1", 0.5]], ["layer", "S"]))
    layer          S
    --------  ------
    layers.0  12,346
    layers.1     0.5
    """
    cells, right = _cells(rows, headers, digits, "text")
    cells = _fit([[_plain(header, digits) for header in headers], *cells], right, width)
    table = tabulate(
        cells[1:] or [[""] * len(headers)],
        cells[0],
        disable_numparse=True,
        colalign=["right" if is_number else "left" for is_number in right],
    )
    lines = [line.rstrip() for line in table.splitlines()]
    return "\n".join(lines if title is None else [title, *lines])


def html(rows: Sequence[Sequence[Any]], headers: Sequence[str], digits: int = 3) -> str:
    """The same table as HTML, every cell escaped; numbers are aligned to the right.

    Raises:
      ValueError: a row has another length than `headers`.

    >>> "&lt;b&gt;" in html([["<b>", 1.0]], ["name", "value"])
    True
    """
    cells, right = _cells(rows, headers, digits, "html")
    return str(
        tabulate(
            cells or [[""] * len(headers)],
            list(headers),
            tablefmt="html",
            disable_numparse=True,
            colalign=["right" if is_number else "left" for is_number in right],
        )
    )


def _cells(rows, headers, digits, caller):
    """The cells as text, and for each column whether it holds numbers."""
    wrong = [row for row in rows if len(row) != len(headers)]
    if wrong:
        raise ValueError(
            f"`{caller}`: every row needs {len(headers)} cells, one for each of `headers`, "
            f"got {len(wrong[0])}: {wrong[0]!r}"
        )
    columns = list(zip(*rows, strict=True)) or [()] * len(headers)
    right = [any(map(_is_number, column)) and all(map(_fits, column)) for column in columns]
    return [[_plain(cell, digits) for cell in row] for row in rows], right


def _is_number(cell):
    return isinstance(cell, numbers.Real) and not isinstance(cell, bool)


def _fits(cell):
    return cell is None or _is_number(cell)


def _plain(cell, digits):
    if cell is None or _is_number(cell):
        return number(cell, digits)
    return " ".join(str(cell).split())


def _fit(cells, right, width):
    """`cells`, headers first, with the widest columns of text cut until a line fits `width`."""
    header, *rows = cells
    padded = [[cell + " " * _HEADER_PADDING for cell in header], *rows]
    sizes = [max(map(len, column)) for column in zip(*padded, strict=True)]
    while sum(sizes) + _GAP * (len(sizes) - 1) > width:
        long = [k for k, size in enumerate(sizes) if not right[k] and size > _MIN_COLUMN]
        if not long:
            break
        sizes[max(long, key=lambda k: sizes[k])] -= 1
    short = [shorten(x, n - _HEADER_PADDING) for x, n in zip(header, sizes, strict=True)]
    return [short, *([shorten(c, n) for c, n in zip(row, sizes, strict=True)] for row in rows)]


def _shared_beginning(names):
    """Length of the beginning that all names share, up to and including a separator."""
    shared = 0
    for k, letters in enumerate(zip(*names, strict=False)):
        if len(set(letters)) > 1:
            break
        if letters[0] in "./[]'\" ":
            shared = k + 1
    return shared if len(set(names)) > 1 else 0
