"""Full-batch descent drives the sharpness up to the threshold of its rate and keeps it there.

A tanh MLP with squared error on 500 digits. Gradient descent and Adam at several rates, three
initialisations each; the sharpness every 20 steps.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import funcbackprop as fb

SIZES = (64, 32, 32, 32, 10)
RATES = {"sgd": (0.15, 0.17, 0.2), "adam": (0.005, 0.01)}
CONTROL = 0.05  # gradient descent whose threshold of 40 is out of reach
EVERY = 20
B1 = 0.9


def digits(n):
    """The first n training digits, centred, with one-hot targets."""
    data = fb.training.load("digits")
    x = data.x[:n].reshape(n, -1)
    return jnp.asarray(x - x.mean(axis=0)), jnp.asarray(np.eye(10, dtype=np.float32)[data.y[:n]])


def threshold(kind, rate):
    """The sharpness that a quadratic may have."""
    return fb.curvature.stability_threshold(rate, adam_b1=B1 if kind == "adam" else None)


def runner(data, steps):
    """`(is_adam, rate, key) -> loss of every step, and what is measured every `EVERY` steps`.

    One program for both optimizers, for it is compiled longer than it runs.
    """
    model = fb.models.mlp(SIZES, activation="tanh")
    loss = fb.example_loss(model.apply, fb.losses.squared_error)
    mean = jax.value_and_grad(lambda p: jnp.mean(jax.vmap(loss, (None, 0))(p, data)))

    @jax.jit
    def run(is_adam, rate, key):
        adam = optax.adam(rate, b1=B1)
        chosen = lambda a, b: jax.tree.map(lambda x, y: jnp.where(is_adam, x, y), a, b)  # noqa: E731

        def step(carry, _):
            params, state = carry
            value, g = mean(params)
            updates, state = adam.update(g, state, params)
            updates = chosen(updates, jax.tree.map(lambda x: -rate * x, g))
            squared = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(g))
            return (optax.apply_updates(params, updates), state), (value, squared)

        def block(carry, _):
            params, state = carry
            D = chosen(fb.curvature.preconditioner_of(state), jax.tree.map(jnp.ones_like, params))
            found = fb.curvature.sharpness(loss, params, data, steps=20, preconditioner=D)
            carry, of_steps = jax.lax.scan(step, carry, length=EVERY)
            return carry, (*of_steps, found.value)

        params = model.init(key, data[0][0])
        # Adam's divisor exists after one step only.
        start, _ = step((params, adam.init(params)), None)
        return jax.lax.scan(block, start, length=steps // EVERY)[1]

    return run


def described(kind, rate, seed, found) -> dict:
    """One run in units of its threshold, with what the claims are about."""
    losses, squared, sharp = (np.asarray(x, np.float64) for x in found)
    ratio = sharp / threshold(kind, rate)
    largest = np.maximum(ratio, np.append(ratio[1:], ratio[-1]))  # of both ends of a block
    below = np.logical_and.accumulate(largest < 1)
    rises = np.diff(losses, axis=1) > 0
    made = -np.diff(losses, axis=1) / (rate * squared * (1 - largest[:, None]))[:, :-1]
    crossed = bool(~below[-1])
    return {
        "kind": kind,
        "rate": rate,
        "seed": seed,
        "crossed_at": int(below.sum()) * EVERY if crossed else None,
        "settled": ratio[len(ratio) // 2 :].mean(),
        "steps_before": rises[below].size,
        "rises_before": int(rises[below].sum()),
        "steps_after": rises[~below].size,
        "rises_after": int(rises[~below].sum()),
        "least_of_bound": made[below].min() if kind == "sgd" and below.any() else None,
        **({} if seed else drawn(ratio, losses.ravel())),
    }


def drawn(ratio, loss) -> dict:
    """Enough of the curves for the figure."""
    return {"ratio": ratio[:: max(1, len(ratio) // 100)], "loss": loss[:: max(1, len(loss) // 300)]}


def measure(quick: bool) -> dict:
    """The runs, and the quantities of expected.json."""
    n, steps, seeds = (100, 200, 1) if quick else (500, 6000, 3)
    data, runs = digits(n), []
    run = runner(data, steps)
    for kind, rates in RATES.items():
        rates = (*rates, CONTROL) if kind == "sgd" else rates
        for rate in rates:
            for seed in range(seeds if rate != CONTROL else 1):
                found = run(kind == "adam", jnp.float32(rate), jax.random.key(seed))
                runs.append(described(kind, rate, seed, found))
    gd = [r for r in runs if r["kind"] == "sgd"]
    before, after = (
        sum(r[f"rises_{when}"] for r in gd) / max(1, sum(r[f"steps_{when}"] for r in gd))
        for when in ("before", "after")
    )
    least = min(r["least_of_bound"] for r in gd if r["least_of_bound"] is not None)
    quantities = {
        "sharpness of gradient descent x eta/2": settled(runs, "sgd"),
        "preconditioned sharpness of Adam x eta/38": settled(runs, "adam"),
        "share of steps that raise the loss, before the crossing": {"value": before, "se": None},
        "share of steps that raise the loss, after the crossing": {"value": after, "se": None},
        "least decrease over the quadratic bound, below the threshold": {
            "value": least,
            "se": None,
        },
    }
    return {"quantities": quantities, "examples": n, "steps": steps, "seeds": seeds, "runs": runs}


def settled(runs, kind) -> dict:
    """Mean over the runs of what each settles at, with the standard error of their spread."""
    values = [r["settled"] for r in runs if r["kind"] == kind and r["rate"] != CONTROL]
    se = np.std(values, ddof=1) / len(values) ** 0.5
    return {"value": np.mean(values), "se": se, "runs": len(values)}


def draw(result):
    """Sharpness over its threshold, and the loss, for the first seed."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    names = {"sgd": "Gradient descent: threshold 2/η", "adam": "Adam: threshold 38/η"}
    for (kind, title), (top, bottom) in zip(names.items(), axes.T, strict=True):
        for run in result["runs"]:
            if run["kind"] != kind or run["seed"]:
                continue
            label = f"η = {run['rate']:g}" + (" (control)" if run["rate"] == CONTROL else "")
            for ax, key in ((top, "ratio"), (bottom, "loss")):
                steps = np.linspace(0, result["steps"], len(run[key]), endpoint=False)
                (line,) = ax.plot(steps, run[key], lw=1.3, label=label)
            if run["crossed_at"] is not None:
                bottom.axvline(run["crossed_at"], color=line.get_color(), ls=":", lw=1)
        top.axhline(1, color="k", ls="--", lw=1, label="expected")
        what = "preconditioned sharpness" if kind == "adam" else "sharpness"
        top.set(title=title, ylabel=f"{what} / threshold", ylim=(0, 1.35))
        bottom.set(xlabel="step", ylabel="loss (squared error / 2)", yscale="log")
        bottom.set_title("Loss; dotted: first crossing of the threshold")
        top.legend(fontsize=9)
    return figure
