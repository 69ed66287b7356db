"""Memory, FLOPs and communication of statistics at scale, counted in compiled programs.

`python experiments/scale.py` prints how the counts grow, and those of a transformer of 7 billion
parameters on 256 devices. `--quick` counts one small size, `--json` prints all as JSON.

A decoder of width w, depth L and vocabulary V on n devices, fully sharded: every weight lies in n
parts, is gathered for its layer, and again in the backward pass (remat). Each device has b
sequences of T tokens. XLA compiles the program for n simulated devices; nothing is run, so the
memory that is counted is not needed. Of the program of one device it prints

- FLOPs of its products;
- bytes of the arrays that it gathers from other devices, and that it adds up over devices. XLA's
  CPU compiler adds up on all devices and then takes a part; others reduce and scatter, half of it;
- bytes of temporaries, and entries of the largest array.
"""

import argparse
import json
import os
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("NPROC", "32")

import jax
import jax.numpy as jnp
import optax
from hlo import Module
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import funcbackprop as fb
from funcbackprop.tables import text


class Size(NamedTuple):
    """Of a decoder and its batch."""

    width: int
    depth: int
    length: int
    vocabulary: int
    per_device: int
    devices: int
    head: int = 64

    @property
    def parameters(self):
        layer = 12 * self.width**2 + 2 * self.width
        return self.depth * layer + 2 * self.vocabulary * self.width + self.width


def shapes(size):
    """The parameters, as shapes."""
    w, L, V = size.width, size.depth, size.vocabulary
    layers = {
        "qkv": (L, w, 3 * w),
        "out": (L, w, w),
        "up": (L, w, 4 * w),
        "down": (L, 4 * w, w),
        "norm_1": (L, w),
        "norm_2": (L, w),
    }
    return {"embed": (V, w), "layers": layers, "norm": (w,), "head": (w, V)}


def decoder(size, whole):
    """`loss(params, tokens [T + 1])`; `whole` is the sharding of a weight where it is used."""
    heads = size.width // size.head
    gather = lambda tree: jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, whole), tree)  # noqa: E731

    def normed(x, gain):
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * gain[None]

    def attention(p, x):
        q, k, v = jnp.split((x @ p["qkv"]).reshape(len(x), heads, -1), 3, axis=-1)
        scores = jnp.einsum("thd,shd->hts", q, k) / jnp.sqrt(q.shape[-1])
        past = jnp.tril(jnp.ones((len(x), len(x)), bool))
        scores = jnp.where(past[None], scores, -jnp.inf)
        mixed = jnp.einsum("hts,shd->thd", jax.nn.softmax(scores), v)
        return mixed.reshape(len(x), -1) @ p["out"]

    @jax.checkpoint
    def layer(x, p):
        p = gather(p)
        x = x + attention(p, normed(x, p["norm_1"]))
        return x + jax.nn.silu(normed(x, p["norm_2"]) @ p["up"]) @ p["down"], None

    def loss(params, tokens):
        x = gather(params["embed"])[tokens[:-1]]
        x, _ = jax.lax.scan(layer, x, params["layers"])
        logits = normed(x, gather(params["norm"])) @ gather(params["head"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[1:]).mean()

    return loss


def plain(loss):
    def f(params, batch):
        return jax.grad(lambda p: jnp.mean(jax.vmap(loss, (None, 0))(p, batch)))(params)

    return f


def statistics(**stats):
    return lambda loss: lambda params, batch: fb.gradient_statistics(loss, stats)(params, batch)[1]


def tracked(loss):
    """The tracker's update from the norms of examples, beside the mean gradient."""
    noise, stats = fb.noise.tracker(), {"mean": fb.Mean(), "sq_norms": fb.SquaredNorms()}

    def f(params, batch):
        g = fb.gradient_statistics(loss, stats)(params, batch)[1]
        return g["mean"], noise.update(noise.init(), g["mean"], sq_norms=g["sq_norms"])

    return f


PROGRAMS = {
    "plain": plain,
    "mean + norms": statistics(mean=fb.Mean(), sq_norms=fb.SquaredNorms()),
    "mean + variance": statistics(mean=fb.Mean(), variance=fb.Variance()),
    "norms, tracked": tracked,
}


class Count(NamedTuple):
    """Of the program of one device."""

    flops: float
    gathered: float
    added_up: float
    temporary: float
    largest: int


def count(program, size):
    mesh = Mesh(jax.devices()[: size.devices], ("data",))
    compiled = jax.jit(_placed(program, size, mesh)).lower(*_arguments(size, mesh)).compile()
    module = Module(compiled.as_text())
    found = dict.fromkeys(("all-gather", "all-reduce", "reduce-scatter"), 0)
    for kind, _, size_in_bytes, _ in module.communication():
        found[kind] += size_in_bytes  # a KeyError if there is any other kind
    return Count(
        flops=module.flops(),
        gathered=found["all-gather"],
        added_up=found["all-reduce"] + found["reduce-scatter"],
        temporary=compiled.memory_analysis().temp_size_in_bytes,
        largest=module.largest(),
    )


def _parted(mesh, shape):
    """Along the last axis."""
    return NamedSharding(mesh, P(*[None] * (len(shape) - 1), "data"))


def _arguments(size, mesh):
    params = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=_parted(mesh, shape)),
        shapes(size),
        is_leaf=lambda x: isinstance(x, tuple),
    )
    tokens = (size.per_device * size.devices, size.length + 1)
    return params, jax.ShapeDtypeStruct(tokens, jnp.int32, sharding=NamedSharding(mesh, P("data")))


