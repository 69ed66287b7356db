"""Cases for funcbackprop.reference.rules.linalg."""

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np
from jax import lax
from jax.scipy.sparse import linalg as iterative

from .case import Case, cplx, normal

NEW = jax.__version_info__ >= (0, 10)
EYE = np.eye(3)


def well(*shape, seed=0):
    """Matrices far from singular, with eigenvalues that are far apart."""
    n = min(shape[-2:])
    x = 0.3 * normal(*shape, seed=seed)
    x[..., range(n), range(n)] += 1 + np.arange(n)
    return x


def complex_well(*shape, seed=0):
    return well(*shape, seed=seed) + 0.3j * normal(*shape, seed=seed + 1)


def positive(*shape, seed=0):
    x = well(*shape, seed=seed)
    return x @ np.swapaxes(x, -1, -2)


def hermitian(*shape, seed=0):
    x = complex_well(*shape, seed=seed)
    return x @ np.conj(np.swapaxes(x, -1, -2))


def triangular_cases():
    a, b = well(3, 3), normal(3, 2, seed=1)
    for left in (True, False):
        for lower in (True, False):
            for transpose in (True, False):
                for unit in (True, False):
                    options = dict(
                        left_side=left, lower=lower, transpose_a=transpose, unit_diagonal=unit
                    )
                    name = ", ".join(k for k, v in options.items() if v)
                    solve = lambda a, b, o=options: lax.linalg.triangular_solve(a, b, **o)  # noqa: E731
                    yield f"triangular_solve, {name}", Case(solve, (a, b if left else b.T))


def _solve(**options):
    return lambda a, b: lax.linalg.triangular_solve(a, b, **options)


TRIANGULAR = {
    **dict(triangular_cases()),
    **{
        f"triangular_solve, complex, {name}": Case(
            _solve(lower=True, **options), (complex_well(3, 3), cplx(2, 3))
        )
        for name, options in {
            "plain": {},
            "conjugate": {"conjugate_a": True},
            "adjoint": {"conjugate_a": True, "transpose_a": True},
        }.items()
    },
    "triangular_solve, rank 4": Case(
        _solve(left_side=True), (well(2, 2, 3, 3), normal(2, 2, 3, 1))
    ),
    "triangular_solve, 1 by 1": Case(_solve(left_side=True), (well(1, 1), normal(1, 1))),
    "triangular_solve, empty": Case(_solve(left_side=True), (well(0, 0), normal(0, 2))),
    "triangular_solve, no columns": Case(_solve(left_side=True), (well(2, 2), normal(2, 0))),
    "triangular_solve, same matrix for a batch": Case(
        jax.vmap(_solve(left_side=True, lower=True), (None, 0)), (well(3, 3), normal(2, 3, 2))
    ),
    "triangular_solve, batch of matrices": Case(
        jax.vmap(_solve(left_side=True, lower=True), (0, None)), (well(2, 3, 3), normal(3, 2))
    ),
    "solve_triangular of a vector": Case(
        lambda a, b: jsl.solve_triangular(a, b, trans="C", lower=True),
        (complex_well(3, 3), cplx(3)),
    ),
    "tridiagonal_solve": Case(
        lax.linalg.tridiagonal_solve,
        (normal(4), 4 + normal(4, seed=1), normal(4, seed=2), normal(4, 2, seed=3)),
    ),
    "tridiagonal_solve, batch": Case(
        lax.linalg.tridiagonal_solve,
        (normal(2, 3), 4 + normal(2, 3, seed=1), normal(2, 3, seed=2), normal(2, 3, 1, seed=3)),
    ),
    "tridiagonal_solve, rows exchanged": Case(
        lax.linalg.tridiagonal_solve,
        (5 + normal(3), normal(3, seed=1), normal(3, seed=2), normal(3, 2, seed=3)),
    ),
    "tridiagonal_solve, one row": Case(
        lax.linalg.tridiagonal_solve, (normal(1), 2 + normal(1), normal(1), normal(1, 2))
    ),
    "tridiagonal_solve, complex": Case(
        lax.linalg.tridiagonal_solve,
        (cplx(3), 4 + cplx(3, seed=1), cplx(3, seed=2), cplx(3, 2, seed=3)),
    ),
    "tridiagonal_solve, vmap": Case(
        jax.vmap(lax.linalg.tridiagonal_solve, (None, None, None, 0)),
        (normal(3), 4 + normal(3, seed=1), normal(3, seed=2), normal(2, 3, 1, seed=3)),
    ),
}


