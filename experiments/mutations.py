"""How well `check_gradients` finds and places faults in a backward pass: a mutation run.

    python experiments/mutations.py            # 200 faults and as many controls
    python experiments/mutations.py --quick    # 24

One equation of the loss of one of six models is put into a function `faulty` with a derivative
rule of its own: JAX's, changed at one input. In the control, `right`, it is not. Two checks each:

A   of the loss that holds the fault: check_gradients(faulty_loss, params, batch).
    Placed: the report names `faulty`.
B   of the gradient alone: check_gradients(loss, params, batch, grads=faulty_gradient).
    Placed: the report names the line of the equation.

Found: some leaf is a finding. A fault that moves no leaf by 1e-4 of its size (about 1000 roundings
in float32) is none, and another is drawn. Writes results/mutations.json.
"""

import argparse
import importlib.util
import itertools
import json
import pathlib
import re
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core, source_info_util
from tabulate import tabulate

import funcbackprop as fb

SEED, BATCH = 0, 16
# A leaf is wrong if it moves by more than MOVES of its size, right below STAYS. A leaf of less than
# SMALL of the largest one may be zero but for rounding: it is measured by SMALL of the largest.
MOVES, STAYS, SMALL = 1e-4, 1e-6, 1e-3
# Compiled programs are kept while this runs: the gradient of one loss is asked for several times.
KEEP = {"min_compile_time_secs": 0, "min_entry_size_bytes": -1}
CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "checkpoint": "jaxpr"}
ROOTS = "|".join(f"{pathlib.Path(f).parents[1]}/" for f in (fb.__file__, jax.__file__, __file__))

# --- faults: (cotangents of the outputs, pull, number k of the input) -> cotangent of that input --


def without_last(dys, pull, k):
    """The last slice of the output along its longest axis hands nothing on."""
    axis = int(np.argmax(dys[0].shape))
    last = jax.lax.broadcasted_iota(int, dys[0].shape, axis) == dys[0].shape[axis] - 1
    return pull((jnp.where(last, 0, dys[0]), *dys[1:]))[k]


def other_order(dys, pull, k):
    """Two axes exchanged; where their sizes differ, the elements are read in that order."""
    right = pull(dys)[k]
    return jnp.swapaxes(right, *long_axes(right)[-2:]).reshape(right.shape)


FACTORS = {"0.99": 0.99, "1.01": 1.01, "0.5": 0.5, "2": 2, "1/B": 1 / BATCH, "-1": -1}
FAULTS = {
    **{f"times {n}": lambda dys, pull, k, f=f: f * pull(dys)[k] for n, f in FACTORS.items()},
    "dropped term": without_last,
    "wrong axis": other_order,
    "stop_gradient": lambda dys, pull, k: jnp.zeros_like(pull(dys)[k]),
}


def fits(fault, place):
    """Whether a fault is one at this place."""
    if fault == "dropped term":
        return is_float(place.eqn.outvars[0]) and bool(long_axes(place.eqn.outvars[0].aval))
    return fault != "wrong axis" or len(long_axes(place.eqn.invars[place.input].aval)) >= 2


def long_axes(x):
    return [axis for axis, size in enumerate(x.shape) if size > 1]


# --- a loss as equations, one of them replaced ----------------------------------------------------


class Place(NamedTuple):
    """One input of one equation; the path leads there through the calls and loops around it."""

    path: tuple[int, ...]
    input: int
    eqn: Any
    lines: tuple[str, ...]


def is_float(atom):
    return jnp.issubdtype(atom.aval.dtype, jnp.floating)


def inside(eqn):
    """(jaxpr, constants) of a call or scan; None for what is evaluated as it stands."""
    name = {**CALLS, "scan": "jaxpr"}.get(eqn.primitive.name)
    held = eqn.params[name] if name else None
    return held and (getattr(held, "jaxpr", held), getattr(held, "consts", ()))


def places(jaxpr, moving, path=(), lines=()):
    """(places that move with the parameters, which outputs do), given which inputs do."""
    known, found = {v for v, moves in zip(jaxpr.invars, moving, strict=True) if moves}, []
    in_known = lambda v: isinstance(v, core.Var) and v in known and is_float(v)  # noqa: E731
    for number, eqn in enumerate(jaxpr.eqns):
        ins, at, name = list(map(in_known, eqn.invars)), (*path, number), eqn.primitive.name
        line = re.match(r".*?:\d+|", source_info_util.summarize(eqn.source_info))[0] or "no line"
        here = (*lines, line)
        if inside(eqn) and any(ins):
            if name == "scan":  # what one step hands on comes back to the next
                first, count = eqn.params["num_consts"], eqn.params["num_carry"]
                ins[first : first + count] = [True] * count
            more, outs = places(inside(eqn)[0], ins, at, here if name in CALLS else ())
            found += more
        else:
            found += [Place(at, k, eqn, here) for k, moves in enumerate(ins) if moves]
            outs = [any(ins) and name != "stop_gradient"] * len(eqn.outvars)
        known |= {v for v, moves in zip(eqn.outvars, outs, strict=True) if moves}
    return found, list(map(in_known, jaxpr.outvars))


