"""Heavy tails or unequal scales: indices of gradient noise beside those of Gaussian noise.

The noise of a mini-batch gradient, g_B - G, is a vector of P coordinates of very unequal variance.
Pooled over coordinates, as if they were draws of one law, even Gaussian noise looks heavy-tailed.
"""

import jax
import numpy as np
import optax
from matplotlib.figure import Figure

import funcbackprop as fb

SEED, TRAINED, BATCH = 0, 100, 64  # steps of Adam before the parameters are held still
BLOCK = 50  # coordinates in a sum, of the pooled index
WIDTH = 100  # coordinates, those of the largest variance, for the indices over examples
MEASURES = ("stable_index", "hill", "excess_kurtosis")
MODEL = fb.models.mlp((64, 64, 10))
LOSS = fb.example_loss(MODEL.apply, fb.losses.cross_entropy)


def pooled_index(x, rng, orders=20):
    """alpha of a symmetric stable law from sums over coordinates in random order: (value, se).

    log m/(mean log|sum of m coordinates| - mean log|one coordinate|), each row of x [M, P] one
    vector of noise; the error is that of the mean over rows.
    """
    singles = np.log(np.abs(x)).mean(1)
    count = x.shape[1] // BLOCK
    sums = 0
    for _ in range(orders):
        chosen = rng.permutation(x.shape[1])[: count * BLOCK]
        y = x[:, chosen].reshape(len(x), count, BLOCK).sum(2)
        sums = sums + np.log(np.abs(y)).mean(1) / orders
    inverse = (sums - singles) / np.log(BLOCK)
    value = 1 / inverse.mean()
    return value, value**2 * inverse.std(ddof=1) / np.sqrt(len(x))


def stable(rng, alpha, shape):
    """Symmetric alpha-stable numbers (Chambers, Mallows and Stuck 1976)."""
    u, e = rng.uniform(-np.pi / 2, np.pi / 2, shape), rng.exponential(size=shape)
    tail = (np.cos((1 - alpha) * u) / e) ** (1 / alpha - 1)
    return np.sin(alpha * u) / np.cos(u) ** (1 / alpha) * tail


