"""Factorizations of matrices: LU, QR, eigenvalues and eigenvectors, singular values.

In the formulas `'` is the transpose, `*` the complex conjugate and `^H` both; o multiplies entry
by entry.
"""

import dataclasses
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize

from ...graph import UnsupportedPrimitive, evaluate
from .kinds import general
from .triangular import adjoint, flip, on_diagonal, onto_triangle, solve, solve_triangular

_GAPS = "equal {} give inf or NaN, except where no gradient flows to their vectors"


def _between(numerator, gap, flows):
    """numerator / gap off the diagonal, and 0 on it and where nothing flows.

    Args:
      flows: for each pair of vectors, whether a gradient flows to one of them. Where none does,
        0 / 0 is 0; where one does, what 0 / 0 stands for is not known here.
    """
    gap = np.where(flows, gap, 1) + np.eye(gap.shape[-1])
    return numerator * (1 - np.eye(gap.shape[-1])) / gap


def _any(dv):
    """Whether a gradient flows to each vector, a column of dv."""
    return np.any(dv != 0, axis=-2)


def _either(flows):
    return flows[..., :, None] | flows[..., None, :]


# --- LU and QR: the pivots are the program's ------------------------------------------------------


def _with_own_pivots(rule, in_float64):
    """A runner that gives `rule` the pivots that the program itself found, as its `choice`.

    They are outputs too, and what follows uses them: the factors in float64 must belong to them.
    """

    def run(tape, equation, inputs):
        (a,) = inputs
        pivots = tuple(o for o in evaluate(equation, a.own) if o.dtype.kind == "i")

        def choose(p, x):
            return in_float64(x) if x is a.wide and a.wide is not a.own else pivots

        return tape.apply(equation, dataclasses.replace(rule, choose=choose), inputs)

    return run


def _pivots_of_lu(a):
    """(pivots, permutation): in step k, partial pivoting exchanges rows k and pivots[k]."""
    pivots = np.zeros((*a.shape[:-2], min(a.shape[-2:])), int)
    permutation = np.zeros(a.shape[:-1], int) + np.arange(a.shape[-2])
    getrf: Any = scipy.linalg.get_lapack_funcs("getrf", (a,))
    for batch in np.ndindex(a.shape[:-2] if a.size else (0,)):
        _, pivots[batch], _ = getrf(a[batch])
        for k, row in enumerate(pivots[batch]):
            permutation[(*batch, [k, row])] = permutation[(*batch, [row, k])]
    return pivots, permutation


def _eliminated(p, choice, a):
    """(packed factors, pivots, permutation): elimination of rows that are already in order."""
    pivots, permutation = choice
    lu = np.take_along_axis(a, permutation[..., None], axis=-2)
    for k in range(min(lu.shape[-2:])):
        column = lu[..., k + 1 :, k] / lu[..., k, k, None]
        # A column of zeros has a zero pivot, and multipliers that do not matter.
        column = np.where(lu[..., k + 1 :, k] == 0, 0, column)
        lu[..., k + 1 :, k] = column
        lu[..., k + 1 :, k + 1 :] -= column[..., None] * lu[..., k, None, k + 1 :]
    return lu, pivots, permutation


def _lu_pull(local, dys):
    """dA = P' L^-T (tril(L' dLU, -1) + triu(dLU U')) U^-T, with identities added to L and U."""
    (packed, *_), (dlu, *_), (_, permutation) = local.y, dys, local.choice
    m, n = packed.shape[-2:]
    lower = _padded(np.tril(packed, -1), m) + np.eye(m)
    upper = _padded(np.triu(packed), n) + np.diag(np.arange(n) >= m)
    middle = np.tril(flip(lower) @ dlu, -1) + np.triu(dlu @ flip(upper))
    left = solve_triangular(lower, middle, lower=True, transpose_a=True, unit_diagonal=True)
    d_permuted = solve_triangular(upper, left, lower=False, left_side=False, transpose_a=True)
    da = np.empty_like(d_permuted)
    np.put_along_axis(da, permutation[..., None], d_permuted, axis=-2)
    return [da]


