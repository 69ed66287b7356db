"""Parameters that lie in parts on 8 simulated devices: `python tests/sharded_params.py [--json]`.

Fully sharded, with the weights gathered where they are used, and on a 4 x 2 mesh, where the second
axis parts the weights of a layer as tensor parallelism does. Sharding is automatic. Of the compiled
program of one device it prints, beside that of the plain gradient,

- what is gathered, and what of it is no parameter and not gathered by the plain gradient either;
- entries of the largest array, as a multiple of those of the parameters on one device;
- bytes that are communicated, as a multiple of those of the plain gradient;
- the largest difference from what one device finds, relative to the largest number there.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "experiments"))
os.environ["NPROC"] = "32"  # threads for the devices to meet, on a machine with few cores

import conftest  # noqa: F401  (strict settings)
import jax
import jax.numpy as jnp
import numpy as np
import optax
from hlo import Module
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import funcbackprop as fb
from funcbackprop.tables import text

EXAMPLES = 32
STATS = {
    "mean": {"mean": fb.Mean()},
    "mean + norms": {"mean": fb.Mean(), "sq_norms": fb.SquaredNorms()},
    "mean + variance": {"mean": fb.Mean(), "variance": fb.Variance()},
}
# The axis of a weight [in, out] that is parted among the devices of a tensor-parallel group: into
# its outputs, or, where these are its inputs already, its inputs.
COLUMNS, ROWS = P("model"), P("model", None)
PARTED = {
    "mlp": {"['layers'][0]": "columns", "['layers'][1]": "rows"},
    "transformer": {
        **{f"['{name}']": "columns" for name in ("q", "k", "v", "mlp_in")},
        **{f"['{name}']": "rows" for name in ("out", "mlp_out")},
    },
}


def mlp():
    model = fb.models.mlp((32, 64, 32, 8))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(EXAMPLES, 32)).astype(np.float32)
    y = rng.integers(0, 8, EXAMPLES).astype(np.int32)
    return model, fb.losses.cross_entropy, (x, y)


def transformer():
    model = fb.models.transformer(32, 16, 32, depth=2, heads=4)
    tokens = np.random.default_rng(0).integers(0, 32, (EXAMPLES, 17)).astype(np.int32)
    return model, fb.losses.next_token, (tokens[:, :-1], tokens[:, 1:])


def fully_sharded(name, params):
    """Every parameter parted along its longest axis, and whole where it is used."""
    mesh = Mesh(np.array(jax.devices()), ("data",))

    def spec(path, p):
        axes = [None] * p.ndim
        axes[int(np.argmax([n if n % 8 == 0 else 0 for n in p.shape]))] = "data"
        return P(*axes) if any(n % 8 == 0 for n in p.shape) else P()

    whole = NamedSharding(mesh, P())
    gathered = lambda p: jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, whole), p)  # noqa: E731
    return mesh, jax.tree_util.tree_map_with_path(spec, params), gathered


def tensor_parallel(name, params):
    """Weights parted along one axis, where they stay."""
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))

    def spec(path, p):
        keys = jax.tree_util.keystr(path)
        how = next((how for part, how in PARTED[name].items() if part in keys), None)
        bias = keys.endswith("['b']")
        if how is None or (bias and how == "rows"):
            return P()
        axes = [None] * p.ndim
        axes[-1 if how == "columns" else -2] = "model"
        return P(*axes)

    return mesh, jax.tree_util.tree_map_with_path(spec, params), lambda p: p


LAYOUTS = {"fully sharded": fully_sharded, "4 x 2": tensor_parallel}
MODELS = {"mlp": mlp, "transformer": transformer}


class Case:
    """A model with its parameters and its batch laid out."""

    def __init__(self, layout, name):
        model, loss, self.batch = MODELS[name]()
        self.params = model.init(jax.random.key(0), self.batch[0][0])
        self.mesh, specs, gathered = LAYOUTS[layout](name, self.params)
        of_one = fb.example_loss(model.apply, loss)
        self.loss = lambda params, example: of_one(gathered(params), example)
        self.alone = of_one
        self.shardings = jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs)
        self.by_rows = NamedSharding(self.mesh, P("data"))
        self.given = (
            jax.device_put(self.params, self.shardings),
            jax.device_put(self.batch, self.by_rows),
        )

    def compiled(self, f, out):
        return jax.jit(f, out_shardings=out).lower(*self.given).compile()

    def plain(self):
        mean = lambda p, b: jnp.mean(jax.vmap(self.loss, (None, 0))(p, b))  # noqa: E731
        return Module(self.compiled(jax.grad(mean), self.shardings).as_text())

    def statistics(self, stats):
        """The module, and the largest difference from one device."""
        rows = jax.tree.map(lambda _: self.by_rows, self.params)
        out = {k: rows if k == "sq_norms" else self.shardings for k in stats}
        measure = fb.gradient_statistics(self.loss, stats)
        program = self.compiled(lambda p, b: measure(p, b)[1], out)
        found = jax.tree.map(np.asarray, program(*self.given))
        expected = fb.gradient_statistics(self.alone, stats)
        expected = jax.jit(expected)(self.params, self.batch)[1]
        return Module(program.as_text()), difference(found, expected)

    def training(self):
        """How far parameters and tracked noise are from those of one device after some steps."""
        optimizer = optax.chain(fb.noise.track(), optax.sgd(0.1))
        step = lambda loss: fb.training.make_step(  # noqa: E731
            loss, optimizer, update_with={"sq_norms": fb.SquaredNorms()}
        )
        ends = []
        for loss, (params, batch) in (
            (self.loss, self.given),
            (self.alone, (self.params, self.batch)),
        ):
            take, state = step(loss), fb.training.init_state(params, optimizer, 0)
            for _ in range(4):
                state, _ = jax.block_until_ready(take(state, batch))
            noise = fb.noise.tracked_noise(state.opt_state)
            ends.append((state.params, noise.S.value, noise.sq_gradient_norm.value))
            if loss is self.loss:
                jax.tree.map(assert_parted, state.params, self.shardings)
        return max(map(difference, *jax.tree.map(np.asarray, ends)))


def assert_parted(x, sharding):
    assert x.sharding.is_equivalent_to(sharding, x.ndim), (x.sharding, sharding)


def difference(found, expected):
    """The largest, relative to the largest number."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    errors = [float(np.max(np.abs(a - np.asarray(b)))) for a, b in pairs]
    return max(errors) / float(max(np.max(np.abs(x)) for x in jax.tree.leaves(expected)))


