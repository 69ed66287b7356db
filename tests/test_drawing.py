"""Drawings of programs: their keys, the data, the Mermaid text and the page of HTML."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcbackprop import graph
from funcbackprop.graph import Annotation, page
from funcbackprop.graph.drawing import drawing

pytestmark = pytest.mark.core

ASSETS = Path(page.__file__).parent / "assets"
X = np.ones(3, np.float32)


@jax.custom_vjp
def double(x):
    return 2 * x


double.defvjp(lambda x: (double(x), None), lambda _, dy: (2 * dy,))


def norm(w, x):
    centred = x - jnp.mean(x)
    return w * centred / jnp.sqrt(jnp.mean(centred**2) + 1e-5)


def control_flow(params, x):
    def step(c, t):
        c = jax.lax.cond(t > 0, lambda c: jnp.sin(c) * params["w"], lambda c: -c, c)
        return c, jnp.sum(c)

    y, ys = jax.lax.scan(step, jnp.zeros(3), x)
    y = jax.lax.while_loop(lambda z: jnp.sum(z) < 9, lambda z: z + params["w"] ** 2, y)
    y = jax.checkpoint(lambda y: jnp.exp(double(y)))(y)
    y = jax.lax.reduce(y, np.float32(1), lambda a, b: a * b, (0,)) + jax.nn.relu(y)
    return {"loss": jnp.sum(y), "trace": ys, "one": 1.0}


def blocks(params, x):
    for w in params:
        x = jnp.tanh(norm(w, x)) + x
    return jnp.sum(x)


def solve(b):
    return jax.lax.custom_linear_solve(lambda x: 2 * x, b, lambda matvec, b: b / 2)


PROGRAMS = {
    "blocks": lambda: graph.trace(blocks)([X] * 4, X),
    "control_flow": lambda: graph.trace(control_flow)({"unused": X, "w": X}, X),
    "identity": lambda: graph.trace(lambda x: x)(X),
    "indexing": lambda: graph.trace(lambda x: x.at[0].apply(jnp.sin).at[1].add(2.0)[1:])(X),
    "kept": lambda: graph.trace(jax.nn.relu, keep={"relu"})(X),
    "nothing": lambda: graph.trace(lambda: ())(),
    "random": lambda: graph.trace(lambda k: jax.random.normal(k, (3,)))(jax.random.key(0)),
    "scan_of_parameters": lambda: graph.trace(
        lambda p, x: jax.lax.scan(lambda c, q: (norm(q["w"], c) + q["b"], None), x, p)[0]
    )({"a": {}, **{k: np.ones((4, 3), np.float32) for k in "bvuw"}}, X),
    "solve": lambda: graph.trace(solve)(X),
}


@pytest.fixture(params=PROGRAMS)
def program(request):
    return PROGRAMS[request.param]()


def everything(program):
    """Every equation and input, by a walk of its own."""
    found = [*program.inputs, *program.equations]
    for equation in program.equations:
        for held in equation.programs.values():
            for inner in held if isinstance(held, tuple) else (held,):
                found += everything(inner) if inner is not None else []
    return found


def embedded(html):
    """The data in a page."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    return json.loads(text)


def items(drawn):
    return [*drawn["nodes"], *drawn["groups"]]


# ---- Keys


def test_keys_are_unique_and_complete(program):
    keys = program.keys()
    assert set(keys) == set(everything(program))
    assert len(set(keys.values())) == len(keys)
    assert keys == program.keys()


def test_what_keys_look_like():
    keys = list(PROGRAMS["control_flow"]().keys().values())
    assert keys[:3] == ["[0]['unused']", "[0]['w']", "[1]"]
    for key in ("1:scan", "1:scan/jaxpr/in0", "2:while/cond_jaxpr/0:reduce_sum"):
        assert key in keys
    assert [k for k in keys if re.fullmatch(r"1:scan/jaxpr/\d:cond/branches\[1\]/0:sin", k)]
    (inner,) = graph.trace(lambda x: jax.lax.map(jnp.tanh, x))(X).equations
    assert list(inner.programs["jaxpr"].keys().values()) == ["in0", "0:tanh"]


# ---- The data


def test_every_key_is_drawn_and_every_end_exists(program):
    drawn = drawing(program)
    shown = [item["key"] for item in items(drawn) if "key" in item]
    assert set(shown) == set(program.keys().values())
    ids = [item["id"] for item in items(drawn)]
    assert len(set(ids)) == len(ids)
    groups = {"", *(group["id"] for group in drawn["groups"])}
    assert {item["group"] for item in items(drawn)} <= groups
    nodes = {node["id"] for node in drawn["nodes"]}
    assert {edge[end] for edge in drawn["edges"] for end in ("from", "to")} <= nodes
    json.dumps(drawn, allow_nan=False)