def _pull_of_lower_triangle(f):
    """By the rule for Hermitian matrices, of the matrix that the lower triangle makes."""

    def whole(a):
        below = jnp.tril(a, -1)
        return below + jnp.conj(below.T) + jnp.diag(jnp.real(jnp.diagonal(a)).astype(a.dtype))

    return lambda a, dy: jax.vjp(lambda a: f(whole(a)), a)[1](dy)


def _of_one_triangle(a):
    return Case(
        lambda a: lax.linalg.cholesky(a, symmetrize_input=False),
        (a,),
        jax=False,
        expect=_pull_of_lower_triangle(jnp.linalg.cholesky),
    )


HERMITIAN = {
    "real": positive(3, 3),
    "complex": hermitian(3, 3),
    "rank 4": positive(2, 1, 2, 2),
    "1 by 1": positive(1, 1),
    "empty": positive(0, 0),
}

CHOLESKY = {
    **{f"cholesky, {name}": Case(jnp.linalg.cholesky, (a,)) for name, a in HERMITIAN.items()},
    "cholesky, of one triangle": _of_one_triangle(positive(3, 3)),
    "cholesky, of one triangle, complex": _of_one_triangle(hermitian(3, 3)),
    "cholesky, of one triangle, lower": Case(
        lambda a: jsl.cholesky(a + a.T, lower=True), (positive(3, 3),)
    ),
    "cholesky, upper": Case(lambda a: jsl.cholesky(a + a.T, lower=False), (positive(3, 3),)),
    "cho_solve": Case(
        lambda a, b: jsl.cho_solve(jsl.cho_factor(a + a.T), b), (positive(3, 3), normal(3))
    ),
    "solve, assumed positive": Case(
        lambda a, b: jsl.solve(a, b, assume_a="pos"), (positive(3, 3), normal(3, 2))
    ),
}

MATRICES = {
    "square": normal(3, 3),
    "tall": normal(4, 2),
    "complex, square": cplx(3, 3),
    "complex, tall": cplx(4, 2),
    "rank 4": normal(2, 1, 3, 3),
    "1 by 1": normal(1, 1),
    "empty": normal(0, 0),
}
WIDE = {"wide": normal(2, 4), "complex, wide": cplx(2, 4), "batch, wide": normal(2, 2, 3)}


def _qr(**options):
    return lambda a: lax.linalg.qr(a, **options)


def _pull_of_permuted_qr(a, dy):
    """By the rule for QR without pivoting, of the columns in their order."""
    order = _qr(full_matrices=False, pivoting=True)(a)[-1]

    def permuted(a):
        return _qr(full_matrices=False)(jnp.take_along_axis(a, order[..., None, :], -1))

    return jax.vjp(permuted, a)[1](dy[:2])


LU_AND_QR = {
    **{f"lu, {n}": Case(lax.linalg.lu, (a,)) for n, a in {**MATRICES, **WIDE}.items()},
    "lu, no columns": Case(lax.linalg.lu, (normal(3, 0),)),
    "lu, vmap": Case(jax.vmap(lax.linalg.lu), (normal(3, 2, 2),)),
    "lu, pivots of equal size": Case(
        lax.linalg.lu, (np.array([[1.0, 2.0, 0.5], [-1.0, 1.0, 3.0], [1.0, -2.0, 1.0]]),)
    ),
    "lu of scipy": Case(jsl.lu, (normal(3, 3),)),
    "lu_solve": Case(lambda a, b: jsl.lu_solve(jsl.lu_factor(a), b), (well(3, 3), normal(3))),
    **{f"qr, {n}": Case(_qr(full_matrices=False), (a,)) for n, a in MATRICES.items()},
    "qr, full and square": Case(_qr(full_matrices=True), (normal(3, 3),)),
    "qr, no columns": Case(_qr(full_matrices=False), (normal(3, 0),)),
    "qr, upper triangle only": Case(lambda a: jnp.linalg.qr(a, mode="r"), (normal(4, 2),)),
}

