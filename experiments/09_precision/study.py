"""How far the gradient of a network in float32, float16 and bfloat16 is from that in float64.

MLPs of 32 units a layer at their initialisation, 512 digits, against depth; tanh and relu.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import funcbackprop as fb

WIDTH, BATCH = 32, 512
# Unit roundoff, and by what the loss is multiplied so that float16 does not underflow.
TYPES = {"float32": (2.0**-24, 1), "float16": (2.0**-11, 2**10), "bfloat16": (2.0**-8, 1)}
ACTIVATIONS = ("tanh", "relu")


def loss_in(model, dtype):
    """Weights, inputs and layers in `dtype`; logits and cross-entropy in float32."""

    def loss(params, example):
        x, label = example
        low = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        logits = model.apply(low, x.astype(dtype)).astype(jnp.float32)
        return fb.losses.cross_entropy(logits, label)

    return loss


def gradient_of(loss, scale):
    """`(params, batch) -> gradient of the mean loss`, with the loss scaled on the way."""

    def scaled(params, batch):
        return scale * jnp.mean(jax.vmap(loss, (None, 0))(params, batch))

    return jax.jit(lambda p, b: jax.tree.map(lambda g: g / scale, jax.grad(scaled)(p, b)))


def distance(got, reference) -> float:
    """|a - b|/|b|, over all parameters."""
    a, b = (
        np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])
        for tree in (got, reference)
    )
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def errors(activation, depth, seeds, digits, check) -> tuple[dict, list]:
    """`{dtype: error of each seed}`, and the verdicts of the checker for the first seed."""
    model = fb.models.mlp((64, *[WIDTH] * depth, 10), activation=activation)
    losses = {name: loss_in(model, name) for name in TYPES}
    gradients = {name: gradient_of(losses[name], scale) for name, (_, scale) in TYPES.items()}
    found, checks = {name: [] for name in TYPES}, []
    for seed in range(seeds):
        rows = np.random.default_rng(seed).choice(len(digits.x), BATCH, replace=False)
        batch = digits.x[rows], digits.y[rows]
        params = model.init(jax.random.key(seed), batch[0][0])
        _, reference = fb.reference.value_and_grad(losses["float32"])(params, batch)
        for name, gradient in gradients.items():
            got = gradient(params, batch)
            found[name].append(distance(got, reference))
            if seed == 0 and check:
                report = fb.check_gradients(losses[name], params, batch, got)
                worst = max(leaf.error_in_bounds for leaf in report.leaves)
                flips = len(report.decisions)
                checks.append((name, activation, depth, worst, flips))
    return found, checks


def slope(x, y):
    """Of log y against log x, by least squares."""
    return np.polyfit(np.log(x), np.log(y), 1)[0]


def jackknifed(exponent, error) -> dict:
    """`exponent` of the root mean square over seeds, the last axis, and its jackknife error."""
    of = lambda e: exponent(np.sqrt(np.mean(e**2, axis=-1)))  # noqa: E731
    seeds = error.shape[-1]
    without = [of(np.delete(error, s, axis=-1)) for s in range(seeds)]
    return {"value": of(error), "se": (np.var(without) * (seeds - 1)) ** 0.5, "seeds": seeds}


def measure(quick: bool) -> dict:
    """Errors by activation, type, depth and seed, and their exponents."""
    depths, seeds, checked = ((2, 4), 2, 2) if quick else ((2, 4, 8, 16, 32), 5, 8)
    digits, table, checks = fb.training.load("digits"), {}, []
    for activation in ACTIVATIONS:
        columns = []
        for depth in depths:
            found, of_depth = errors(activation, depth, seeds, digits, depth == checked)
            columns.append(found)
            checks += of_depth
        table[activation] = {name: [column[name] for column in columns] for name in TYPES}
    units = np.array([u for u, _ in TYPES.values()])
    tanh, relu = (np.array([table[a][name] for name in TYPES]) for a in ACTIVATIONS)
    float16, bfloat16 = (list(TYPES).index(name) for name in ("float16", "bfloat16"))

    def in_roundoff(units):
        return lambda error: slope(units, np.exp(np.log(error).mean(axis=1)))

    def in_depth(error):
        return slope(depths, error)

    deep = slice(len(depths) // 2, len(depths) // 2 + 2)  # depths 8 and 16
    quantities = {
        "exponent of the error in the unit roundoff, tanh": jackknifed(
            in_roundoff(units), tanh[:, deep]
        ),
        "exponent of the error in the unit roundoff, relu in 16 bits": jackknifed(
            in_roundoff(units[1:]), relu[1:, deep]
        ),
        "exponent of the error in depth, tanh in bfloat16": jackknifed(in_depth, tanh[bfloat16]),
        "exponent of the error in depth, relu in float16": jackknifed(in_depth, relu[float16]),
    }
    worst = max(check[3] for check in checks)
    quantities["largest error over what the checker's bound allows"] = {"value": worst, "se": None}
    head = ("type", "activation", "depth", "largest error over bound", "decisions that flip")
    return {
        "quantities": quantities,
        "depths": depths,
        "seeds": seeds,
        "batch": BATCH,
        "errors": table,
        "checks": [dict(zip(head, check, strict=True)) for check in checks],
    }


def draw(result):
    """Error against depth, with the predicted slopes."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    depths = np.array(result["depths"])
    # Power of the depth: activation -> by type.
    predicted = {"tanh": dict.fromkeys(TYPES, 0.5), "relu": dict.fromkeys(TYPES, 0.75)}
    predicted["relu"]["float32"] = 0.5
    for activation, ax in zip(ACTIVATIONS, axes, strict=True):
        for k, (name, (unit, _)) in enumerate(TYPES.items()):
            error = np.array(result["errors"][activation][name])
            middle = np.sqrt(np.mean(error**2, axis=1))
            spread = np.abs(np.stack([error.min(axis=1), error.max(axis=1)]) - middle)
            label = f"{name} (u = 2^{np.log2(unit):.0f})"
            ax.errorbar(depths, middle, spread, fmt="o", color=f"C{k}", capsize=3, label=label)
            line = middle[1] * (depths / depths[1]) ** predicted[activation][name]
            ax.plot(depths, line, "--", color=f"C{k}", lw=1)
            ax.axhline(unit, color=f"C{k}", lw=0.8, ls=":")
        ax.set(xscale="log", yscale="log", xlabel="hidden layers L", title=activation)
        ax.set_xticks(depths, [str(d) for d in depths])
        ax.minorticks_off()
    axes[0].set_ylabel("|gradient - float64| / |float64|")
    figure.suptitle(
        "Points: root mean square over seeds, bars their range. Dotted: unit roundoff u. Dashed: "
        "L^½\n(relu in 16 bits: L^¾) through the point at L = 4",
        fontsize=11,
    )
    axes[1].legend(loc="lower right", bbox_to_anchor=(1, 0.18))
    return figure
