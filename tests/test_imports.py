"""The arrows between the rooms: who may import whom, and who may know what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import funcbackprop

pytestmark = pytest.mark.core

PACKAGE = Path(funcbackprop.__file__).parent
EXPERIMENTS = Path(__file__).parent.parent / "experiments"

# A room may import any room of a lower rank; neither a higher one nor another of its own rank.
RANKS = {
    "cli": 10,
    "study": 9,
    "bench": 9,
    "report": 8,
    "diagnosis": 7,
    "training": 6,
    "effect": 5,
    "check": 4,
    "noise": 4,
    "curvature": 3,
    "per_example": 2,
    "reference": 2,
    "usage": 2,
    "models": 1,
    "losses": 1,
    "contract": 1,
    "results": 1,
    "graph": 0,
    "tables": 0,
    "figures": 0,
    "files": -1,
}

# The contents page and `python -m funcbackprop` stand above all rooms.
ABOVE = ("__init__", "__main__")

# Files that load without JAX: they import it in the functions that need it.
NO_JAX_AT_IMPORT = (
    "__init__.py",
    "bench/__init__.py",
    "bench/config.py",
    "bench/result.py",
    "bench/targets.py",
    "cli.py",
    "figures/__init__.py",
    "figures/axes.py",
    "figures/bands.py",
    "figures/check.py",
    "figures/compare.py",
    "figures/effect.py",
    "figures/layers.py",
    "figures/learning.py",
    "figures/noise.py",
    "figures/modules.py",
    "figures/sizes.py",
    "figures/style.py",
    "figures/units.py",
    "models/spec.py",
    "study/config.py",
    "tables.py",
    "training/data.py",
    "training/npz.py",
    "training/order.py",
    "usage.py",
)

# What a jaxpr is, only `graph` knows.
JAXPR_MODULES = ("jax.extend", "jax.core", "jax._src", "jax.interpreters")
JAXPR_NAMES = ("make_jaxpr", "ClosedJaxpr", "Jaxpr", "JaxprEqn", "eval_jaxpr", "jaxpr")


def modules():
    """Every file of the package with its dotted name, `funcbackprop.training.data`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield path, ".".join(parts)


def room_of(module):
    """`funcbackprop.training.data` -> `training`; the package itself -> `__init__`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(tree, module):
    """(line, absolute dotted name) of every import under `tree`, relative ones resolved.

    `from a import b` counts as `a.b`: whether b is a module or a name, its room is the same.
    """
    package = module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *([node.module] if node.module else [])]
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def at_module_level(tree):
    """`tree` without the bodies of functions and of `if TYPE_CHECKING`."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return None

        visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef

        def visit_If(self, node):
            test = ast.unparse(node.test)
            return None if "TYPE_CHECKING" in test else self.generic_visit(node)

    return Strip().visit(tree)


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def starts_with(name, prefixes):
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def wrong_arrows(path, module):
    """Imports of `module` that go up or sideways, as text."""
    room = room_of(module)
    for line, name in imports(parse(path), module):
        if not starts_with(name, ["funcbackprop"]):
            continue
        other = room_of(name)
        if other == "__version__":
            continue
        if other not in RANKS:
            # `from funcbackprop import Mean`: the contents page leads to every room.
            yield f"{path.name}:{line}: {room} imports {name} from above; name its room"
        elif other != room and RANKS[other] >= RANKS[room]:
            yield f"{path.name}:{line}: {room} ({RANKS[room]}) imports {other} ({RANKS[other]})"


def in_rooms():
    return [(path, module) for path, module in modules() if room_of(module) not in ABOVE]


def test_every_room_has_a_rank():
    assert {room_of(module) for _, module in in_rooms()} <= set(RANKS)


def test_imports_point_one_way():
    assert [text for path, module in in_rooms() for text in wrong_arrows(path, module)] == []


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("funcbackprop.noise.a", "from ..training import fit", 1),
        ("funcbackprop.noise.a", "from .. import check", 1),
        ("funcbackprop.noise.a", "import funcbackprop.check.table", 1),
        ("funcbackprop.noise.a", "def f():\n    from funcbackprop.study import run", 1),
        ("funcbackprop.losses", "from . import contract", 1),
        ("funcbackprop.losses", "from . import __version__", 0),
        ("funcbackprop.losses", "from funcbackprop import Mean", 1),
        ("funcbackprop.noise.a", "from .b import c\nfrom ..per_example import Mean", 0),
        ("funcbackprop.noise.a", "from . import b\nimport numpy\nfrom ..contract import rows", 0),
    ],
)
def test_a_wrong_arrow_is_seen(tmp_path, module, source, count):
    path = tmp_path / "a.py"
    path.write_text(source)
    assert len(list(wrong_arrows(path, module))) == count


