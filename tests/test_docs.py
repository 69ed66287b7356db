"""The Python of the README and of the pages runs as written, page by page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page):
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield "\n" * line + match.group(1)  # so that an error shows the line of the page


WITH_PYTHON = [page for page in PAGES if any(blocks(page))]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__page__"}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), namespace)


def test_the_pages_have_python():
    assert ROOT / "README.md" in WITH_PYTHON
    assert len(WITH_PYTHON) >= 4


def test_a_complete_run_stands_in_the_first_40_lines_of_the_readme():
    head = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40])
    assert 'pip install ".[study]" && funcbackprop study' in head
