"""The variance of the mini-batch gradient against batch size, for three laws of sampling.

The parameters stand still. Mini-batches are drawn from a population of N = 1024 digits, their
gradients are taken, and the spread of these is held against the law, with S from the gradients of
all single examples. `fb.gradient_variance` predicts the same from a few mini-batches.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import funcbackprop as fb

SEED, TRAINED = 0, 100  # steps of Adam with batches of 64 before the parameters are held still
MODEL = fb.models.mlp((64, 32, 10))
LOSS = fb.example_loss(MODEL.apply, fb.losses.cross_entropy)
PARTS = 16  # mini-batches in one epoch of the third law
CHUNK = 64  # gradients taken at once


@jax.jit
def weighted(params, data, shares):
    """sum_i c_i g_i for each row c of `shares` [M, N]: [M, P]."""
    found = fb.gradient_statistics(LOSS, fb.WeightedSum(shares))(params, data)[1]
    return jnp.concatenate([x.reshape(len(shares), -1) for x in jax.tree.leaves(found)], axis=1)


def gradients(params, data, rows):
    """Mini-batch gradients [M, P] of the mini-batches with examples `rows` [M, B]."""
    shares = np.zeros((len(rows), len(data[1])), np.float32)
    np.add.at(shares, (np.arange(len(rows))[:, None], rows), 1 / rows.shape[1])
    return jnp.concatenate(
        [weighted(params, data, c) for c in shares.reshape(-1, CHUNK, len(data[1]))]
    )


@jax.jit
def variance(g):
    """Of vectors [M, P], summed over coordinates: (value, standard error) by the jackknife."""
    found = fb.noise.noise_scale_of_batches(g, 1).S
    return found.value, found.standard_error


def replaced(rng, count, size, N):
    return rng.integers(0, N, (count, size))


def distinct(rng, count, size, N):
    return epochs(rng, count, N)[:, :size]


def epochs(rng, count, N):
    """`count` random orders of N examples."""
    return rng.permuted(np.tile(np.arange(N), (count, 1)), axis=1)


def population(quick):
    """Parameters after some steps of training, and the N examples."""
    digits, N = fb.training.load("digits"), 64 if quick else 1024
    optimizer = optax.adam(1e-3)
    start = jax.jit(MODEL.init)(jax.random.key(SEED), digits.x[0])
    state = fb.training.init_state(start, optimizer, SEED)
    order = fb.training.batches((digits.x, digits.y), 64, seed=SEED)
    step = fb.training.make_step(LOSS, optimizer)
    params = fb.training.fit(step, state, order, steps=0 if quick else TRAINED).params
    return params, (digits.x[:N], digits.y[:N]), N


def measure(quick):
    params, data, N = population(quick)
    count = 256 if quick else 4096
    sizes = sorted({1, *(() if quick else (4, 16, 64)), N // 4, N // 2, N})
    S = float(variance(gradients(params, data, np.arange(N)[:, None]))[0])  # S_N^2
    rng = np.random.default_rng(SEED)

    def line(draw, B, predicted):
        value, se = variance(gradients(params, data, draw(rng, count, B, N)))
        return {"B": B, "value": float(value) / S, "se": float(se) / S, "predicted": predicted}

    with_replacement = [line(replaced, B, (N - 1) / N / B) for B in sizes]
    without = [line(distinct, B, fb.WithoutReplacement(N).factor(B)) for B in sizes]
    sums, within = of_epochs(params, data, N, rng, count // 4, S)
    rows = [*with_replacement, *without[:-1], *sums[:-1]]
    z = [(x["value"] - x["predicted"]) / x["se"] for x in rows]
    half = [next(x for x in rows if x["B"] == N // 2) for rows in (with_replacement, without)]
    return {
        "quantities": {
            "exponent": exponent(with_replacement),
            "without over with replacement, B = N/2": quotient(half[1], half[0]),
            "sum of a whole epoch over as many independent batches": {
                "value": sums[-1]["value"] / PARTS,
                "se": None,
            },
            "spread within an epoch over the variance, B = N/4": within,
            "largest deviation from prediction": {"value": float(np.max(np.abs(z))), "se": None},
        },
        "population": N,
        "seed": SEED,
        "draws": count,
        "epochs": count // 4,
        "S": S,
        "with replacement": with_replacement,
        "without replacement": without,
        "sums": sums,
        "gradient_variance": {} if quick else predictions(params, data, N, sizes, S),
        "deviations": z,
    }


def predictions(params, data, N, sizes, S):
    """What `fb.gradient_variance` says of every batch size, from an eighth of an epoch."""
    part = jax.tree.map(lambda x: x[np.random.default_rng(SEED).permutation(N)[: N // 8]], data)
    law = fb.ShuffledEpochs(N)
    found = fb.gradient_variance(LOSS, params, part, batch_size=8, sampling=law)
    at = [found.at_batch_size(B).total for B in sizes[:-1]]
    columns = {name: [float(getattr(e, name)) / S for e in at] for name in ("lower", "upper")}
    return {"B": sizes[:-1], **columns}


def of_epochs(params, data, N, rng, count, S):
    """The variance of the sum of the first k of the batches of an epoch, over S/B; and the trap.

    The trap: four batches of one epoch, their spread taken for the variance of one.
    """
    B = N // PARTS
    orders = epochs(rng, count, N)
    g = gradients(params, data, orders.reshape(-1, B)).reshape(count, PARTS, -1)
    sums = np.cumsum(g, axis=1)

    def line(k):
        value, se = variance(sums[:, k - 1])
        scale = B / S
        law = k * (1 - k * B / N)
        return {"B": k, "value": float(value) * scale, "se": float(se) * scale, "predicted": law}

    quarters = np.asarray(g, np.float64).reshape(count, 4, PARTS // 4, -1).mean(2)
    spreads = quarters.var(1, ddof=1).sum(-1)
    one = fb.ShuffledEpochs(N).factor(N // 4) * S
    within = {"value": spreads.mean() / one, "se": spreads.std(ddof=1) / np.sqrt(count) / one}
    return [line(k) for k in range(1, PARTS + 1)], within


def exponent(rows):
    """The slope of log variance over log B by weighted least squares, with its standard error."""
    x, y = (np.log([row[name] for row in rows]) for name in ("B", "value"))
    weights = np.array([row["value"] / row["se"] for row in rows]) ** 2
    x = x - np.average(x, weights=weights)
    precision = (weights * x**2).sum()
    return {"value": (weights * x * y).sum() / precision, "se": precision**-0.5}


def quotient(a, b):
    value = a["value"] / b["value"]
    return {"value": value, "se": value * np.hypot(a["se"] / a["value"], b["se"] / b["value"])}


def draw(result):
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    N, look = result["population"], {"linestyle": "none", "capsize": 3, "markersize": 5}
    laws = {"with replacement": ("C0", "o"), "without replacement": ("C1", "s")}
    B = np.geomspace(1, N, 400)
    for name, (color, marker) in laws.items():
        rows = result[name] if name.startswith("with ") else result[name][:-1]
        x, value, se = (np.array([row[k] for row in rows]) for k in ("B", "value", "se"))
        factor = (N - 1) / N / B if name.startswith("with ") else 1 / B - 1 / N
        left.plot(
            B, np.where(factor > 1e-6, factor, np.nan), color, linewidth=1, label=f"law, {name}"
        )
        left.errorbar(x, value, 1.96 * se, fmt=marker, color=color, label=name, **look)
        scaled = np.where(factor > 0, B * factor, np.nan)
        middle.plot(B, scaled, color, linewidth=1)
        middle.errorbar(x, x * value, 1.96 * x * se, fmt=marker, color=color, label=name, **look)
    if result["gradient_variance"]:
        p = result["gradient_variance"]
        label = "gradient_variance, from 16 batches of 8"
        left.fill_between(p["B"], p["lower"], p["upper"], color="0.7", alpha=0.5, label=label)
    size, sums = "batch size B (examples)", "batches summed, k (disjoint, of one epoch)"
    left.set(xscale="log", yscale="log", ylim=(0.3 / N, 2), xlabel=size)
    left.set(ylabel="variance of the mini-batch gradient / S", title="Variance falls as 1/B")
    middle.set(xscale="log", ylim=(0, 1.3), xlabel=size)
    middle.set(ylabel="B · variance / S", title="… times 1 - B/N without replacement")
    names = ("B", "value", "se", "predicted")
    k, value, se, law = (np.array([row[name] for row in result["sums"]]) for name in names)
    right.plot(k, k, "C0", linewidth=1, label="law, independent batches: k")
    right.plot(k, law, "C2", linewidth=1, label="law, one epoch: k (1 - kB/N)")
    right.errorbar(k, value, 1.96 * se, fmt="^", color="C2", label="shuffled epochs", **look)
    right.set(xlabel=sums, ylabel="variance of the sum / (S/B)", ylim=(0, 0.6 * PARTS))
    right.set_xticks(range(0, PARTS + 1, 4))
    right.set_title(f"Summed over an epoch, B = N/{PARTS}")
    for ax in (left, middle, right):
        ax.grid(color="0.9")
        ax.set_axisbelow(True)
        ax.legend(fontsize=8)
    figure.suptitle(f"Digits, MLP 64-32-10, N = {N}; bars are 95 % intervals")
    return figure
