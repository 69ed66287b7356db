"""How a page is made: templates, pictures inside of it, links from terms to the glossary."""

import base64
import io
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import figures, tables
from .glossary import GLOSSARY, Term

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PIXELS = 0.62  # width on the page of a pixel of a figure, so that all letters have one size
# Longest first, so that "preconditioned sharpness" is not taken for "sharpness".
_SPELLINGS = {text.lower(): term for term in GLOSSARY for text in term.spellings}
_TERM = "|".join(re.escape(text) for text in sorted(_SPELLINGS, key=lambda x: -len(x)))
_CODE_OR_TERM = re.compile(rf"`([^`]+)`|(?<![\w<&/])({_TERM})(?![\w/²])", re.IGNORECASE)
# A number at the start of a cell, with what stands after ±; and an interval: not to be broken.
_ONE = r"-?[\d.,]+(?:e-?\d+)?"
_INTERVAL = r"\[[^\[\]<>]{1,40}[\])]"
_NUMBER = re.compile(rf"(>)({_ONE}(?: ± {_ONE})?)(?=<| \[)|(\s)({_INTERVAL})(?=<)")


# Between the pieces of a path, such as params['a']['b'] or encoder.block.w, a line may break.
_PIECE = re.compile(r"((?<=;|\d)\](?=[\[.])|(?<=[a-z_])\.(?=[a-z_]))")


def render(template: str, **values: Any) -> str:
    """A page from one of the templates beside this file; every value is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = with_code
    environment.filters["terms"] = with_terms
    return environment.get_template(template).render(**values)


def with_code(text: Any):
    """Escaped text with what stands between backticks as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def with_terms(text: Any):
    """The same, with a link to the glossary at the first mention of each term.

    >>> print(with_terms("The noise scale: see `S`."))
    The <a class="term" href="#term-noise-scale">noise scale</a>: see <code>S</code>.
    """
    from markupsafe import Markup, escape

    seen = set()

    def replaced(match):
        code, spelling = match.groups()
        if code is not None:
            return f"<code>{code}</code>"
        term = _SPELLINGS[spelling.lower()]
        if term.key in seen:
            return spelling
        seen.add(term.key)
        return f'<a class="term" href="#term-{term.key}">{spelling}</a>'

    return Markup(_CODE_OR_TERM.sub(replaced, str(escape(text))))


def mentioned(texts: Iterable[str]) -> list[Term]:
    """The terms that occur in some of the texts, in the order of the glossary."""
    found = {
        _SPELLINGS[spelling.lower()].key
        for text in texts
        for _, spelling in _CODE_OR_TERM.findall(text)
        if spelling
    }
    return [term for term in GLOSSARY if term.key in found]


def table(rows: list, headers: list, digits: int = 3):
    """A table as HTML; nothing where there are no rows."""
    from markupsafe import Markup

    # tables.html escapes every cell
    text = _NUMBER.sub(_unbroken, tables.html(rows, headers, digits)) if rows else ""
    return Markup(_PIECE.sub(r"\1<wbr>", text))


def _unbroken(match):
    before, text = filter(None, match.groups())
    return f'{before}<span class="n">{text}</span>'


def picture(png: bytes) -> dict[str, Any]:
    """What the template needs to show a PNG: its bytes as text, and its width on the page."""
    width = struct.unpack(">I", png[16:20])[0]  # from the PNG's header
    return {"image": base64.b64encode(png).decode("ascii"), "width": round(width * _PIXELS)}


def drawn(figure: "Figure") -> dict[str, Any]:
    """The same of a figure that no file is kept of."""
    buffer = io.BytesIO()
    figures.write(figure, buffer)
    return picture(buffer.getvalue())
