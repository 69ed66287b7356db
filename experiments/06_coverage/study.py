"""How often 95 % intervals of the noise scale hold the truth: the library's and the bootstrap's.

Linear regression x ~ N(0, I_d), y = x'theta* + e, |theta - theta*| = sigma = 1: the gradient of an
example is x (x'delta - e), and B_simple = 2 d + 1. And digits, where the truth is that of all
training examples and samples are drawn from them with replacement.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import funcbackprop as fb

SEED, LEVEL, CHUNK = 0, 0.95, 20  # repetitions at a time
METHODS = ("interval", "bootstrap")
DIMENSIONS, RATIOS = (10, 50), (0.5, 1, 2, 5, 10)  # d, n/B
MODEL, TRAINED, BATCH = fb.models.mlp((64, 32, 10)), 50, 64
LOSS = fb.example_loss(MODEL.apply, fb.losses.cross_entropy)


def interval(g):
    """(lower, upper, value) of `fb.noise.noise_scale` for gradients [n, P]."""
    mean = jnp.mean(g, axis=0)
    B = fb.noise.noise_scale(mean, sq_norms=jnp.sum(g**2, 1), inner=g @ mean).B_simple
    return B.lower, B.upper, B.value


def bootstrap(g, shares):
    """(lower, upper, median) of S/|G|^2 of resamples, whose rows have `shares` [R, n].

    The percentile bootstrap of the same unbiased estimators; a ratio whose |G|^2 is not above 0
    counts as infinite, which is generous.
    """
    n, P = g.shape
    sq_means = jnp.sum((shares @ (g @ g.T)) * shares, 1) if n < P else jnp.sum((shares @ g) ** 2, 1)
    S = n / (n - 1) * (shares @ jnp.sum(g**2, 1) - sq_means)
    sq_norm = sq_means - S / n
    ratios = jnp.sort(jnp.where(sq_norm > 0, S / jnp.where(sq_norm > 0, sq_norm, 1), jnp.inf))
    R, tail = len(shares), (1 - LEVEL) / 2
    return ratios[math.floor(tail * R)], ratios[math.ceil((1 - tail) * R) - 1], ratios[R // 2]


@jax.jit
def both(g, shares):
    """Both intervals of each of [c, n, P] gradients: arrays [2, 3, c]."""
    found = jax.vmap(interval)(g), jax.vmap(bootstrap, (0, None))(g, shares)
    return jnp.stack([jnp.stack(x) for x in found])


def regression(d):
    def sample(rng, n):
        x = rng.standard_normal((CHUNK, n, d), np.float32)
        return x * (x[..., :1] - rng.standard_normal((CHUNK, n, 1), np.float32))

    return sample


def drawn(gradients):
    return lambda rng, n: gradients[rng.integers(0, len(gradients), (CHUNK, n))]


def row(name, sample, truth, n, repetitions, resamples):
    """How often the truth lies inside and on which side it is missed."""
    rng = np.random.default_rng((SEED, n))
    shares = rng.multinomial(n, np.full(n, 1 / n), resamples).astype(np.float32) / n
    found = [np.asarray(both(sample(rng, n), shares)) for _ in range(repetitions // CHUNK)]
    rows = {}
    for method, (lower, upper, middle) in zip(METHODS, np.concatenate(found, -1), strict=True):
        coverage = float(np.mean((lower <= truth) & (truth <= upper)))
        rows[method] = {
            "coverage": coverage,
            "se": math.sqrt(max(coverage * (1 - coverage), 1 / repetitions) / repetitions),
            "truth below": float(np.mean(truth < lower)),
            "truth above": float(np.mean(truth > upper)),
            "unbounded": float(np.mean(np.isinf(upper))),
            "centre over truth": float(np.median(middle) / truth),
        }
    return {"name": name, "n": n, "truth": truth, "n/B": n / truth, **rows}


def digits(quick):
    """The gradients of all training examples [N, P] after some steps of training, and B_simple."""
    data, optimizer = fb.training.load("digits"), optax.adam(1e-3)
    start = jax.jit(MODEL.init)(jax.random.key(SEED), data.x[0])
    state = fb.training.init_state(start, optimizer, SEED)
    order = fb.training.batches((data.x, data.y), BATCH, seed=SEED)
    step = fb.training.make_step(LOSS, optimizer)
    params = fb.training.fit(step, state, order, steps=0 if quick else TRAINED).params
    measure = jax.jit(fb.gradient_statistics(LOSS, fb.PerExample()))
    tree = measure(params, (data.x, data.y))[1]
    g = np.concatenate([np.reshape(x, (len(data.x), -1)) for x in jax.tree.leaves(tree)], axis=1)
    mean = g.mean(0, dtype=np.float64)
    S = ((g - mean) ** 2).sum() / len(g)  # of draws with replacement: divisor N
    return g, float(S / (mean @ mean))


def measure(quick):
    repetitions, resamples = (40, 200) if quick else (2000, 1000)
    ratios = (1, 5) if quick else RATIOS
    rows = [
        row(
            f"d = {d}",
            regression(d),
            2 * d + 1,
            int(q * (2 * d + 1)),
            repetitions,
            resamples,
        )
        for d in DIMENSIONS
        for q in ratios
    ]
    g, B = digits(quick)
    of_digits = [
        row("digits", drawn(g), B, max(round(q * B), 4), repetitions, resamples)
        for q in ((2,) if quick else (0.5, 1, 2, 5))
    ]
    at = {(r["name"], round(r["n/B"], 1)): r for r in rows}
    worst = min((r["interval"] for r in rows), key=lambda r: r["coverage"])
    on_digits = of_digits[0 if quick else 2]["interval"]
    value = lambda r: {"value": r["coverage"], "se": r["se"]}  # noqa: E731
    return {
        "quantities": {
            "lowest coverage of noise_scale, regression": value(worst),
            "coverage of the bootstrap, d = 10, n = 5B": value(at["d = 10", 5]["bootstrap"]),
            "coverage of the bootstrap, d = 50, n = 5B": value(at["d = 50", 5]["bootstrap"]),
            "centre of the bootstrap over the truth, d = 50, n = B": {
                "value": at["d = 50", 1]["bootstrap"]["centre over truth"],
                "se": None,
            },
            "coverage of noise_scale, digits, n = 2B": value(on_digits),
        },
        "seed": SEED,
        "repetitions": repetitions,
        "resamples": resamples,
        "rows": [*rows, *of_digits],
    }


def draw(result):
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    names = dict.fromkeys(r["name"] for r in result["rows"])
    looks = {
        "interval": ("C0", "o", "noise_scale"),
        "bootstrap": ("C3", "s", "percentile bootstrap"),
    }
    for ax, name in zip(figure.subplots(1, 3, sharey=True), names, strict=True):
        rows = [r for r in result["rows"] if r["name"] == name]
        x = np.array([r["n/B"] for r in rows])
        for method, (color, marker, label) in looks.items():
            value, se = (np.array([r[method][k] for r in rows]) for k in ("coverage", "se"))
            ax.errorbar(x, value, 1.96 * se, marker=marker, color=color, label=label, capsize=3)
        ax.axhline(LEVEL, color="0.3", linestyle="--", linewidth=1, label="nominal, 0.95")
        B = rows[0]["truth"]
        ax.set(xscale="log", xlabel="examples n over the noise scale B", ylim=(0, 1.03))
        where = "Digits, MLP 64-32-10" if name == "digits" else f"Linear regression, {name}"
        ax.set_title(f"{where}: B = {B:.3g}")
        ax.set_xticks(x, [f"{v:.2g}" for v in x])
        ax.minorticks_off()
        ax.grid(color="0.9")
    figure.axes[0].set_ylabel("share of intervals that hold the truth")
    figure.axes[-1].legend(loc="lower right")
    return figure