def single_gradients(quick):
    """Gradients of all training digits [N, P], without the coordinates that never move."""
    data, optimizer = fb.training.load("digits"), optax.adam(1e-3)
    start = jax.jit(MODEL.init)(jax.random.key(SEED), data.x[0])
    state = fb.training.init_state(start, optimizer, SEED)
    order = fb.training.batches((data.x, data.y), BATCH, seed=SEED)
    step = fb.training.make_step(LOSS, optimizer)
    params = fb.training.fit(step, state, order, steps=0 if quick else TRAINED).params
    measure = jax.jit(fb.gradient_statistics(LOSS, fb.PerExample()))
    tree = measure(params, (data.x, data.y))[1]
    g = np.concatenate([np.reshape(x, (len(data.x), -1)) for x in jax.tree.leaves(tree)], axis=1)
    g = g.astype(np.float64) - g.mean(0, dtype=np.float64)
    return g[:, np.count_nonzero(np.abs(g) > 1e-9, axis=0) > len(g) // 100]


def batch_noise(g, rng, count, B):
    """The noise of `count` mini-batches of B examples, drawn with replacement: [count, P]."""
    shares = rng.multinomial(B, np.full(len(g), 1 / len(g)), count) / B
    return shares @ g


def library(x, key, surrogates):
    """`fb.noise.tail_index`, which adds up examples of one coordinate, not coordinates."""
    found = fb.noise.tail_index(np.float32(x), jax.random.key(key), surrogates=surrogates)
    columns = {name: getattr(found, name) for name in MEASURES}
    return {
        name: {
            "gradients": float(beside.gradients),
            "surrogate": float(beside.surrogate),
            "se": float(beside.difference.standard_error),
        }
        for name, beside in columns.items()
    }


def measure(quick):
    rng = np.random.default_rng(SEED)
    vectors, draws, surrogates, copies = (20, 64, 4, 2) if quick else (400, 2048, 10, 6)
    g = single_gradients(quick)
    scales = g.std(0)
    largest = np.argsort(-scales)[:WIDTH]
    rows = []
    for B in (1, 16, 64) if quick else (1, 4, 16, 64, 256):
        x = batch_noise(g, rng, vectors, B)
        gaussian = rng.standard_normal(x.shape) * scales / np.sqrt(B)
        tails = [
            library(batch_noise(g[:, largest], rng, draws, B), k, surrogates) for k in range(copies)
        ]
        pooled = {"gradients": pooled_index(x, rng), "surrogate": pooled_index(gaussian, rng)}
        rows.append({"B": B, "pooled": pooled, "library": tails})
        if B == BATCH:
            survival = {"gradients": quantiles(x), "Gaussian surrogate": quantiles(gaussian)}
            survival["Gaussian"] = quantiles(rng.standard_normal(x.shape))
    mixed = rng.standard_normal((vectors, len(scales))) * np.exp(rng.standard_normal(len(scales)))
    normal = np.exp(rng.standard_normal(WIDTH)) * rng.standard_normal((draws, WIDTH))
    controls = {
        "Gaussian": library(normal, 1, surrogates),
        "stable": library(stable(rng, 1.5, (draws, WIDTH)), 2, surrogates),
    }
    at = {row["B"]: row for row in rows}
    alpha, se = pooled_index(mixed, rng)
    return {
        "quantities": {
            "share of 2 - alpha from unequal scales, digits": share(at[BATCH]["pooled"]),
            "pooled alpha, Gaussian with log-normal scales": {"value": alpha, "se": se},
            "alpha over examples, Gaussian with log-normal scales": control(controls["Gaussian"]),
            "alpha over examples, stable noise of 1.5": control(controls["stable"]),
            "16 times excess kurtosis at B = 16 over that at B = 1": falls(at),
        },
        "seed": SEED,
        "coordinates": len(scales),
        "vectors": vectors,
        "draws": draws,
        "rows": rows,
        "controls": controls,
        "survival": survival,
    }


def share(pooled):
    """(2 - alpha) of the surrogate over that of the gradients."""
    (a, a_se), (b, b_se) = pooled["gradients"], pooled["surrogate"]
    value = (2 - b) / (2 - a)
    return {"value": value, "se": abs(value) * np.hypot(a_se / (2 - a), b_se / (2 - b))}


def control(found):
    return {"value": found["stable_index"]["gradients"], "se": found["stable_index"]["se"]}


def falls(at):
    a, b = (excess(at[B]) for B in (1, 16))
    value = 16 * b[0] / a[0]
    return {"value": value, "se": abs(value) * np.hypot(a[1] / a[0], b[1] / b[0])}


def excess(row):
    """Mean over the copies of the excess kurtosis beyond the surrogate's, and its error."""
    each = [
        c["excess_kurtosis"]["gradients"] - c["excess_kurtosis"]["surrogate"]
        for c in row["library"]
    ]
    return np.mean(each), np.std(each, ddof=1) / np.sqrt(len(each))


def quantiles(x):
    """Of |x| in units of the root mean square, all coordinates pooled."""
    tail = np.geomspace(0.5, 1e-5, 30)
    return {"tail": tail, "size": np.quantile(np.abs(x), 1 - tail) / np.sqrt(np.mean(x**2))}


def draw(result):
    figure = Figure(figsize=(14, 4.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for (name, s), line in zip(result["survival"].items(), ("C0o", "C1s", "0.4"), strict=True):
        look = {"color": line} if line == "0.4" else {"color": line[:2], "marker": line[2]}
        left.plot(s["size"], s["tail"], markersize=4, label=name, **look)
    left.set(xscale="log", yscale="log", xlabel="|noise| / its root mean square")
    left.set(ylabel="share of larger entries", title=f"Pooled coordinates, B = {BATCH}")
    B = np.array([row["B"] for row in result["rows"]])
    for k, name in enumerate(("gradients", "surrogate")):
        value, se = np.array([row["pooled"][name] for row in result["rows"]]).T
        label = f"pooled coordinates, {'Gaussian surrogate' if k else name}"
        middle.errorbar(B, value, 1.96 * se, color=f"C{k}", marker="os"[k], label=label, capsize=3)
    each = [[c["stable_index"]["gradients"] for c in row["library"]] for row in result["rows"]]
    middle.errorbar(B, np.mean(each, 1), 1.96 * np.std(each, 1), color="C2", marker="^", capsize=3,
                    label="examples of one coordinate (tail_index)")  # fmt: skip
    middle.axhline(2, color="0.3", linestyle="--", linewidth=1, label="Gaussian: 2")
    middle.set(xscale="log", ylim=(0, 2.9), xlabel="batch size B (examples)")
    middle.set(ylabel="index alpha of a stable law", title="Index of the noise")
    value, se = np.array([excess(row) for row in result["rows"]]).T
    right.errorbar(B, value, 1.96 * se, color="C0", marker="o", capsize=3, label="gradients")
    right.plot(B, value[0] / B, color="0.3", linestyle="--", linewidth=1, label="1/B")
    right.set(xscale="log", yscale="log", xlabel="batch size B (examples)")
    right.set(ylabel="excess kurtosis beyond the surrogate's", title="Tails within a coordinate")
    for ax in (left, middle, right):
        ax.grid(color="0.9")
        ax.legend(fontsize=8)
    return figure
