"""How well `fb.diagnose` finds planted faults, and whether it leaves healthy runs alone.

    python experiments/diagnosis_calibration.py            # all; half an hour on two free cores
    python experiments/diagnosis_calibration.py --quick    # a few, to see that it works
    python experiments/diagnosis_calibration.py --archs mlp convnet --seed 0    # what was tuned on

Faults of 17 kinds are put into four models, each with strength and seed drawn from a range, and
each also at the mildest strength of a grid that costs 10 % of the final loss. Thresholds were
chosen on the MLP and the convnet with seed 0; the test is the transformer and the LSTM. Writes
results/diagnosis.json and results/diagnosis.md.
"""

import argparse
import json
import math
import pathlib
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import jax
import numpy as np
from diagnosis.plants import HEALTHY, PLANTS, base
from diagnosis.problems import ARCHITECTURES, STEPS, TESTED_ON, TUNED_ON, final_loss
from tabulate import tabulate

import funcbackprop as fb

GRID, COST = 4, 1.1


def planted(kind: str, arch: str, seed: int, mild: bool) -> dict:
    """One row: what was planted, and the names of the findings in their order."""
    plant = PLANTS[kind]
    rng = np.random.default_rng(
        (seed, sorted(PLANTS).index(kind), sorted(ARCHITECTURES).index(arch))
    )
    ground = base(arch, plant.kinds[rng.integers(len(plant.kinds))])
    row = {"kind": kind, "arch": arch, "optimizer": ground.kind, "mild": mild}
    mildest, least, most = plant.span
    run_seed = int(rng.integers(1000))
    draw = lambda s: plant.make(ground, s, np.random.default_rng(run_seed))  # noqa: E731
    if mild:
        if mildest == least:
            return row | {"strength": None, "why": "has no mild form"}
        strength = None
        healthy = final_loss(*[draw(mildest)[1]] * 2, run_seed)
        for s in np.geomspace(mildest, least, GRID):
            loss = final_loss(*draw(float(s)), run_seed)
            if not loss <= COST * healthy:
                strength = float(s)
                row["cost"] = loss / healthy if math.isfinite(loss) else None
                break
        if strength is None:
            return row | {"strength": None, "why": "never costs 10 %"}
    else:
        strength = float(np.exp(rng.uniform(np.log(least), np.log(most))))
        if kind == "labels_shuffled":
            strength = float(rng.uniform(least, most))
    case, healthy = draw(strength)
    return row | {"strength": strength} | diagnosed(case, run_seed)


def healthy(name: str, seed: int) -> dict:
    """One row of a healthy run."""
    return {"kind": "healthy", "arch": name.split(",")[0], "name": name} | diagnosed(
        HEALTHY[name](), seed
    )


def diagnosed(case, seed: int) -> dict:
    """What the diagnosis says of a case."""
    start = time.perf_counter()
    found = fb.diagnose(
        case.problem(), optimizer=case.optimizer, batch_size=case.batch, steps=STEPS, seed=seed
    )
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "rows": found.rows,
    }


def kept(folder: str, function, *args) -> dict:
    """The row of a run, taken once and kept in a file; what the rules say of it is always new."""
    name = "_".join(str(a) for a in (function.__name__, *args)).replace(" ", "_")
    path = pathlib.Path(folder) / f"{name}.json"
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(function(*args)))
        partial.rename(path)
    row = json.loads(path.read_text())
    if "rows" in row:
        found = fb.diagnosis.findings(row.pop("rows"))
        row["findings"] = [
            [x.name, round(x.severity, 3), x.explained_by, *x.same_as] for x in found.findings
        ]
        row["text"] = str(found)
    return row


def rank(row: dict, same: bool) -> int | None:
    """Place of the planted cause, from 1; with `same`, of a finding that says it is the same."""
    for place, (name, _, _, *also) in enumerate(row["findings"], 1):
        if row["kind"] == name or (same and row["kind"] in also):
            return place
    return None


