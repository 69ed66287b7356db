"""Noise scale over training: how it grows, what an interval is worth, micro-batches or examples.

An MLP 64-64-10 learns the digits by SGD. At log-spaced steps the gradients of all N training
examples give the noise scale of the law "draw an example of the training set at random" exactly.
Samples of that law are then estimated from, as a training loop would, and held against it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import pyplot as plt
from scipy.stats import spearmanr

import funcbackprop as fb

STEPS = (0, 3, 10, 30, 100, 300, 1000, 3000)
SEEDS, REPETITIONS = (0, 1, 2), 200
EXAMPLES, MICRO, BATCH, RATE = 512, 32, 64, 0.1

data = fb.training.load("digits")
N = len(data.x)
everything = (jnp.asarray(data.x), jnp.asarray(data.y))
model = fb.models.mlp((64, 64, 10))
loss = fb.example_loss(model.apply, fb.losses.cross_entropy)
gram = jax.jit(fb.gradient_statistics(loss, fb.Gram()))
of_examples = fb.gradient_statistics(
    loss, {"mean": fb.Mean(), "sq_deviations": fb.SquaredDeviations(), "inner": fb.InnerWithMean()}
)
of_part = jax.grad(lambda params, part: jnp.mean(jax.vmap(loss, (None, 0))(params, part)))
init = jax.jit(model.init)
optimizer = optax.sgd(RATE)
train_step = fb.training.make_step(loss, optimizer, donate=False)


@functools.partial(jax.jit, static_argnums=2)
def estimates(params, key, repetitions):
    """S, |G|^2 and the interval of their ratio, from the same examples in two ways."""

    def one(key):
        rows = jax.random.randint(key, (EXAMPLES,), 0, N)
        batch = jax.tree.map(lambda a: a[rows], everything)
        parts = jax.tree.map(lambda a: a.reshape(-1, MICRO, *a.shape[1:]), batch)
        gradients = jax.vmap(of_part, (None, 0))(params, parts)
        both = {
            "examples": fb.noise.noise_scale(**of_examples(params, batch)[1]),
            "micro": fb.noise.noise_scale_of_batches(gradients, MICRO),
        }
        return {k: (e.S.value, e.B_simple.lower, e.B_simple.upper) for k, e in both.items()}

    return jax.lax.map(one, jax.random.split(key, repetitions))


def truth(params):
    """Of one example drawn at random from all: loss, S, |G|^2, tr Sigma^2 and E|g - G|^4."""
    losses, K = gram(params, everything)
    K = np.asarray(K, np.float64)
    by_row = K.mean(0)
    centred = K - by_row - by_row[:, None] + K.mean()
    d = np.diag(centred)
    squares = float(np.sum(centred**2) / N**2)
    moments = (float(jnp.mean(losses)), d.mean(), K.mean(), squares, np.mean(d**2))
    return dict(zip(("loss", "S", "sq_G", "sq_sigma", "fourth"), map(float, moments), strict=True))


def predicted(known):
    """Var of S from micro-batches over Var of S from their examples."""
    n, k = EXAMPLES, EXAMPLES // MICRO
    Sigma = 2 * known["sq_sigma"]
    tails = known["fourth"] - known["S"] ** 2 - Sigma
    return (tails / n + Sigma / (k - 1)) / (tails / n + Sigma / (n - 1))


def point(params, seed, number, repetitions):
    """All that is measured at one step of one run."""
    known = truth(params)
    known["B"] = known["S"] / known["sq_G"]
    key = jax.random.fold_in(jax.random.key(100 + seed), number)
    found = jax.device_get(estimates(params, key, repetitions))
    out = {"seed": seed, "step": number, **known, "predicted": predicted(known)}
    for name, (S, lower, upper) in found.items():
        out[name] = {
            "S": float(S.mean()),
            "var_S": float(S.var(ddof=1)),
            "covered": float(np.mean((lower <= known["B"]) & (known["B"] <= upper))),
            "unbounded": float(np.mean(np.isinf(upper))),
            "interval": [float(np.median(lower)), float(np.median(upper))],
        }
    return out


def run(seed, steps, repetitions):
    """Train from one seed, and measure on the way."""
    params = init(jax.random.key(seed), everything[0][0])
    points = []

    def measure_at(number, state, metrics):
        if number in steps:
            points.append(point(state.params, seed, number, repetitions))

    batches = fb.training.batches((data.x, data.y), BATCH, seed=seed)
    state = fb.training.init_state(params, optimizer, seed)
    fb.training.fit(train_step, state, batches, steps=max(steps), hooks=[measure_at])
    return points


def mean_se(values):
    """Mean of independent values and its standard error."""
    values = np.asarray(values, float)
    return {"value": values.mean(), "se": values.std(ddof=1) / np.sqrt(len(values))}


def measure(quick):
    seeds, steps = (SEEDS[:2], (0, 10, 40)) if quick else (SEEDS, STEPS)
    points = [p for s in seeds for p in run(s, steps, 8 if quick else REPETITIONS)]
    runs = [[p for p in points if p["seed"] == s] for s in seeds]
    of_runs = lambda f: mean_se([f(r) for r in runs])  # noqa: E731
    of_points = lambda f: mean_se([f(p) for p in points])  # noqa: E731
    quantities = {
        "growth of the noise scale": of_runs(lambda r: r[-1]["B"] / r[0]["B"]),
        "rank correlation of noise scale and loss": of_runs(
            lambda r: spearmanr([p["B"] for p in r], [p["loss"] for p in r])[0]
        ),
        "coverage of the 95 % interval, single examples": of_points(
            lambda p: p["examples"]["covered"]
        ),
        "S from micro-batches / S from single examples": of_points(
            lambda p: p["micro"]["S"] / p["examples"]["S"]
        ),
        "variance of S, micro / single, over predicted": of_points(
            lambda p: p["micro"]["var_S"] / p["examples"]["var_S"] / p["predicted"]
        ),
    }
    return {"quantities": quantities, "seeds": seeds, "points": points}


def draw(result):
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    points = result["points"]
    place = {s: i for i, s in enumerate(sorted({p["step"] for p in points}))}
    for kind, color, shift in (("examples", "C0", -0.12), ("micro", "C1", 0.12)):
        chosen = [p for p in points if p["seed"] == result["seeds"][0]]
        for p in chosen:
            low, high = p[kind]["interval"]
            x, top = place[p["step"]] + shift, min(high, 1e6)
            left.plot([x, x], [low, top], color=color, lw=4, alpha=0.45, solid_capstyle="butt")
            if np.isinf(high):
                left.plot(x, 8e5, "^", color=color, ms=5)
    for seed in result["seeds"]:
        own = [p for p in points if p["seed"] == seed]
        x, y = [place[p["step"]] for p in own], [p["B"] for p in own]
        left.plot(x, y, "k.-", lw=1, label="exact, each seed" if seed == 0 else None)
    start = np.mean([p["B"] for p in points if p["step"] == 0])
    left.axhline(10 * start, color="C3", ls="--", lw=1, label="10 x the start: expected to pass")
    for color, name in (("C0", "single examples"), ("C1", f"batches of {MICRO}")):
        left.plot([], [], color=color, lw=4, alpha=0.45, label=f"median interval, {name}, seed 0")
    left.set_yscale("log")
    left.set_ylim(0.3 * start, 1e6)
    left.set_xticks(list(place.values()), [str(s) for s in place])
    left.set_xlabel("training step")
    left.set_ylabel("noise scale B_simple (examples)")
    left.set_title(f"Noise scale of the digits; {EXAMPLES} examples per estimate", fontsize=10)
    left.legend(
        fontsize=8,
        loc="upper left",
        title="95 % intervals; triangle: no upper limit",
        title_fontsize=8,
    )
    ratio = [p["micro"]["var_S"] / p["examples"]["var_S"] for p in points]
    right.loglog([p["predicted"] for p in points], ratio, "o", ms=4, label="measured")
    ends = [min(p["predicted"] for p in points), max(p["predicted"] for p in points)]
    right.loglog(ends, ends, "C3--", lw=1, label="as predicted")
    right.set_xlabel("predicted: Var(S) of micro-batches / Var(S) of examples")
    right.set_ylabel("measured ratio")
    right.set_title("What single examples are worth, at each step and seed", fontsize=10)
    right.legend(fontsize=8)
    return figure
