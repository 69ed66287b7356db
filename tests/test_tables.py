"""Tables: numbers for people, text that fits a terminal, escaped HTML."""

import numpy as np
import pytest

from funcbackprop import tables

NUMBERS = (
    (0.00123, "0.00123"),
    (1.2e-13, "1.2e-13"),
    (12345.0, "12,345"),
    (999999.0, "999,999"),
    (1e6, "1e6"),
    (-1234.5, "-1,234"),
    (0.97222, "0.972"),
    (100.0, "100"),
    (-0.0, "0"),
    (float("inf"), "inf"),
    (7, "7"),
    (np.float32(2.5), "2.5"),
    (np.int64(12345678), "12,345,678"),
    (None, tables.NO_VALUE),
    (np.nan, tables.NO_VALUE),
)


@pytest.mark.parametrize(("x", "expected"), NUMBERS)
def test_number(x, expected):
    assert tables.number(x) == expected


def test_number_keeps_the_digits_asked_for():
    assert tables.number(0.123456, 5) == "0.12346"


def test_number_refuses_text():
    with pytest.raises(TypeError, match="`x` must be a number, got str"):
        tables.number("3")


@pytest.mark.parametrize("width", [40, 60, 100])
def test_text_fits_and_keeps_both_ends_and_all_numbers(width):
    rows = [["first" + "x" * 200 + "last", 123456.0, "why " * 40], ["b", 2.0, "\n\n"]]
    lines = tables.text(rows, ["leaf", "S", "note"], "A title", width).splitlines()
    assert lines[0] == "A title"
    assert max(map(len, lines)) <= width
    assert lines[3].startswith("first")
    assert "last  123,456  why" in lines[3]


def test_columns_of_numbers_are_aligned_to_the_right():
    lines = tables.text([["a", 1.0], ["b", None], ["c", 1234.0]], ["name", "value"]).splitlines()
    assert [line[-1] for line in lines[2:]] == ["1", tables.NO_VALUE, "4"]
    assert len({len(line) for line in lines}) == 1


def test_text_without_rows_shows_the_headers():
    assert tables.text([], ["a", "b"]).splitlines()[0].split() == ["a", "b"]


def test_html_escapes_cells_and_headers():
    page = tables.html([["<script>", 'a"&b']], ["<i>", "x"])
    assert "<script>" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;" in page
    assert "a&quot;&amp;b" in page


@pytest.mark.parametrize("make", [tables.text, tables.html])
def test_a_row_of_wrong_length_is_refused(make):
    with pytest.raises(ValueError, match=r"every row needs 2 cells.*got 3"):
        make([["a", 1, 2]], ["name", "value"])


def test_labels_stay_distinct():
    names = [f"model.block_{k}." + "deep." * 12 + "w" for k in range(30)]
    short = tables.labels(names, 24)
    assert len(set(short)) == 30
    assert max(map(len, short)) <= 24
    hidden = ["a" * 30 + str(k) + "b" * 30 for k in range(3)]  # differ only where they are cut
    assert len(set(tables.labels(hidden, 20))) == 3
    assert tables.labels(["w", "b"], 20) == ["w", "b"]