# What JAX differentiates from 0.10 on.
if NEW:
    LU_AND_QR |= {
        **{f"qr, {n}": Case(_qr(full_matrices=False), (a,)) for n, a in WIDE.items()},
        "qr, full and tall": Case(_qr(full_matrices=True), (normal(5, 2),)),
        "qr, full and tall, complex": Case(_qr(full_matrices=True), (cplx(4, 3),)),
        "qr, full and wide": Case(_qr(full_matrices=True), (normal(2, 3),)),
        # JAX takes the wrong columns for wide matrices and for batches.
        **{
            f"qr with pivoting, {n}": Case(
                _qr(full_matrices=False, pivoting=True),
                (a,),
                jax=n in ("square", "tall", "complex, square", "complex, tall", "1 by 1", "empty"),
                expect=_pull_of_permuted_qr,
            )
            for n, a in {**MATRICES, **WIDE}.items()
        },
        "qr with pivoting, full": Case(_qr(full_matrices=True, pivoting=True), (normal(4, 2),)),
    }


def _eig(**options):
    return lambda a: lax.linalg.eig(a, **options)


def _pull_of_projection(a, dy):
    """v v' of diag(1, 1, 3) moves by E_i3 / (3 - 1) (e_i e_3' + e_3 e_i') for a symmetric E."""
    da = np.zeros((3, 3))
    da[:2, 2] = da[2, :2] = (dy[:2, 2] + dy[2, :2]) / 4
    return (da,)


EIGEN = {
    **{f"eigh, {name}": Case(jnp.linalg.eigh, (a,)) for name, a in HERMITIAN.items()},
    "eigh, upper": Case(lambda a: jnp.linalg.eigh(a, UPLO="U"), (positive(3, 3),)),
    "eigh, eigenvalues close": Case(
        jnp.linalg.eigh, (np.diag([1.0, 1.0001, 2.0]) + 1e-5 * positive(3, 3),), 1e-7, narrow=False
    ),
    "eigvalsh of the identity": Case(jnp.linalg.eigvalsh, (EYE,)),
    # JAX gives NaN, though no gradient flows to the vectors of the equal eigenvalues.
    "eigh, projection on one vector, other eigenvalues equal": Case(
        lambda a: (lambda v: jnp.outer(v, v))(jnp.linalg.eigh(a)[1][:, 2]),
        (np.diag([1.0, 1.0, 3.0]),),
        jax=False,
        expect=_pull_of_projection,
    ),
    "eigh, of one triangle": Case(
        lambda a: jnp.linalg.eigvalsh(a, symmetrize_input=False),
        (positive(3, 3),),
        jax=False,
        expect=_pull_of_lower_triangle(jnp.linalg.eigvalsh),
    ),
    "eigh, of one triangle, complex": Case(
        lambda a: jnp.linalg.eigvalsh(a, symmetrize_input=False),
        (hermitian(3, 3),),
        jax=False,
        expect=_pull_of_lower_triangle(jnp.linalg.eigvalsh),
    ),
    "eigh in a gradient": Case(
        jax.grad(lambda a: jnp.sum(jnp.linalg.eigvalsh(a) ** 3)), (positive(3, 3),)
    ),
    **{
        f"eigenvalues, {n}": Case(jnp.linalg.eigvals, (a,))
        for n, a in {
            "real": well(3, 3),
            "rotation": np.array([[1.0, 2.0], [-2.0, 1.5]]),
            "complex": complex_well(3, 3),
            "rank 4": well(2, 1, 2, 2),
            "1 by 1": well(1, 1),
        }.items()
    },
    "eigenvalues of the identity": Case(jnp.linalg.eigvals, (EYE,)),
}
if NEW:
    ENABLED = {"enable_eigvec_derivs": True}
    EIGEN |= {
        f"eig, {n}, {kind} vectors": Case(_eig(**ENABLED, **options), (a,))
        for n, a in {
            "real": well(3, 3),
            "rotation": np.array([[1.0, 2.0], [-2.0, 1.5]]),
            "complex": complex_well(3, 3),
            "batch": well(2, 2, 2),
        }.items()
        for kind, options in {
            "right": {"compute_left_eigenvectors": False},
            "left": {"compute_right_eigenvectors": False},
            "both": {},
        }.items()
    }


