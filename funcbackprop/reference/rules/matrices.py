"""Functions of a matrix with rules in `library`: determinants and the pseudoinverse.

All come from the singular values A = U S V^H, so that they hold for singular matrices too. In the
formulas `'` is the transpose, `*` the complex conjugate and `^H` both. Batch axes lead.
"""

import numpy as np

from .kinds import general
from .triangular import adjoint, flip


def _svd(a, full=False):
    """u, s, vh; NaN for matrices that are not finite, on which LAPACK gives up."""
    finite = np.isfinite(a).all((-2, -1), keepdims=True)
    u, s, vh = np.linalg.svd(np.where(finite, a, 0), full_matrices=full)
    return u, np.where(finite[..., 0], s, np.nan), vh


def _det_pull(local, dys):
    """dA = cof(A) dy; the cofactors are det(U V^H) U* diag(prod_{j != i} s_j) V'."""
    (a,), (dy,) = local.x, dys
    u, s, vh = _svd(a)
    n = a.shape[-1]
    others = np.where(np.eye(n, dtype=bool), 1.0, s[..., None, :]).prod(-1)
    cofactors = np.conj(u @ (others[..., None] * vh))
    return [(np.linalg.det(u @ vh) * dy)[..., None, None] * cofactors]


def _slogdet_pull(local, dys):
    """t = tr(A^-1 dA) has the real part d log|det A|, and d sign = i Im(t) sign."""
    (a,), (d_sign, d_log) = local.x, dys
    u, s, vh = _svd(a)
    inverse_t = np.conj(u @ (vh / s[..., None]))
    scale = d_log + 1j * np.imag(d_sign * local.y[0])
    return [scale[..., None, None] * inverse_t]


def _pinv_pull(local, dys):
    """The pseudoinverse is f(S) in the singular bases, f(s) = 1/s where kept and 0 where cut off.

    With E = U^H dA V, dP = V X U^H and X_ij = alpha_ij E_ij + beta_ij E_ji*, where
    alpha = (f_i s_j - f_j s_i) / (s_i^2 - s_j^2), beta = (f_i s_i - f_j s_j) / (s_i^2 - s_j^2):
    -f_i f_j and 0 for two kept, 0 for two cut off. No gap between equal singular values matters.
    """
    (p,), (dp,) = local.y, dys
    # Beside A there may be the relative size below which singular values are cut off.
    which = [x.shape for x in local.x].index(flip(p).shape)
    contributions: list = [None] * len(local.x)
    if p.size:
        a, hermitian = local.x[which], _is_hermitian(local.programs["body"])
        da = _pinv_adjoint((a + adjoint(a)) / 2 if hermitian else a, p, dp)
        contributions[which] = (da + adjoint(da)) / 2 if hermitian else da
    return contributions


def _pinv_adjoint(a, p, dp):
    (m, n), k = a.shape[-2:], min(a.shape[-2:])
    u, s, vh = _svd(a, full=True)
    rank = np.rint(np.trace(p @ a, axis1=-2, axis2=-1).real)
    kept = np.arange(max(m, n)) < rank[..., None]
    s = np.concatenate([s, np.zeros((*s.shape[:-1], max(m, n) - k))], -1)
    alpha, beta = _pinv_coefficients(s, kept)
    inner = np.conj(vh) @ dp @ np.conj(u)
    d_inner = flip(beta[..., :n, :m] * np.conj(inner))
    d_inner[..., :k, :k] += alpha[..., :k, :k] * inner[..., :k, :k]
    return np.conj(u) @ d_inner @ np.conj(vh)


def _pinv_coefficients(s, kept):
    f = np.where(kept, 1 / s, 0.0)
    row, column = s[..., :, None], s[..., None, :]
    one = kept[..., :, None] ^ kept[..., None, :]
    gap = np.where(one, np.abs(row**2 - column**2), 1.0)
    smaller = np.minimum(row, column)
    larger_f = np.maximum(f[..., :, None], f[..., None, :])
    alpha = np.where(one, smaller * larger_f / gap, -f[..., :, None] * f[..., None, :])
    return alpha, np.where(one, 1 / gap, 0.0)


def _is_hermitian(body):
    """Whether `pinv(a, hermitian=True)` was called: its body finds eigenvalues."""
    return any(equation.name == "eigh" for equation in body.equations)


def _pinv_cancels(local, dys):
    """JAX forms I - A A+, which is zero for a regular A, up to its condition."""
    a, p, dy = local.x[-1], local.y[0], dys[0]
    size = lambda matrix: np.linalg.norm(matrix, 2, axis=(-2, -1), keepdims=True)  # noqa: E731
    return size(a) * size(p) ** 3 * size(dy) / np.sqrt(a.shape[-1] * a.shape[-2])


DET = general(
    _det_pull,
    formula="dA = cof(A) dy, the cofactors by the SVD",
    convention="also for singular A, where det(A) A^-T is 0 times infinity",
)
SLOGDET = general(
    _slogdet_pull,
    formula="dA = (dlog + i Im(dsign sign)) A^-T",
    convention="a singular A gives inf or NaN",
)
PINV = general(
    _pinv_pull,
    formula="dA = U* (alpha M + (beta M*)') V', M = V' dP U*, alpha = -1 / (s_i s_j) for two kept "
    "singular values; beta = 1 / (s_i^2 - s_j^2), alpha = beta s_j / s_i for one cut off",
    convention="the number of singular values kept is constant",
    cancels=_pinv_cancels,
)
