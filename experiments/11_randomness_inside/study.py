"""Randomness inside an example: what it adds to the variance of the gradient, by how it is drawn.

Score-function against reparameterised gradients, for a Gaussian whose variances are known and for
a stochastic layer on the digits; and dropout: the parts between and within examples.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import funcbackprop as fb

DIM, SIGMA = 10, 0.5  # of the Gaussian
LATENT = 8  # of the stochastic layer
RATES = (0.1, 0.25, 0.5)
WAYS = {"path": "reparameterised", "score": "score function", "baseline": "with a baseline"}
held = jax.lax.stop_gradient


def score(value, noise, mean):
    """A term whose gradient is `value` times that of log N(z; mean, sigma^2), for z held fixed."""
    z = held(mean + SIGMA * noise)
    return -held(value) * jnp.sum((z - mean) ** 2) / (2 * SIGMA**2)


def gaussian(params, example):
    """E |z - x|^2/2 for z ~ N(mu, sigma^2): each way has a mu of its own."""
    x, key = example
    noise = jax.random.normal(key, (DIM,))
    cost = lambda mu: 0.5 * jnp.sum((mu + SIGMA * noise - x) ** 2)  # noqa: E731
    mean = lambda mu: 0.5 * (jnp.sum((mu - x) ** 2) + DIM * SIGMA**2)  # noqa: E731
    mu = params
    return (
        cost(mu["path"])
        + score(cost(mu["score"]), noise, mu["score"])
        + score(cost(mu["baseline"]) - mean(mu["baseline"]), noise, mu["baseline"])
    )


def known() -> dict:
    """Variance within an example for mu = 0, x ~ N(0, 1) and each way, in closed form.

    With a = mu - x, f = |a + sigma e|^2/2 and e ~ N(0, 1): the score-function gradient is f e/sigma
    of mean a; odd moments vanish, E |e|^2k = d (d + 2) ... (d + 2k - 2).
    """
    d, s2, a2, a4 = DIM, SIGMA**2, DIM, DIM * (DIM + 2)
    square = (a4 * d + 4 * s2 * a2 * (d + 2) + s2**2 * d * (d + 2) * (d + 4)) / 4
    square += s2 * a2 * d * (d + 2) / 2  # E f^2 |e|^2
    cross = (a4 * d + s2 * a2 * (d * (d + 2) + d * d) + s2**2 * d * d * (d + 2)) / 4  # E b f |e|^2
    baseline = (a4 + 2 * s2 * a2 * d + (s2 * d) ** 2) * d / 4  # E b^2 |e|^2
    return {
        "path": d * s2,
        "score": square / s2 - a2,
        "baseline": (square - 2 * cross + baseline) / s2 - a2,
    }


def stochastic_layer(params, example):
    """Digits through a Gaussian code, once for each way: the encoder's gradient differs only."""
    ((x, label), key), sizes = example, (LATENT,)
    noise, total = jax.random.normal(key, sizes), 0.0
    for way, w in params.items():
        mean = x @ w["encoder"]
        path = mean + SIGMA * noise
        z = path if way == "path" else held(path)
        value = fb.losses.cross_entropy(z @ w["decoder"], label)
        baseline = np.log(10) if way == "baseline" else 0.0
        total += value if way == "path" else value + score(value - baseline, noise, mean)
    return total


def layer_params(key):
    """The same weights for each way, variance 1/inputs."""
    first, second = jax.random.split(key)
    w = {
        "encoder": jax.random.normal(first, (64, LATENT)) / 8,
        "decoder": jax.random.normal(second, (LATENT, 10)) / LATENT**0.5,
    }
    return dict.fromkeys(WAYS, w)


def dropout(rate, data, draws, batch_size, key):
    """`GradientVariance` of an MLP with dropout at its initialisation."""
    model = fb.models.mlp((64, 64, 64, 10), dropout=rate)
    loss = fb.example_loss(model.apply, fb.losses.cross_entropy, rng=True)
    params = model.init(jax.random.key(0), data[0][0])
    law, batch = fb.ShuffledEpochs(len(data[0])), fb.attach_keys(data, key)
    return fb.gradient_variance(
        loss, params, batch, batch_size=batch_size, draws=draws, sampling=law
    )


def quotient(a, b) -> dict:
    """Of two estimates, their relative errors added as if independent."""
    value = float(a.value / b.value)
    relative = np.hypot(a.standard_error / a.value, b.standard_error / b.value)
    return {"value": value, "se": abs(value) * float(relative)}


