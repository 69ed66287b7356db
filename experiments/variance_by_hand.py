"""How fast mean and variance of an MLP's gradients can be: the backward pass written by hand.

    python experiments/variance_by_hand.py

The MLP 784-1024-1024-10 at B = 256 in float32. By hand: the mean gradient and the second moments
are one matrix product each, and the variance is their difference; with the guard, it is also found
out whether that difference kept its digits. What the engine takes beyond this is its own; what this
takes beyond the plain gradient no engine in JAX can save.
"""

import functools
import itertools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from tabulate import tabulate

import funcbackprop as fb

SIZES, B, ROUNDS = (784, 1024, 1024, 10), 256, 40
SPREAD = 0.1  # of the engine's guard: below this share of the squares a difference lost digits


def data(seed=0):
    rng = np.random.default_rng(seed)
    params = [
        (jnp.asarray(rng.normal(size=(m, n)) / np.sqrt(m), jnp.float32), jnp.zeros(n))
        for m, n in itertools.pairwise(SIZES)
    ]
    x = jnp.asarray(rng.normal(size=(B, SIZES[0])), jnp.float32)
    return params, (x, jnp.asarray(rng.integers(0, SIZES[-1], B)))


def logits(params, x):
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b)
    w, b = params[-1]
    return x @ w + b


def loss(params, example):
    x, y = example
    return -jax.nn.log_softmax(logits(params, x))[y]


def plain(params, batch):
    return jax.value_and_grad(lambda p: jnp.mean(jax.vmap(loss, (None, 0))(p, batch)))(params)


def by_hand(params, batch, guard):
    x, y = batch
    inputs = [x]
    for w, b in params[:-1]:
        inputs.append(jax.nn.relu(inputs[-1] @ w + b[None]))
    w, b = params[-1]
    log_p = jax.nn.log_softmax(inputs[-1] @ w + b[None])
    d = jnp.exp(log_p) - jax.nn.one_hot(y, SIZES[-1])
    means, variances, kept = [], [], []
    for (w, _), u in zip(reversed(params), reversed(inputs), strict=True):
        mean = u.T @ (d / B), jnp.mean(d, 0)
        squares = (u * u).T @ (d * d / (B - 1)), jnp.sum(d * d, 0) / (B - 1)
        found = [s - m * m * (B / (B - 1)) for s, m in zip(squares, mean, strict=True)]
        kept += [jnp.max(v) >= SPREAD * jnp.max(s) for v, s in zip(found, squares, strict=True)]
        means.append(mean)
        variances.append(found)
        d = (d @ w.T) * (u > 0)
    losses = -jnp.take_along_axis(log_p, y[:, None], 1)
    return losses, means, variances, kept if guard else ()


def seconds(calls, rounds):
    """Interleaved, so that a slow moment of the machine meets all of them."""
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - start)
    return times


def main():
    params, batch = data()
    statistic = {"mean": fb.Mean(), "variance": fb.Variance()}
    functions = {
        "plain gradient": plain,
        "plain gradient, once more": plain,
        "mean and variance by hand": functools.partial(by_hand, guard=False),
        "the same, guarded": functools.partial(by_hand, guard=True),
        "fb.gradient_statistics": fb.gradient_statistics(loss, statistic),
    }
    compiled = {name: jax.jit(f).lower(params, batch).compile() for name, f in functions.items()}
    calls = {name: functools.partial(f, params, batch) for name, f in compiled.items()}
    seconds(calls, 2)
    times = seconds(calls, ROUNDS)
    base = times["plain gradient"]
    rows = [
        (
            name,
            1e3 * statistics.median(t),
            statistics.median(a / b for a, b in zip(t, base, strict=True)),
            compiled[name].memory_analysis().temp_size_in_bytes / 1e6,
        )
        for name, t in times.items()
    ]
    print(tabulate(rows, ["", "ms", "ratio", "temporaries, MB"], floatfmt=".3g"))


if __name__ == "__main__":
    main()
