"""Linear algebra: triangular and tridiagonal systems, Cholesky, and the table of the family.

In the formulas `'` is the transpose, `*` the complex conjugate and `^H` both; as everywhere,
cotangents pair with tangents without conjugation. Batch axes lead.
"""

from typing import Any

import numpy as np
import scipy.linalg

from .decompositions import EIG, EIGH, LU, QR, SVD, lu, qr
from .kinds import constant, general, opaque
from .linear_solve import FORMULA as LINEAR_SOLVE
from .linear_solve import custom_linear_solve
from .triangular import flip, onto_triangle, solve_triangular

# --- triangular systems ---------------------------------------------------------------------------


def _triangular_forward(p, a, b):
    return solve_triangular(a, b, **_triangular_options(p))


def _triangular_options(p):
    names = ("left_side", "lower", "transpose_a", "conjugate_a", "unit_diagonal")
    return {name: p[name] for name in names}


def _triangular_pull(local, dys):
    p, (a, _), (x,), (dx,) = local.p, local.x, local.y, dys
    options = _triangular_options(p)
    db = solve_triangular(a, dx, **{**options, "transpose_a": not p["transpose_a"]})
    if not local.active[0]:
        return [None, db]
    da = -db @ flip(x) if p["left_side"] else -flip(x) @ db
    da = flip(da) if p["transpose_a"] else da
    da = np.conj(da) if p["conjugate_a"] else da
    unit = int(p["unit_diagonal"])
    return [np.tril(da, -unit) if p["lower"] else np.triu(da, unit), db]


# --- tridiagonal systems --------------------------------------------------------------------------


def _solve_tridiagonal(below, diagonal, above, b):
    """x with below[i] x[i-1] + diagonal[i] x[i] + above[i] x[i+1] = b[i], by LAPACK's `gtsv`."""
    if b.shape[-2] == 1 or not b.size:
        return b / diagonal[..., None]
    gtsv: Any = scipy.linalg.get_lapack_funcs("gtsv", (diagonal, b))
    out = np.empty(b.shape, np.result_type(diagonal, b))
    for k in np.ndindex(b.shape[:-2]):
        *_, x, info = gtsv(below[k][1:], diagonal[k], above[k][:-1], b[k])
        out[k] = x if info == 0 else np.nan
    return out


def _tridiagonal_pull(local, dys):
    below, diagonal, above, _ = local.x
    (x,), (dx,) = local.y, dys
    # The transposed matrix has its diagonals swapped, each shifted by one row.
    db = _solve_tridiagonal(_shifted(above, 1), diagonal, _shifted(below, -1), dx)
    d_below, d_above = np.zeros_like(below), np.zeros_like(above)
    d_below[..., 1:] = -np.sum(db[..., 1:, :] * x[..., :-1, :], axis=-1)
    d_above[..., :-1] = -np.sum(db[..., :-1, :] * x[..., 1:, :], axis=-1)
    return [d_below, -np.sum(db * x, axis=-1), d_above, db]


def _shifted(diagonal, by):
    """Rows moved by one; what moves in is outside of the matrix."""
    return np.roll(diagonal, by, axis=-1)


# --- Cholesky -------------------------------------------------------------------------------------


def _cholesky_pull(local, dys):
    """dA = L^-T phi(L' dL) L*^-1, phi: the lower triangle with half the diagonal.

    The primitive reads the lower triangle of A, so that is where it goes.
    """
    lower, (dl,) = np.tril(local.y[0]), dys
    phi = np.tril(flip(lower) @ np.tril(dl))
    phi = phi - 0.5 * phi * np.eye(phi.shape[-1])
    left = solve_triangular(lower, phi, lower=True, transpose_a=True)
    da = solve_triangular(np.conj(lower), left, lower=True, left_side=False)
    return [onto_triangle(da, lower=True)]


_NO_RULE = opaque("JAX has no derivative rule for it, and neither has this reference")

RULES = {
    "cholesky": general(
        _cholesky_pull,
        formula="dA = L^-T phi(L' dL) L*^-1, phi: lower triangle with half the diagonal",
        convention="only the lower triangle is read, and has a gradient, as in JAX 0.12; older "
        "versions give one to both",
    ),
    "triangular_solve": general(
        _triangular_pull,
        formula="dB = A^-T dX, dA = -dB X', on the triangle of A",
        forward=_triangular_forward,
        convention="a singular A gives inf or NaN",
    ),
    "tridiagonal_solve": general(
        _tridiagonal_pull,
        formula="dB = T^-T dX, dT = -dB X', on the three diagonals",
        convention="a singular T gives NaN",
    ),
    "lu": LU,
    "qr": QR,
    "eigh": EIGH,
    "eig": EIG,
    "svd": SVD,
    "lu_pivots_to_permutation": constant("0: integers"),
    **dict.fromkeys(
        (
            "cholesky_update",
            "eigh_jacobi",
            "geqp3",
            "geqrf",
            "hessenberg",
            "householder_product",
            "ormqr",
            "schur",
            "symmetric_product",
            "tridiagonal",
        ),
        _NO_RULE,
    ),
}

# `lu` and `qr` have rules; they run here to take the pivots from the program.
STRUCTURED = {"custom_linear_solve": custom_linear_solve, "lu": lu, "qr": qr}

FORMULAS = {"custom_linear_solve": LINEAR_SOLVE}