def _padded(x, n):
    """The leading [n, n] block, zeros where x has no entries."""
    out = np.zeros((*x.shape[:-2], n, n), x.dtype)
    rows, columns = (min(n, k) for k in x.shape[-2:])
    out[..., :rows, :columns] = x[..., :rows, :columns]
    return out


LU = general(
    _lu_pull,
    formula="dA = P' L^-T (tril(L' dLU, -1) + triu(dLU U')) U^-T",
    forward=_eliminated,
    convention="the order of the rows is the program's own",
)
lu = _with_own_pivots(LU, _pivots_of_lu)


def _pivots_of_qr(a):
    """(permutation,): the columns in the order in which pivoting takes them."""
    out = np.empty((*a.shape[:-2], a.shape[-1]), int)
    for k in np.ndindex(a.shape[:-2]):
        out[k] = scipy.linalg.qr(a[k], mode="r", pivoting=True, check_finite=False)[-1]
    return (out,)


def _columns(p, choice, a):
    return np.take_along_axis(a, choice[0][..., None, :], axis=-1) if p["pivoting"] else a


def _qr_forward(p, choice, a):
    mode = "complete" if p["full_matrices"] else "reduced"
    return (*np.linalg.qr(_columns(p, choice, a), mode), *(choice if p["pivoting"] else ()))


def _qr_pull(local, dys):
    p, (a,) = local.p, local.x
    x = _columns(p, local.choice, a)
    (q, r), (dq, dr) = local.y[:2], dys[:2]
    m, n = x.shape[-2:]
    dx = _wide_qr(x, q, r, dq, dr) if m < n else _tall_qr(q, r, dq, dr, n)
    if not p["pivoting"]:
        return [dx]
    da = np.empty_like(dx)
    np.put_along_axis(da, local.choice[0][..., None, :], dx, axis=-1)
    return [da]


def _wide_qr(x, q, r, dq, dr):
    """X = [X1 X2] = Q [R1 R2]: R2 = Q^H X2, and Q R1 = X1 is square."""
    m = x.shape[-2]
    x2, dr2 = x[..., m:], dr[..., m:]
    dq = dq + np.conj(x2) @ adjoint(dr2)
    return np.concatenate([_thin_qr(q, r[..., :m], dq, dr[..., :m]), np.conj(q) @ dr2], axis=-1)


def _tall_qr(q, r, dq, dr, n):
    """The columns of a full Q beyond n follow from the first n, as products of reflectors do."""
    d_thin, d_rest = dq[..., :n], dq[..., n:]
    if np.any(d_rest):
        d_thin = d_thin + _from_complement(q, d_rest, n)
    return _thin_qr(q[..., :n], r[..., :n, :], d_thin, dr[..., :n, :])


def _from_complement(q, d_rest, n):
    """What the cotangent of the columns beyond n adds to that of the first n.

    With Z = Q21 (Q11 - 1)^-1 and T = Q_first + Q_rest Z, reflectors that move the first columns by
    dQ1 (above) and dQ2 (below) move the rest by dQ_first Z^H - T (dQ2 - Z dQ1)^H.
    """
    top, bottom = q[..., :n, :n], q[..., n:, :n]
    z = flip(solve(flip(top - np.eye(n)), flip(bottom)))
    t = q[..., :n] + q[..., n:] @ z
    below = -adjoint(d_rest) @ np.conj(t)
    return d_rest @ np.conj(z) + np.concatenate([-flip(z) @ below, below], axis=-2)


