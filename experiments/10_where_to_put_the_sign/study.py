"""Where to put the sign: before the mean over examples, after it, or after momentum; and Adam
preconditioned by squares of single examples' gradients or by squares of their mean.

All optimizers train the same character transformer on the same batches. The learning rate of each
is the best of one grid, in the mean over three seeds; they are compared on other seeds.
"""

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import pyplot as plt

import funcbackprop as fb

METHODS = {
    "mean of signs": "mean of signs, then momentum",
    "sign of mean": "sign of mean, then momentum",
    "sign of momentum": "sign of momentum",
    "Adam of examples": "Adam, second moments of examples",
    "Adam": "Adam, squared means",
}
RATES = tuple(2.0**k for k in range(-10, -3))
TUNE, SEEDS, STEPS = (100, 101, 102), (0, 1, 2, 3, 4), 200
LENGTH, WIDTH, BATCH, TEST = 32, 32, 16, 512
B1, B2, EPS = 0.9, 0.99, 1e-8

data = fb.training.load("text", length=LENGTH)
everything = (jnp.asarray(data.x), jnp.asarray(data.y))
held_out = (jnp.asarray(data.x_test[:TEST]), jnp.asarray(data.y_test[:TEST]))
model = fb.models.transformer(data.num_classes, LENGTH, width=WIDTH, depth=2, heads=2)
loss = fb.example_loss(model.apply, fb.losses.next_token)
statistics = fb.gradient_statistics(
    loss, {"mean": fb.Mean(), "signs": fb.MeanOf(jnp.sign), "squares": fb.SecondMoment()}
)


def chosen(method, **cases):
    """The array of the method's number: one compiled program serves all."""
    numbers = {name.replace(" ", "_"): k for k, name in enumerate(METHODS)}
    other = cases.pop("other")
    for name, value in cases.items():
        other = jnp.where(method == numbers[name], value, other)
    return other


def one_leaf(method, count, mean, signs, squares, m, v):
    """New averages of one leaf, and what is subtracted from it, before the learning rate."""
    first = chosen(method, mean_of_signs=signs, sign_of_mean=jnp.sign(mean), other=mean)
    second = chosen(method, Adam_of_examples=squares, other=mean**2)
    m, v = B1 * m + (1 - B1) * first, B2 * v + (1 - B2) * second
    m_hat, v_hat = m / (1 - B1**count), v / (1 - B2**count)
    adam = m_hat / (jnp.sqrt(v_hat) + EPS)
    cases = {"mean_of_signs": m_hat, "sign_of_mean": m_hat, "sign_of_momentum": jnp.sign(m_hat)}
    return m, v, chosen(method, **cases, other=adam)


@jax.jit
def run(method, rate, key, rows):
    """Train on the batches `rows` [steps, B]; the training losses [steps] and the test loss."""
    params = model.init(key, everything[0][0])
    steps = len(rows)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1.0, steps // 10, steps)

    def step(state, given):
        params, m, v = state
        count, batch_rows = given
        batch = jax.tree.map(lambda a: a[batch_rows], everything)
        losses, g = statistics(params, batch)
        of_leaf = functools.partial(one_leaf, method, count + 1)
        out = jax.tree.map(of_leaf, g["mean"], g["signs"], g["squares"], m, v)
        m, v, u = jax.tree.transpose(jax.tree.structure(params), jax.tree.structure((0,) * 3), out)
        size = rate * schedule(count)
        params = jax.tree.map(lambda p, x: p - size * x, params, u)
        return (params, m, v), jnp.mean(losses)

    zeros = jax.tree.map(jnp.zeros_like, params)
    given = (jnp.arange(steps), rows)
    (params, *_), losses = jax.lax.scan(step, (params, zeros, zeros), given)
    return losses, jnp.mean(jax.vmap(loss, (None, 0))(params, held_out))


def trained(method, rate, seed, steps):
    """Training losses and test loss of a method; batches and initial parameters by the seed."""
    batches = fb.training.batches((data.x, data.y), BATCH, seed=seed)
    rows = np.stack([batches.rows(k)[0] for k in range(steps)])
    number = list(METHODS).index(method)
    losses, test = jax.device_get(run(number, rate, jax.random.key(seed), rows))
    return losses, float(test) if np.isfinite(test) else np.inf


