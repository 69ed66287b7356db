"""Cases for funcbackprop.reference.rules.contractions."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .case import Case, cplx, normal

DOTS = {
    "matrices": ((2, 3), (3, 4), ((1,), (0,)), ((), ())),
    "transposed": ((3, 2), (4, 3), ((0,), (1,)), ((), ())),
    "vectors": ((3,), (3,), ((0,), (0,)), ((), ())),
    "outer": ((2,), (3,), ((), ()), ((), ())),
    "scalars": ((), (), ((), ()), ((), ())),
    "nothing but batch": ((2, 3), (2, 3), ((), ()), ((0, 1), (0, 1))),
    "batch in the middle": ((2, 5, 3), (3, 4, 5), ((2,), (0,)), ((1,), (2,))),
    "two batch, two contracted": (
        (2, 3, 4, 5, 2),
        (5, 3, 2, 2, 4),
        ((3, 0), (0, 3)),
        ((2, 1), (4, 1)),
    ),
    "two free axes each": ((2, 3, 4), (5, 3, 2), ((1,), (1,)), ((), ())),
    "contraction over nothing": ((2, 0), (0, 3), ((1,), (0,)), ((), ())),
    "no rows": ((0, 3), (3, 2), ((1,), (0,)), ((), ())),
    "no batch": ((0, 2, 3), (0, 3, 2), ((2,), (1,)), ((0,), (0,))),
}

# name -> (shape of x, shape of the kernel, arguments)
CONVOLUTIONS = {
    "no space": ((2, 3), (4, 3), {}),
    "one axis": ((2, 3, 6), (4, 3, 2), {}),
    "two axes": ((2, 3, 5, 4), (4, 3, 2, 3), {}),
    "three axes": ((1, 2, 3, 4, 3), (2, 2, 2, 1, 2), {"window_strides": (1, 2, 1)}),
    "strides": ((2, 2, 7, 6), (3, 2, 3, 2), {"window_strides": (2, 3)}),
    "SAME": ((1, 2, 5, 4), (3, 2, 3, 2), {"padding": "SAME", "window_strides": (2, 1)}),
    "uneven padding": ((1, 2, 4), (2, 2, 3), {"padding": ((3, 0),)}),
    "negative padding": ((1, 2, 6, 4), (2, 2, 2, 2), {"padding": ((-2, 1), (1, -1))}),
    "dilated input": (
        (1, 2, 3, 3),
        (2, 2, 2, 3),
        {"lhs_dilation": (2, 3), "padding": ((0, 0), (1, 2))},
    ),
    "dilated kernel": ((1, 2, 7, 5), (2, 2, 3, 2), {"rhs_dilation": (2, 3)}),
    "all at once": (
        (2, 2, 5, 4),
        (3, 2, 2, 3),
        {
            "window_strides": (2, 3),
            "padding": ((2, -1), (-1, 4)),
            "lhs_dilation": (2, 3),
            "rhs_dilation": (3, 2),
        },
    ),
    "feature groups": ((2, 6, 5), (4, 3, 2), {"feature_group_count": 2}),
    "depthwise": (
        (2, 3, 4, 4),
        (6, 1, 2, 2),
        {"feature_group_count": 3, "padding": "SAME"},
    ),
    "batch groups": ((6, 2, 5), (4, 2, 2), {"batch_group_count": 2}),
    "batch groups, strided": (
        (4, 2, 5, 5),
        (4, 2, 2, 2),
        {"batch_group_count": 4, "window_strides": (2, 2), "padding": ((1, 0), (0, 2))},
    ),
    "NHWC": (
        (2, 5, 4, 3),
        (2, 3, 3, 2),
        {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "window_strides": (2, 1)},
    ),
    "any layout": (
        (4, 3, 2, 5),
        (2, 2, 3, 3),
        {"dimension_numbers": ("HCNW", "OHIW", "WNCH"), "window_strides": (1, 2)},
    ),
    "any layout, grouped": (
        (5, 2, 4),
        (4, 3, 2),
        {"dimension_numbers": ("WNC", "OWI", "CWN"), "feature_group_count": 2},
    ),
    "causal, dilated": (
        (2, 6, 3),
        (3, 3, 2),
        {
            "dimension_numbers": ("NWC", "WIO", "NWC"),
            "padding": ((4, 0),),
            "rhs_dilation": (2,),
        },
    ),
    "kernel larger than the array": ((1, 2, 2), (2, 2, 3), {}),
    "empty batch": ((0, 2, 4), (3, 2, 2), {}),
}


def _dot(contracting, batch):
    return lambda x, y: lax.dot_general(x, y, (contracting, batch))


def _convolve(settings):
    def fun(x, w):
        space = x.ndim - 2
        defaults = {"window_strides": (1,) * space, "padding": "VALID"}
        return lax.conv_general_dilated(x, w, **{**defaults, **settings})

    return fun


def _conv(**settings):
    return _convolve(settings)


def _integer_product(n, m, x):
    """A sum of products of bytes that does not fit into a byte."""
    products = lax.dot_general(n, m, (((1,), (0,)), ((), ())), preferred_element_type=x.dtype)
    return x * products + (n.astype(jnp.int32) @ m.astype(jnp.int32)).astype(x.dtype)


def _integer_convolution(n, m, x):
    y = lax.conv_general_dilated(n, m, (1,), "VALID", preferred_element_type=x.dtype)
    return x * y


def _step_of_descent(x, w, y):
    """The loss after one step of gradient descent on a convolution."""
    conv = _conv(padding="SAME", window_strides=(2, 1))
    loss = lambda w: jnp.sum((jnp.tanh(conv(x, w)) - y) ** 2)  # noqa: E731
    return loss(w - 0.1 * jax.grad(loss)(w))


def _input_gradient_penalty(x, w):
    conv = _conv(feature_group_count=2, rhs_dilation=(2,))
    return jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(conv(x, w))))(x) ** 2)


def _matrix_step(x, w):
    loss = lambda w: jnp.sum(jnp.tanh(x @ w) ** 2)  # noqa: E731
    return loss(w - 0.1 * jax.grad(loss)(w))


def _ragged(x, y, sizes, dot, ragged, group):
    numbers = lax.RaggedDotDimensionNumbers(dot, ragged, group)
    return lax.ragged_dot_general(x, y, sizes, numbers)


def _ragged_contracted(x, y, sizes):
    return _ragged(x, y, sizes, (((1,), (0,)), ((), ())), [1], [])


def _ragged_batch(x, y, sizes):
    return _ragged(x, y, sizes, (((2,), (1,)), ((0,), (0,))), [0], [])


def _ragged_own_sizes(x, y, sizes):
    """Another cut for each entry of the batch; groups in the middle of y."""
    return _ragged(x, y, sizes, (((2,), (2,)), ((0,), (0,))), [1], [1])


def _contracted_own_sizes(x, y, sizes):
    return _ragged(x, y, sizes, (((2,), (1,)), ((0,), (0,))), [2], [])


def _by_group(x, y, sizes):
    """x_g y_g for each group of columns of x and rows of y, by slices."""
    ends = np.cumsum(sizes)
    pairs = zip(ends - sizes, ends, strict=True)
    return jnp.stack([x[:, a:b] @ y[a:b] for a, b in pairs])


def _gradients(fun):
    """Of a function of x and y that JAX can differentiate; the sizes have none."""

    def expect(x, y, sizes, dz):
        dx, dy = jax.vjp(lambda x, y: fun(x, y, sizes), x, y)[1](dz)
        return dx, dy, np.zeros(sizes.shape, jax.dtypes.float0)

    return expect


def _stacked(fun):
    return lambda x, y, sizes: jnp.stack(
        [fun(a, b, n) for a, b, n in zip(x, y, sizes, strict=True)]
    )


def _stacked_groups_second(fun):
    stacked = _stacked(fun)
    return lambda x, y, sizes: jnp.moveaxis(stacked(x, y, sizes), 0, 1)


def _ragged_vjp(x, y, sizes):
    """The gradient of a ragged product inside a function: both kinds of ragged products."""
    loss = lambda x, y: jnp.sum(jnp.sin(lax.ragged_dot(x, y, sizes)))  # noqa: E731
    dx, dy = jax.grad(loss, (0, 1))(x, y)
    return dx * x, dy


def _ragged_vjp_by_slices(x, y, sizes):
    loss = lambda x, y: jnp.sum(jnp.sin(_ragged_by_slices(x, y, sizes)))  # noqa: E731
    dx, dy = jax.grad(loss, (0, 1))(x, y)
    return dx * x, dy


def _ragged_by_slices(x, y, sizes):
    ends = np.cumsum(sizes)
    parts = [x[b - n : b] @ y[g] for g, (n, b) in enumerate(zip(sizes, ends, strict=True))]
    return jnp.concatenate([*parts, jnp.zeros((x.shape[0] - ends[-1], y.shape[2]), x.dtype)])


SIZES = np.array([2, 0, 3], np.int32)

CASES = {
    **{
        f"dot_general, {name}": Case(_dot(c, b), (normal(*s), normal(*t, seed=1)))
        for name, (s, t, c, b) in DOTS.items()
    },
    **{
        f"dot_general, complex, {name}": Case(_dot(c, b), (cplx(*s), cplx(*t, seed=1)))
        for name, (s, t, c, b) in DOTS.items()
        if name in ("matrices", "batch in the middle")
    },
    # JAX 0.7 warns that it drops the imaginary part of dx.
    "dot_general, real and complex": Case(
        lambda x, y: lax.dot_general(x, y, (((1,), (0,)), ((), ()))),
        (normal(2, 3), cplx(3, 2)),
        jax=False,
        expect=lambda x, y, dz: ((dz @ y.T).real, x.T @ dz),
    ),
    "dot_general, of integers": Case(
        _integer_product,
        (np.full((2, 3), 100, np.int8), np.full((3, 2), 90, np.int8), normal(2, 2)),
    ),
    "dot_general, of an integer and a float": Case(
        lambda n, x: jnp.matmul(n, x), (np.arange(6).reshape(2, 3), normal(3, 2))
    ),
    "dot_general, in float32 with another result": Case(
        lambda x, y: jnp.matmul(x, y, preferred_element_type=jnp.float32).astype(x.dtype),
        (normal(2, 3), normal(3, 2)),
        1e-6,
    ),
    "dot_general, the same array twice": Case(lambda x: x @ x, (normal(3, 3),)),
    "dot_general, batched": Case(
        jax.vmap(jnp.matmul, in_axes=(2, None)), (normal(2, 3, 2), normal(3, 2))
    ),
    "einsum": Case(
        lambda x, y: jnp.einsum("bij,bkj->ikb", x, y), (normal(2, 3, 4), normal(2, 2, 4))
    ),
    "matrix, step of descent": Case(_matrix_step, (normal(3, 2), normal(2, 2))),
    # Convolutions.
    **{
        f"convolution, {name}": Case(_convolve(settings), (normal(*s), normal(*t, seed=1)))
        for name, (s, t, settings) in CONVOLUTIONS.items()
    },
    **{
        f"convolution, complex, {name}": Case(
            _convolve(CONVOLUTIONS[name][2]),
            (cplx(*CONVOLUTIONS[name][0]), cplx(*CONVOLUTIONS[name][1], seed=1)),
        )
        for name in ("two axes", "feature groups")
    },
    "convolution, of integers": Case(
        _integer_convolution,
        (np.full((1, 2, 3), 100, np.int8), np.full((1, 2, 2), 90, np.int8), normal(1, 1, 2)),
    ),
    "convolution, with another result": Case(
        lambda x, w: _conv(preferred_element_type=jnp.float32)(
            x.astype(jnp.float32), w.astype(jnp.float32)
        ),
        (normal(1, 2, 4), normal(2, 2, 2)),
        1e-6,
    ),
    **{
        f"convolution, batched over {what}": Case(jax.vmap(_conv(padding="SAME"), axes), args)
        for what, axes, args in (
            ("x", (0, None), (normal(2, 1, 2, 4), normal(2, 2, 3))),
            ("the kernel", (None, 0), (normal(1, 2, 4), normal(2, 2, 2, 3))),
            ("both", (0, 1), (normal(2, 2, 2, 4), normal(2, 2, 2, 3))),
        )
    },
    **{
        f"conv_transpose, {padding}": Case(
            lambda x, w, padding=padding: lax.conv_transpose(x, w, (2, 3), padding),
            (normal(1, 3, 2, 2), normal(3, 2, 2, 3)),
        )
        for padding in ("SAME", "VALID")
    },
    "conv_transpose, flipped kernel": Case(
        lambda x, w: lax.conv_transpose(x, w, (2,), "SAME", transpose_kernel=True),
        (normal(1, 3, 2), normal(3, 4, 2)),
    ),
    "conv_general_dilated_patches": Case(
        lambda x: lax.conv_general_dilated_patches(x, (2, 2), (1, 2), "SAME"), (normal(1, 2, 3, 4),)
    ),
    "conv_general_dilated_local": Case(
        lambda x, w: lax.conv_general_dilated_local(x, w, (1,), "VALID", (2,)),
        (normal(1, 2, 4), normal(2, 4, 3)),
    ),
    "jnp.convolve": Case(lambda x, y: jnp.convolve(x, y, "same"), (normal(5), normal(3))),
    "convolution, step of descent": Case(
        _step_of_descent, (normal(1, 2, 4, 3), normal(2, 2, 2, 2), normal(1, 2, 2, 3)), 1e-9
    ),
    "convolution, penalty on the gradient": Case(
        _input_gradient_penalty, (normal(1, 4, 5), normal(2, 2, 2))
    ),
    "convolution, gradient of a loss with batch groups": Case(
        jax.grad(lambda w, x: jnp.sum(_conv(batch_group_count=2)(x, w) ** 3)),
        (normal(2, 2, 2), normal(4, 2, 3)),
        1e-9,
    ),
    # Ragged products.
    "ragged_dot": Case(lax.ragged_dot, (normal(5, 2), normal(3, 2, 4), SIZES)),
    "ragged_dot, rows in no group": Case(lax.ragged_dot, (normal(7, 2), normal(3, 2, 2), SIZES)),
    "ragged_dot, one group": Case(
        lax.ragged_dot, (normal(4, 2), normal(1, 2, 2), np.array([4], np.int32))
    ),
    "ragged_dot, complex": Case(
        lax.ragged_dot,
        (cplx(5, 2), cplx(3, 2, 2), SIZES),
        jax=False,
        expect=_gradients(_ragged_by_slices),
    ),
    "ragged_dot_general, sizes of their own in a batch": Case(
        _ragged_own_sizes,
        (normal(2, 4, 3), normal(2, 2, 3, 2), np.array([[1, 3], [2, 1]], np.int32)),
        jax=False,
        expect=_gradients(_stacked(_ragged_by_slices)),
    ),
    # JAX has no gradient of these.
    "ragged_dot_general, contracted": Case(
        _ragged_contracted,
        (normal(2, 6), normal(6, 3), SIZES),
        jax=False,
        expect=_gradients(_by_group),
    ),
    "ragged_dot_general, contracted, sizes of their own in a batch": Case(
        _contracted_own_sizes,
        (normal(2, 2, 4), normal(2, 4, 3), np.array([[1, 3], [2, 1]], np.int32)),
        jax=False,
        expect=_gradients(_stacked_groups_second(_by_group)),
    ),
    "ragged_dot_general, in the batch": Case(
        _ragged_batch,
        (normal(3, 2, 2), normal(3, 2, 2), np.array([1, 2], np.int32)),
        jax=False,
        expect=_gradients(lambda x, y, sizes: x @ y),
    ),
    "ragged_dot, gradient inside a function": Case(
        _ragged_vjp,
        (normal(5, 2), normal(3, 2, 4), SIZES),
        jax=False,
        expect=_gradients(_ragged_vjp_by_slices),
    ),
}