def _thin_qr(q, r, dq, dr):
    """dX = (dQ + Q* M) R^-T with N = Q' dQ - dR R', M = tril(N - N^H, -1) + i Im diag(N) - N."""
    n = flip(q) @ dq - dr @ flip(r)
    m = np.tril(n - adjoint(n), -1) - n
    if np.iscomplexobj(n):
        m = m + 1j * on_diagonal(np.imag(np.diagonal(n, axis1=-2, axis2=-1)))
    d_scaled = dq + np.conj(q) @ m
    return solve_triangular(r, d_scaled, lower=False, left_side=False, transpose_a=True)


QR = general(
    _qr_pull,
    formula="dX = (dQ + Q* M) R^-T, N = Q' dQ - dR R', M = tril(N - N^H, -1) + i Im diag(N) - N",
    forward=_qr_forward,
    choose=lambda p, x: (),
    convention="the order of the columns is the program's own; signs are those of Householder's "
    "reflectors, and so are the columns that `full_matrices` adds",
)


def qr(tape, equation, inputs):
    """With pivoting, in the program's own order."""
    pivoted = equation.params["pivoting"]
    run = _with_own_pivots(QR, _pivots_of_qr) if pivoted else _as_it_is
    return run(tape, equation, inputs)


def _as_it_is(tape, equation, inputs):
    return tape.apply(equation, QR, inputs)


# --- eigenvalues and eigenvectors -----------------------------------------------------------------


def _eigh_pull(local, dys):
    """dA = V* (diag(dw) + F o (K - K^H) / 2) V', K = V' dV, F_ij = 1 / (w_j - w_i), i != j.

    K + K^H would only add to the anti-Hermitian part of dA, which no Hermitian A can feel.
    """
    (v, w), (dv, dw) = local.y, dys
    k = flip(v) @ dv
    gaps = w[..., None, :] - w[..., :, None]
    middle = _between((k - adjoint(k)) / 2, gaps, _either(_any(dv))) + on_diagonal(dw)
    return [onto_triangle(np.conj(v) @ middle @ flip(v), local.p["lower"])]


EIGH = general(
    _eigh_pull,
    formula="dA = V* (diag(dw) + F o (K - K^H) / 2) V', K = V' dV, F_ij = 1 / (w_j - w_i), i != j",
    convention="only one triangle is read, and has a gradient, where JAX gives one to both; "
    + _GAPS.format("eigenvalues"),
)


def _eig_pull(local, dys):
    """Through A = V diag(w) V^-1; left vectors are right ones of A^H, with eigenvalues w*."""
    p, (a,), (w, *vectors), (dw, *d_vectors) = local.p, local.x, local.y, dys
    left = p["compute_left_eigenvectors"]
    if p["compute_right_eigenvectors"]:
        da = _right_pull(w, vectors[-1], dw, d_vectors[-1])
    else:
        v = adjoint(_inverse(vectors[0])) if left else _eigenvectors(a, w)
        da = _right_pull(w, v, dw, np.zeros_like(v))
    if left:
        d_adjoint = _right_pull(np.conj(w), vectors[0], np.zeros_like(dw), d_vectors[0])
        da = da + adjoint(d_adjoint)
    return [da]


def _right_pull(w, v, dw, dv):
    """dA = V^-T (diag(dw) + F o (V' dU)) V', F_ij = 1 / (w_j - w_i) off the diagonal.

    Each vector has norm 1 and a real largest entry k. That takes from dv its component along v:
    du = dv - Re(dv'v) v* - i Im(dv'v) / v_k e_k.
    """
    along = np.sum(dv * v, axis=-2, keepdims=True)
    k = np.argmax(np.abs(v), axis=-2)[..., None, :]
    du = dv - np.real(along) * np.conj(v)
    at_k = 1j * np.imag(along) / np.real(np.take_along_axis(v, k, axis=-2))
    np.put_along_axis(du, k, np.take_along_axis(du, k, axis=-2) - at_k, axis=-2)
    gaps = w[..., None, :] - w[..., :, None]
    middle = _between(flip(v) @ du, gaps, _any(dv)[..., None, :]) + on_diagonal(dw)
    return solve(flip(v), middle @ flip(v))


