"""Studies of known results: run, and hold against what was expected before.

    python experiments/run.py              # all; twenty minutes on two cores
    python experiments/run.py 01 04        # some
    python experiments/run.py --quick --out DIR    # smaller, to see that they work

A study is a folder `NN_name` with

    study.py        `measure(quick) -> {"quantities": {name: {"value", "se"}}, ...}`, JSON-safe, and
                    `draw(result) -> matplotlib figure`
    expected.json   name -> {"expected", "band": [lower, upper], "source"}, committed before the
                    run; the first is the one in RESULTS.md
    README.md       question, expectation, command, what came out

A run writes its `results.json` (with versions, cores and seconds) and `figure.png`, and makes
RESULTS.md anew from all folders.
"""

import argparse
import json
import math
import os
import pathlib
import platform
import runpy
import time

import jax
import matplotlib
import numpy as np
from tabulate import tabulate

HERE = pathlib.Path(__file__).parent
HEADERS = ("study", "quantity", "expected", "band", "measured", "se", "in band (of all)")


def studies(chosen=()) -> list[pathlib.Path]:
    """The folders, or those whose names begin with one of `chosen`."""
    found = sorted(path.parent for path in HERE.glob("[0-9][0-9]_*/study.py"))
    wrong = [c for c in chosen if not any(path.name.startswith(c) for path in found)]
    if wrong:
        names = ", ".join(path.name for path in found)
        raise SystemExit(f"there is no study {', '.join(wrong)}; expected some of: {names}")
    return [p for p in found if not chosen or any(p.name.startswith(c) for c in chosen)]


def expectations(folder: pathlib.Path) -> dict[str, dict]:
    """What was expected of each quantity."""
    return json.loads((folder / "expected.json").read_text())


def run(folder: pathlib.Path, out: pathlib.Path, quick: bool) -> dict:
    """Measure, draw, write; the result."""
    study, start = runpy.run_path(str(folder / "study.py")), time.perf_counter()
    result = study["measure"](quick)
    missing = expectations(folder).keys() - result["quantities"].keys()
    if missing:
        raise ValueError(f"{folder.name} measured no {', '.join(sorted(missing))}")
    result |= {
        "quick": quick,
        "seconds": round(time.perf_counter() - start, 1),
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
    }
    out.mkdir(parents=True, exist_ok=True)
    written(out / "results.json", json.dumps(rounded(result), indent=1, allow_nan=False) + "\n")
    with matplotlib.rc_context({"figure.dpi": 110, "savefig.bbox": "tight"}):
        study["draw"](result).savefig(out / "figure.png")
    return result


def written(path: pathlib.Path, text: str) -> None:
    """A whole file or none."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def rounded(x):
    """For JSON: five digits; numbers that are not finite as text."""
    if isinstance(x, dict):
        return {str(k): rounded(v) for k, v in x.items()}
    if isinstance(x, list | tuple | np.ndarray | jax.Array):
        return [rounded(v) for v in x]
    if isinstance(x, bool | np.bool_ | str | int | None):
        return x
    x = float(x)
    return float(f"{x:.5g}") if math.isfinite(x) else str(x)


def within(quantity: dict, expected: dict) -> bool:
    """Whether a measured value lies in the band; a bound of None is open."""
    lower, upper = expected["band"]
    value = float(quantity["value"])
    return (lower is None or value >= lower) and (upper is None or value <= upper)


def line(folder: pathlib.Path) -> list[str]:
    """One row of RESULTS.md."""
    expected, path = expectations(folder), folder / "results.json"
    name, first = next(iter(expected.items()))
    band = "{} to {}".format(*("…" if b is None else f"{b:g}" for b in first["band"]))
    head = [folder.name.replace("_", " "), name, first["expected"], band]
    if not path.exists():
        return [*head, "not run", "", ""]
    found = json.loads(path.read_text())["quantities"]
    if not expected.keys() <= found.keys():
        return [*head, "to be run again", "", ""]
    held = [within(found[key], expected[key]) for key in expected]
    se = found[name].get("se")
    value = f"{float(found[name]['value']):.4g}"
    error = "" if se is None else f"{float(se):.2g}"
    return [*head, value, error, f"{'yes' if held[0] else 'no'} ({sum(held)} of {len(held)})"]


def table() -> str:
    """RESULTS.md, from the files of all studies."""
    rows = [line(folder) for folder in studies()]
    text = tabulate(rows, HEADERS, tablefmt="github", disable_numparse=True)
    return f"""# Expected against measured

One quantity of each study, with its standard error, and how many of all its quantities came out as
expected. Written by `python experiments/run.py`.

{text}
"""


def main():
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="*", help="beginnings of their names; default: all")
    parser.add_argument("--quick", action="store_true", help="smaller; needs --out")
    parser.add_argument("--out", type=pathlib.Path, help="write here, not into the studies")
    options = parser.parse_args()
    if options.quick and options.out is None:
        parser.error("--quick results are no results: say with --out where they go")
    matplotlib.use("agg")
    for folder in studies(options.studies):
        out = folder if options.out is None else options.out / folder.name
        result = run(folder, out, options.quick)
        expected = expectations(folder)
        print(f"{folder.name}, {result['seconds']:.0f} s")
        for name, known in expected.items():
            found = result["quantities"][name]
            verdict = "in the band" if within(found, known) else "NOT in the band"
            print(f"  {name}: {float(found['value']):.4g}, expected {known['expected']}: {verdict}")
    if options.out is None:
        written(HERE / "RESULTS.md", table())


if __name__ == "__main__":
    main()