def _svd(**options):
    return lambda a: lax.linalg.svd(a, **options)


SVD = {
    **{
        f"svd, {n}": Case(_svd(full_matrices=False), (a,))
        for n, a in {**MATRICES, **WIDE}.items()
        if n != "empty"
    },
    "svd, empty": Case(_svd(full_matrices=False), (normal(0, 0),)),
    **({"svd, full and square": Case(_svd(full_matrices=True), (cplx(3, 3),))} if NEW else {}),
    "svd, full and tall, of the first columns": Case(
        lambda a: _first(_svd(full_matrices=True)(a)),
        (normal(4, 2),),
        jax=False,
        expect=lambda a, dy: jax.vjp(_svd(full_matrices=False), a)[1](dy),
    ),
    **{
        f"singular values, {n}": Case(_svd(compute_uv=False), (a,))
        for n, a in {**MATRICES, **WIDE}.items()
    },
    "singular values, one 0": Case(_svd(compute_uv=False), (np.diag([2.0, 1.0, 0.0]),)),
    "singular values of the identity": Case(_svd(compute_uv=False), (EYE,)),
    "svd, low rank": Case(
        lambda a: _svd(full_matrices=False)(a)[0], (np.outer([1.0, 2.0, 3.0], [1.0, -1.0]),)
    ),
}


def _first(factors):
    u, s, vh = factors
    return u[:, : s.shape[0]], s, vh


def own_solve(symmetric=False, has_aux=False, transposed=True):
    """b -> x by `lax.custom_linear_solve`, with LU inside."""

    def solve(a, b):
        def by_lu(matvec, y):
            x = jnp.linalg.inv(lax.stop_gradient(a)) @ y
            return (x, jnp.sum(x)) if has_aux else x

        def by_lu_transposed(vecmat, y):
            x = jnp.linalg.inv(lax.stop_gradient(a)).T @ y
            return (x, jnp.sum(x)) if has_aux else x

        return lax.custom_linear_solve(
            lambda x: a @ x,
            b,
            by_lu,
            by_lu_transposed if transposed and not symmetric else None,
            symmetric=symmetric,
            has_aux=has_aux,
        )

    return solve


def _inverse_pull(a, b, dy):
    db = np.linalg.solve(np.asarray(a).T, np.asarray(dy))
    return -np.outer(db, np.linalg.solve(np.asarray(a), np.asarray(b))), db


def _tree_solve(a, b):
    """Two coupled unknowns of different shapes."""

    def solve(matvec, y):
        return {"u": y["u"] / a, "v": y["v"] / (2 * a[None])}

    return lax.custom_linear_solve(
        lambda x: {"u": a * x["u"], "v": 2 * a[None] * x["v"]}, b, solve, symmetric=True
    )


def _laplacian(weight, b):
    """A system larger than what is written out: (w + Laplacian) x = b, by conjugate gradients."""

    def product(x):
        return (2 + weight) * x - jnp.roll(x, 1) - jnp.roll(x, -1)

    return iterative.cg(product, b, tol=1e-14, atol=0.0, maxiter=60)[0]


TIGHT = dict(tol=1e-15, atol=0.0, maxiter=20)

