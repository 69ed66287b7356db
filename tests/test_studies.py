"""The studies of `experiments/`: whole folders, a table of what they found, and small runs."""

import json
import math

import pytest

from experiments import run as runner

STUDIES = {folder.name: folder for folder in runner.studies()}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_whole(name):
    folder = STUDIES[name]
    result = json.loads((folder / "results.json").read_text())
    expected = runner.expectations(folder)
    assert not result["quick"]
    assert {"versions", "device", "cores", "seconds"} <= result.keys()
    assert expected
    assert expected.keys() <= result["quantities"].keys()
    for known in expected.values():
        assert known.keys() >= {"expected", "band", "source"}
        lower, upper = known["band"]
        assert None in (lower, upper) or lower <= upper
    assert len((folder / "study.py").read_text().splitlines()) < 200
    readme = (folder / "README.md").read_text()
    assert "figure.png" in readme
    assert f"python experiments/run.py {name[:2]}" in readme
    assert (folder / "figure.png").stat().st_size > 10_000


def test_the_table_is_of_the_results():
    text = (runner.HERE / "RESULTS.md").read_text()
    assert text == runner.table()
    assert "not run" not in text
    assert "to be run" not in text
    assert len(
        [line for line in text.splitlines() if line.startswith("| 0") or line.startswith("| 1")]
    ) == len(STUDIES)


@pytest.mark.full
@pytest.mark.parametrize("name", STUDIES)
def test_a_small_run(name, tmp_path):
    """It measures everything it promised, and draws it; nothing outside `out` is touched."""
    before = runner.table()
    result = runner.run(STUDIES[name], tmp_path, quick=True)
    for key in runner.expectations(STUDIES[name]):
        found = result["quantities"][key]
        assert math.isfinite(found["value"])
        assert found.get("se") is None or found["se"] >= 0
    assert json.loads((tmp_path / "results.json").read_text())["quick"]
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert runner.table() == before


@pytest.mark.parametrize(
    ("value", "band", "inside"),
    [(1.0, [0.5, 2], True), (3.0, [0.5, 2], False), (3.0, [0.5, None], True),
     (0.1, [None, 0.05], False), (math.nan, [0, 1], False), (math.nan, [None, 1], False)],
)  # fmt: skip
def test_bands(value, band, inside):
    assert runner.within({"value": value}, {"band": band}) is inside


def test_a_study_that_measures_less_than_it_promised_is_refused(tmp_path):
    (tmp_path / "study.py").write_text("measure = lambda quick: {'quantities': {}}\n")
    (tmp_path / "expected.json").write_text('{"slope": {}}')
    with pytest.raises(ValueError, match="measured no slope"):
        runner.run(tmp_path, tmp_path / "out", quick=False)
    assert not (tmp_path / "out").exists()


def test_an_unknown_study_is_refused():
    with pytest.raises(SystemExit, match="there is no study 99; expected some of: 01_"):
        runner.studies(["01", "99"])