def _inverse(v):
    return solve(v, np.broadcast_to(np.eye(v.shape[-1]), v.shape))


def _eigenvectors(a, w):
    """Right eigenvectors in the order of the eigenvalues w."""
    if not np.all(np.isfinite(a)):
        return np.full(a.shape, np.nan, complex)
    found, vectors = np.linalg.eig(a)
    out = np.empty(vectors.shape, complex)
    for k in np.ndindex(w.shape[:-1]):
        distances = np.abs(w[k][:, None] - found[k][None, :])
        _, order = scipy.optimize.linear_sum_assignment(distances)
        out[k] = vectors[k][:, order]
    return out


EIG = general(
    _eig_pull,
    formula="dA = V^-T (diag(dw) + F o (V' dU)) V', dU: dV without what the norm fixes",
    convention="vectors have norm 1 and a real largest entry; " + _GAPS.format("eigenvalues"),
)


# --- singular values ------------------------------------------------------------------------------


def _svd_pull(local, dys):
    """dA = U* M V' and, of a matrix that is not square, what leaves its row or column space."""
    (a,), (ds, *d_vectors) = local.x, dys
    if not np.all(np.isfinite(a)):
        return [np.full_like(a, np.nan)]
    if not d_vectors:
        u, _, vh = np.linalg.svd(a, full_matrices=False)
        return [np.conj(u) @ (ds[..., None] * np.conj(vh))]
    s, u, vh = local.y
    count = s.shape[-1]
    du, dvh = d_vectors
    if np.any(du[..., count:]) or np.any(dvh[..., count:, :]):
        raise UnsupportedPrimitive(
            "`svd`: a gradient flows to singular vectors beyond the smaller side of the matrix. "
            "They are no function of it; take `full_matrices=False`."
        )
    u, du, v, dv = u[..., :count], du[..., :count], *map(adjoint, (vh, dvh))
    return [_thin_svd(s, u, v[..., :count], ds, du, dv[..., :count])]


def _thin_svd(s, u, v, ds, du, dv):
    """M = diag(ds + i Im(U' dU) / s) + F o ((H - H^H) S + S (K - K^H)), H = U' dU, K = V' dV.

    F_ij = 1 / (s_j^2 - s_i^2) off the diagonal.
    """
    row, column = s[..., None, :], s[..., :, None]
    h, k = flip(u) @ du, flip(v) @ dv
    turned = (h - adjoint(h)) * row + column * (k - adjoint(k))
    gaps, flows = (row - column) * (row + column), _either(_any(du) | _any(dv))
    middle = _between(turned, gaps, flows) + on_diagonal(ds)
    if np.iscomplexobj(u):
        phases = np.imag(np.diagonal(h, axis1=-2, axis2=-1))
        middle = middle + 1j * on_diagonal(phases / np.where(s == 0, np.inf, s))
    da = np.conj(u) @ middle @ flip(v)
    if u.shape[-2] > s.shape[-1]:
        da = da + _outside(u, du / np.where(_any(du), s, 1)[..., None, :]) @ flip(v)
    if v.shape[-2] > s.shape[-1]:
        da = da + np.conj(u) @ adjoint(_outside(v, dv / np.where(_any(dv), s, 1)[..., None, :]))
    return da


def _outside(u, x):
    """(1 - U* U') x: what is not in the space of the columns of U*."""
    return x - np.conj(u) @ (flip(u) @ x)


SVD = general(
    _svd_pull,
    formula="dA = U* (diag(ds) + F o ((H - H^H) S + S (K - K^H))) V', H = U' dU, K = V' dV, "
    "F_ij = 1 / (s_j^2 - s_i^2), i != j",
    convention="the phase of a pair is carried by U; " + _GAPS.format("singular values"),
)