def test_titles_show_literals_and_telling_parameters():
    program = graph.trace(lambda x: jnp.sum(1 - 0.5 * x) ** 3)(X)
    titles = [n["title"] for n in drawing(program)["nodes"] if n["kind"] == "equation"]
    assert titles == ["mul 0.5", "sub 1.0, ·", "reduce_sum over 0", "integer_pow 3"]


def test_calls_are_groups_named_by_their_function():
    groups = [(g["kind"], g["title"]) for g in drawing(PROGRAMS["control_flow"]())["groups"]]
    assert ("custom_vjp", "double") in groups
    assert ("remat", "<lambda>") in groups
    assert ("scan", "scan 3 steps") in groups
    assert ("program", "branch 1") in groups


def test_each_call_of_a_function_is_a_group_with_its_parameter():
    drawn = drawing(PROGRAMS["blocks"]())
    norms = [g["id"] for g in drawn["groups"] if g["title"] == "norm"]
    assert len(norms) == 4
    homes = {n["key"]: n["group"] for n in drawn["nodes"] if n["kind"] == "input"}
    assert [homes[f"[0][{i}]"] for i in range(4)] == norms
    assert homes["[1]"] == ""  # data stays where it is seen


def test_values_flow_through_the_programs_of_a_loop():
    drawn = drawing(PROGRAMS["scan_of_parameters"]())
    nodes = {node["id"]: node for node in drawn["nodes"]}
    outside = next(n for n in drawn["nodes"] if n.get("key") == "[0]['w']")
    (edge,) = (e for e in drawn["edges"] if e["from"] == outside["id"])
    inside = nodes[edge["to"]]
    assert inside["title"] == "[0]['w']"
    assert (inside["type"], outside["type"]) == ("float32[3]", "float32[4,3]")
    assert outside["within"] == inside["id"]
    assert inside["role"].startswith("x ")


def test_a_scalar_that_was_closed_over_is_shown_like_a_literal():
    scale, table = np.float32(3), np.arange(3, dtype=np.float32)
    drawn = drawing(graph.trace(lambda x: scale * x + jnp.asarray(table))(X))
    titles = [node["title"] for node in drawn["nodes"]]
    assert "mul 3.0" in titles


# ---- Mermaid


def test_mermaid_has_every_equation(program):
    text = program.to_mermaid()
    assert text.startswith("flowchart TD\n")
    for equation in everything(program):
        if isinstance(equation, graph.Equation):
            assert re.search(rf'\["{re.escape(equation.name)}[ "<]', text), equation.name
    opened = len(re.findall(r"^ *subgraph ", text, re.M))
    assert opened == len(re.findall(r"^ *end$", text, re.M)) == len(drawing(program)["groups"])


def test_mermaid_labels_are_escaped():
    program = graph.trace(lambda p: p['a"];<b>&#`'] + 1)({'a"];<b>&#`': X})
    line = program.to_mermaid().splitlines()[1]
    assert line.startswith("  n0([\"[0]['a#34;]#59;#60;b#62;#38;#35;#96;']<br>float32[3]\"])")


# ---- The page


