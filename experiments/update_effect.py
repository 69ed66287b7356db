"""What an update will do, against what it does: five models, SGD and Adam, steps of all lengths.

    python experiments/update_effect.py [--figure FILE]

At the initial parameters an update is made from 64 examples and tried on 128 others, at 0.1 to 100
times its length. Printed: the change that it makes, how far second order is off in units of it, the
rounding in the same units, and from which length on it is off by 10 and by 100 percent. Then the
time of `fb.update_effect` in training steps on as many examples, from interleaved rounds. The
figure shows one pair, and the distance of all.
"""

import argparse
import os
import statistics
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tabulate import tabulate

import funcbackprop as fb

ROUNDS = 9


class FlaxNet(nn.Module):
    """A convolutional network with normalisation and a skip connection."""

    @nn.compact
    def __call__(self, x):
        x = nn.silu(nn.GroupNorm(4)(nn.Conv(16, (3, 3))(x)))
        x = x + nn.silu(nn.Conv(16, (3, 3))(x))
        return nn.Dense(10)(x.mean((0, 1)))


def classifier(init, apply, images):
    data = fb.training.load("digits")
    x = data.x if images else data.x.reshape(len(data.x), -1)
    loss = fb.example_loss(apply, fb.losses.cross_entropy)
    return loss, init(jax.random.key(0), jnp.asarray(x[0])), (x, data.y)


def language_model(model, data):
    loss = fb.example_loss(model.apply, fb.losses.next_token)
    return loss, model.init(jax.random.key(0), data.x[0]), (data.x, data.y)


def problems():
    """name -> (loss, parameters, data)."""
    text = fb.training.load("text", length=32)
    V = text.num_classes
    mlp = fb.models.mlp((64, 128, 128, 10), activation="gelu")
    convnet = fb.models.convnet((16, 32), 10)
    return {
        "mlp": classifier(mlp.init, mlp.apply, False),
        "convnet": classifier(convnet.init, convnet.apply, True),
        "lstm": language_model(fb.models.lstm(V, 64), text),
        "transformer": language_model(fb.models.transformer(V, 32, 64, depth=2, heads=4), text),
        "Flax": classifier(FlaxNet().init, FlaxNet().apply, True),
    }


OPTIMIZERS = {"SGD 0.1": optax.sgd(0.1), "Adam 1e-3": optax.adam(1e-3)}


def measured(loss, params, data, optimizer):
    """`AlongUpdate` on 128 examples, of the update of 64 others."""
    rows = np.random.default_rng(0).permutation(len(data[0]))
    batch, other = (jax.tree.map(lambda a, r=r: a[r], data) for r in (rows[:64], rows[64:192]))
    G = jax.grad(lambda p: jnp.mean(jax.vmap(loss, (None, 0))(p, batch)))(params)
    updates, _ = optimizer.update(G, optimizer.init(params), params)
    return jax.jit(lambda *x: fb.along_update(loss, *x))(params, updates, other)


def row(name, optimizer, found):
    """What the table says of one pair."""
    scales = np.asarray(found.scales)
    actual = np.asarray(found.actual.value)
    off = np.abs(np.asarray(found.error.value) / actual)
    rounding = float(found.rounding) / np.abs(actual)
    errors = np.asarray(found.actual.standard_error) / np.abs(actual)
    at = [int(np.argmin(np.abs(scales - s))) for s in (0.1, 1)]
    beyond = [
        next((float(s) for s, x in zip(scales, off, strict=True) if x > y), None) for y in (0.1, 1)
    ]
    tried = [f"{actual[at[1]]:.2g}", f"{errors[at[1]]:.1%}"]
    return [name, optimizer, *tried, *(f"{off[k]:.1e} ({rounding[k]:.0e})" for k in at), *beyond]


def seconds_of(f, *arguments):
    start = time.perf_counter()
    jax.block_until_ready(f(*arguments))
    return time.perf_counter() - start


def cost(loss, params, data):
    """`(seconds of a training step, of an effect in steps, of compiling it)` on 64 examples."""
    batch = jax.tree.map(lambda a: jnp.asarray(a[:64]), data)
    optimizer = OPTIMIZERS["Adam 1e-3"]
    step = fb.training.make_step(loss, optimizer, donate=False)
    state = fb.training.init_state(params, optimizer, seed=0)
    updates = fb.training.next_update(step, state, batch)
    effect = jax.jit(lambda *x: fb.update_effect(loss, *x))
    compiling = seconds_of(effect, params, updates, batch)
    pairs = [
        (seconds_of(step, state, batch), seconds_of(effect, params, updates, batch))
        for _ in range(ROUNDS)
    ]
    ratio = statistics.median(b / a for a, b in pairs)
    return [statistics.median(a for a, _ in pairs) * 1000, ratio, compiling]


def main():
    """Print the tables; draw the figure if it was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figure", help="write the figure to this file")
    arguments = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}, {os.cpu_count()} cores, float32")
    given = problems()
    found = {
        (name, optimizer): measured(*problem, OPTIMIZERS[optimizer])
        for name, problem in given.items()
        for optimizer in OPTIMIZERS
    }
    headers = ["model", "optimizer", "change at 1", "± of it", "off at 0.1 (rounding)"]
    headers += ["off at 1 (rounding)", "off 10 % from", "off 100 % from"]
    print(tabulate([row(*key, x) for key, x in found.items()], headers, floatfmt=".3g"))
    rows = [[name, *cost(*problem)] for name, problem in given.items()]
    headers = ["model", "training step, ms", "effect, in steps", "compiling it, s"]
    print(f"\n{tabulate(rows, headers, floatfmt='.3g')}")
    if arguments.figure:
        found["mlp", "Adam 1e-3"].plot().savefig(arguments.figure, dpi=110)


if __name__ == "__main__":
    main()