def jobs(archs, seed: int, quick: bool):
    """(function, arguments) of every run."""
    kinds = ("rate_too_large", "labels_constant") if quick else PLANTS
    pairs = [(kind, arch) for kind in kinds for arch in archs if arch in PLANTS[kind].archs]
    yield from ((planted, (*pair, seed, False)) for pair in pairs)
    sound = [name for name in HEALTHY if name.split(",")[0] in archs]
    yield from ((healthy, (name, seed)) for name in (sound[:1] if quick else sound))
    if not quick:
        yield from ((planted, (*pair, seed, True)) for pair in pairs)


def start(cache: str) -> None:
    """Of a process: compiled programs are kept."""
    jax.config.update("jax_compilation_cache_dir", f"{cache}/programs")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def tables(rows) -> str:
    """What was found, as Markdown."""
    text = []
    for title, archs in (("tuned on", TUNED_ON), ("tested on", TESTED_ON)):
        mine = [r for r in rows if r["arch"] in archs]
        for mild in (False, True):
            some = [r for r in mine if r["kind"] != "healthy" and r["mild"] == mild]
            done = [r for r in some if r["strength"] is not None]
            if not done:
                continue
            ranks = [(rank(r, False), rank(r, True)) for r in done]
            strict, first = (sum(pair[k] == 1 for pair in ranks) for k in (0, 1))
            two = sum(pair[1] in (1, 2) for pair in ranks)
            what = "at the mildest strength that costs 10 %" if mild else "planted"
            share = f"{100 * first / len(done):.0f} %"
            text.append(
                f"**{title} {' and '.join(archs)}, {what}**: {len(done)} runs; first {first} "
                f"({share}), of which {strict} by name and the others as the same in effect; in "
                f"the first two {two}."
            )
            cells = [
                [r["kind"], r["arch"], r["optimizer"], f"{r['strength']:.3g}",
                 "not found" if k is None else k if k == s else f"{k} ({s or 'no'} by name)",
                 ", ".join(f"{f[0]} {f[1]:.2g}" for f in r["findings"][:3]) or "nothing"]
                for r, (s, k) in zip(done, ranks, strict=True)
            ]  # fmt: skip
            head = ["planted", "model", "optimizer", "strength", "rank", "findings"]
            text.append(tabulate(cells, head, tablefmt="github"))
            left = [f"{r['kind']} in {r['arch']} ({r['why']})" for r in some if r not in done]
            text += [f"Left out: {'; '.join(left)}."] if left else []
    sound = [r for r in rows if r["kind"] == "healthy"]
    if sound:
        quiet = sum(all(x[1] < 1 for x in r["findings"]) for r in sound)
        text.append(f"**healthy**: {len(sound)} runs, {quiet} without a severe finding.")
        cells = [
            [r["name"], ", ".join(f"{x[0]} {x[1]:.2g}" for x in r["findings"]) or "nothing"]
            for r in sound
        ]
        text.append(tabulate(cells, ["run", "findings"], tablefmt="github"))
    return "\n\n".join(text) + "\n"


def main():
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--archs", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", help="folder of finished runs; a temporary one by default")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results"
    )
    options = parser.parse_args()
    begin = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(2, get_context("spawn"), start, (options.keep or folder,)) as pool,
    ):
        keep = options.keep or folder
        wanted = jobs(options.archs, options.seed, options.quick)
        waiting = [pool.submit(kept, keep, f, *args) for f, args in wanted]
        rows = [job.result() for job in waiting]
    seconds = round(time.perf_counter() - begin)
    text = tables(rows)
    print(text, f"{seconds} seconds", sep="\n")
    if not options.quick:
        options.out.mkdir(exist_ok=True)
        result = {"seed": options.seed, "seconds": seconds, "jax": jax.__version__, "rows": rows}
        (options.out / "diagnosis.json").write_text(json.dumps(result, indent=1) + "\n")
        (options.out / "diagnosis.md").write_text(text)


if __name__ == "__main__":
    main()
