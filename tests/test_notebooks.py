"""The notebooks that a hosted service opens are the pages that the docs build executes."""

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("jupytext")
sys.path.insert(0, str(Path(__file__).parent.parent / "docs"))
import make_notebooks


@pytest.mark.parametrize("page", make_notebooks.pages(), ids=lambda page: page.stem)
def test_the_notebook_of_a_page(page):
    written = (make_notebooks.OUT / f"{page.stem}.ipynb").read_text(encoding="utf-8")
    assert written == make_notebooks.notebook(page), "run `python docs/make_notebooks.py`"


def test_no_notebook_has_lost_its_page():
    stems = {page.stem for page in make_notebooks.pages()}
    assert {path.stem for path in make_notebooks.OUT.glob("*.ipynb")} == stems
    assert len(stems) >= 9


@pytest.mark.parametrize("page", make_notebooks.pages(), ids=lambda page: page.stem)
def test_a_page_is_plain_markdown_around_its_cells(page):
    """A role or a directive of MyST is no markup in a hosted notebook."""
    text = page.read_text(encoding="utf-8")
    assert "{doc}" not in text
    assert set(re.findall(r"^```\{([\w-]+)\}", text, re.MULTILINE)) == {"code-cell"}
