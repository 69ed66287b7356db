"""How long a snapshot serves SVRG: softmax regression against a network of five layers.

SGD with momentum on the digits; at the start of an epoch a snapshot is taken, and over the epoch
the variance of SVRG's gradient is divided by that of the plain one.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import funcbackprop as fb
from funcbackprop.noise import reduction

MODELS = {"softmax regression": (64, 10), "relu MLP of 5 layers": (64, 64, 64, 64, 64, 10)}
CONVEX, DEEP = MODELS
BATCH, RATE, MOMENTUM = 32, 0.1, 0.9
AT = (1, 2, 4, 8, 16, 30, 44)  # steps since the snapshot; an epoch has 44
SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8)  # of the way from the snapshot to the end of the epoch


def problem(sizes, data):
    """`(model, loss, run)`: `run(params, state, key)` is an epoch, with the parameters of it."""
    model = fb.models.mlp(sizes)
    loss = fb.example_loss(model.apply, fb.losses.cross_entropy)
    optimizer = optax.sgd(RATE, momentum=MOMENTUM)

    def step(carry, rows):
        params, state = carry
        batch = jax.tree.map(lambda a: a[rows], data)
        g = jax.grad(lambda p: jnp.mean(jax.vmap(loss, (None, 0))(p, batch)))(params)
        updates, state = optimizer.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    @jax.jit
    def epoch(params, state, key):
        size = len(data[0])
        order = jax.random.permutation(key, size)[: size // BATCH * BATCH].reshape(-1, BATCH)
        (params, state), path = jax.lax.scan(step, (params, state), order)
        return params, state, path

    return model, loss, optimizer, epoch


def ratios(loss, data):
    """Jitted `(snapshot, params) -> ratio, its error, best coefficient, ratio with it`."""

    @jax.jit
    def measured(snapshot, params):
        anchor = reduction.anchor_at(loss, snapshot, data)
        plain = reduction.svrg(anchor)
        rho = reduction.variance_ratio(plain, loss, params, data)
        best = reduction.best_coefficient(plain, loss, params, data).value
        scaled = reduction.svrg(anchor, coefficient=best)
        least = reduction.variance_ratio(scaled, loss, params, data).value
        return rho.value, rho.standard_error, best, least

    return measured


def of_epoch(measured, snapshot, path, steps) -> dict:
    """What is measured over one epoch, and along the straight line to its end."""
    at = lambda s: jax.tree.map(lambda a: a[s - 1], path)  # noqa: E731
    over = np.array([measured(snapshot, at(s)) for s in steps], float)
    end = at(steps[-1])
    between = lambda t: jax.tree.map(lambda a, b: a + t * (b - a), snapshot, end)  # noqa: E731
    line = np.array([measured(snapshot, between(t))[0] for t in SHARES], float)
    names = ("ratio", "se", "best coefficient", "ratio with it")
    found = dict(zip(names, over.T.tolist(), strict=True))
    exponent = np.polyfit(np.log(SHARES), np.log(line), 1)[0]
    return {**found, "along the line": line.tolist(), "exponent": exponent}


def compared(loss, data, snapshot, params, repetitions) -> dict:
    """All reductions at one number of gradient evaluations, late in the epoch."""
    stats = {"r": fb.SquaredDeviations(), "p": fb.InnerWithMean(), "n": fb.SquaredNorms()}
    _, g = jax.jit(fb.gradient_statistics(loss, stats))(params, data)
    probabilities = reduction.norm_probabilities(jnp.sqrt(fb.total(g["n"])))
    anchor = reduction.anchor_at(loss, snapshot, data)
    estimators = {
        "classes as strata": reduction.stratified(np.asarray(data[1])),
        "importance by norm": reduction.importance(probabilities),
        "SVRG": reduction.svrg(anchor),
    }
    options = {"batch_size": BATCH, "repetitions": repetitions, "estimators": estimators}
    found = reduction.compare(loss, params, data, jax.random.key(7), **options)
    rows = {}
    for row in found.rows:
        ratio, whole = row.ratio, row.ratio_with_setup
        rows[row.name] = {
            "ratio": ratio.value,
            "interval": [ratio.lower, ratio.upper],
            "with set-up": whole.value,
            "bias z": row.bias_z,
        }
    return rows


def measure(quick: bool) -> dict:
    """Two models, two epochs, several seeds."""
    size, epochs, seeds = (256, (2,), 2) if quick else (None, (2, 10), 3)
    digits = fb.training.load("digits")
    x = digits.x[:size].reshape(len(digits.x[:size]), -1)
    data, models, others = (jnp.asarray(x), jnp.asarray(digits.y[:size])), {}, {}
    steps = AT[:4] if quick else AT  # an epoch of 256 examples has 8 steps
    for name, sizes in MODELS.items():
        model, loss, optimizer, epoch = problem(sizes, data)
        measured, runs = ratios(loss, data), []
        for seed in range(seeds):
            params = model.init(jax.random.key(seed), data[0][0])
            state = optimizer.init(params)
            for number in range(1, max(epochs) + 1):
                snapshot = params
                key = jax.random.fold_in(jax.random.key(100 + seed), number)
                params, state, path = epoch(params, state, key)
                if number in epochs:
                    run = of_epoch(measured, snapshot, path, steps)
                    runs.append({"seed": seed, "epoch": number, **run})
        models[name] = runs
        if not quick:
            others[name] = compared(loss, data, snapshot, params, 200)
    last = {name: [r for r in runs if r["epoch"] == max(epochs)] for name, runs in models.items()}
    quantities = {
        f"ratio at the end of an epoch, {DEEP}": averaged([r["ratio"][-1] for r in last[DEEP]]),
        f"ratio at the end of an epoch, {CONVEX}": averaged([r["ratio"][-1] for r in last[CONVEX]]),
        f"exponent of the ratio in distance, {CONVEX}": averaged(
            [r["exponent"] for r in last[CONVEX]]
        ),
        f"exponent of the ratio in distance, {DEEP}": averaged([r["exponent"] for r in last[DEEP]]),
    }
    return {"quantities": quantities, "steps": steps, "models": models, "compared": others}


def averaged(values) -> dict:
    """Mean over seeds, and its standard error."""
    se = np.std(values, ddof=1) / len(values) ** 0.5
    return {"value": np.mean(values), "se": se, "seeds": len(values)}


def draw(result):
    """The ratio over an epoch, and its growth along a straight line."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    steps, epochs = result["steps"], sorted({r["epoch"] for r in result["models"][CONVEX]})
    for k, (name, runs) in enumerate(result["models"].items()):
        for epoch in epochs:
            of = [r for r in runs if r["epoch"] == epoch]
            style = "-o" if epoch == epochs[-1] else ":s"
            for ax, key in ((left, "ratio"), (middle, "ratio with it")):
                all_seeds = np.array([r[key] for r in of])
                mean = all_seeds.mean(axis=0)
                bars = [mean - all_seeds.min(axis=0), all_seeds.max(axis=0) - mean]
                label = f"{name}, epoch {epoch}"
                look = {"fmt": style, "ms": 4, "color": f"C{k}", "capsize": 3, "label": label}
                ax.errorbar(steps, mean, bars, **look)
        line = np.array([r["along the line"] for r in runs if r["epoch"] == epochs[-1]])
        right.plot(SHARES, line.mean(axis=0), "o", color=f"C{k}", label=name)
        power = 2 if name == CONVEX else 1
        line = line.mean(axis=0)[-1] * (np.array(SHARES) / SHARES[-1]) ** power
        right.plot(SHARES, line, "--", color=f"C{k}", lw=1, label=f"expected: power {power}")
    for ax in (left, middle):
        ax.axhline(0.5, color="k", ls="--", lw=1, label="SVRG pays below ½")
        ax.set(xscale="log", yscale="log", xlabel="steps since the snapshot")
        ax.set_ylabel("variance / variance of plain gradients")
        ax.set_xticks(steps, [str(s) for s in steps])
        ax.minorticks_off()
    left.set_title("SVRG")
    middle.set(title="SVRG with the best coefficient")
    left.legend(fontsize=8)
    right.set(xscale="log", yscale="log", title=f"On a straight line, epoch {epochs[-1]}")
    right.set_xticks(SHARES, [f"1/{1 / share:.0f}" for share in SHARES])
    right.minorticks_off()
    right.set(xlabel="part of the way to the end of the epoch", ylabel="variance ratio of SVRG")
    right.legend(fontsize=8)
    return figure
