"""Cost of per-example statistics by definition: `python experiments/cost_of_statistics.py`.

Prints the paired median ratio of times (calls interleaved in one process) and the ratio of XLA's
temporary memory, for `gradient_statistics(method="materialize")` against `jax.value_and_grad` of
the mean loss.
"""

import os
import statistics
import time

import jax
import jax.numpy as jnp
from tabulate import tabulate

import funcbackprop as fb

ROUNDS = 7
STATS = {
    "mean + norms": {"mean": fb.Mean(), "sq_norms": fb.SquaredNorms()},
    "mean + variance": {"mean": fb.Mean(), "variance": fb.Variance()},
}


def images(*shape):
    return lambda key, size: (
        jax.random.normal(key, (size, *shape)),
        jnp.arange(size) % 10,
    )


def tokens(key, size):
    sequence = jax.random.randint(key, (size, 65), 0, 96)
    return sequence[:, :-1], sequence[:, 1:]


# name -> (model, loss, examples of a batch, batch size)
WORKLOADS = {
    "MLP 784-512-512-10": (
        fb.models.mlp((784, 512, 512, 10)),
        fb.losses.cross_entropy,
        images(784),
        128,
    ),
    "convnet 16-32, 16x16x3": (
        fb.models.convnet((16, 32), 10),
        fb.losses.cross_entropy,
        images(16, 16, 3),
        64,
    ),
    "LSTM width 128, T 64": (fb.models.lstm(96, 128), fb.losses.next_token, tokens, 32),
    "transformer width 128, depth 2, T 64": (
        fb.models.transformer(96, 64, width=128, depth=2, heads=4),
        fb.losses.next_token,
        tokens,
        32,
    ),
}


def seconds(f, *arguments):
    start = time.perf_counter()
    jax.block_until_ready(f(*arguments))
    return time.perf_counter() - start


def compiled(f, *arguments):
    """The compiled function and the bytes of its temporaries."""
    program = jax.jit(f).lower(*arguments).compile()
    memory = program.memory_analysis()
    return program, memory.temp_size_in_bytes + memory.output_size_in_bytes


def measure(model, example_loss, make_batch, size):
    loss = fb.example_loss(model.apply, example_loss)
    batch = make_batch(jax.random.key(0), size)
    params = jax.jit(model.init)(jax.random.key(1), jax.tree.map(lambda x: x[0], batch[0]))

    def plain(params, batch):
        mean_loss = lambda p: jnp.mean(jax.vmap(loss, (None, 0))(p, batch))  # noqa: E731
        return jax.value_and_grad(mean_loss)(params)

    base, base_memory = compiled(plain, params, batch)
    row = []
    for stats in STATS.values():
        f, memory = compiled(fb.gradient_statistics(loss, stats), params, batch)
        ratios = [seconds(f, params, batch) / seconds(base, params, batch) for _ in range(ROUNDS)]
        row += [statistics.median(ratios), memory / base_memory]
    return row


def main():
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}, {os.cpu_count()} cores, float32")
    headers = ["workload", "B"]
    headers += [f"{name}: {what}" for name in STATS for what in ("time", "memory")]
    rows = [[name, work[-1], *measure(*work)] for name, work in WORKLOADS.items()]
    print(tabulate(rows, headers, floatfmt=".1f", tablefmt="github"))


if __name__ == "__main__":
    main()