def evaluate(jaxpr, consts, values, path, replacement):
    """The outputs of a jaxpr, with `replacement(eqn, values)` at the end of the path."""
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *values), strict=True))
    read = lambda v: v.val if isinstance(v, core.Literal) else known[v]  # noqa: E731
    for number, eqn in enumerate(jaxpr.eqns):
        values = list(map(read, eqn.invars))
        if path[:1] != (number,):
            out = alone(eqn, values)
        elif len(path) == 1:
            out = replacement(eqn, values)
        elif eqn.primitive.name == "scan":
            out = scan(eqn, values, path[1:], replacement)
        else:
            out = evaluate(*inside(eqn), values, path[1:], replacement)
        known.update(zip(eqn.outvars, out, strict=True))
    return list(map(read, jaxpr.outvars))


def alone(eqn, values):
    """One equation by JAX, with the line that it came from."""
    inputs = {v: x for v, x in zip(eqn.invars, values, strict=True) if isinstance(v, core.Var)}
    return jax.core.eval_jaxpr(
        core.Jaxpr((), list(inputs), eqn.outvars, [eqn]), (), *inputs.values()
    )


def scan(eqn, values, path, replacement):
    first, count = eqn.params["num_consts"], eqn.params["num_carry"]

    def body(carry, xs):
        out = evaluate(*inside(eqn), [*values[:first], *carry, *xs], path, replacement)
        return out[:count], out[count:]

    options = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
    carry, ys = values[first : first + count], values[first + count :]
    return list(itertools.chain(*jax.lax.scan(body, carry, ys, **options)))


def wrapped(name, fault=None, k=0):
    """`replacement` of an equation: a function with JAX's own derivative, or a changed one."""

    def replacement(eqn, values):
        def body(*values):
            return tuple(alone(eqn, values))

        def backward(values, dys):
            _, pull = jax.vjp(body, *values)
            found = list(pull(dys))
            found[k] = found[k] if fault is None else FAULTS[fault](dys, pull, k)
            return tuple(found)

        body.__name__ = name
        function = jax.custom_vjp(body)
        function.defvjp(lambda *values: (body(*values), values), backward)
        return function(*values)

    return replacement


# --- the models: (loss, params, batch) ------------------------------------------------------------


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def integers(rng, most, *shape):
    return rng.integers(0, most, shape).astype(np.int32)


def images(rng, model, *shape):
    """A classifier of the library."""
    batch = normal(rng, BATCH, *shape), integers(rng, 10, BATCH)
    params = model.init(jax.random.key(SEED), batch[0][0])
    return fb.example_loss(model.apply, fb.losses.cross_entropy), params, batch


def tokens(rng, model):
    """A language model of the library; every third target is padding."""
    x, y = integers(rng, 20, BATCH, 12), integers(rng, 20, BATCH, 12)
    y[:, 2::3] = -1
    params = model.init(jax.random.key(SEED), x[0])
    return fb.example_loss(model.apply, fb.losses.next_token), params, (x, y)


