"""Sparse arrays of `jax.experimental.sparse`: primitives that are programs over dense arrays.

Each is entered: what JAX evaluates it by is captured for the arrays at hand and run on the tape.
"""

import importlib
import types
import warnings

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from ...graph import trace
from .kinds import general, opaque


def entered(tape, equation, inputs):
    """The program that the primitive stands for, on the tape."""
    implementation, params = _implementation(equation.primitive), equation.params
    program = trace(lambda *values: implementation(*values, **params))(*(v.own for v in inputs))
    return tape.run(program, inputs)


def _implementation(primitive):
    """The function over arrays that JAX evaluates a primitive by.

    Where JAX compiles the primitive itself, the function has no public name.
    """
    if isinstance(primitive.impl, types.FunctionType):
        return primitive.impl
    family = primitive.name.split("_")[0]
    module = importlib.import_module(f"jax.experimental.sparse.{family}")
    return getattr(module, f"_{primitive.name}_impl")


def _matrix(data, indices, indptr):
    size = len(indptr) - 1
    return scipy.sparse.csr_matrix((data, indices, indptr), (size, size))


def _solution(a, b):
    """NaN, without a warning, where A is singular."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.sparse.linalg.MatrixRankWarning)
        return scipy.sparse.linalg.spsolve(a.tocsc(), b)


def _spsolve_forward(p, data, indices, indptr, b):
    return _solution(_matrix(data, indices, indptr), b)


def _spsolve_pull(local, dys):
    data, indices, indptr, _ = local.x
    (x,), (dx,) = local.y, dys
    db = np.asarray(_solution(_matrix(data, indices, indptr).T, dx))
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    return [-db[rows] * x[indices], None, None, db]


_ON_GPU = opaque("a GPU's own form of a sparse product, which JAX does not differentiate")

RULES = {
    "coo_spmm": _ON_GPU,
    "coo_spmv": _ON_GPU,
    "csr_spmm": _ON_GPU,
    "csr_spmv": _ON_GPU,
    "spsolve": general(
        _spsolve_pull,
        formula="db = A^-T dx, dA = -db x' at the entries that are stored",
        forward=_spsolve_forward,
    ),
}

_ENTERED = (
    "bcoo_dot_general",
    "bcoo_dot_general_sampled",
    "bcoo_extract",
    "bcoo_fromdense",
    "bcoo_sort_indices",
    "bcoo_spdot_general",
    "bcoo_sum_duplicates",
    "bcoo_todense",
    "bcoo_transpose",
    "bcsr_dot_general",
    "bcsr_extract",
    "bcsr_fromdense",
    "bcsr_todense",
    "coo_fromdense",
    "coo_matmat",
    "coo_matvec",
    "coo_todense",
    "csr_fromdense",
    "csr_matmat",
    "csr_matvec",
    "csr_todense",
    "todense",
)

# primitive -> run(tape, equation, inputs) -> outputs
STRUCTURED = dict.fromkeys(_ENTERED, entered)

FORMULAS = dict.fromkeys(_ENTERED, "the derivative of what JAX evaluates it by")
