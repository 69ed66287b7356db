"""What is found for each model of another library.

python tests/library_table.py              # all
python tests/library_table.py nnx haiku    # those whose name holds one of these words
"""

import os
import sys
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parent.parent))

import jax
import jax.numpy as jnp
from tabulate import tabulate

import funcbackprop as fb
from tests.libraries import MODELS, build
from tests.libraries.compare import compare, statistics


def row(name):
    start = time.perf_counter()
    try:
        model = build(name, "float32")
    except ImportError as error:
        return name, *["-"] * 5, f"skipped: {error}", "", 0
    loss, params, batch = model
    many = jax.tree.map(lambda x: jnp.concatenate([x] * 4), batch)
    plan = fb.plan(loss, statistics(1.0))(params, many)
    forms = Counter(leaf.form for leaf in plan.leaves)
    float32 = compare(model, "float32").largest
    jax.config.update("jax_enable_x64", True)
    float64 = compare(build(name, "float64"), "float64").largest
    jax.config.update("jax_enable_x64", False)
    return (
        name,
        len(plan.leaves),
        ", ".join(f"{count} {form}" for form, count in forms.most_common()),
        len(plan.fallbacks),
        plan.written / (4 * plan.examples * plan.parameters),
        float32[0],
        float64[0],
        " of ".join(max(float32, float64)[1]),
        time.perf_counter() - start,
    )


if __name__ == "__main__":
    words = sys.argv[1:]
    names = [n for n in MODELS if not words or any(w in n for w in words)]
    rows = [row(name) for name in names]
    headers = (
        "model",
        "leaves",
        "forms",
        "fallbacks",
        "written",
        "float32",
        "float64",
        "largest error",
        "s",
    )
    print(tabulate(rows, headers, floatfmt=".2g"))
    print(
        f"jax {jax.__version__}. written: of the bytes of all gradients, at a time, at most. "
        "float32, float64: the largest error of a statistic in units of the tolerance."
    )
