"""What the general chain rule costs: time and peak memory of one gradient.

    python experiments/cost_of_reference.py

Each workload runs in a process of its own, so that the peak is its own. First call: with all that
JAX compiles on the way. Second call: the same once more.
"""

import json
import os
import resource
import subprocess
import sys
import time

import jax
import numpy as np
from tabulate import tabulate

import funcbackprop as fb

mlp, convnet, lstm, transformer = (
    fb.models.mlp,
    fb.models.convnet,
    fb.models.lstm,
    fb.models.transformer,
)

# name -> (model, B, shape of an input, outputs); integers in 0..outputs where the input is tokens
WORKLOADS = {
    "digits, mlp 64-512-512-10": (mlp((64, 512, 512, 10)), 64, (64,), 10),
    "digits, convnet 16-32": (convnet((16, 32), 10), 64, (8, 8, 1), 10),
    "text, lstm width 64, T 64": (lstm(100, 64), 64, (64,), 100),
    "text, transformer width 64, depth 2, T 64": (
        transformer(100, 64, 64, depth=2, heads=4),
        64,
        (64,),
        100,
    ),
    "transformer width 384, depth 5, T 128": (
        transformer(1500, 128, 384, depth=5, heads=6),
        4,
        (128,),
        1500,
    ),
}


def problem(name):
    """`(loss, params, batch)`."""
    model, B, shape, outputs = WORKLOADS[name]
    rng = np.random.default_rng(0)
    tokens = "vocab_size" in dict(model.spec.options)
    x = rng.integers(0, outputs, (B, *shape)) if tokens else rng.normal(size=(B, *shape))
    x = x.astype(np.int32 if tokens else np.float32)
    y = rng.integers(0, outputs, (B, *shape) if tokens else B)
    loss = fb.example_loss(model.apply, fb.losses.next_token if tokens else fb.losses.cross_entropy)
    return loss, jax.jit(model.init)(jax.random.key(0), x[0]), (x, y)


def measure(name):
    """One row: parameters, seconds of the first and the second call, peak memory in GB."""
    loss, params, batch = problem(name)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        fb.reference.value_and_grad(loss)(params, batch)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return [name, len(batch[0]), sum(p.size for p in jax.tree.leaves(params)), *seconds, peak]


def main():
    """Print the table."""
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}, {os.cpu_count()} cores, float32")
    rows = [
        json.loads(subprocess.run([sys.executable, __file__, name], check=True, stdout=-1).stdout)
        for name in WORKLOADS
    ]
    headers = ["workload", "B", "parameters", "first call, s", "second, s", "peak, GB"]
    print(tabulate(rows, headers, floatfmt=".2f", intfmt=",", tablefmt="github"))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
