"""How well the rules agree with `jax.vjp` in float64, by family: `python tests/agreement.py`.

The error of a case is max|a - b| / max(max|b|, 1), over its outputs and gradients.
"""

import os
from collections import Counter

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from tabulate import tabulate
from test_primitives import CASES, worst_error

from funcbackprop.reference.coverage import coverage

EXACT = 1e-7


def main():
    """Print a row for each family."""
    jax.config.update("jax_enable_x64", True)
    primitives = Counter(row.family for row in coverage() if row.kind in ("rule", "program"))
    errors: dict[str, list] = {}
    for name, case in CASES.items():
        if case.tolerance > EXACT:  # JAX rounds inside: a cast, a float32 result
            continue
        family = name.partition(":")[0]
        errors.setdefault(family, []).append((worst_error(case), name.partition(": ")[2]))
    rows = [
        (family, primitives[family], len(found), *max(found)) for family, found in errors.items()
    ]
    headers = ("family", "with a derivative", "cases", "largest error", "in the case")
    print(f"jax {jax.__version__}, float64")
    print(tabulate(rows, headers, floatfmt=".1e", tablefmt="github"))


if __name__ == "__main__":
    main()