def both(spread) -> dict:
    """The two parts of a `Spread`, with errors."""
    parts = {"between": spread.between, "within": spread.within}
    return {k: [float(e.value), float(e.standard_error)] for k, e in parts.items()}


def measure(quick: bool) -> dict:
    """The three problems."""
    n, size, batch_size = (1024, 256, 8) if quick else (16384, 1438, 8)
    keys = jax.random.split(jax.random.key(11), 6)
    x = jax.random.normal(keys[0], (n, DIM))
    mus = dict.fromkeys(WAYS, jnp.zeros(DIM))
    toy = fb.gradient_variance(
        gaussian, mus, fb.attach_keys(x, keys[1]), batch_size=256, draws=4
    ).per_leaf

    digits = fb.training.load("digits")
    order = np.random.default_rng(0).permutation(len(digits.x))[:size]
    data = jnp.asarray(digits.x[order].reshape(size, -1)), jnp.asarray(digits.y[order])
    layer = fb.gradient_variance(
        stochastic_layer,
        layer_params(keys[2]),
        fb.attach_keys(data, keys[3]),
        batch_size=64,
        draws=8,
        sampling=fb.ShuffledEpochs(size),
    ).per_leaf
    encoder = {way: layer[way]["encoder"] for way in WAYS}

    rates = RATES[-1:] if quick else RATES
    apart = {rate: dropout(rate, data, 8, batch_size, keys[4]) for rate in rates}
    seen = dropout(RATES[-1], data, 1, batch_size, keys[5])
    predicted = apart[RATES[-1]].at_batch_size(batch_size, draws=1).total
    between = toy["path"].between
    quantities = {
        "variance within, score function over reparameterised, Gaussian": quotient(
            toy["score"].within, toy["path"].within
        ),
        "the same with a baseline": quotient(toy["baseline"].within, toy["path"].within),
        "variance between examples, Gaussian": {
            "value": between.value,
            "se": between.standard_error,
        },
        "variance within, score function over reparameterised, digits": quotient(
            encoder["score"].within, encoder["path"].within
        ),
        "variance across mini-batches over the predicted, dropout": quotient(
            seen.total.across_batches, predicted
        ),
    }
    return {
        "quantities": quantities,
        "gaussian": {way: both(toy[way]) for way in WAYS},
        "known": known(),
        "digits": {way: both(encoder[way]) for way in WAYS},
        "dropout": {str(rate): both(found.total) for rate, found in apart.items()},
        "examples": {"gaussian": n, "digits": size},
    }


def draw(result):
    """Parts within and between, measured and known."""
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    axes = figure.subplots(1, 3)
    at = np.arange(len(WAYS))
    for ax, name in zip(axes, ("gaussian", "digits"), strict=False):
        for part, shift in (("between", -0.12), ("within", 0.12)):
            values = np.array([result[name][way][part] for way in WAYS])
            shown = values[:, 0] > 2 * values[:, 1]  # the others are not told from 0
            where, (value, se) = (at + shift)[shown], values[shown].T
            ax.errorbar(where, value, 2 * se, fmt="o", capsize=4, label=f"{part} examples")
        ax.set(yscale="log", ylabel="variance, squared gradient")
        ax.set_xticks(at, [w.replace(" ", "\n") for w in WAYS.values()])
        ax.set_xlim(-0.5, len(WAYS) - 0.5)
    expected = [result["known"][way] for way in WAYS]
    axes[0].plot(at + 0.12, expected, "k_", ms=26, label="known")
    axes[0].plot(at - 0.12, [DIM] * len(WAYS), "k_", ms=26)
    axes[0].set(title="Gaussian, 10 dimensions")
    axes[1].set(title="Digits through a Gaussian code: encoder")
    for ax in axes[:2]:
        ax.set_ylim(0.5, 3e5)  # room for the legend
        ax.legend(loc="upper left")
    rates = list(result["dropout"])
    for part, marker in (("between", "o"), ("within", "s")):
        value, se = np.array([result["dropout"][rate][part] for rate in rates]).T
        axes[2].errorbar(
            np.float64(rates), value, 2 * se, fmt=f"-{marker}", capsize=4, label=f"{part} examples"
        )
    axes[2].set(title="Digits, MLP with dropout", xlabel="dropout rate", ylim=(0, None))
    axes[2].set(ylabel="variance, squared gradient")
    axes[2].legend()
    return figure
