"""Tolerances, keyed by dtype, each with its reason.

Agreement of a and b means max|a - b| <= tol * max(max|b|, m) for each leaf, where m is the size of
the terms that are added to form an element.
"""

import numpy as np

AGREE = {
    # 4500 unit roundoffs: sums of up to a few thousand terms in another order.
    np.dtype("float64"): 1e-12,
    # 84 unit roundoffs: float32 sums are short in the tests; an error in a rule is far larger.
    np.dtype("float32"): 1e-5,
}

# |z| < 4 for an estimate in units of its own standard error: 6e-5 of false alarms, on a fixed seed.
Z_MAX = 4.0


def assert_agree(a, b, dtype, size=0.0, name=""):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape, f"{name}: shapes {a.shape} and {b.shape}"
    if a.size == 0:
        return
    scale = max(np.abs(b).max(), np.max(size))
    error = np.abs(a - b).max()
    tolerance = AGREE[np.dtype(dtype)]
    assert error <= tolerance * scale, f"{name}: {error / scale:.2e} > {tolerance} ({dtype})"
