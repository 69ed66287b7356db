"""Systems of equations in NumPy, with batch axes in front; what the factorizations share."""

from typing import Any

import numpy as np
import scipy.linalg


def flip(x):
    """The transpose of each matrix."""
    return np.swapaxes(x, -1, -2)


def adjoint(x):
    """The conjugate transpose of each matrix."""
    return np.conj(flip(x))


def on_diagonal(d):
    """Diagonal matrices."""
    return d[..., None] * np.eye(d.shape[-1], dtype=d.dtype)


def onto_triangle(da, lower):
    """The cotangent of one triangle, which stands for a whole Hermitian matrix.

    With A_ji = conj(A_ij) for what is not read, an entry that is read receives dA_ij + conj(dA_ji).
    """
    both = da + adjoint(da)
    read = np.tril(both, -1) if lower else np.triu(both, 1)
    return read + on_diagonal(np.real(np.diagonal(da, axis1=-2, axis2=-1)))


def solve_triangular(
    a,
    b,
    *,
    lower,
    left_side=True,
    transpose_a=False,
    conjugate_a=False,
    unit_diagonal=False,
):
    """X with op(A) X = B, or X op(A) = B: BLAS `trsm`, so that a zero pivot gives inf or NaN."""
    dtype = np.result_type(a, b)
    a = np.conj(a) if conjugate_a else a
    out = np.zeros(b.shape, dtype)
    if not out.size:
        return out
    trsm: Any = scipy.linalg.get_blas_funcs("trsm", dtype=dtype)
    for k in np.ndindex(b.shape[:-2]):
        out[k] = trsm(
            *(1.0, a[k], b[k]),
            side=not left_side,
            lower=lower,
            trans_a=transpose_a,
            diag=unit_diagonal,
        )
    return out


def solve(a, b):
    """X with A X = B; NaN where a matrix is singular."""
    out = np.full(b.shape, np.nan, np.result_type(a, b))
    for k in np.ndindex(b.shape[:-2]):
        try:
            out[k] = np.linalg.solve(a[k], b[k])
        except np.linalg.LinAlgError:
            continue
    return out
