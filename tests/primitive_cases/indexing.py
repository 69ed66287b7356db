"""Cases for funcbackprop.reference.rules.indexing."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .case import Case, cplx, distinct, normal

MODES = ("clip", "fill", "promise_in_bounds")
INSIDE = np.array([2, 0, 2, 3, 1, 2])
ANYWHERE = np.array([2, 0, -1, 7, 2, -9, 3])
UNSIGNED = np.array([2, 255, 0, 4, 2], np.uint8)
UPDATES = ("add", "set", "multiply", "min", "max", "subtract")
# What repeated indices do to these, JAX can differentiate.
REPEATABLE = ("add", "set", "min", "max", "subtract")

# Windows of 3 of a vector, and of [1, 2] of a matrix; windows of the axes of the operand are last.
GATHER = lax.GatherDimensionNumbers((1,), (), (0,))
GATHER_MATRIX = lax.GatherDimensionNumbers((0,), (0,), (1, 0))
SCATTER = lax.ScatterDimensionNumbers((1,), (), (0,))
SCATTER_FRONT = lax.ScatterDimensionNumbers((0,), (), (0,))
SCATTER_MATRIX = lax.ScatterDimensionNumbers((0,), (0,), (1, 0))
# With a batch axis in the operand, the indices and the result, at different places.
GATHER_BATCH = lax.GatherDimensionNumbers((1,), (2,), (2,), (1,), (0,))
SCATTER_BATCH = lax.ScatterDimensionNumbers((1,), (2,), (2,), (1,), (0,))
STARTS = np.array([[3], [-1], [1], [9], [1]])
STARTS_MATRIX = np.array([[1, 0], [2, 2], [3, 1], [0, 3], [1, 0]])
STARTS_BATCH = np.array([[[0], [3]], [[2], [2]], [[-1], [1]]])


def _lookup(table, tokens):
    return jnp.sin(table[tokens])


def _loss_of_lookup(table, tokens):
    return jnp.sum(jax.vmap(_lookup, (None, 0))(table, tokens) ** 2)


def _updated(method, index, **options):
    return lambda x, u: getattr(jnp.asarray(x).at[index], method)(u, **options)


def _scatter(f, numbers, mode):
    return lambda x, i, u: f(x, i, u, numbers, mode=mode)


def _taken_batch(x, i):
    return lax.gather(x, i, GATHER_BATCH, (2, 1, 1), mode="fill", fill_value=0.5)


def _taken_twice(x):
    """Of a scalar; JAX fails to compile the derivative."""
    numbers = lax.GatherDimensionNumbers((), (), ())
    return lax.gather(x, np.zeros((2, 0), int), numbers, (), mode="fill")


def _rounds(cond, x):
    """A loop over rows, written back one by one."""

    def body(k, x):
        row = lax.dynamic_index_in_dim(x, k, keepdims=False)
        return lax.dynamic_update_index_in_dim(x, jnp.sin(row) + x[0], k, 0)

    return lax.fori_loop(0, cond, body, x)


# --- what JAX cannot differentiate: expected values by the definition, element by element ---------


def _of_products(x, indices, updates, dy):
    """Gradients of x.at[indices].multiply(updates)."""
    dx, du = np.array(dy), np.zeros_like(updates)
    for n, i in enumerate(indices):
        dx[i] *= updates[n]
        others = [updates[m] for m, j in enumerate(indices) if j == i and m != n]
        du[n] = dy[i] * x[i] * np.prod(others)
    return dx, np.zeros(indices.shape, jax.dtypes.float0), du


def _of_clipped_maximum(x, updates, dy):
    """Gradients of x.at[[1, 9, 2]].max(updates, mode="clip"), for x of length 4."""
    dx, du = np.array(dy), np.zeros_like(updates)
    for n, i in enumerate((1, 3, 2)):
        if updates[n] > x[i]:
            dx[i], du[n] = 0, dy[i]
    return dx, du


def _of_applied_sine(x, dy):
    """Gradients of sin(x_1), sin(sin(x_3))."""
    dx = np.array(dy)
    dx[1] *= np.cos(x[1])
    dx[3] *= np.cos(x[3]) * np.cos(np.sin(x[3]))
    return (dx,)


def _of_nan_maximum(x, updates, dy):
    """A NaN wins against all, and nothing flows to it: element 1 is lost."""
    return np.where([True, False, True], dy, 0), np.zeros(2)


def _of_slices(x, starts, dy):
    """Gradient of x[0:2] and three times x[2:4]: all other starts are moved there."""
    return np.concatenate([dy[0], dy[1:].sum(0)]), np.zeros(4, jax.dtypes.float0)


CASES = {
    # Gather.
    **{
        f"gather, mode {mode}, {kind}": Case(
            lambda x, mode=mode, i=i: x.at[i].get(mode=mode) ** 2, (normal(4, 2),)
        )
        for mode in MODES
        for kind, i in {"inside": INSIDE, "a matrix of places": INSIDE.reshape(2, 3)}.items()
    },
    **{
        f"gather, mode {mode}, some outside": Case(
            lambda x, mode=mode: x.at[ANYWHERE].get(mode=mode), (normal(4, 2),)
        )
        for mode in ("clip", "fill")
    },
    **{
        f"gather, mode {mode}, unsigned indices": Case(
            lambda x, mode=mode: x.at[UNSIGNED].get(mode=mode), (normal(4),)
        )
        for mode in ("clip", "fill")
    },
    **{
        f"gather of windows, mode {mode}": Case(
            lambda x, mode=mode: lax.gather(x, STARTS, GATHER, (3,), mode=mode), (normal(6),)
        )
        for mode in ("clip", "fill")
    },
    **{
        f"gather of windows of a matrix, mode {mode}": Case(
            lambda x, mode=mode: lax.gather(x, STARTS_MATRIX, GATHER_MATRIX, (1, 2), mode=mode),
            (normal(3, 4),),
        )
        for mode in ("clip", "fill")
    },
    "gather, filled with a number": Case(
        lambda x: x.at[ANYWHERE].get(mode="fill", fill_value=0.1), (cplx(4),)
    ),
    "gather of integers": Case(
        lambda n, x: x * jnp.asarray(n).at[ANYWHERE].get(mode="fill", fill_value=5),
        (np.arange(4), normal(7)),
    ),
    "gather with batch axes": Case(_taken_batch, (normal(2, 3, 4), STARTS_BATCH)),
    "gather with batch axes, complex": Case(_taken_batch, (cplx(2, 3, 4), STARTS_BATCH)),
    "gather from a scalar": Case(
        _taken_twice, (normal(),), jax=False, expect=lambda x, dy: (np.sum(dy),)
    ),
    "gather of nothing": Case(lambda x: x[np.zeros((0, 2), int)], (normal(3, 2),)),
    "gather from an empty array": Case(lambda x: x[np.zeros(0, int)] * 2, (normal(0, 2),)),
    "gather, batched operand": Case(jax.vmap(lambda x: x[INSIDE], 1), (normal(4, 2),)),
    "gather, batched indices": Case(
        jax.vmap(lambda x, i: x[i], (None, 0)), (normal(4, 2), INSIDE.reshape(2, 3))
    ),
    "gather, both batched": Case(
        jax.vmap(lambda x, i: x[i], (1, 0), 1), (cplx(4, 2), INSIDE.reshape(2, 3))
    ),
    "gather of an empty batch": Case(
        jax.vmap(lambda x, i: x[i]), (normal(0, 4), np.zeros((0, 3), int))
    ),
    "gather in a gradient": Case(
        jax.grad(lambda x: jnp.sum(x[INSIDE] ** 3 * x[INSIDE[::-1]])), (normal(4),)
    ),
    "take": Case(lambda x: jnp.take(x, jnp.array([[2, 0], [-1, 5]]), axis=1), (normal(2, 3, 2),)),
    "take, clipped": Case(
        lambda x: jnp.take(x, jnp.array([2, -5, 9]), axis=0, mode="clip"), (normal(3, 2),)
    ),
    "take_along_axis": Case(
        lambda x, i: jnp.take_along_axis(x, i, axis=1) ** 2,
        (normal(2, 4), np.array([[3, 3, 0], [-1, 1, 9]])),
    ),
    "basic and advanced indices": Case(
        lambda x: x[jnp.array([0, -1]), :, None, 1:, jnp.array([2, 0])], (normal(2, 2, 3, 4),)
    ),
    "index by a traced number": Case(lambda x, i: x[i] * x[-i], (normal(4, 2), np.array(-2))),
    "embedding": Case(_lookup, (normal(5, 3), np.array([[1, 4, 1], [0, 1, 2]]))),
    "embedding under vmap": Case(
        jax.vmap(_lookup, (None, 0)), (normal(5, 3), np.array([[1, 4, 1], [0, 1, 2]]))
    ),
    "gradient of an embedding": Case(
        jax.grad(_loss_of_lookup), (normal(5, 3), np.array([[1, 4, 1], [0, 1, 2]]))
    ),
    "gradients of an embedding by example": Case(
        lambda table, tokens: jax.vmap(jax.grad(_loss_of_lookup), (None, 0))(table, tokens),
        (normal(4, 2), np.array([[[1, 3, 1]], [[0, 1, 2]]])),
    ),
    # Scatter.
    **{
        f"scatter, {method}": Case(
            _updated(method, jnp.array([3, 0, 1]), unique_indices=True),
            (normal(4, 2), normal(3, 2, seed=1)),
        )
        for method in UPDATES
    },
    **{
        f"scatter, {method}, complex": Case(
            _updated(method, jnp.array([3, 0, 1]), unique_indices=True),
            (cplx(4), cplx(3, seed=1)),
        )
        for method in ("add", "set", "multiply", "subtract")
    },
    **{
        f"scatter, {method}, repeated and dropped": Case(
            _updated(method, ANYWHERE), (normal(4, 2), normal(7, 2, seed=1))
        )
        for method in REPEATABLE
    },
    **{
        f"scatter, {method}, clipped": Case(
            _updated(method, ANYWHERE, mode="clip"), (normal(4), normal(7, seed=1))
        )
        for method in ("add", "set", "subtract")
    },
    **{
        f"scatter, {method}, one value for all": Case(
            _updated(method, (jnp.array([[1], [0]]), jnp.array([0, 2]))),
            (normal(2, 3), normal(seed=1)),
        )
        for method in REPEATABLE
    },
    **{
        f"scatter, {method}, of nothing": Case(
            _updated(method, np.zeros(0, int), unique_indices=True), (normal(4, 2), normal(0, 2))
        )
        for method in UPDATES
    },
    **{
        f"scatter, {method}, into an empty array": Case(
            _updated(method, np.array([0, 1])),
            (normal(0, 2), normal(2, 2)),
            jax=False,
            expect=lambda x, u, dy: (dy, 0 * u),
        )
        for method in ("add", "set", "subtract")
    },
    **{
        f"scatter, {method}, all batched": Case(
            jax.vmap(lambda x, i, u, m=method: getattr(x.at[i], m)(u)),
            (normal(2, 4), np.array([[0, 0, 3], [2, -1, 5]]), normal(2, 3, seed=1)),
        )
        for method in REPEATABLE
    },
    **{
        f"scatter, {method}, batched indices": Case(
            jax.vmap(lambda x, i, u, m=method: getattr(x.at[i], m)(u), (None, 1, None), 1),
            (normal(4), np.array([[0, 0, 3], [2, -1, 5]]).T, normal(3, seed=1)),
        )
        for method in REPEATABLE
    },
    "scatter, multiply, batched operand": Case(
        jax.vmap(_updated("multiply", jnp.array([3, 0, 1]), unique_indices=True), 1),
        (normal(4, 2), normal(3, 2, seed=1)),
    ),
    "scatter, multiply by zeros": Case(
        _updated("multiply", jnp.array([3, 0]), unique_indices=True),
        (np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 2.0])),
    ),
    "scatter, multiply by constants, repeated": Case(
        lambda x: x.at[jnp.array([2, 2, 0])].multiply(jnp.array([2.0, 3.0, 0.0])), (normal(4),)
    ),
    "scatter, multiply, repeated": Case(
        lambda x, i, u: jnp.asarray(x).at[i].multiply(u),
        (normal(4), np.array([2, 0, 2, 3, 2, 0]), normal(6, seed=1)),
        jax=False,
        expect=_of_products,
    ),
    "scatter, multiply, repeated, by zeros": Case(
        lambda x, i, u: jnp.asarray(x).at[i].multiply(u),
        (normal(4), np.array([2, 0, 2, 0, 2, 1]), np.array([0.0, 0.0, 2.0, 0.0, 3.0, 0.0])),
        jax=False,
        expect=_of_products,
    ),
    "scatter, multiply, repeated, complex": Case(
        lambda x, i, u: jnp.asarray(x).at[i].multiply(u),
        (cplx(3), np.array([2, 0, 2, 2]), cplx(4, seed=1)),
        jax=False,
        expect=_of_products,
    ),
    **{
        f"scatter, {method}, ties": Case(
            _updated(method, jnp.array([0, 0, 1, 1, 2, 3, 3])),
            (np.array([2.0, 5.0, 3.0, 1.0, 4.0]), np.array([2.0, 2.0, 5.0, 1.0, 3.0, 1.0, 0.0])),
        )
        for method in ("min", "max")
    },
    **{
        f"scatter, {method}, in order": Case(
            _updated(method, jnp.array([0, 2, 0, 2])), (distinct(4), distinct(4, seed=3) + 0.1)
        )
        for method in ("min", "max")
    },
    "scatter, max, clipped": Case(
        _updated("max", jnp.array([1, 9, 2]), mode="clip"),
        (np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.5, 5.0, 7.0])),
        jax=False,
        expect=_of_clipped_maximum,
    ),
    "scatter, max, NaN": Case(
        _updated("max", jnp.array([1, 1])),
        (np.array([np.nan, 1.0, 2.0]), np.array([np.nan, 3.0])),
        jax=False,
        expect=_of_nan_maximum,
    ),
    **{
        f"scatter of windows, {f.__name__}, mode {mode}": Case(
            _scatter(f, SCATTER, mode), (normal(6), STARTS, normal(5, 3, seed=1))
        )
        for f in (lax.scatter, lax.scatter_add)
        for mode in ("clip", "drop")
    },
    **{
        f"scatter of windows that overlap, {f.__name__}": Case(
            _scatter(f, SCATTER_FRONT, "drop"),
            (normal(6), np.array([[2], [1], [0]]), normal(3, 3, seed=1)),
        )
        for f in (lax.scatter, lax.scatter_add, lax.scatter_min, lax.scatter_max)
    },
    **{
        f"scatter of windows of a matrix, {f.__name__}": Case(
            _scatter(f, SCATTER_MATRIX, "drop"),
            (normal(3, 4), STARTS_MATRIX, normal(2, 5, seed=1)),
        )
        for f in (lax.scatter, lax.scatter_add, lax.scatter_sub, lax.scatter_max)
    },
    **{
        f"scatter with batch axes, {f.__name__}": Case(
            _scatter(f, SCATTER_BATCH, "drop"),
            (normal(2, 3, 4), STARTS_BATCH, normal(3, 2, 2, seed=1)),
        )
        for f in (lax.scatter, lax.scatter_add, lax.scatter_min)
    },
    "scatter of integers": Case(
        lambda n, x: (
            x * jnp.asarray(n).at[np.array([0, 0, 2])].add(2).at[1].set(7).at[2].max(9).at[0].mul(3)
        ),
        (np.arange(4), normal(4)),
    ),
    "scatter of a bool": Case(
        lambda x: x * jnp.zeros(4, bool).at[np.array([1, 3])].set(True), (normal(4),)
    ),
    "scatter in a gradient": Case(
        jax.grad(lambda x: jnp.sum(jnp.sin(x.at[INSIDE].add(x[1] * x[0]).at[2].set(x[3])))),
        (normal(4),),
    ),
    "segment_sum": Case(
        lambda x: jax.ops.segment_sum(x, jnp.array([0, 2, 2, 0, 5]), 4), (normal(5, 2),)
    ),
    "scatter of a function": Case(
        lambda x: jnp.asarray(x).at[jnp.array([1, 3, 7, 3])].apply(jnp.sin),
        (normal(5),),
        jax=False,
        expect=_of_applied_sine,
    ),
    "scatter of a function at no place": Case(
        lambda x: x * jnp.arange(3).at[jnp.array([9])].apply(lambda n: n + 1), (normal(3),)
    ),
    # Dynamic slices.
    **{
        f"dynamic_slice, {kind}": Case(
            lambda x, i: lax.dynamic_slice(x, (i, jnp.ones_like(i)), (2, 2)) ** 2,
            (normal(4, 3), np.array(start)),
        )
        for kind, start in {"inside": 1, "from the end": -3, "below": -9, "above": 8}.items()
    },
    "dynamic_slice of a scalar": Case(lambda x: lax.dynamic_slice(x, (), ()), (normal(),)),
    "dynamic_slice of nothing": Case(
        lambda x, i: lax.dynamic_slice(x, (i,), (0,)), (normal(3), np.array(2))
    ),
    "dynamic_slice, unsigned start": Case(
        lambda x, i: lax.dynamic_slice(x, (i,), (2,)), (cplx(4), np.array(200, np.uint8))
    ),
    "dynamic_slice under vmap": Case(
        jax.vmap(lambda x, i: lax.dynamic_slice(x, (i,), (2,)), (None, 0)),
        (normal(4), np.array([0, 3, -1, 9])),
        jax=False,  # JAX 0.7 takes overlapping slices for distinct ones.
        expect=_of_slices,
    ),
    **{
        f"dynamic_update_slice, {kind}": Case(
            lambda x, u, i: lax.dynamic_update_slice(x * x, u, (jnp.ones_like(i), i)),
            (normal(3, 4), normal(2, 2, seed=1), np.array(start)),
        )
        for kind, start in {"inside": 1, "from the end": -3, "below": -9, "above": 8}.items()
    },
    "dynamic_update_slice by constants": Case(
        lambda x: lax.dynamic_update_slice(x, jnp.ones(2, x.dtype), (1,)), (cplx(4),)
    ),
    "dynamic_update_slice under vmap": Case(
        jax.vmap(lambda x, u, i: lax.dynamic_update_slice(x, u, (i,)), (None, 0, 0)),
        (normal(4), normal(3, 2), np.array([0, 3, -9])),
    ),
    "slices in a loop": Case(lambda x: _rounds(3, x), (normal(3, 2),)),
}