SOLVES = {
    **{
        f"solve, {n}": Case(jnp.linalg.solve, (a, b))
        for n, (a, b) in {
            "vector": (well(3, 3), normal(3)),
            "columns": (well(3, 3), normal(3, 2)),
            "complex": (complex_well(3, 3), cplx(3)),
            "batch": (well(2, 3, 3), normal(2, 3, 1)),
            "rank 4": (well(2, 1, 2, 2), normal(2, 1, 2, 2)),
            "1 by 1": (well(1, 1), normal(1)),
        }.items()
    },
    "solve, vmap": Case(jax.vmap(jnp.linalg.solve), (well(3, 2, 2), normal(3, 2))),
    "solve in a gradient": Case(
        jax.grad(lambda a, b: jnp.sum(jnp.linalg.solve(a, b) ** 2)), (well(3, 3), normal(3))
    ),
    "solve, of the right side": Case(lambda b: jnp.linalg.solve(well(3, 3), b), (normal(3),)),
    "solve, of the matrix": Case(lambda a: jnp.linalg.solve(a, np.ones(3)), (well(3, 3),)),
    "solve, nothing": Case(jnp.linalg.solve, (well(0, 0), normal(0))),
    "custom_linear_solve": Case(own_solve(), (well(3, 3), normal(3))),
    "custom_linear_solve, symmetric": Case(own_solve(symmetric=True), (positive(3, 3), normal(3))),
    "custom_linear_solve, complex": Case(own_solve(), (complex_well(3, 3), cplx(3))),
    "custom_linear_solve, complex Hermitian": Case(
        own_solve(symmetric=True),
        (hermitian(3, 3), cplx(3)),
        jax=False,
        expect=_inverse_pull,
    ),
    "custom_linear_solve, auxiliary output": Case(own_solve(has_aux=True), (well(3, 3), normal(3))),
    "custom_linear_solve, no transposed solve": Case(
        own_solve(transposed=False), (well(3, 3), normal(3)), jax=False, expect=_inverse_pull
    ),
    "custom_linear_solve, tree": Case(
        _tree_solve, (1 + normal(2) ** 2, {"u": normal(2), "v": normal(3, 2, seed=1)})
    ),
    "cg": Case(
        lambda a, b: iterative.cg(lambda x: a @ x, b, **TIGHT)[0], (positive(3, 3), normal(3))
    ),
    "cg, large": Case(_laplacian, (1 + normal(300) ** 2, normal(300, seed=1)), 1e-9, narrow=False),
    "bicgstab": Case(
        lambda a, b: iterative.bicgstab(lambda x: a @ x, b, **TIGHT)[0],
        (well(3, 3), normal(3)),
        1e-9,
    ),
    "gmres": Case(
        lambda a, b: iterative.gmres(lambda x: a @ x, b, **TIGHT)[0], (well(3, 3), normal(3)), 1e-9
    ),
}

FUNCTIONS = {
    **{
        f"{f.__name__}, {n}": Case(f, (a,))
        for f in (jnp.linalg.inv, jnp.linalg.det, jnp.linalg.slogdet, jnp.linalg.pinv, jsl.expm)
        for n, a in {
            "real": well(3, 3),
            "complex": complex_well(3, 3),
            "batch": well(2, 2, 2),
        }.items()
    },
    # JAX 0.12 gives 0.
    "det, rank 2": Case(
        jnp.linalg.det,
        (np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.5], [3.0, 6.0, 9.0]]),),
        jax=False,
        expect=lambda a, dy: (dy * np.array([[-3.0, 1.5, 0], [0, 0, 0], [1, -0.5, 0]]),),
    ),
    "pinv, tall": Case(jnp.linalg.pinv, (normal(4, 2),)),
    "matrix_power, negative": Case(lambda a: jnp.linalg.matrix_power(a, -3), (well(3, 3),)),
    "lstsq": Case(lambda a, b: jnp.linalg.lstsq(a, b)[0], (normal(4, 2), normal(4))),
    **{
        f"norm of order {order}": Case(
            lambda a, order=order: jnp.linalg.norm(a, ord=order), (normal(3, 2),)
        )
        for order in (2, -2, "nuc", "fro")
    },
    "cond": Case(jnp.linalg.cond, (well(3, 3),)),
    "multi_dot": Case(lambda a, b: jnp.linalg.multi_dot([a, b, a]), (normal(2, 3), normal(3, 2))),
    "polar": Case(lambda a: jsl.polar(a, method="svd"), (well(3, 3),)),
}

CASES = {**TRIANGULAR, **CHOLESKY, **LU_AND_QR, **EIGEN, **SVD, **SOLVES, **FUNCTIONS}
