"""A program as one page of HTML that needs nothing else: data, style, scripts and licences."""

import json
from collections.abc import Mapping
from pathlib import Path

from .drawing import Annotation, drawing
from .program import Program

_HERE = Path(__file__).parent
_ASSETS = _HERE / "assets"


# licence -> the libraries under it; in the order in which the libraries must load
LIBRARIES = (
    ("dagre.LICENSE", ("dagre.min.js",)),
    (
        "d3.LICENSE",
        (
            "d3-dispatch.min.js",
            "d3-timer.min.js",
            "d3-color.min.js",
            "d3-interpolate.min.js",
            "d3-selection.min.js",
        ),
    ),
    ("d3-ease.LICENSE", ("d3-ease.min.js",)),
    ("d3.LICENSE", ("d3-transition.min.js", "d3-drag.min.js", "d3-zoom.min.js")),
)

# our own, in the order in which they must load
SCRIPTS = ("layout.js", "graph.js", "panels.js")


def page(program: Program, annotations: Mapping[str, Annotation] | None, title: str) -> str:
    """See `Program.to_html`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("graph.html").render(
        title=title,
        data=Markup(_json(drawing(program, annotations))),
        libraries=[
            Markup("\n".join([_comment(_read(licence)), *map(_script, map(_read, files))]))
            for licence, files in LIBRARIES
        ],
        script=Markup("\n".join(map(_read, SCRIPTS))),
        style=Markup(_read("graph.css")),
    )


def _read(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _json(data) -> str:
    """JSON that no text in it can end: no tag and no comment of HTML begins without a `<`."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _comment(text: str) -> str:
    return "/*\n" + text.strip().replace("*/", "* /") + "\n*/"


def _script(text: str) -> str:
    """A library without the line that points to a map of its sources, which is not here."""
    lines = text.strip().splitlines()
    return "\n".join(line for line in lines if not line.startswith("//# sourceMappingURL"))
