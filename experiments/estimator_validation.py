"""Every estimator against a known truth: bias, spread, and how often its interval holds the truth.

    python experiments/estimator_validation.py                  all settings
    python experiments/estimator_validation.py noise_scale      those with this in their name
    python experiments/estimator_validation.py --repetitions 500 --seed 1

A row is many independent repetitions. "bias" is the mean error in its own standard errors: beyond 4
it is no chance. A ratio of unbiased numbers is itself biased; such a row says so. "coverage" is the
share of the 95 % intervals that hold the truth, with its standard error; "unbounded" the share of
intervals with an infinite limit, and "no value" that of repetitions without an estimate.
"""

import argparse
import importlib
import pkgutil
import time

import numpy as np
import validation
from tabulate import tabulate


def settings(word=""):
    """`[(family, setting)]` of those that have the word in their name."""
    families = [m.name for m in pkgutil.iter_modules(validation.__path__)]
    found = [
        (family, setting)
        for family in families
        for setting in importlib.import_module(f"validation.{family}").SETTINGS
    ]
    return [(f, s) for f, s in found if word in f or word in s.estimator]


def judged(setting, repetitions, seed=0):
    """Mean, bias in standard errors, coverage, share of unbounded intervals and of no value."""
    estimates = validation.repeated(setting, repetitions, seed)
    value, error, lower, upper, _ = (np.asarray(x, np.float64) for x in estimates)
    known = np.isfinite(value)
    mean = value[known].mean()
    spread = value[known].std(ddof=1)
    # Where every repetition finds the same number, its rounding is all the error there is.
    rounding = 1e-6 * abs(setting.truth)
    bias = (mean - setting.truth) / max(spread / np.sqrt(known.sum()), rounding, 1e-300)
    limits = np.isfinite(error) | ~np.isnan(lower)
    holds = ((lower <= setting.truth) & (setting.truth <= upper))[limits]
    return {
        "mean": mean,
        "bias": bias,
        "coverage": holds.mean() if len(holds) else None,
        "unbounded": np.mean(np.isinf(lower) | np.isinf(upper)),
        "no value": 1 - known.mean(),
    }


def row(setting, repetitions, seed):
    found = judged(setting, repetitions or setting.repetitions, seed)
    coverage = found["coverage"]
    if coverage is not None:
        error = np.sqrt(coverage * (1 - coverage) / (repetitions or setting.repetitions))
        coverage = f"{coverage:.3f} ± {error:.3f}"
    return (
        setting.estimator,
        setting.setting,
        f"{setting.truth:.4g}",
        f"{found['mean']:.4g}",
        f"{found['bias']:+.1f}" + (" (ratio)" if setting.biased else ""),
        coverage or "none given",
        f"{found['unbounded']:.2f}",
        f"{found['no value']:.2f}",
    )


HEADERS = ("estimator", "setting", "truth", "mean", "bias", "coverage", "unbounded", "no value")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "word", nargs="?", default="", help="part of an estimator's or family's name"
    )
    parser.add_argument("--repetitions", type=int, help="instead of those of each setting")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.monotonic()
    rows = [row(s, options.repetitions, options.seed) for _, s in settings(options.word)]
    print(tabulate(rows, HEADERS, disable_numparse=True))
    print(f"{len(rows)} rows, seed {options.seed}, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
