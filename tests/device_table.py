"""What statistics cost on a batch that lies on 8 devices: `python tests/device_table.py [--quick]`.

Devices are simulated on the CPU, sharding is automatic. For each workload of the benchmark and each
statistic it prints, of the compiled program of one device,

- FLOPs, divided by an eighth of those of the plain gradient on one device;
- collectives: how many, and how many in the innermost loops, which run over examples (the plain
  gradient of a transformer has one in its loop over layers);
- how many of them gather an array instead of adding it up;
- the largest difference from what one device finds, relative to the largest number there.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "experiments"))
os.environ["NPROC"] = "32"  # threads for the devices to meet, on a machine with few cores

import conftest  # noqa: F401  (strict settings)
import jax
import numpy as np
from hlo import Module
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import funcbackprop as fb
from funcbackprop.bench.variants import VARIANTS
from funcbackprop.bench.workloads import workload
from funcbackprop.tables import text

DEVICES, EXAMPLES = 8, 64
LOOPS_OVER_LAYERS = {"transformer": 1}
STATS = {
    "mean": {"mean": fb.Mean()},
    "mean + norms": {"mean": fb.Mean(), "sq_norms": fb.SquaredNorms()},
    "mean + variance": {"mean": fb.Mean(), "variance": fb.Variance()},
    "centred variance": {"variance": fb.Variance(centred=True)},
    "clipped mean": {"clipped": fb.ClippedMean(1.0)},
}


def compiled(f, work, devices):
    """The module, and what it finds."""
    mesh = Mesh(np.array(jax.devices()[:devices]), "b")
    everywhere, by_rows = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("b",)))
    given = jax.device_put(work.params, everywhere), jax.device_put(work.batch, by_rows)
    program = jax.jit(f).lower(*given).compile()
    return Module(program.as_text()), jax.tree.map(np.asarray, program(*given))


def figures(name, quick=False):
    """A row for the plain gradient and for each statistic."""
    work = workload(name, EXAMPLES, quick=quick)
    plain = VARIANTS["plain"].make(work.loss, EXAMPLES)
    alone = compiled(plain, work, 1)[0].flops()
    functions = {"plain": plain}
    functions |= {k: fb.gradient_statistics(work.loss, v) for k, v in STATS.items()}
    for title, f in functions.items():
        module, result = compiled(f, work, DEVICES)
        _, expected = compiled(f, work, 1)
        found = module.collectives()
        kinds = sum(found.values(), start=Counter())
        inner = sum(c.total() for k, c in found.items() if k > LOOPS_OVER_LAYERS.get(name, 0))
        gathers = kinds.total() - kinds["all-reduce"] - kinds["reduce-scatter"]
        flops = module.flops() * DEVICES / alone
        yield name, title, flops, kinds.total(), inner, gathers, difference(result, expected)


def difference(found, expected):
    largest = max(np.max(np.abs(x)) for x in jax.tree.leaves(expected))
    errors = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), found, expected)
    return float(max(jax.tree.leaves(errors)) / largest)


def main(*args):
    jax.config.update("jax_num_cpu_devices", DEVICES)
    names = [a for a in args if not a.startswith("--")]
    names = names or ["mlp", "convnet", "transformer", "lstm"]
    rows = [row for name in names for row in figures(name, "--quick" in args)]
    if "--json" in args:
        print(json.dumps(rows))
        return
    headers = ["workload", "statistics", "FLOPs", "collectives", "in loops over examples"]
    print(f"jax {jax.__version__}, {EXAMPLES} examples on {DEVICES} simulated devices")
    print(text(rows, [*headers, "gather", "difference"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
