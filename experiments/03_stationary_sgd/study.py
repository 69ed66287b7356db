"""SGD that has become stationary: its learning rate is twice the optimal step.

If the mini-batches are drawn independently, the loss L is quadratic and E L no longer changes,

    E L(w - eta g) - E L(w) = -eta E|G|^2 + eta^2/2 (E G'HG + E tr(H Sigma)/B) = 0,

so that eta = 2 E|G|^2/(E G'HG + E tr(H Sigma)/B) = 2 eps_opt, and B_noise = B (2 eps_max/eta - 1).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import funcbackprop as fb

SEED, B, PROBES, DECAY = 0, 16, 2, 0.02
LAWS = ("independent", "shuffled epochs")


class Problem(NamedTuple):
    """A loss of an example, the population of examples, where SGD begins, and learning rates."""

    loss: object
    data: object
    start: object
    rates: tuple
    burn: int  # steps before the first look
    looks: int
    gap: int  # steps between them
    chains: int


def quadratic(w, example):
    A, v = example
    return 0.5 * w @ A @ w + v @ w


def decayed(loss):
    """With weight decay, so that there is a stationary law."""

    def of(params, example):
        squares = sum(jnp.sum(x**2) for x in jax.tree.leaves(params))
        return loss(params, example) + 0.5 * DECAY * squares

    return of


def problems(quick):
    rng, N, d = np.random.default_rng(SEED), 512, 10
    h = np.geomspace(0.2, 1, d)
    noise = rng.standard_normal((N, d)) * np.sqrt(h[::-1])  # not in proportion to the curvature
    x = rng.standard_normal((N, d)) * np.sqrt(h)
    y = x @ np.ones(d) + rng.standard_normal(N)
    constant = np.tile(np.diag(h), (N, 1, 1)), noise - noise.mean(0)
    regression = x[:, :, None] * x[:, None], -x * y[:, None]
    looks = (10, 2, 5, 3) if quick else (500, 100, 20, 64)
    found = {}
    for name, data in (("constant noise", constant), ("linear regression", regression)):
        data = tuple(np.asarray(a, np.float32) for a in data)
        start = np.linalg.solve(data[0].mean(0), -data[1].mean(0))
        found[name] = Problem(quadratic, data, start, (0.1, 0.5, 1.0), *looks)
    digits = fb.training.load("digits")
    looks = (10, 2, 5, 3) if quick else (4000, 20, 100, 24)
    models = {"softmax": ((64, 10), (0.1, 0.3, 1.0)), "MLP": ((64, 16, 10), (0.05, 0.1, 0.2))}
    for name, (sizes, rates) in models.items():
        model = fb.models.mlp(sizes, activation="tanh")
        loss = decayed(fb.example_loss(model.apply, fb.losses.cross_entropy))
        shapes = jax.eval_shape(model.init, jax.random.key(SEED), digits.x[0])
        start = jax.tree.map(lambda x: 0.1 * rng.standard_normal(x.shape), shapes)
        found[f"digits, {name}"] = Problem(loss, (digits.x, digits.y), start, rates, *looks)
    return found


@functools.partial(jax.jit, static_argnums=0)
def sgd(loss, data, params, rate, rows):
    """Parameters of each chain after the mini-batches rows[:, :, k]: [looks, gap, chains, B]."""
    gradient = fb.gradient_statistics(loss, fb.Mean())

    def step(params, index):
        batch = jax.tree.map(lambda x: x[index], data)
        return jax.tree.map(lambda p, g: p - rate * g, params, gradient(params, batch)[1])

    def steps(params, index):
        params, _ = jax.lax.scan(lambda p, i: (jax.vmap(step)(p, i), None), params, index)
        return params, params

    return jax.lax.scan(steps, params, rows)[1]


@functools.partial(jax.jit, static_argnums=0)
def sums(loss, data, params, signs):
    """(|G|^2, G'HG, tr(H Sigma)) [K, 3] of the whole population at params [K, ...].

    With z = sum_i r_i (g_i - G)/sqrt(N) and random signs r [N], E z'Hz = tr(H Sigma): no bias.
    """
    N = len(jax.tree.leaves(data)[0])

    def one(given):
        params, signs = given
        signs = signs.astype(float)
        shares = (signs - signs.mean(1, keepdims=True)) / jnp.sqrt(N)
        coefficients = jnp.concatenate([jnp.full((1, N), 1 / N), shares])
        v = fb.gradient_statistics(loss, fb.WeightedSum(coefficients))(params, data)[1]
        Hv = jax.vmap(lambda v: fb.curvature.hvp(loss, params, data, v))(v)
        inner = lambda a, b: sum(  # noqa: E731
            jnp.sum((x * y).reshape(1 + PROBES, -1), 1)
            for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        )
        squares, curved = inner(v, v), inner(v, Hv)
        return jnp.stack([squares[0], curved[0], jnp.mean(curved[1:])])

    return jax.lax.map(one, (params, signs))


def order(rng, law, steps, chains, N):
    """The examples of every step, [steps, chains, B]."""
    if law == "independent":
        return rng.integers(0, N, (steps, chains, B))
    whole = N // B
    epochs = np.tile(np.arange(N), (-(-steps // whole), chains, 1))
    cut = rng.permuted(epochs, axis=2)[..., : whole * B].reshape(len(epochs), chains, whole, B)
    return np.moveaxis(cut, 2, 1).reshape(-1, chains, B)[:steps]


def line(p, rate, law):
    """Averages over chains and time, and what follows from them."""
    rng, N = np.random.default_rng(SEED), len(jax.tree.leaves(p.data)[0])
    rows = order(rng, law, p.burn + p.looks * p.gap, p.chains, N)
    rows = rows.reshape(-1, p.gap, p.chains, B)
    start = jax.tree.map(lambda x: np.broadcast_to(x, (p.chains, *np.shape(x))), p.start)
    start = jax.tree.map(lambda x: np.asarray(x, np.float32), start)
    path = sgd(p.loss, p.data, start, rate, rows)
    seen = jax.tree.map(lambda x: x[-p.looks :].reshape(-1, *x.shape[2:]), path)
    signs = rng.choice(np.int8([-1, 1]), (p.looks * p.chains, PROBES, N))
    each = np.asarray(sums(p.loss, p.data, seen, signs), np.float64).reshape(p.looks, p.chains, 3)
    by_chain = each.mean(0)
    whole = by_chain.mean(0)
    found = follows(whole, rate)
    left_out = (whole * p.chains - by_chain) / (p.chains - 1)
    columns = {k: np.asarray(v, np.float32) for k, v in follows(left_out.T, rate).items()}
    errors = {k: float(fb.noise.jackknife(np.float32(found[k]), v)) for k, v in columns.items()}
    halves = [follows(x.mean((0, 1)), rate)["ratio"] for x in np.array_split(each, 2)]
    values = {k: {"value": float(v), "se": errors[k]} for k, v in found.items()}
    return {"rate": rate, "law": law, **values, "|G|^2": whole[0], "first and second half": halves}


def follows(sums, rate):
    sq_norm, curved, trace = sums
    eps_max, B_noise = sq_norm / curved, trace / curved
    predicted = B * (2 * eps_max / rate - 1)
    ratio = rate / (eps_max / (1 + B_noise / B))
    return {"ratio": ratio, "B_noise": B_noise, "predicted": predicted, "over": B_noise / predicted}


def measure(quick):
    found = {}
    for name, p in problems(quick).items():
        runs = [(rate, LAWS[0]) for rate in p.rates] + [(p.rates[1], LAWS[1])]
        found[name] = [line(p, *run) for run in (runs[1:2] if quick else runs)]
    middle = {name: rows[0 if quick else 1] for name, rows in found.items()}
    quantities = {f"eta/eps_opt, {name}": rows["ratio"] for name, rows in middle.items()}
    quantities["B_noise over its prediction, constant noise"] = middle["constant noise"]["over"]
    return {"quantities": quantities, "batch size": B, "seed": SEED, "problems": found}


def draw(result):
    figure = Figure(figsize=(13, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for k, (name, rows) in enumerate(result["problems"].items()):
        for law, fill in zip(LAWS, (f"C{k}", "none"), strict=True):
            own = [r for r in rows if r["law"] == law]
            column = lambda key, part, own=own: np.array([r[key][part] for r in own])  # noqa: E731
            look = {"color": f"C{k}", "marker": "osD^"[k], "markerfacecolor": fill, "capsize": 3}
            look |= {"linestyle": "-" if law == LAWS[0] else ":", "label": f"{name}, {law}"}
            x = [r["rate"] * 1.05 ** (k - 1.5) for r in own]  # beside each other
            left.errorbar(x, column("ratio", "value"), 1.96 * column("ratio", "se"), **look)
            y = column("B_noise", "value"), 1.96 * column("B_noise", "se")
            right.errorbar(column("predicted", "value"), *y, **look | {"linestyle": "none"})
    left.axhline(2, color="0.3", linestyle="--", linewidth=1, label="expected, independent: 2")
    left.set(xscale="log", xlabel="learning rate η", ylabel="η / ε_opt")
    left.set_title("At rest the rate is twice the optimal step")
    ends = np.array([5, 1000])
    right.plot(ends, ends, color="0.3", linestyle="--", linewidth=1, label="equal")
    right.set(xscale="log", yscale="log", xlabel="B (2 ε_max/η - 1), from the rate (examples)")
    right.set(
        ylabel="B_noise = tr(HΣ)/G'HG (examples)", title="The noise scale follows from the rate"
    )
    for ax in (left, right):
        ax.grid(color="0.9", which="both")
        ax.set_axisbelow(True)
    left.legend(fontsize=8)
    return figure