def _placed(program, size, mesh):
    """The program, with results that have the shape of a parameter parted as it is."""
    f = PROGRAMS[program](decoder(size, NamedSharding(mesh, P())))

    def place(x, of_params):
        part = lambda x: jax.lax.with_sharding_constraint(x, _parted(mesh, x.shape))  # noqa: E731
        return part(x) if x.shape in of_params else x

    def placed(params, batch):
        of_params = {p.shape for p in jax.tree.leaves(params)}
        return jax.tree.map(lambda x: place(x, of_params), f(params, batch))

    return placed


BASE = Size(width=256, depth=4, length=256, vocabulary=1024, per_device=2, devices=8)
LARGE = Size(
    width=4096, depth=32, length=2048, vocabulary=32000, per_device=4, devices=256, head=128
)
# letter -> the dimension
GROWN = {
    "w": "width",
    "L": "depth",
    "T": "length",
    "V": "vocabulary",
    "b": "per_device",
    "n": "devices",
}


def growth(base=BASE):
    """name -> size: the base, and each dimension doubled and doubled again."""
    grown = {
        f"{letter} {k * getattr(base, name)}": base._replace(**{name: k * getattr(base, name)})
        for letter, name in GROWN.items()
        for k in (2, 4)
    }
    return {"base": base, **grown}


def counted(size):
    return {program: count(program, size) for program in PROGRAMS}


def _row(name, size, counts):
    plain = counts["plain"]
    row = [name, size.parameters / 1e6, plain.flops / 1e9, plain.gathered / 1e6]
    row += [plain.added_up / 1e6, plain.temporary / 1e6]
    for program in ("mean + norms", "mean + variance"):
        its = counts[program]
        ratios = (getattr(its, x) / getattr(plain, x) for x in ("flops", "gathered", "added_up"))
        row += [" ".join(f"{ratio:.3g}" for ratio in ratios)]
        row += [(its.temporary - plain.temporary) / 1e6]
    return [*row, counts["norms, tracked"].added_up - counts["mean + norms"].added_up]


_HEADERS = ["", "P, M", "GFLOP", "gathered MB", "added up MB", "temp. MB"]
_HEADERS += ["norms: ratios", "MB more", "variance: ratios", "MB more", "tracker: bytes"]


def _large(size, counts):
    rows = [
        [
            name,
            c.flops / 1e12,
            c.gathered / 1e9,
            c.added_up / 1e9,
            c.temporary / 1e9,
            c.largest / (size.per_device * size.parameters),
        ]
        for name, c in counts.items()
    ]
    headers = ["", "TFLOP", "gathered GB", "added up GB", "temporaries GB", "largest array / b P"]
    return text(rows, headers, f"{size.parameters / 1e9:.2f} billion parameters: {_said(size)}")


def _said(size):
    return ", ".join(f"{letter} {getattr(size, name)}" for letter, name in GROWN.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small size")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args()
    sizes = {"base": BASE} if asked.quick else {**growth(), "large": LARGE}
    jax.config.update("jax_num_cpu_devices", max(size.devices for size in sizes.values()))
    found = {name: (size, counted(size)) for name, size in sizes.items()}
    if asked.json:
        plain = {
            name: {"size": size._asdict(), **{k: c._asdict() for k, c in counts.items()}}
            for name, (size, counts) in found.items()
        }
        print(json.dumps(plain))
        return
    print(f"jax {jax.__version__}, programs compiled for simulated devices")
    small = [_row(name, *of) for name, of in found.items() if name != "large"]
    print(text(small, _HEADERS, f"base: {_said(BASE)}", width=140))
    print("ratios: of FLOPs, bytes gathered and bytes added up, to the plain gradient")
    if "large" in found:
        print(f"\n{_large(*found['large'])}")


if __name__ == "__main__":
    main()