def difference(tests, a, b):
    """Test loss of a less that of b: mean and standard error over seeds, which are paired."""
    gap = np.array(tests[a]) - np.array(tests[b])
    return {"value": gap.mean(), "se": gap.std(ddof=1) / np.sqrt(len(gap))}


def all_trained(rates, seeds, steps):
    """method -> [rate][seed] -> what `trained` gives; two runs at a time, one for each core."""
    runs = [(m, r, s, steps) for m in METHODS for r, s in itertools.product(rates[m], seeds)]
    with ThreadPoolExecutor(2) as pool:
        found = iter(list(pool.map(lambda run: trained(*run), runs)))
    return {m: [[next(found) for _ in seeds] for _ in rates[m]] for m in METHODS}


def measure(quick):
    rates, tune, seeds = (RATES[2:6:3], TUNE[:1], SEEDS[:2]) if quick else (RATES, TUNE, SEEDS)
    steps = 10 if quick else STEPS
    tuned = all_trained(dict.fromkeys(METHODS, rates), tune, steps)
    grid = {m: [[test for _, test in row] for row in found] for m, found in tuned.items()}
    best = {m: rates[int(np.argmin(np.mean(found, axis=1)))] for m, found in grid.items()}
    compared = all_trained({m: [best[m]] for m in METHODS}, seeds, steps)
    runs = {m: found[0] for m, found in compared.items()}
    tests = {name: [test for _, test in found] for name, found in runs.items()}
    curves = {name: np.mean([x for x, _ in found], axis=0) for name, found in runs.items()}
    gap = functools.partial(difference, tests)
    ratio = lambda a, b: {"value": best[a] / best[b], "se": None}  # noqa: E731
    return {
        "quantities": {
            "loss, mean of signs less sign of mean": gap("mean of signs", "sign of mean"),
            "loss, sign of mean less sign of momentum": gap("sign of mean", "sign of momentum"),
            "loss, Adam of examples less Adam": gap("Adam of examples", "Adam"),
            "best rate, mean of signs over sign of mean": ratio("mean of signs", "sign of mean"),
            "best rate, Adam of examples over Adam": ratio("Adam of examples", "Adam"),
        },
        "seeds": {"tuned on": tune, "compared on": seeds},
        "rates": rates,
        "grid": grid,
        "best": best,
        "test_losses": tests,
        "curves": {name: smooth(curve) for name, curve in curves.items()},
    }


def smooth(curve, parts=30):
    """Means of equal parts of a curve."""
    return [float(np.mean(part)) for part in np.array_split(curve, min(parts, len(curve)))]


def draw(result):
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.3), layout="constrained")
    for k, (name, label) in enumerate(METHODS.items()):
        found = np.array(result["grid"][name])
        axes[0].plot(result["rates"], found.mean(1), "-", color=f"C{k}", label=label)
        axes[0].plot(result["rates"], found, ".", color=f"C{k}", ms=4, alpha=0.6)
        curve = result["curves"][name]
        axes[1].plot(np.linspace(0, 1, len(curve)), curve, color=f"C{k}", label=label)
    every = np.ravel(list(result["grid"].values()))
    finite = every[np.isfinite(every)]
    axes[0].set_xscale("log", base=2)
    axes[0].set_ylim(min(finite) - 0.1, min(max(finite), min(finite) + 1.6))
    axes[0].set_xlabel("peak learning rate")
    axes[0].set_ylabel("test loss (nats per character)")
    axes[0].set_title("One grid for all; points: seeds, lines: means", fontsize=10)
    axes[1].set_ylim(min(finite) - 0.1, min(finite) + 1.6)
    axes[1].set_xlabel("part of training")
    axes[1].set_ylabel("training loss (nats per character)")
    axes[1].set_title("At the best rate, mean over other seeds", fontsize=10)
    names = [n for n in result["quantities"] if n.startswith("loss")]
    for k, name in enumerate(names):
        q = result["quantities"][name]
        axes[2].errorbar(q["value"], -k, xerr=2 * q["se"], fmt="ko", ms=5, capsize=3)
    axes[2].axvline(0, color="C3", ls="--", lw=1)
    axes[2].set_yticks(
        [-k for k in range(len(names))], [n[6:].replace(" less", "\nless") for n in names]
    )
    axes[1].legend(fontsize=8)
    axes[2].set_ylim(-len(names) + 0.5, 0.5)
    axes[2].set_xlabel("difference of test loss (nats), ± 2 se")
    axes[2].set_title("Expected: all to the right of 0", fontsize=10)
    return figure
