"""How many digits of S = tr(Sigma) survive in float32 when the mean gradient dwarfs the spread.

    python experiments/digits_of_variance.py

The gradient of example i is x_i: normal numbers of spread 1 about a mean of up to 1e6. The truth is
that of the same float32 numbers, in float64. "digits" is -log10 of the relative error; float32 has
7.2. S from squared norms alone cancels, and says so in its status.
"""

import jax.numpy as jnp
import numpy as np
from tabulate import tabulate

import funcbackprop as fb

B, P, BATCHES = 64, 20, 8
MEANS = (0.0, 1e2, 1e4, 1e6)


def loss(w, x):
    return w @ x


def of_one_batch(x, name, statistic):
    stats = {"mean": fb.Mean(), name: statistic}
    _, g = fb.gradient_statistics(loss, stats)(jnp.zeros(P), x)
    return fb.noise.moments(**g, weights=jnp.ones(len(x)))


def merged(x, statistic):
    """Batches one after the other, through the protocol of statistics."""
    measure = fb.gradient_statistics(loss, {"mean": fb.Mean(), "variance": statistic})
    w, state = jnp.zeros(P), None
    for part in jnp.split(x, BATCHES):
        _, _, new = measure.states(w, part)
        state = new if state is None else measure.merge(state, new)
    return fb.noise.moments(**measure.finalize(state, w), weights=jnp.ones(len(x)))


SOURCES = {
    "Variance, one batch": lambda x: of_one_batch(x, "variance", fb.Variance()),
    "SquaredDeviations, one batch": lambda x: of_one_batch(
        x, "sq_deviations", fb.SquaredDeviations()
    ),
    f"Variance, {BATCHES} batches merged": lambda x: merged(x, fb.Variance()),
    "SquaredNorms alone": lambda x: of_one_batch(x, "sq_norms", fb.SquaredNorms()),
}


def digits(mean):
    """name -> (digits of S, name of the status)."""
    noise = np.random.default_rng(0).normal(size=(B * BATCHES, P))
    x = np.float32(mean + noise)
    truth = x.astype(np.float64).var(axis=0, ddof=1).sum()
    found = {}
    for name, source in SOURCES.items():
        m = source(jnp.asarray(x))
        error = abs(float(m.S) - truth) / truth
        found[name] = (-np.log10(max(error, 1e-8)), m.to_dict()["status"])
    return found


def main():
    tables = {mean: digits(mean) for mean in MEANS}
    rows = []
    for name in SOURCES:
        cells = []
        for mean in MEANS:
            kept, status = tables[mean][name]
            cells.append(f"{kept:.1f}" + ("" if status == "ok" else f" ({status})"))
        rows.append([name, *cells])
    print(tabulate(rows, ["S from", *(f"mean {m:g}" for m in MEANS)], disable_numparse=True))


if __name__ == "__main__":
    main()
