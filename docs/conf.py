"""Configuration of the documentation: `sphinx-build -W -b html docs docs/_build/html`."""

import os
import re
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parent.parent))

from sphinx.util import logging

import funcbackprop

project = "funcbackprop"
author = "the funcbackprop authors"
copyright = author
version = release = funcbackprop.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "jupyter_execute", "ipynb", "report_terms.md"]
html_theme = "sphinx_book_theme"
html_title = "funcbackprop"
html_static_path = ["_static"]
html_css_files = ["wide.css"]

# The pages of learn/ and notebooks/ have cells; an error in one is an error of the build.
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

# Docstrings put code in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False

_CODE = re.compile(r"(``.+?``|`.+?`)")
_BULLET = re.compile(r"^(\s*)([*-]) ")


def escape_markup(app, what, name, obj, options, lines):
    """Docstrings are plain text: outside of backticks |G|, a * b and x_ are no markup."""
    in_example = False
    for i, line in enumerate(lines):
        in_example = line.lstrip().startswith(">>>") or (in_example and line.strip() != "")
        if in_example:
            continue
        bullet = _BULLET.match(line)
        start = bullet.end() if bullet else 0
        parts = _CODE.split(line[start:])
        parts[::2] = [re.sub(r"([|*]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
        lines[i] = line[:start] + "".join(parts)


def skip_generated(app, what, name, obj, skip, options):
    """The fields of a NamedTuple are described in its docstring."""
    return True if (getattr(obj, "__doc__", "") or "").startswith("Alias for field") else skip


def write_coverage(app):
    """The page of all primitives, from the tables of rules."""
    from funcbackprop.reference.coverage import coverage

    def cell(text):
        return text.replace("|", r"\|").replace("*", r"\*")

    lines = ["# Coverage of the reference", "", _COVERAGE]
    family = None
    for row in coverage():
        if row.family != family:
            family = row.family
            lines += ["", f"## {family.capitalize()}", ""]
            lines += [
                "| primitive | kind | derivative | at kinks, ties and edges |",
                "|---|---|---|---|",
            ]
        text = " | ".join(map(cell, (row.kind, row.formula, row.convention)))
        lines.append(f"| `{row.primitive}` | {text} |")
    page = Path(app.srcdir) / "coverage.md"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


_COVERAGE = """\
Generated from the tables of rules in `funcbackprop.reference`. A test compares them with JAX's own
tables and fails where JAX has a derivative rule for a primitive that is not listed here.

*rule*: a derivative written by hand · *zero*: piecewise constant, the cotangent ends there ·
*program*: runs programs of its own, step by step · *call*: flattened away · *opaque*: cannot be
looked into; a gradient that passes it is reported, never passed over. $x$, $y$ are inputs, $z$ (or
$y$, where there is one input) is the output, and $dx$ the cotangent of $x$."""


# On a service that sets this name (owner/name on GitHub), the badge leads to the notebook.
REPOSITORY = os.environ.get("GITHUB_REPOSITORY")
_BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repository}/blob/main/docs/ipynb/{stem}.ipynb) "
)
_NOTEBOOK = "{{download}}`Download the notebook <../ipynb/{stem}.ipynb>`"


def link_notebook(app, docname, source):
    """Under the title of a page with cells: where its notebook is."""
    stem = docname.rpartition("/")[2]
    if not (Path(app.srcdir) / "ipynb" / f"{stem}.ipynb").is_file():
        return
    badge = _BADGE.format(repository=REPOSITORY, stem=stem) if REPOSITORY else ""
    line = badge + _NOTEBOOK.format(stem=stem)
    source[0] = re.sub(r"^(# .*\n)", rf"\1\n{line}\n", source[0], count=1, flags=re.MULTILINE)


def compare_api(app, env):
    """A warning for each public name without an entry in the API."""
    documented = [name.split(".") for name in env.get_domain("py").objects]
    for room in funcbackprop._ROOMS:
        entries = {name[-1] for name in documented if name[:2] == ["funcbackprop", room]}
        missing = set(getattr(funcbackprop, room).__all__) - entries - {*funcbackprop._ROOMS}
        for name in sorted(missing):
            logging.getLogger(__name__).warning(f"fb.{room}.{name} has no entry in docs/api")


_STATUS = """\
# Status codes

A result that may be undefined carries a `status`, an integer that exists under `jit`. `explain()`
of the result gives its sentence. Generated from `fb.noise.STATUS` and `fb.curvature.STATUS`, which
hold code, name and sentence. Codes stay what they are from version to version."""


def write_status(app):
    """The page of all status codes, from their tables."""
    lines = [_STATUS]
    for room in ("noise", "curvature"):
        lines += ["", f"## `fb.{room}`", "", "| code | name | meaning |", "|---|---|---|"]
        for code, (name, meaning) in sorted(getattr(funcbackprop, room).STATUS.items()):
            cells = (str(code), *(cell.replace("|", r"\|") for cell in (name, meaning)))
            lines.append(f"| {' | '.join(cells)} |")
    page = Path(app.srcdir) / "status.md"
    page.write_text("\n".join([*lines, ""]), encoding="utf-8")


def write_report_terms(app):
    """The glossary of the report, for the page of all terms."""
    from funcbackprop.report.glossary import GLOSSARY

    entries = [f"**{term.name}**\n: {term.meaning}\n" for term in GLOSSARY]
    page = Path(app.srcdir) / "report_terms.md"
    page.write_text("\n".join(entries), encoding="utf-8")


def setup(app):
    app.connect("builder-inited", write_report_terms)
    app.connect("builder-inited", write_status)
    app.connect("source-read", link_notebook)
    app.connect("env-check-consistency", compare_api)
    app.connect("builder-inited", write_coverage)
    # Before napoleon, whose own markup must stay.
    app.connect("autodoc-process-docstring", escape_markup, priority=400)
    app.connect("autodoc-skip-member", skip_generated)
