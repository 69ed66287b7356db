"""Runs side by side: what differs, differences with their errors, refusals, the page."""

import json
import math

import numpy as np
import pytest
from scipy import stats
from test_report import Page, make_run

from funcbackprop import cli, report
from funcbackprop.report import differences


def test_pairs_of_equal_seeds_against_scipy():
    a, b = {0: 1.0, 1: 2.5, 2: 3.0, 3: 2.0}, {3: 1.0, 2: 2.8, 1: 2.0, 0: 0.9}
    found = differences.difference(a, b)
    known = stats.ttest_rel([a[k] for k in range(4)], [b[k] for k in range(4)])
    low, high = known.confidence_interval(0.95)
    assert found.value == pytest.approx(np.mean(list(a.values())) - np.mean(list(b.values())))
    assert (found.lower, found.upper) == pytest.approx((low, high))
    assert found.value / found.standard_error == pytest.approx(known.statistic)
    assert found.how == "4 pairs of equal seeds"
    assert found.is_clear == (known.pvalue < 0.05)


def test_different_seeds_against_welch():
    a, b = {0: 1.0, 1: 2.5, 2: 3.0}, {5: 0.1, 6: 0.2, 7: 0.15, 8: 0.3}
    found = differences.difference(a, b)
    known = stats.ttest_ind(list(a.values()), list(b.values()), equal_var=False)
    low, high = known.confidence_interval(0.95)
    assert (found.lower, found.upper) == pytest.approx((low, high))
    assert found.how == "3 and 4 different seeds"


def test_one_seed_has_a_difference_without_an_error():
    found = differences.difference({0: 3.0}, {0: 1.0, 1: 2.0})
    assert found.value == 1.5
    assert found.standard_error is None
    assert not found.is_clear
    assert "one seed" in found.how


@pytest.fixture
def two(tmp_path):
    """Two runs with the same three seeds and different learning rates."""
    folders = [
        make_run(tmp_path / name, seeds=(0, 1, 2), steps=40, undecided=name == "b") for name in "ab"
    ]
    change(folders[1] / "config.json", learning_rate=0.5, batch_size=64)
    change(folders[1] / "metadata.json", cores=4)
    return folders


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def shifted(folder, by):
    """Add to every test loss of a run, seed k getting `by[k]`."""
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["kind"] == "measurement":
            row["metrics"]["test"]["loss"] += by[row["seed"]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_differs_and_by_how_much(two):
    shifted(two[1], [1.0, 1.1, 1.2])
    found = report.compare(*two)
    assert found.labels == ("a", "b")
    assert found.configuration == [["learning_rate", "0.001", "0.5"], ["cores", "2", "4"]]
    loss = found.differences["test loss", "b"]
    assert loss.value == pytest.approx(1.1)
    assert loss.standard_error == pytest.approx(0.1 / math.sqrt(3))
    assert loss.is_clear
    assert any("Test loss of b is higher by 1.1 [" in text for text in found.sentences())
    text = str(found)
    assert "3 pairs of equal seeds" in text
    assert "all 36 comparisons agree" in text
    assert max(map(len, text.splitlines())) <= 100
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert {row["name"]: row["values"] for row in plain["rows"]}["seeds"] == ["0, 1, 2"] * 2
    assert plain["configuration"]["learning_rate"] == ["0.001", "0.5"]


def test_the_page_is_self_contained(two, tmp_path):
    path = report.compare(*two).write(tmp_path / "compare.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert len(page.images) == 2
    assert all(x.startswith(("data:", "#")) for x in page.addresses)
    assert not {"script", "link", "iframe"} & set(page.tags)
    for text in ("learning_rate", "Noise scale", "Differences from a", "Glossary", "Verdicts"):
        assert text in page.text
    assert "nan" not in page.text


def test_single_seeds_say_what_is_missing(tmp_path):
    folders = [make_run(tmp_path / name, steps=20, noise=False, check=False) for name in "ab"]
    found = report.compare(*folders)
    assert found.configuration == []
    assert "`--seeds 0 1 2` gives one" in found.sentences()[-1]
    assert "Configuration and environment are the same." in str(found)
    assert "one seed: no standard error" in str(found)
    assert len(Page(found.write(tmp_path / "c.html").read_text(encoding="utf-8")).images) == 1


def test_equal_names_are_told_apart_by_their_folders(tmp_path):
    folders = [
        make_run(tmp_path / place / "same", steps=3, noise=False, check=False) for place in "xy"
    ]
    labels = report.compare(*folders).labels
    assert len(set(labels)) == 2
    assert all("same" in label for label in labels)


def run_folder(path):
    return make_run(path, steps=3, noise=False, check=False)


def unfinished(path):
    folder = run_folder(path)
    (folder / "summary.json").unlink()
    return folder


def damaged(path):
    folder = run_folder(path)
    (folder / "metrics.jsonl").write_text("{")
    return folder


def empty(path):
    path.mkdir()
    return path


# name -> (the second folder, what the one line on standard error says)
REFUSALS = {
    "missing": (lambda path: path, "there is no folder"),
    "not a run": (empty, "has no config.json and no metrics.jsonl"),
    "unfinished": (unfinished, "has not ended, for it has no summary.json"),
    "the same": (lambda path: path.parent / "b" / ".." / "a", "are the same folder"),
    "damaged": (damaged, "line 1 of metrics.jsonl is not strict JSON"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name, tmp_path, capsys):
    make, message = REFUSALS[name]
    (tmp_path / "b").mkdir() if name == "the same" else None
    folders = [run_folder(tmp_path / "a"), make(tmp_path / "b")]
    out = tmp_path / "compare.html"
    assert cli.main(["compare", *map(str, folders), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not out.exists()


def test_the_command(two, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", *map(str, two)]) == 0
    out = capsys.readouterr().out
    assert out.rstrip().endswith("Comparison: compare.html")
    assert (tmp_path / "compare.html").exists()
    assert cli.main(["compare", str(two[0])]) == 2
    assert "give two run folders or more, got 1" in capsys.readouterr().err
    assert cli.main(["compare", *map(str, two), "--out", str(tmp_path / "no/x.html")]) == 2
    assert "--out: cannot write" in capsys.readouterr().err
