"""A program as the text of a Mermaid flowchart."""

from collections.abc import Iterator

from .drawing import drawing
from .program import Program

# kind of node -> the brackets of its shape
_SHAPES = {
    "input": ("([", "])"),
    "constant": ("[/", "/]"),
    "equation": ("[", "]"),
    "output": ("([", "])"),
    "port": ("([", "])"),
}

# what Mermaid or HTML would read as something other than text
_SIGNS = set('"#&<>`;%\\')

# kinds of groups that need no word beside their title
_PLAIN = ("function", "program")

_CLASSES = """\
  classDef input fill:#dcecf7,stroke:#0072b2,color:#1d2329
  classDef constant fill:#eceff2,stroke:#59636e,color:#1d2329
  classDef equation fill:#ffffff,stroke:#59636e,color:#1d2329
  classDef output fill:#fbe9d2,stroke:#b36b00,color:#1d2329
  classDef port fill:#eceff2,stroke:#59636e,color:#1d2329"""


def mermaid(program: Program) -> str:
    """See `Program.to_mermaid`."""
    drawn = drawing(program)
    lines = ["flowchart TD", *_inside("", drawn, "  ")]
    lines += [f"  {edge['from']} --> {edge['to']}" for edge in drawn["edges"]]
    return "\n".join([*lines, _CLASSES, ""])


def _inside(group: str, drawn, indent: str) -> Iterator[str]:
    """The nodes of a group, and the groups in it as subgraphs."""
    for node in drawn["nodes"]:
        if node["group"] == group:
            left, right = _SHAPES[node["kind"]]
            place = node.get("source") if node["kind"] == "equation" else None
            label = _label(node["title"], node.get("type"), place)
            yield f"{indent}{node['id']}{left}{label}{right}:::{node['kind']}"
    for inner in drawn["groups"]:
        if inner["group"] == group:
            kind = "" if inner["kind"] in _PLAIN or "key" in inner else f" ({inner['kind']})"
            yield f"{indent}subgraph {inner['id']}[{_label(inner['title'] + kind)}]"
            yield from _inside(inner["id"], drawn, indent + "  ")
            yield f"{indent}end"


def _label(*parts: str | None) -> str:
    """Lines of quoted text, with some signs as numbers."""
    texts = (" ".join(part.split()) for part in parts if part)
    return '"' + "<br>".join("".join(map(_escaped, text)) for text in texts) + '"'


def _escaped(sign: str) -> str:
    return f"#{ord(sign)};" if sign in _SIGNS else sign
