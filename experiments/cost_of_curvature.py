"""What curvature costs: time of `hvp` and of `sharpness`, in units of the plain gradient.

    python experiments/cost_of_curvature.py [ROUNDS] [STEPS]

In each round every program of a workload runs once, in turn; a ratio is the median over rounds of
the paired ratios, with its quartiles. Sizes are those of `funcbackprop bench`.
"""

import os
import statistics
import sys
import time

import jax
import jax.numpy as jnp
from tabulate import tabulate

from funcbackprop.bench import workloads
from funcbackprop.curvature import hvp, sharpness

WORKLOADS = ("mlp", "convnet", "transformer", "lstm")


def programs(work, steps):
    """Name -> compiled function of nothing, the plain gradient first."""
    loss, params, batch = work.loss, work.params, work.batch
    mean = lambda p, b: jnp.mean(jax.vmap(loss, (None, 0))(p, b))  # noqa: E731
    functions = {
        "gradient": jax.grad(mean),
        "hvp": lambda p, b: hvp(loss, p, b, p),
        "hvp, 4 chunks": lambda p, b: hvp(loss, p, b, p, chunk_size=work.examples // 4),
        f"sharpness, {steps} steps": lambda p, b: sharpness(loss, p, b, steps=steps),
    }
    compiled = {k: jax.jit(f).lower(params, batch).compile() for k, f in functions.items()}
    return {k: lambda f=f: jax.block_until_ready(f(params, batch)) for k, f in compiled.items()}


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def row(name, rounds, steps):
    """The cells of one workload."""
    work = workloads.workload(name)
    runs = programs(work, steps)
    for run in runs.values():
        run()
    times = [{k: seconds(run) for k, run in runs.items()} for _ in range(rounds)]
    cells = [
        work.title,
        work.examples,
        f"{1e3 * statistics.median(t['gradient'] for t in times):.0f}",
    ]
    for k in list(runs)[1:]:
        low, middle, high = statistics.quantiles([t[k] / t["gradient"] for t in times], n=4)
        cells.append(f"{middle:.1f} ({low:.1f} to {high:.1f})")
    return cells, list(runs)[1:]


def main(rounds=5, steps=5):
    """Print the table."""
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}, {os.cpu_count()} cores, float32")
    rows = [row(name, int(rounds), int(steps)) for name in WORKLOADS]
    headers = ["workload", "B", "gradient, ms", *rows[0][1]]
    print(tabulate([cells for cells, _ in rows], headers, tablefmt="github"))


if __name__ == "__main__":
    main(*sys.argv[1:])
