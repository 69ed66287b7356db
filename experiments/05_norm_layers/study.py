"""Does the noise scale of the normalisation layers tell that of all parameters?

A character transformer learns by Adam. At log-spaced steps the per-example gradients of training
sequences give the noise scale of each kind of layer, and of all parameters; the total is then
regressed on each kind over training.
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
    """Train from one seed, and measure on the way."""
    rng, points = np.random.default_rng((seed, 1)), []

    def measure_at(number, state, metrics):
        if number in steps:
            rows = rng.choice(len(data.x), examples, replace=False)
            value, found = jax.device_get(noise(state.params, (data.x[rows], data.y[rows])))
            by_kind = {name: row(e) for name, e in found.groups.items()}
            by_kind["gain"] = gains(found.per_leaf)
            points.append({"step": number, "loss": float(value), "all": row(found), **by_kind})

    batches = fb.training.batches((data.x, data.y), BATCH, seed=seed)
    state = fb.training.init_state(init(jax.random.key(seed), data.x[0]), optimizer, seed)
    fb.training.fit(train_step, state, batches, steps=max(steps), hooks=[measure_at])
    return points


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
    seeds, steps = (SEEDS[:2], (0, 4, 8, 16)) if quick else (SEEDS, STEPS)
    runs = [run(s, steps, 64 if quick else EXAMPLES) for s in seeds]
    regressions = {name: [fits(points, name) for points in runs] for name in (*KINDS, "gain")}
    norm = regressions["norm"]
    quantities = {
        "correlation of total and norm layers": mean_se([f["correlation"] for f in norm]),
        "slope of total on norm layers": mean_se([f["slope"] for f in norm]),
        "exponent of total on norm layers": mean_se([f["exponent"] for f in norm]),
        "median error of total from norm layers": mean_se(errors(runs, "norm")),
    }
    other = {name: mean_se(errors(runs, name)) for name in regressions}
    params = init(jax.random.key(0), data.x[0])
    leaves = jax.tree_util.tree_leaves_with_path(params)
    sizes = dict.fromkeys(KINDS, 0)
    for path, leaf in leaves:
        sizes[kind(jax.tree_util.keystr(path))] += leaf.size
    return {
        "quantities": quantities,
        "seeds": seeds,
        "runs": runs,
        "regressions": regressions,
        "errors": other,
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
        label = f"seed {result['seeds'][k]}"
        right.errorbar(x, y, bars, fmt="o", ms=4, lw=1, color=f"C{k}", label=label)
    ends = np.array(right.get_xlim())
    right.plot(ends, 1.4 * ends, "C3--", lw=1, label="expected: slope 1.4 (Gray et al.)")
    slope = result["quantities"]["slope of total on norm layers"]["value"]
    right.set_xlabel("noise scale of the normalisation layers (sequences)")
    right.set_ylabel("noise scale of all parameters (sequences)")
    right.set_title(f"Total against normalisation layers; fitted slope {slope:.2f}", fontsize=10)
    right.legend(fontsize=8)
    return figure