def gathered(module):
    shapes = Counter()
    for kind, arrays, _, _ in module.communication():
        if kind in ("all-gather", "all-to-all", "collective-permute"):
            shapes.update(_core(shape) for shape in arrays)
    return shapes


def _core(shape):
    """Without axes of length 1."""
    return tuple(n for n in shape if n > 1)


def bytes_of(module):
    return sum(size for _, _, size, _ in module.communication())


def figures(layout, name):
    case = Case(layout, name)
    plain = case.plain()
    parameters = {_core(p.shape) for p in jax.tree.leaves(case.params)}
    parameters |= {shape[1:] for shape in parameters}  # of one layer of several
    P_ = sum(p.size for p in jax.tree.leaves(case.params))
    for title, stats in STATS.items():
        module, error = case.statistics(stats)
        extra = [s for s in gathered(module) if s not in parameters and s not in gathered(plain)]
        yield {
            "layout": layout,
            "model": name,
            "statistics": title,
            "gathered": sum(gathered(module).values()),
            "by the plain gradient": sum(gathered(plain).values()),
            "other": [list(s) for s in extra],
            "largest / B P": module.largest() / (EXAMPLES * P_),
            "bytes": bytes_of(module) / bytes_of(plain),
            "difference": error,
        }
    yield {"layout": layout, "model": name, "statistics": "training", "difference": case.training()}


def main(*args):
    jax.config.update("jax_num_cpu_devices", 8)
    rows = [row for layout in LAYOUTS for name in MODELS for row in figures(layout, name)]
    if "--json" in args:
        print(json.dumps(rows))
        return
    headers = list(rows[0])
    print(f"jax {jax.__version__}, {EXAMPLES} examples on 8 simulated devices")
    print(text([[row.get(h) for h in headers] for row in rows], headers, width=140))


if __name__ == "__main__":
    main(*sys.argv[1:])