def flax_model(rng):
    """Attention, layer norm and dense layers by Flax Linen, on a sequence."""
    from flax import linen

    class Block(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = x + linen.MultiHeadDotProductAttention(2)(linen.LayerNorm()(x))
            return linen.Dense(3)(linen.silu(linen.Dense(32)(x))).mean(0)

    batch = normal(rng, BATCH, 8, 16), normal(rng, BATCH, 3)
    params = Block().init(jax.random.key(SEED), batch[0][0])
    return lambda p, xy: jnp.sum((Block().apply(p, xy[0]) - xy[1]) ** 2), params, batch


def equinox_model(rng):
    """A convolution, a GRU over its rows and a dense layer by Equinox, on an image."""
    import equinox as eqx

    keys = jax.random.split(jax.random.key(SEED), 3)
    layers = (
        eqx.nn.Conv2d(1, 4, 3, padding=1, key=keys[0]),
        eqx.nn.GRUCell(32, 16, key=keys[1]),
        eqx.nn.Linear(16, 5, key=keys[2]),
    )
    params, static = eqx.partition(layers, eqx.is_array)

    def loss(params, xy):
        conv, cell, out = eqx.combine(params, static)
        rows = jnp.swapaxes(jnp.tanh(conv(xy[0])), 0, 1).reshape(8, 32)
        h, _ = jax.lax.scan(lambda h, row: (cell(row, h), None), jnp.zeros(16), rows)
        return -jax.nn.log_softmax(out(h))[xy[1]]

    return loss, params, (normal(rng, BATCH, 1, 8, 8), integers(rng, 5, BATCH))


MODELS = {
    "mlp": lambda rng: images(rng, fb.models.mlp((64, 32, 32, 10)), 64),
    "convnet": lambda rng: images(rng, fb.models.convnet((8, 16), 10), 8, 8, 1),
    "lstm": lambda rng: tokens(rng, fb.models.lstm(20, 16)),
    "transformer": lambda rng: tokens(rng, fb.models.transformer(20, 12, 16, 2, 2)),
    "flax": flax_model,
    "equinox": equinox_model,
}

# --- the run --------------------------------------------------------------------------------------


class Subject:
    """A loss, its places, and what the checks say of the controls."""

    def __init__(self, name):
        rng = np.random.default_rng(SEED)
        self.loss, params, self.batch = MODELS[name](rng)
        self.params = jax.tree.map(lambda p: p + 0.1 * normal(rng, *p.shape), params)  # no zeros
        example = jax.tree.map(lambda x: x[0], self.batch)
        self.closed = jax.make_jaxpr(self.loss)(self.params, example)
        leaves = len(jax.tree.leaves(self.params))
        moving = [k < leaves for k in range(len(self.closed.jaxpr.invars))]
        self.places, _ = places(self.closed.jaxpr, moving)
        self.right = self.gradient(self.loss)

    def gradient(self, loss):
        losses = jax.vmap(loss, in_axes=(None, 0))
        with jax.default_matmul_precision("highest"):
            return jax.jit(jax.grad(lambda p: jnp.mean(losses(p, self.batch))))(self.params)

    def changed(self, place, name, *fault):
        def loss(*args):
            leaves = jax.tree.leaves(args)
            replacement = wrapped(name, *fault)
            program = self.closed.jaxpr, self.closed.consts
            return evaluate(*program, leaves, place.path, replacement)[0]

        return loss

    def moved(self, grads):
        """By how much of its size each leaf moves."""
        a, b = ([np.asarray(g, float) for g in jax.tree.leaves(t)] for t in (grads, self.right))
        least = SMALL * max(np.abs(x).max() for x in b)
        sizes = [max(np.abs(x).max(), least) for x in b]
        return [float(np.abs(x - y).max() / s) for x, y, s in zip(a, b, sizes, strict=True)]

    def checks(self, loss, grads, moved, lines):
        """{"A": outcome, "B": outcome}; the number of leaves judged right beside all."""
        out = {}
        for way, args, names in (("A", (loss,), ["`faulty`"]), ("B", (self.loss, grads), lines)):
            report = fb.check_gradients(args[0], self.params, self.batch, *args[1:])
            wrong = [leaf in report.findings for leaf in report.leaves]
            reasons = (f"{leaf.reason} {leaf.suspects} {leaf.source}" for leaf in report.findings)
            said = "\n".join(dict.fromkeys(reasons))
            pairs = [(w, m) for w, m in zip(wrong, moved, strict=True) if not STAYS < m < MOVES]
            sure = [w == (m > MOVES) for w, m in pairs]
            out[way] = {
                "found": any(wrong),
                "placed": any(re.search(re.escape(n) + r"(?!\d)", said) for n in names),
                **{"right": sum(sure), "leaves": len(sure), "said": said},
            }
        return out


def run_model(name, trials, cache):
    """The rows of one model; trials are (number, kind of fault)."""
    for option, value in {"cache_dir": cache, **KEEP}.items():
        prefix = "jax_compilation_" if option == "cache_dir" else "jax_persistent_cache_"
        jax.config.update(prefix + option, value)
    subject, rows, controls = Subject(name), [], {}
    for number, fault in trials:
        rng, equivalent = np.random.default_rng((SEED, number)), 0
        fitting = [place for place in subject.places if fits(fault, place)]
        while True:
            place = fitting[rng.integers(len(fitting))]
            loss = subject.changed(place, "faulty", fault, place.input)
            grads = subject.gradient(loss)
            moved = subject.moved(grads)
            if max(moved) > MOVES:
                break
            equivalent += 1
        if place.path not in controls:
            right = subject.changed(place, "right")
            still = [0.0] * len(moved)
            controls[place.path] = subject.checks(right, subject.gradient(right), still, ())
        where = f"{place.eqn.primitive.name}, input {place.input}, {' in '.join(place.lines[::-1])}"
        rows.append(
            {
                **{"number": number, "model": name, "fault": fault, "equivalent": equivalent},
                **{"where": where, "path": place.path, "moves": max(moved)},
                **{"faulty": subject.checks(loss, grads, moved, place.lines)},
                **{"control": controls[place.path]},
            }
        )
        print(f"{name}: {len(rows)} of {len(trials)}", file=sys.stderr, flush=True)
    return rows


def plan(names, count):
    """Model -> its trials: every kind of fault in every model, in random order, `count` in all."""
    pairs, rng = list(itertools.product(names, FAULTS)), np.random.default_rng(SEED)
    rounds = itertools.chain(*(rng.permutation(pairs) for _ in range(1 + count // len(pairs))))
    trials = {name: [] for name in names}
    for number, (name, fault) in enumerate(itertools.islice(rounds, count)):
        trials[str(name)].append((number, str(fault)))
    return trials


def table(rows, column):
    """Numbers by kind of fault or by model."""
    out = []
    for value in [*sorted({row[column] for row in rows}), "all"]:
        some = [row for row in rows if value in (row[column], "all")]
        count = lambda way, what, s="faulty", some=some: sum(r[s][way][what] for r in some)  # noqa: E731
        found = [count(way, what) for way in "AB" for what in ("found", "placed")]
        leaves = [f"{count(way, 'right')} of {count(way, 'leaves')}" for way in "AB"]
        alarms = [count(way, "found", "control") for way in "AB"]
        out.append([value, len(some), *found, *leaves, *alarms, sum(r["equivalent"] for r in some)])
    headers = "faults|A found|A placed|B found|B placed|A leaves right|B leaves right"
    headers += "|A false alarms|B false alarms|equivalent"
    return tabulate(out, [column, *headers.split("|")], tablefmt="github")


def troubles(rows):
    """(what, where, report) of all that did not go as it should."""
    for row, way in itertools.product(rows, "AB"):
        fault, control = row["faulty"][way], row["control"][way]
        kinds = {
            f"missed in {way}": not fault["found"],
            f"not placed in {way}": fault["found"] and not fault["placed"],
            f"leaves wrongly judged in {way}": fault["right"] < fault["leaves"],
        }
        where = f"{row['model']}, {row['fault']} at {row['where']}, moves {row['moves']:.2g}"
        yield from ((what, where, fault["said"]) for what, holds in kinds.items() if holds)
        if control["found"]:
            yield f"false alarm in {way}", where, control["said"]


def main():
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="24 faults instead of 200")
    count, start = 24 if parser.parse_args().quick else 200, time.perf_counter()
    names = [n for n in MODELS if n not in ("flax", "equinox") or importlib.util.find_spec(n)]
    libraries = [n for n in ("jax", "numpy", "flax", "equinox") if importlib.util.find_spec(n)]
    with (
        tempfile.TemporaryDirectory() as cache,
        ProcessPoolExecutor(2, get_context("spawn")) as pool,
    ):
        jobs = [pool.submit(run_model, *trials, cache) for trials in plan(names, count).items()]
        rows = [row for job in jobs for row in job.result()]
    result = {
        **{"versions": {n: version(n) for n in libraries}, "seed": SEED, "B": BATCH},
        **{"left_out": [n for n in MODELS if n not in names]},
        **{"seconds": round(time.perf_counter() - start), "troubles": list(troubles(rows))},
    }
    print(*(f"{key}: {value}" for key, value in result.items() if key != "troubles"), sep="\n")
    print("", table(rows, "fault"), table(rows, "model"), sep="\n\n", end="\n\n")
    for what, where, _ in result["troubles"]:
        print(re.sub(ROOTS, "", f"{what}: {where}"))
    for row, kind, way in itertools.product(rows, ("faulty", "control"), "AB"):
        row[kind][way].pop("said", None)
    lines = ",\n".join(f" {json.dumps(row)}" for row in rows)
    text = json.dumps(result, indent=1)[:-2] + f',\n "rows": [\n{lines}\n ]\n}}\n'
    file = pathlib.Path(__file__).parent / "results" / "mutations.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(re.sub(ROOTS, "", text))


if __name__ == "__main__":
    main()
