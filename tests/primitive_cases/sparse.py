"""Cases for funcbackprop.reference.rules.sparse."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse
from jax.experimental.sparse import linalg

from .case import Case, cplx, normal

DENSE = np.where(normal(3, 4, seed=3) > 0, normal(3, 4), 0.0)
BATCH = np.where(normal(2, 3, 4, seed=4) > 0, normal(2, 3, 4), 0.0)
POSITIONS = np.array([[0, 1], [2, 3], [1, 0], [2, 3]])
ROWS = np.array([0, 1, 1, 2])
COLUMNS = np.array([1, 0, 3, 2])
STARTS = np.array([0, 1, 3, 4])
SQUARE = np.array([[2.0, 0, 1], [0, 3, 0], [1, 0, 4]])


def bcoo(data):
    """With one entry given twice."""
    return sparse.BCOO((data, jnp.array(POSITIONS)), shape=(3, 4))


def coo(data):
    return sparse.COO((data, jnp.array(ROWS), jnp.array(COLUMNS)), shape=(3, 4))


def csr(data):
    return sparse.CSR((data, jnp.array(COLUMNS), jnp.array(STARTS)), shape=(3, 4))


def bcsr(data):
    return sparse.BCSR((data, jnp.array(COLUMNS), jnp.array(STARTS)), shape=(3, 4))


def _sampled(a, b):
    return sparse.bcoo_dot_general_sampled(
        a, b, jnp.array(POSITIONS), dimension_numbers=(((1,), (0,)), ((), ()))
    )


def _duplicates(data):
    return sparse.bcoo_sum_duplicates(bcoo(data), nse=3).data


def _from(kind, **options):
    """Dense to sparse to dense, doubled."""
    return lambda x: (kind.fromdense(x, **options) * 2).todense()


def _exact(kind):
    size = int(np.sum(DENSE != 0))
    return Case(lambda x: 2 * kind.fromdense(x, nse=size).todense(), (DENSE,))


def _padded(kind):
    """More entries than are not 0: JAX lets the first entry of x into those that are left."""
    return Case(
        lambda x: kind.fromdense(x, nse=12).todense(),
        (DENSE,),
        jax=False,
        expect=lambda x, dy: (np.where(x != 0, dy, 0),),
    )


def _extracted(x):
    return sparse.bcoo_extract(bcoo(jnp.array(DATA)), x).data


def _extracted_once(x):
    pattern = sparse.BCOO((jnp.ones(3), jnp.array(POSITIONS[:3])), shape=(3, 4))
    return sparse.bcoo_extract(pattern, x, assume_unique=True).data


def _pull_of_extracted(x, dy):
    """Of an entry that is given twice, the first is taken."""
    dx = np.zeros_like(x)
    for k in (0, 1, 2):
        dx[tuple(POSITIONS[k])] = dy[k]
    return (dx,)


def _pull_of_product(x, y, dy):
    dense = lambda x: jnp.zeros((3, 4), x.dtype).at[tuple(POSITIONS.T)].add(x)  # noqa: E731
    return jax.vjp(lambda x, y: dense(x) @ dense(y).T, x, y)[1](dy)


def _solved(data, b):
    indices, starts = jnp.array([0, 2, 1, 0, 2]), jnp.array([0, 2, 3, 5])
    return linalg.spsolve(data, indices, starts, b, tol=1e-12)


DATA = normal(4)

CASES = {
    "bcoo_todense": Case(lambda x: bcoo(x).todense(), (DATA,)),
    "bcoo_todense, complex": Case(lambda x: bcoo(x).todense(), (cplx(4),)),
    "bcoo_fromdense": Case(_from(sparse.BCOO, nse=12), (DENSE,)),
    "bcoo_fromdense, batch": Case(_from(sparse.BCOO, nse=12, n_batch=1), (BATCH,)),
    "bcoo_fromdense, dense axis": Case(_from(sparse.BCOO, nse=12, n_dense=1), (BATCH,)),
    "bcoo_extract": Case(_extracted, (normal(3, 4),), jax=False, expect=_pull_of_extracted),
    "bcoo_extract, no entry twice": Case(_extracted_once, (normal(3, 4),)),
    "bcoo_transpose": Case(lambda x: bcoo(x).T.todense(), (DATA,)),
    "bcoo_dot_general": Case(lambda x, y: bcoo(x) @ y, (DATA, normal(4, 2, seed=1))),
    "bcoo_dot_general, vector": Case(lambda x, y: bcoo(x) @ y, (DATA, normal(4, seed=1))),
    "bcoo_dot_general from the right": Case(lambda x, y: y @ bcoo(x), (DATA, normal(2, 3, seed=1))),
    "bcoo_dot_general, batch": Case(
        jax.vmap(lambda x, y: bcoo(x) @ y), (normal(2, 4), normal(2, 4, 2, seed=1))
    ),
    "bcoo_dot_general in a gradient": Case(
        jax.grad(lambda x, y: jnp.sum(jnp.sin(bcoo(x) @ y))), (DATA, normal(4, seed=1))
    ),
    "bcoo_dot_general_sampled": Case(_sampled, (normal(3, 2), normal(2, 4, seed=1))),
    "bcoo_spdot_general": Case(
        lambda x, y: (bcoo(x) @ bcoo(y).T).todense(),
        (DATA, normal(4, seed=1)),
        jax=False,
        expect=_pull_of_product,
    ),
    "bcoo_sort_indices": Case(lambda x: bcoo(x).sort_indices().data, (DATA,)),
    "bcoo_sum_duplicates": Case(_duplicates, (DATA,)),
    "bcsr_todense": Case(lambda x: bcsr(x).todense(), (DATA,)),
    "bcsr_fromdense": Case(lambda x: sparse.bcsr_fromdense(x, nse=12).todense(), (DENSE,)),
    "bcsr_extract": Case(
        lambda x: sparse.bcsr_extract(jnp.array(COLUMNS), jnp.array(STARTS), x), (normal(3, 4),)
    ),
    "bcsr_dot_general": Case(lambda x, y: bcsr(x) @ y, (DATA, normal(4, 2, seed=1))),
    "coo_todense": Case(lambda x: 2 * coo(x).todense(), (DATA,)),
    "coo_fromdense": _exact(sparse.COO),
    "coo_fromdense, padded": _padded(sparse.COO),
    "coo_matvec": Case(lambda x, y: 2 * (coo(x) @ y), (DATA, normal(4, seed=1))),
    "coo_matvec, transposed": Case(lambda x, y: 2 * (coo(x).T @ y), (DATA, normal(3, seed=1))),
    "coo_matmat": Case(lambda x, y: 2 * (coo(x) @ y), (DATA, normal(4, 2, seed=1))),
    "csr_todense": Case(lambda x: 2 * csr(x).todense(), (DATA,)),
    "csr_fromdense": _exact(sparse.CSR),
    "csr_fromdense, padded": _padded(sparse.CSR),
    "csr_matvec": Case(lambda x, y: 2 * (csr(x) @ y), (DATA, normal(4, seed=1))),
    "csr_matmat": Case(lambda x, y: 2 * (csr(x) @ y), (DATA, normal(4, 2, seed=1))),
    "todense": Case(lambda x: sparse.todense(bcoo(x)), (DATA,)),
    "sparsify": Case(
        lambda x, y: sparse.sparsify(lambda a, b: jnp.sin(2 * (a @ b)))(bcoo(x), y),
        (DATA, normal(4, seed=1)),
    ),
    "spsolve": Case(_solved, (np.array([2.0, 1.0, 3.0, 1.0, 4.0]), normal(3))),
}