class Loads(HTMLParser):
    """Collects what a page would load."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        loading = ("src", "href", "data", "srcset", "action", "poster")
        self.found += [(tag, name, value) for name, value in attrs if name in loading]
        self.found += [tag for _ in [0] if tag in ("link", "iframe", "object", "embed", "base")]


def test_the_page_loads_nothing(program):
    html = program.to_html()
    loads = Loads()
    loads.feed(html)
    assert loads.found == []
    assert "default-src 'none'" in html
    style = (ASSETS / "graph.css").read_text()
    assert "url(" not in style
    assert "@import" not in style


def test_the_page_holds_the_whole_graph(program):
    assert embedded(program.to_html()) == drawing(program)


def test_nothing_in_a_program_ends_the_data_or_the_title():
    def f(x):
        return jnp.sin(x) * 2

    f.__name__ = f.__qualname__ = evil = "</script><script>alert(1)</script><!--"
    program = graph.trace(lambda p: jax.jit(f)(p[evil]))({evil: X})
    html = program.to_html({f"[0]['{evil}']": Annotation(evil)}, title=evil)
    assert "alert(1)" in html
    assert "<script>alert(1)" not in html
    assert evil in [group["title"] for group in embedded(html)["groups"]]
    assert html.count("<script") == html.count("</script>") == 3 + len(page.LIBRARIES)


def test_annotations_are_in_the_page():
    program = PROGRAMS["control_flow"]()
    said = {
        "[0]['w']": Annotation("as it should be", "good", 0.25),
        "1:scan": Annotation("twice the reference", "bad", float("nan")),
        "2:while": Annotation(size=0),
    }
    found = {i["key"]: i for i in items(embedded(program.to_html(said))) if i.get("key") in said}
    assert found["[0]['w']"]["level"] == "good"
    assert found["1:scan"]["text"] == "twice the reference"
    assert (found["1:scan"]["size"], found["1:scan"]["size_text"]) == ("nan", "nan")
    assert (found["2:while"]["size"], found["2:while"]["size_text"]) == (0, "0")
    assert "level" not in found["2:while"]
    sizes = [edge.get("size") for edge in embedded(program.to_html(said))["edges"]]
    assert {0.25, "nan", 0, None} == set(sizes)


@pytest.mark.parametrize(
    ("annotations", "error", "text"),
    [
        (
            {"0:tan": Annotation()},
            ValueError,
            r"`to_html`: `annotations` has the key '0:tan', but the program has no such equation "
            r"or input\. Keys look like '0:tanh', .*; `Program.keys\(\)` gives them all",
        ),
        (
            {"0:tanh": Annotation(level="awful")},
            ValueError,
            r"`annotations\['0:tanh'\]` has the level 'awful'; expected one of 'good', 'note', ",
        ),
        ({"0:tanh": "wrong"}, TypeError, r"must be an `Annotation`, got str: Annotation\(text"),
    ],
)
def test_wrong_annotations_are_refused(annotations, error, text):
    program = graph.trace(lambda x: jnp.tanh(x))(X)
    with pytest.raises(error, match=text):
        program.to_html(annotations)


def test_the_libraries_are_what_the_table_says():
    rows = re.findall(
        r"^\| `(\S+)` .*, `(\S+)` \| `(\w+)` \|$", (ASSETS / "README.md").read_text(), re.M
    )
    listed = {file: licence for licence, files in page.LIBRARIES for file in files}
    assert {file: licence for file, licence, _ in rows} == listed
    for file, _, digest in rows:
        assert hashlib.sha256((ASSETS / file).read_bytes()).hexdigest() == digest
    html = PROGRAMS["identity"]().to_html()
    for licence in {licence for licence, _ in page.LIBRARIES}:
        assert (ASSETS / licence).read_text().strip() in html


def test_nothing_of_the_page_loads_with_the_room():
    code = (
        "import sys, funcbackprop.graph as g; late = {'jinja2', g.__name__ + '.page'}; "
        "print(sorted({*late, g.__name__ + '.mermaid'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- In a browser

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
in_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium to open the page in")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--window-size=1400,1000", "--virtual-time-budget=5000", "--dump-dom"),
)

# Everything a reader can do, one thing after the other.
READER = """
<script>
document.getElementById("expand").click();
for (const id of items.keys()) { choose(id); reveal(id); }
for (const group of data.groups) { flip(group.id); flip(group.id); }
document.getElementById("search").value = "float32";
search();
document.getElementById("collapse").click();
for (const id of items.keys()) reveal(id);
window.dispatchEvent(new Event("beforeprint"));
window.dispatchEvent(new Event("afterprint"));
document.getElementById("fit").click();
document.documentElement.dataset.read = "all";
</script>
"""


def opened(html, folder):
    """The page after its scripts have run."""
    path = folder / "graph.html"
    path.write_text(html, encoding="utf-8")
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (root,) = re.findall(r"<html[^>]*>", done.stdout)
    assert "data-errors" not in root, root
    return root, done.stdout


@in_browser
def test_the_page_draws_every_node(tmp_path):
    program = PROGRAMS["control_flow"]()
    said = {
        key: Annotation("seen", "good", 2.0**-i) for i, key in enumerate(program.keys().values())
    }
    root, dom = opened(program.to_html(said), tmp_path)
    drawn = drawing(program)
    expected = {item["id"] for item in items(drawn) if "within" not in item}
    assert set(re.findall(r'data-id="(\w+)"', dom)) == expected
    assert f'data-nodes="{sum("within" not in n for n in drawn["nodes"])}"' in root


@in_browser
@pytest.mark.full
def test_a_reader_can_do_everything(program, tmp_path):
    html = program.to_html()
    end = html.rindex("</body>")
    root, _ = opened(html[:end] + READER + html[end:], tmp_path)
    assert 'data-read="all"' in root


@in_browser
@pytest.mark.full
def test_a_large_graph_opens_with_its_groups_closed(tmp_path):
    program = graph.trace(blocks)([X] * 100, X)
    assert len(program.equations) > 1000
    root, _ = opened(program.to_html(), tmp_path)
    (shown,) = re.findall(r'data-nodes="(\d+)"', root)
    assert int(shown) < 350
