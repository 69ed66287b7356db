"""Statistics, training and tracking on several devices and processes, for `test_many_devices.py`.

It prints JSON: how far they are from those of one device. With 8 devices, and as two processes:

JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=8 NPROC=32 python tests/on_devices.py
JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=2 NPROC=32 python tests/on_devices.py 127.0.0.1:PORT 2 ID
"""

import functools
import json
import sys

import jax

if len(sys.argv) > 1:
    address, count, number = sys.argv[1], *map(int, sys.argv[2:])
    jax.distributed.initialize(address, count, number)

import numpy as np
import optax
from jax.experimental import multihost_utils

import funcbackprop as fb
from funcbackprop.training import batches, device_mesh, replicate, shard_batch, shard_batches

STATS = {
    "mean": fb.Mean(),
    "sq_norms": fb.SquaredNorms(),
    "variance": fb.Variance(),
    "gram": fb.Gram(),
    "clipped": fb.ClippedMean(0.5),
}
MERGED = {name: STATS[name] for name in ("mean", "variance", "sq_norms")}
MODEL = fb.models.mlp((5, 16, 16, 3))
LOSS = fb.example_loss(MODEL.apply, fb.losses.cross_entropy)


def data(size):
    rng = np.random.default_rng(0)
    return rng.normal(size=(size, 5)).astype(np.float32), rng.integers(0, 3, size).astype(np.int32)


def everywhere(f, mesh):
    """`f`, compiled, with results whole on every device."""
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.jit(f, out_shardings=whole)


def difference(found, expected):
    """The largest, relative to the largest number of its leaf."""
    errors = jax.tree.map(
        lambda a, b: np.max(np.abs(np.asarray(a) - b), initial=0) / np.max(np.abs(b)),
        found,
        jax.tree.map(np.asarray, expected),
    )
    return float(max(jax.tree.leaves(errors)))


def statistics(params, mesh):
    """Of a sharded batch, of one that is filled up, and merged from the processes' own halves."""
    measure = fb.gradient_statistics(LOSS, STATS)
    batch, weights = data(16), np.arange(16.0, dtype=np.float32)
    expected = jax.jit(measure)(params, batch, weights)[1]
    whole = replicate(params, mesh)
    on_devices = everywhere(measure, mesh)
    found = {
        "sharded": difference(on_devices(whole, *shard_batch(batch, weights, mesh))[1], expected)
    }

    uneven = jax.tree.map(lambda x: x[:13], batch)
    alone = jax.jit(measure)(params, uneven)
    padded = on_devices(whole, *shard_batch(uneven, None, mesh))
    padded = jax.tree.map(np.asarray, padded)
    losses, g = padded[0][:13], {**padded[1], "gram": padded[1]["gram"][:13, :13]}
    g["sq_norms"] = jax.tree.map(lambda x: x[:13], g["sq_norms"])
    return {**found, "filled up": difference((losses, g), alone)}


def explicit(params):
    """On a mesh whose axes are part of the types of arrays, statistics and a training step."""
    types = (jax.sharding.AxisType.Explicit,)
    mesh = jax.make_mesh((jax.device_count(),), ("batch",), axis_types=types)
    optimizer = optax.chain(fb.noise.track(), optax.sgd(0.1))
    feed = batches(data(48), 16, weights=np.arange(1.0, 49.0))
    measure = fb.gradient_statistics(LOSS, {k: STATS[k] for k in ("mean", "sq_norms", "variance")})
    expected = jax.jit(measure)(params, *feed(0)), train(params, feed, optimizer, lambda s: s)
    with jax.set_mesh(mesh):
        whole = everywhere(measure, mesh)
        found = whole(replicate(params, mesh), *shard_batch(*feed(0), mesh))
        together = train(params, shard_batches(feed, mesh), optimizer, lambda s: replicate(s, mesh))
    return max(difference(found, expected[0]), difference(together, expected[1]))


def merged(params):
    """The statistics of each process's examples, merged on the host."""
    measure = fb.gradient_statistics(LOSS, MERGED)
    n, k = jax.process_count(), jax.process_index()
    batch = data(16)
    expected = jax.jit(measure)(params, batch)[1]
    own = jax.tree.map(lambda x: np.split(x, n)[k], batch)
    states = jax.jit(measure.states)(params, own)[2]
    stacked = (
        multihost_utils.process_allgather(states)
        if n > 1
        else jax.tree.map(lambda x: x[None], states)
    )
    parts = [jax.tree.map(lambda x, p=p: x[p], stacked) for p in range(n)]
    found = measure.finalize(functools.reduce(measure.merge, parts), params)
    return difference(found, expected)


def train(params, feed, optimizer, place):
    step = fb.training.make_step(LOSS, optimizer, update_with={"sq_norms": fb.SquaredNorms()})
    state = place(fb.training.init_state(params, optimizer, 0))
    for number in range(6):
        state, metrics = jax.block_until_ready(step(state, *feed(number)))
    noise = fb.noise.tracked_noise(state.opt_state)
    return state.params, metrics["loss"], noise.S.value, noise.sq_gradient_norm.value


def main():
    mesh = device_mesh()
    params = MODEL.init(jax.random.key(0), data(1)[0][0])
    params = jax.tree.map(np.asarray, params)
    feed = batches(data(44), 12)  # neither divides the other, nor the devices the batch
    optimizer = optax.chain(fb.noise.track(), optax.adam(1e-2))
    alone = train(params, feed, optimizer, lambda state: state)
    together = train(params, shard_batches(feed, mesh), optimizer, lambda s: replicate(s, mesh))
    answers = {
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "differences": {
            **statistics(params, mesh),
            "explicit mesh": explicit(params),
            "merged by hosts": merged(params),
            "training": difference(together, alone),
        },
    }
    if jax.process_index() == 0:
        print(json.dumps(answers))


if __name__ == "__main__":
    main()
