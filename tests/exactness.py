"""How exact statistics by factors are: `python tests/exactness.py [dtype] [part of a name ...]`.

Prints a row for each program: the largest error of any statistic in units of the tolerance, the
statistic that has it, the forms that `funcbackprop.plan` found, and why a leaf is written out.
"""

import sys
import time
import traceback

import conftest  # noqa: F401  (strict settings)
import jax
import statistic_table
from programs import PROGRAMS, build
from test_factored import compared

import funcbackprop as fb


def row(name, dtype):
    start = time.perf_counter()
    try:
        loss, params, batch = build(name, dtype)
        plan = fb.plan(loss, statistic_table.cheap(params, 0))(params, batch)
        errors = compared(name, dtype, statistic_table.everything, True)
        worst = max(errors, key=errors.get)
        error = f"{errors[worst]:.1e} {worst}"
    except Exception as failure:
        traceback.print_exc(file=sys.stderr)
        return f"{name} | {dtype} | raises {type(failure).__name__} | |"
    forms = ", ".join(f"{leaf.leaf.removeprefix('params')} {leaf.form}" for leaf in plan.leaves)
    reasons = "; ".join(f"{leaf.leaf}: {leaf.reason}" for leaf in plan.fallbacks)
    seconds = time.perf_counter() - start
    return f"{name} | {dtype} | {error} | {forms} | {reasons} | {seconds:.1f} s"


def main(dtype="float64", *parts):
    jax.config.update("jax_enable_x64", True)
    print("program | dtype | largest error / tolerance | forms | written out because | time")
    for name in PROGRAMS:
        if not parts or any(part in name for part in parts):
            print(row(name, dtype), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
