"""The tracker on 8 simulated devices in `shard_map`; prints JSON for `test_tracker.py`.

JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=8 NPROC=32 python tests/tracker_on_devices.py
"""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import funcbackprop as fb

M = 4  # examples on each device
TRACK = fb.noise.tracker()
REDUCED = re.compile(r'"stablehlo.all_reduce".*?-> tensor<(\S*?)>', re.DOTALL)


def loss(w, x):
    return 0.5 * jnp.sum((w[None] - x) ** 2, 1).mean()


def vary(w):
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(w, "data", to="varying")
    return jax.lax.pvary(w, "data")  # JAX 0.7


def step(w, state, x, source="replicas", cast=vary):
    own = jax.grad(loss)(cast(w), x)
    mean = own if source == "not reduced" else jax.lax.pmean(own, "data")
    if source == "replicas":
        given = {"replica_gradient": own, "micro_size": M, "axis_name": "data"}
        state = TRACK.update(state, mean, **given)
    elif source:
        norms = jnp.sum((w[None] - x) ** 2, 1)
        state = TRACK.update(state, mean, sq_norms=norms, axis_name="data")
    return w - 0.0 * mean, state


def sharded(**options):
    return jax.jit(
        jax.shard_map(
            lambda *x: step(*x, **options),
            mesh=jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)),
            in_specs=(P(), P(), P("data")),
            out_specs=(P(), P()),
        )
    )


def reductions(f, *x):
    """The sizes of what is added up over devices."""
    shapes = REDUCED.findall(f.lower(*x).as_text())
    return [int(np.prod([int(n) for n in re.findall(r"(\d+)x", shape)])) for shape in shapes]


def extra_reductions(source, *x):
    """Of what sizes a step with the tracker has more of than one without."""
    extra = reductions(sharded(source=source), *x)
    for size in reductions(sharded(source=None), *x):
        extra.remove(size)
    return extra


def refused(*x, **options):
    try:
        sharded(**options)(*x)
    except ValueError as error:
        return str(error)
    return "nothing was raised"


def main():
    x = 1 + jax.random.normal(jax.random.key(0), (8 * M, 5))
    w = jnp.zeros(5)
    replicas = fb.noise.noise_scale_of_batches(-x.reshape(8, M, 5).mean(1), M)
    examples = fb.noise.moments(-x.mean(0), jnp.sum(x**2, 1))
    expected = {
        "replicas": (replicas.S.value, replicas.sq_gradient_norm.value),
        "examples": (examples.S, examples.sq_gradient_norm),
    }
    found, extra = {}, {}
    for source in expected:
        f, state = sharded(source=source), TRACK.init()
        for _ in range(3):
            w, state = jax.block_until_ready(f(w, state, x))
        noise = TRACK.estimate(state)
        assert noise.steps == 3
        found[source] = noise.S.value, noise.sq_gradient_norm.value
        extra[source] = extra_reductions(source, w, state, x)
    answers = {"found": found, "expected": expected}
    answers = jax.tree.map(float, answers)
    errors = {
        "same": refused(w, state, x, cast=lambda w: w),
        "not reduced": refused(w, state, x, source="not reduced"),
    }
    print(json.dumps({**answers, "extra": extra, "errors": errors}))


if __name__ == "__main__":
    main()
