"""Coverage of the 95 % interval of the noise scale on Gaussian linear regression.

x ~ N(0, I_d), y = x'theta* + e, |theta - theta*| = 1 and sigma = 1: the gradient of an example is
x (x'delta - e), and B_simple = 2 d + 1. Prints, for each d and number of examples n, how often the
interval of `funcbackprop.noise.noise_scale` holds the truth, and how long it is.

    python experiments/noise_scale_coverage.py [--repetitions 4000]
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

import funcbackprop as fb
from funcbackprop import tables

DIMENSIONS = (10, 50)
RATIOS = (0.5, 1, 2, 5, 20)  # n/B_simple
HEADERS = (
    "d", "n", "n/B", "coverage", "± (Monte Carlo)", "B below", "B above", "unbounded", "lower > 0",
    "median upper/lower",
)  # fmt: skip


@functools.partial(jax.jit, static_argnums=(1, 2))
def intervals(keys, d: int, n: int):
    """The interval of each repetition: two arrays [repetitions]."""

    def one(key):
        key_x, key_e = jax.random.split(key)
        x = jax.random.normal(key_x, (n, d))
        residual = x[:, 0] - jax.random.normal(key_e, (n,))  # delta is the first unit vector
        mean = residual @ x / n
        sq_norms = residual**2 * jnp.sum(x**2, axis=1)
        B = fb.noise.noise_scale(mean, sq_norms=sq_norms, inner=residual * (x @ mean)).B_simple
        return B.lower, B.upper

    return jax.lax.map(one, keys, batch_size=50)


def row(d: int, ratio: float, repetitions: int, seed: int = 0) -> list:
    """One line of the table."""
    truth = 2 * d + 1
    n = int(np.floor(ratio * truth))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1000 * d + n), repetitions)
    lower, upper = map(np.asarray, intervals(keys, d, n))
    coverage = np.mean((lower <= truth) & (truth <= upper))
    with np.errstate(divide="ignore"):
        length = np.median(upper / lower)
    error = np.sqrt(coverage * (1 - coverage) / repetitions)
    shares = truth < lower, truth > upper, np.isinf(upper), lower > 0
    return [d, n, ratio, coverage, error, *(float(np.mean(s)) for s in shares), length]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=4000)
    repetitions = parser.parse_args().repetitions
    start = time.time()
    rows = [row(d, ratio, repetitions) for d in DIMENSIONS for ratio in RATIOS]
    title = f"95 % interval of B_simple = 2 d + 1, linear regression, {repetitions:,} repetitions"
    print(tables.text(rows, HEADERS, title, width=140))
    print(f"{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