# JAX's own derivatives: what the reference is there to check.
DERIVATIVES = {
    "custom_jvp",
    "custom_vjp",
    "grad",
    "hessian",
    "jacfwd",
    "jacrev",
    "jvp",
    "linear_transpose",
    "linearize",
    "value_and_grad",
    "vjp",
}


def jax_in(path, module):
    """(line, name) of all of JAX that a file imports or reaches through `jax.`."""
    tree = parse(path)
    yield from (x for x in imports(tree, module) if starts_with(x[1], ["jax", "jaxlib", "optax"]))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and starts_with(ast.unparse(node), ["jax"]):
            yield node.lineno, ast.unparse(node)


def test_the_textbook_chain_rule_knows_no_jax():
    folder = PACKAGE / "reference" / "layerwise"
    files = [(path, module) for path, module in in_rooms() if folder in path.parents]
    assert len(files) > 5
    assert [x for path, module in files for x in jax_in(path, module)] == []


def test_the_reference_uses_no_derivative_of_jax():
    found = [
        f"{path.name}:{line}: {name}"
        for path, module in in_rooms()
        if room_of(module) == "reference"
        for line, name in jax_in(path, module)
        if DERIVATIVES & set(name.split("."))
    ]
    assert found == []


def test_only_graph_knows_jaxprs():
    found = []
    for path, module in in_rooms():
        if room_of(module) == "graph":
            continue
        tree = parse(path)
        found += [
            f"{path.name}:{line}: {name}"
            for line, name in imports(tree, module)
            if starts_with(name, JAXPR_MODULES)
        ]
        found += [
            f"{path.name}:{node.lineno}: {ast.unparse(node)}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and (node.attr in JAXPR_NAMES or starts_with(ast.unparse(node), JAXPR_MODULES))
        ]
    assert found == []


def test_what_loads_without_jax():
    found = [
        f"{path.name}:{line}: {name}"
        for path, module in modules()
        if path.relative_to(PACKAGE).as_posix() in NO_JAX_AT_IMPORT
        for line, name in imports(at_module_level(parse(path)), module)
        if starts_with(name, ["jax", "jaxlib", "optax", "chex", "matplotlib"])
    ]
    assert found == []


def private_uses(path):
    """Names of the package in one experiment that are not `funcbackprop.room.name`, as text."""
    tree = parse(path)
    for line, name in imports(tree, path.stem):
        parts = name.split(".")
        if parts[0] == "funcbackprop" and (len(parts) > 3 or any(p[0] == "_" for p in parts)):
            yield f"{path.name}:{line}: {name}"
    aliases = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if starts_with(alias.name, ["funcbackprop"])
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            text = ast.unparse(node)
            if text.split(".")[0] in aliases and not node.attr.startswith("__"):
                yield f"{path.name}:{node.lineno}: {text}"


def test_experiments_use_public_names():
    experiments = sorted(EXPERIMENTS.rglob("*.py"))
    assert [text for path in experiments for text in private_uses(path)] == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import funcbackprop as fb\nfb.per_example._chunk", 1),
        ("from funcbackprop.per_example.engine import chunked", 1),
        ("from funcbackprop.noise import _moments", 1),
        ("import funcbackprop as fb\nfrom funcbackprop.noise import moments\nfb.__version__", 0),
    ],
)
def test_a_private_use_is_seen(tmp_path, source, count):
    path = tmp_path / "experiment.py"
    path.write_text(source)
    assert len(list(private_uses(path))) == count


@pytest.mark.parametrize("module", ["funcbackprop", "funcbackprop.cli"])
def test_importing_loads_no_jax(module):
    code = (
        f"import sys, {module}; print(sorted({{'jax', 'optax', 'matplotlib'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", funcbackprop.__all__)
def test_every_public_name_has_a_docstring(name):
    value = getattr(funcbackprop, name)
    doc = (value.__doc__ or "").strip()
    assert doc, f"funcbackprop.{name} has no docstring"
    # A NamedTuple or dataclass without a docstring of its own gets its signature as one.
    assert not doc.startswith(f"{name}("), f"funcbackprop.{name} has only a generated docstring"
    assert name in dir(funcbackprop)


def test_unknown_names_raise_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'gradient_magic'"):
        funcbackprop.gradient_magic  # noqa: B018
