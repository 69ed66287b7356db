"""Does the noise scale of the normalisation layers tell that of all parameters?

A character transformer learns by Adam. At log-spaced steps the per-example gradients of training
sequences give the noise scale of each kind of layer, and of all parameters; the total is then
regressed on each kind over training. The same with S and |G|^2 averaged over windows of steps.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import pyplot as plt
from scipy.stats import linregress

import funcbackprop as fb

SEEDS, STEPS = (0, 1, 2), (0, 10, 20, 40, 60, 90, 120, 180, 240, 360, 480, 720, 960)
LENGTH, BATCH, RATE, EXAMPLES = 32, 16, 2e-3, 1024
EVERY, WINDOW, FEW = 8, 120, 128  # averages: every so many steps, over so many, of so many examples
KINDS = {
    "norm": "normalisation",
    "attention": "attention",
    "mlp": "MLP",
    "table": "embeddings",
    "head": "output",
}

data = fb.training.load("text", length=LENGTH)
model = fb.models.transformer(data.num_classes, LENGTH, width=64, depth=2, heads=4)
init = jax.jit(model.init)
loss = fb.example_loss(model.apply, fb.losses.next_token)
optimizer = optax.adam(RATE)
train_step = fb.training.make_step(loss, optimizer, donate=False)
statistics = fb.gradient_statistics(
    loss, {"mean": fb.Mean(), "sq_norms": fb.SquaredNorms(), "inner": fb.InnerWithMean()}
)


def kind(path):
    """Of which kind of layer a leaf is: ['blocks']['norm_1']['gain'] belongs to "norm"."""
    return next(name for name in KINDS if name in path)


@jax.jit
def noise(params, batch):
    losses, g = statistics(params, batch)
    return jnp.mean(losses), fb.noise.noise_scale(**g, groups=kind)


def row(estimate):
    """B_simple with its interval, and its numerator and denominator, which add up over leaves."""
    B = estimate.B_simple
    numbers = (B.value, B.lower, B.upper, estimate.S.value, estimate.sq_gradient_norm.value)
    return dict(zip(("B", "lower", "upper", "S", "sq_G"), map(float, numbers), strict=True))


def gains(per_leaf):
    """Of the gains alone: some transformers have norm layers without biases."""
    norms = per_leaf["norm"], per_leaf["blocks"]["norm_1"], per_leaf["blocks"]["norm_2"]
    rows = [row(leaves["gain"]) for leaves in norms]
    S, sq_G = (sum(r[name] for r in rows) for name in ("S", "sq_G"))
    return {"B": S / sq_G if sq_G > 0 else np.inf, "S": S, "sq_G": sq_G}


def pairs(points, name):
    """The noise scales of one kind and of all, over training."""
    found = np.array([(p[name]["B"], p["all"]["B"]) for p in points if p["step"] > 0])
    return found[np.isfinite(found).all(axis=1)].T


def run(seed, steps, examples):
    """Train from one seed, and measure on the way: at single steps, and averages over windows."""
    rng, points, series = np.random.default_rng((seed, 1)), [], []

    def found(state, number, size):
        rows = rng.choice(len(data.x), size, replace=False)
        value, noise_scale = jax.device_get(noise(state.params, (data.x[rows], data.y[rows])))
        by_kind = {name: row(e) for name, e in noise_scale.groups.items()}
        by_kind["gain"] = gains(noise_scale.per_leaf)
        return {"step": number, "loss": float(value), "all": row(noise_scale), **by_kind}

    def measure_at(number, state, metrics):
        if number in steps:
            points.append(found(state, number, examples))
        if number and number % EVERY == 0:
            series.append(found(state, number, FEW))

    batches = fb.training.batches((data.x, data.y), BATCH, seed=seed)
    state = fb.training.init_state(init(jax.random.key(seed), data.x[0]), optimizer, seed)
    fb.training.fit(train_step, state, batches, steps=max(steps), hooks=[measure_at])
    window = min(WINDOW, max(steps) // 2)
    ends = range(window, max(steps) + 1, window)
    return points, [average([p for p in series if e - window < p["step"] <= e], e) for e in ends]


def average(points, end):
    """S and |G|^2 averaged apart, the ratio last."""
    out = {"step": end}
    for name in ("all", *KINDS, "gain"):
        S, sq_G = (float(np.mean([p[name][k] for p in points])) for k in ("S", "sq_G"))
        out[name] = {"B": S / sq_G if sq_G > 0 else np.inf, "S": S, "sq_G": sq_G}
    return out


def fits(points, name):
    """The total against one kind: linear, as in the paper, and in logarithms."""
    x, y = pairs(points, name)
    linear, logs = linregress(x, y), linregress(np.log(x), np.log(y))
    return {
        "correlation": linear.rvalue,
        "slope": linear.slope,
        "exponent": logs.slope,
        "ratio": float(np.exp(np.mean(np.log(y / x)))),
        "points": len(x),
    }


def errors(runs, name):
    """Of the total as a constant times one kind, the constant from the other seeds; in logs."""
    ratios = [fits(points, name)["ratio"] for points in runs]
    out = []
    for k, points in enumerate(runs):
        constant = np.mean(np.log(np.delete(ratios, k)))
        x, y = pairs(points, name)
        out.append(float(np.median(np.abs(np.log(y / x) - constant))))
    return out


def mean_se(values):
    """Over seeds."""
    values = np.asarray(values, float)
    return {"value": values.mean(), "se": values.std(ddof=1) / np.sqrt(len(values))}


def measure(quick):
    seeds, steps = (SEEDS[:2], (0, 8, 16, 24)) if quick else (SEEDS, STEPS)
    runs, averages = zip(*(run(s, steps, FEW if quick else EXAMPLES) for s in seeds), strict=True)
    names = (*KINDS, "gain")
    regressions, averaged = (
        {name: [fits(points, name) for points in found] for name in names}
        for found in (runs, averages)
    )
    of_norm = lambda found, key: mean_se([f[key] for f in found["norm"]])  # noqa: E731
    quantities = {
        "correlation of total and norm layers": of_norm(regressions, "correlation"),
        "slope of total on norm layers": of_norm(regressions, "slope"),
        "exponent of total on norm layers": of_norm(regressions, "exponent"),
        "median error of total from norm layers": mean_se(errors(runs, "norm")),
        "correlation, averaged over 120 steps": of_norm(averaged, "correlation"),
    }
    leaves = jax.tree_util.tree_leaves_with_path(init(jax.random.key(0), data.x[0]))
    sizes = dict.fromkeys(KINDS, 0)
    for path, leaf in leaves:
        sizes[kind(jax.tree_util.keystr(path))] += leaf.size
    return {
        "quantities": quantities,
        "seeds": seeds,
        "runs": runs,
        "averages": averages,
        "regressions": regressions,
        "regressions of averages": averaged,
        "errors": {name: mean_se(errors(runs, name)) for name in names},
        "errors of averages": {name: mean_se(errors(averages, name)) for name in names},
        "parameters": sizes,
    }


def draw(result):
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    first = result["runs"][0]
    steps = [max(p["step"], 3) for p in first]
    for color, name in zip(("k", "C0", "C1", "C2", "C4", "C5"), ("all", *KINDS), strict=True):
        values, low, high = ([p[name][k] for p in first] for k in ("B", "lower", "upper"))
        label = KINDS.get(name, "all parameters")
        left.plot(steps, values, ".-", color=color, lw=1.2, ms=5, label=label)
        if name in ("all", "norm"):
            left.fill_between(steps, low, np.minimum(high, 1e4), color=color, alpha=0.15, lw=0)
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlabel("training step (0 drawn at 3)")
    left.set_ylabel("noise scale B_simple (sequences)")
    left.set_title("By kind of layer, seed 0; bands: 95 % intervals", fontsize=10)
    left.legend(fontsize=8)
    for k, points in enumerate(result["runs"]):
        seen = [p for p in points if p["step"] > 0]
        x, y = (np.array([p[name]["B"] for p in seen]) for name in ("norm", "all"))
        low, high = (np.array([p["all"][e] for p in seen]) for e in ("lower", "upper"))
        bars = [y - low, np.where(np.isfinite(high), high, y) - y]
        label = f"seed {result['seeds'][k]}, single steps"
        right.errorbar(x, y, bars, fmt="o", ms=3, lw=1, alpha=0.4, color=f"C{k}", label=label)
        x, y = pairs(result["averages"][k], "norm")
        right.plot(x, y, "s", ms=6, color=f"C{k}", label="averages over steps" if k == 0 else None)
    ends = np.array(right.get_xlim())
    right.plot(ends, 1.4 * ends, "C3--", lw=1, label="expected: slope 1.4 (Gray et al.)")
    right.set_xlabel("noise scale of the normalisation layers (sequences)")
    right.set_ylabel("noise scale of all parameters (sequences)")
    right.set_title("Total against normalisation layers", fontsize=10)
    right.legend(fontsize=8)
    return figure
