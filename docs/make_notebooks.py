"""The notebooks of the documentation, from their pages: `python docs/make_notebooks.py`.

A page of `learn/` or `notebooks/` is MyST Markdown with cells, which the docs build executes. A
hosted notebook opens `.ipynb` files: those of `ipynb/` are the same cells without outputs, behind
one that installs the package. A test fails where the two differ.
"""

import re
from pathlib import Path

import jupytext
import nbformat

DOCS = Path(__file__).parent
OUT = DOCS / "ipynb"

INSTALL = """\
# Installs funcbackprop if it is not there. The jax of this machine stays as it is.
import importlib.util

if importlib.util.find_spec("funcbackprop") is None:
    %pip install -q funcbackprop"""

# A link to another page leads nowhere outside of the documentation: its text stays.
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?://)[^)]+\)")


def pages() -> list[Path]:
    """The pages with cells, in their order."""
    return sorted((DOCS / "learn").glob("[0-9]*.md")) + sorted((DOCS / "notebooks").glob("*.md"))


def notebook(page: Path) -> str:
    """The text of the notebook of a page."""
    source = jupytext.read(page)
    cells = [nbformat.v4.new_code_cell(INSTALL), *source.cells]
    for number, cell in enumerate(cells):
        cell.id = f"{page.stem}-{number}".replace("_", "-")[:64]
        if cell.cell_type == "markdown":
            cell.source = _LINK.sub(r"\1", cell.source)
    metadata = {"kernelspec": source.metadata.kernelspec}
    text = nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata=metadata))
    return text.rstrip("\n") + "\n"


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for page in pages():
        target = OUT / f"{page.stem}.ipynb"
        target.write_text(notebook(page), encoding="utf-8")
        print(target)
