"""The report of a run: files, text, figures and errors, on synthetic run folders."""

import json

import numpy as np

LAYERS = ("layers.0", "layers.1", "layers.2")
LONG = tuple(
    f"transformer.encoder.block_{k:02d}.attention.projection.query_key_value" for k in range(30)
)


def make_run(
    folder,
    *,
    seeds=(0,),
    steps=1500,
    batch_size=64,
    layers=LAYERS,
    noise=True,
    check=True,
    diverged_at=None,
    one_measurement=False,
    undecided=False,
):
    """A run folder as `funcbackprop study` writes it, from a seeded model of a training run.

    With `undecided`, late estimates of |G|^2 are negative and their noise scale is null.
    """
    folder.mkdir(parents=True)
    config = {
        "model": "mlp",
        "data": "digits",
        "steps": steps,
        "batch_size": batch_size,
        "optimizer": "adam",
        "learning_rate": 0.001,
        "seeds": list(seeds),
        "name": folder.name,
    }
    rows, last = [], diverged_at or steps
    for seed in seeds:
        rng = np.random.default_rng(seed)
        rows += _step_rows(rng, seed, last, diverged_at)
        marks = [0] if one_measurement else _log_spaced(last if not diverged_at else last - 1)
        for step in marks:
            rows.append(_measurement(rng, seed, step, steps, batch_size, layers, noise, undecided))
        if check:
            rows += [_check(rng, seed, step, layers, check) for step in (marks[0], marks[-1])]
    write = {
        "config.json": config,
        "metadata.json": _metadata(seeds),
        "summary.json": _summary(folder.name, seeds, steps, rows, check, diverged_at),
    }
    for name, content in write.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _log_spaced(last):
    marks = {0, last, *(round(x) for x in np.geomspace(1, last, 11))}
    return sorted(marks)


def _step_rows(rng, seed, last, diverged_at):
    steps = np.arange(1, last + 1)
    loss = 2.3 / (1 + steps / 25) * np.exp(0.25 * rng.standard_normal(last)) + 1e-3
    rows = [
        {"kind": "step", "seed": seed, "step": int(k), "loss": float(x), "grad_norm": float(x)}
        for k, x in zip(steps, loss, strict=True)
    ]
    if diverged_at:
        for k, row in enumerate(rows):
            row["loss"] *= 1.0 + 0.3 * k
        rows[-1] |= {"loss": None, "grad_norm": None}
    return rows


def _measurement(rng, seed, step, steps, batch_size, layers, noise, undecided):
    train = 2.3 / (1 + step / 25) * np.exp(0.05 * rng.standard_normal())
    test = train + 0.09 * step / steps + 0.04 * (step / (step + 100))
    row = {
        "kind": "measurement",
        "seed": seed,
        "step": int(step),
        "batch_size": batch_size,
        "examples": 1437,
        "metrics": {
            "train": {"loss": float(train), "accuracy": float(1 - 0.39 * train)},
            "test": {"loss": float(test), "accuracy": float(1 - 0.39 * test)},
        },
    }
    if noise:
        each = {
            name: _noise(rng, 40.0 * 0.8**k * train**1.2, train, batch_size)
            for k, name in enumerate(layers)
        }
        S = sum(x["S"] for x in each.values())
        sq = sum(x["sq_gradient_norm"] for x in each.values())
        if undecided and step > steps / 8:
            sq = -sq
            worst = layers[1]
            each[worst] = _entry(each[worst]["S"], -each[worst]["sq_gradient_norm"], batch_size)
        row["noise"] = {"total": _entry(S, sq, batch_size), "layers": each}
    return row


def _noise(rng, S, train, batch_size):
    S = float(S * np.exp(0.1 * rng.standard_normal()))
    return _entry(S, float(S * 0.06 * train**1.6 * np.exp(0.2 * rng.standard_normal())), batch_size)


def _entry(S, sq, batch_size):
    return {
        "S": S,
        "sq_gradient_norm": sq,
        "noise_scale": S / sq if sq > 0 else None,
        "signal_to_noise": batch_size * sq / S,
        "batch_variance": S / batch_size,
        "status": "ok" if sq > 0 else "gradient not above zero",
    }


def _check(rng, seed, step, layers, check):
    row = {"kind": "gradient_check", "seed": seed, "step": int(step)}
    if isinstance(check, str) and check != "differs":
        return row | {"ok": None, "missing": check}
    leaves = [
        {
            "leaf": f"params['{name}']['{leaf}']",
            "verdict": "agrees",
            "relative_error": float(10 ** rng.uniform(-7.5, -6)),
            "cosine_error": 1e-13,
            "worst_index": [3, 4],
        }
        for name in layers
        for leaf in "wb"
    ]
    if check == "differs":
        leaves[0] |= {"verdict": "differs", "relative_error": 0.5}
        leaves[1] |= {"verdict": "not finite", "relative_error": None, "cosine_error": None}
        leaves[2] |= {"relative_error": 0.0}
    return row | {
        "ok": check != "differs",
        "reference": "layerwise",
        "dtype": "float32",
        "tolerance": 1e-5,
        "leaves": leaves,
    }


def _metadata(seeds):
    return {
        "versions": {"python": "3.11.9", "jax": "0.10.2", "numpy": "2.4.6"},
        "devices": ["TFRT_CPU_0"],
        "cores": 2,
        "seeds": list(seeds),
        "data": {"name": "digits", "hash": "9f2c", "examples": 1437, "test_examples": 360},
        "parameters": 26122,
        "command": "funcbackprop study",
        "started": "2025-01-01T12:00:00+00:00",
    }


def _summary(name, seeds, steps, rows, check, diverged_at):
    last = {row["seed"]: row["metrics"] for row in rows if row["kind"] == "measurement"}
    final = {}
    for split in ("train", "test"):
        for metric in ("loss", "accuracy"):
            values = [last[seed][split][metric] for seed in seeds]
            final[f"{split} {metric}"] = {
                "mean": float(np.mean(values)),
                "spread": float(np.std(values, ddof=1)) if len(seeds) > 1 else None,
                "per_seed": values,
            }
    verdict = {"ok": check is True, "worst_relative_error": 9e-7, "compared_at": [0, steps]}
    return {
        "name": name,
        "outcome": f"stopped: loss is nan at step {diverged_at}" if diverged_at else "completed",
        "seeds": list(seeds),
        "steps": diverged_at or steps,
        "final": final,
        "gradient_check": verdict if check in (True, "differs") else {"missing": str(check)},
        "seconds": 41.2,
        "report": "report.html",
    }
