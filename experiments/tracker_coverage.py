"""Coverage of the 95 % interval of the noise tracker when steps are correlated, or drift.

Each step is a pair (S, |G|^2) of mean (10, 1), each correlated with the one before by phi. With
drift, S doubles, or S doubles and |G|^2 falls to exp(-2) of its start; steps are then independent.
Prints how often the interval of `tracked_noise` (window: the last half) holds the ratio of the
means over its window; the same for an interval from single steps as if they were independent; how
often the status says that slots are correlated; how often the interval holds the ratio at the last
step; and the medians of `B_simple` and `recent`, in units of that.

    python experiments/tracker_coverage.py [--repetitions 2000]
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import funcbackprop as fb
from funcbackprop import tables

TRACK = fb.noise.tracker()
CORRELATED = next(code for code, (name, _) in fb.noise.STATUS.items() if name == "correlated slots")
HEADERS = (
    "steps", "phi", "drift", "coverage", "± (Monte Carlo)", "as if independent", "said",
    "holds the last", "B_simple", "recent",
)  # fmt: skip
# How S and |G|^2 move over the share u of training that is done.
DRIFTS = {
    "none": lambda u: (10 + 0 * u, 1 + 0 * u),
    "S": lambda u: (10 * (1 + u), 1 + 0 * u),
    "both": lambda u: (10 * (1 + u), jnp.exp(-2 * u)),
}
CASES = [(steps, phi, "none") for steps in (200, 1000, 5000) for phi in (0.0, 0.5, 0.9)]
CASES += [(1000, 0.0, drift) for drift in ("S", "both")]


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def repetitions(keys, steps: int, phi: float, drift: str):
    """The columns of the table, one value for each repetition."""
    S_mean, sq_mean = DRIFTS[drift](jnp.arange(steps) / steps)

    def one(key):
        noise = jax.random.normal(key, (steps, 2))
        grown = jnp.sqrt(1 - phi**2) * noise.at[0].divide(jnp.sqrt(1 - phi**2))
        _, x = jax.lax.scan(lambda x, e: (phi * x + e,) * 2, jnp.zeros(2), grown)
        S, sq_norm = S_mean + 3 * x[:, 0], sq_mean + 0.5 * x[:, 0] + 0.87 * x[:, 1]

        def step(state, pair):
            one = jnp.ones(())
            moments = fb.noise.Moments(*pair, one, one, one, jnp.int32(0))
            return TRACK.update(state, moments=moments), None

        state, _ = jax.lax.scan(step, TRACK.init(), (S, sq_norm))
        found = fb.noise.tracked_noise(state)
        B, n = found.B_simple, found.window
        end = steps - steps % found.slot_length
        window = (jnp.arange(steps) >= end - n) & (jnp.arange(steps) < end)
        mean = lambda x: jnp.sum(jnp.where(window, x, 0)) / n  # noqa: E731
        truth, last = mean(S_mean) / mean(sq_mean), S_mean[-1] / sq_mean[-1]
        ratio = mean(S) / mean(sq_norm)
        apart = S - ratio * sq_norm
        error = jnp.sqrt(mean(apart**2) / n) / mean(sq_norm)
        holds = lambda x: (B.lower <= x) & (x <= B.upper)  # noqa: E731
        naive = jnp.abs(ratio - truth) <= stats.norm.ppf(0.975) * error
        said = B.status == CORRELATED
        return holds(truth), naive, said, holds(last), B.value / last, found.recent.B_simple / last

    return jax.lax.map(one, keys, batch_size=500)


def row(steps: int, phi: float, drift: str, count: int, seed: int = 0) -> list:
    """One line of the table."""
    keys = jax.random.split(jax.random.key(seed), count)
    *shares, B, recent = map(np.asarray, repetitions(keys, steps, phi, drift))
    coverage, *others = (float(np.mean(x)) for x in shares)
    error = np.sqrt(coverage * (1 - coverage) / count)
    return [steps, phi, drift, coverage, error, *others, float(np.median(B)), np.median(recent)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=2000)
    count = parser.parse_args().repetitions
    start = time.time()
    rows = [row(*case, count) for case in CASES]
    title = f"95 % interval of B_simple by the tracker, {count:,} repetitions"
    print(tables.text(rows, HEADERS, title, width=140))
    print(f"{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
