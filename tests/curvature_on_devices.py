"""Curvature on 8 devices, for `test_many_devices.py`.

It prints JSON: how far results are from those of one device, and what is communicated. With an
argument, only products with the Hessian.

JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=8 NPROC=32 python tests/curvature_on_devices.py
"""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "experiments"))

import conftest  # noqa: F401  (strict settings)
import jax
import jax.numpy as jnp
import numpy as np
from hlo import Module
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import funcbackprop as fb
from funcbackprop.curvature import hvp, lanczos, sharpness, spectral_density, trace

EXAMPLES = 48
MODEL = fb.models.mlp((16, 24, 8), activation="tanh")
LOSS = fb.example_loss(MODEL.apply, fb.losses.cross_entropy)


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(EXAMPLES, 16)).astype(np.float32)
    weights = np.arange(EXAMPLES, dtype=np.float32)  # the first row is padding
    x[0] = np.nan
    return (x, rng.integers(0, 8, EXAMPLES).astype(np.int32)), weights


def product(loss, params, batch, weights, chunk=20):
    return hvp(loss, params, batch, params, weights=weights, chunk_size=chunk)


def everything(loss, params, batch, weights, chunk=20):
    given = {"weights": weights, "chunk_size": chunk}
    of_trace = trace(loss, params, batch, samples=6, method="hutch++", **given)
    density = spectral_density(loss, params, batch, steps=3, samples=2, **given)
    sharp = sharpness(loss, params, batch, steps=4, **given)
    return sharp[:4], sharp.vector, of_trace[:2], density.nodes


def replicated(mesh, params):
    return jax.tree.map(lambda p: P(), params)


def fully_sharded(mesh, params):
    return jax.tree.map(lambda p: P("data"), params)


def tensor_parallel(mesh, params):
    return jax.tree.map(lambda p: P(*[None] * (p.ndim - 1), "model"), params)


LAYOUTS = {
    "replicated": (replicated, (8,), ("data",)),
    "fully sharded": (fully_sharded, (8,), ("data",)),
    "4 x 2": (tensor_parallel, (4, 2), ("data", "model")),
}


def laid_out(name, kind, params):
    """The mesh, and `(params, batch, weights)` on it."""
    specs, shape, axes = LAYOUTS[name]
    mesh = jax.make_mesh(shape, axes, axis_types=(kind,) * len(axes))
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(mesh, params))
    return mesh, (
        jax.device_put(params, shardings),
        *jax.device_put(data(), NamedSharding(mesh, P("data"))),
    )


def difference(found, expected):
    """The largest, relative to the largest number of its leaf."""
    errors = jax.tree.map(
        lambda a, b: np.max(np.abs(np.asarray(a) - b)) / np.max(np.abs(b)),
        found,
        jax.tree.map(np.asarray, expected),
    )
    return float(max(jax.tree.leaves(errors)))


def compiled(f, given, loss=LOSS):
    return jax.jit(lambda *x: f(loss, *x)).lower(*given).compile()


def in_shard_map(params):
    """Each device has the product of its own examples; their mean is that of all."""
    mesh, given = laid_out("replicated", AxisType.Auto, params)

    def local(params, batch, weights):
        share = jnp.sum(weights) / jax.lax.psum(jnp.sum(weights), "data")
        own = lambda v: hvp(LOSS, params, batch, v, weights=weights, chunk_size=4)  # noqa: E731
        of_all = lambda v: jax.tree.map(lambda x: jax.lax.psum(share * x, "data"), own(v))  # noqa: E731
        alone = sharpness(LOSS, params, batch, weights=weights, chunk_size=4, steps=3)
        return lanczos(of_all, params, 3).alphas, alone.value[None]

    run = jax.shard_map(
        local, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=(P(), P("data"))
    )
    batch, weights = data()
    rows = lambda k: jax.tree.map(lambda x: x[6 * k : 6 * k + 6], batch)  # noqa: E731
    of_all = lambda v: hvp(LOSS, params, batch, v, weights=weights)  # noqa: E731
    one = lambda k: sharpness(LOSS, params, rows(k), weights=weights[6 * k : 6 * k + 6], steps=3)  # noqa: E731
    expected = jax.jit(lambda: (lanczos(of_all, params, 3).alphas, one(3).value))()
    alphas, values = jax.jit(run)(*given)
    return difference((alphas, values[3]), expected)


def communication(params):
    """Of `hvp` in chunks: collectives in the loop over chunks, and bytes beside those of the plain
    gradient."""
    mesh, given = laid_out("replicated", AxisType.Auto, params)
    _, apart = laid_out("fully sharded", AxisType.Auto, params)
    whole = NamedSharding(mesh, P())
    gathered = lambda p: jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, whole), p)  # noqa: E731
    loss = lambda params, example: LOSS(gathered(params), example)  # noqa: E731
    mean = lambda loss, p, b, w: jnp.vdot(w, jax.vmap(loss, (None, 0))(p, b))  # noqa: E731
    plain = lambda loss, p, b, w: jax.grad(lambda p: mean(loss, p, b, w))(p)  # noqa: E731
    for name, x, of_one in (("replicated", given, LOSS), ("fully sharded", apart, loss)):
        modules = [Module(compiled(f, x, of_one).as_text()) for f in (product, plain)]
        sizes = [sum(size for _, _, size, _ in m.communication()) for m in modules]
        looped = [kind for kind, _, _, loops in modules[0].communication() if loops]
        yield name, {"in the loop": looped, "bytes": sizes[0] / sizes[1]}


def basis_is_parted(params):
    """Whether the Lanczos vectors of fully sharded parameters lie as these do."""
    _, given = laid_out("fully sharded", AxisType.Auto, params)
    text = compiled(lambda *x: sharpness(*x[:3], steps=5), given).as_text()
    return "f32[5,16,24]" not in text and "f32[5,2,24]" in text


def main(*args):
    params = MODEL.init(jax.random.key(0), jnp.zeros(16))
    functions = (product,) if args else (product, everything)
    differences = {}
    for f in functions:
        alone = jax.jit(lambda *x, f=f: f(LOSS, *x, chunk=None))(params, *data())
        for name in LAYOUTS:
            for kind in (AxisType.Auto, *([AxisType.Explicit] if f is product else [])):
                _, given = laid_out(name, kind, params)
                found = compiled(f, given)(*given)
                differences[f"{name}, {kind.name}, {f.__name__}"] = difference(found, alone)
    answers = {"differences": differences, "communication": dict(communication(params))}
    if not args:
        differences["shard_map"] = in_shard_map(params)
        answers["parted"] = basis_is_parted(params)
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
