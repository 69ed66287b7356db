"""Random layouts of products and convolutions: by factors as written out, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from statistic_table import errors
from test_factored import measured

import funcbackprop as fb

EXAMPLES = 3
COMMON = {"deadline": None, "derandomize": True, "max_examples": 25}


@pytest.fixture(scope="module")
def x64_once():
    """float64 for all examples of a test; Hypothesis runs no fixture between them."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def agrees(loss, params, batch):
    """Factored statistics are those of the definition."""
    stats = {"mean": fb.Mean(), "sq_norms": fb.SquaredNorms(), "per_example": fb.PerExample()}
    results, expected = (
        measured(loss, stats, method)(params, batch)[1] for method in ("factored", "materialize")
    )
    found = errors(results, expected, np.ones(EXAMPLES), coarse=False)
    assert max(found.values()) <= 1, found


def arrays(*shapes):
    """Arrays that do not depend on Hypothesis: only layouts are searched."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


@st.composite
def products(draw):
    """`(x, w, dimension_numbers, swapped)`: shapes, and whether the parameter stands first."""
    sizes = st.lists(st.integers(1, 3), max_size=2)
    batch, contracted, x_free, w_free = (draw(sizes) for _ in range(4))

    def layout(free):
        kinds = [("batch", k) for k in range(len(batch))]
        kinds += [("contracted", k) for k in range(len(contracted))]
        kinds += [("free", k) for k in range(len(free))]
        order = draw(st.permutations(kinds))
        size = {"batch": batch, "contracted": contracted, "free": free}
        shape = tuple(size[kind][k] for kind, k in order)
        axes = {
            kind: tuple(order.index((kind, k)) for k in range(len(size[kind]))) for kind in size
        }
        return shape, axes

    (x, x_axes), (w, w_axes) = layout(x_free), layout(w_free)
    swapped = draw(st.booleans())
    pair = (w_axes, x_axes) if swapped else (x_axes, w_axes)
    numbers = tuple(tuple(axes[kind] for axes in pair) for kind in ("contracted", "batch"))
    return x, w, numbers, swapped


@given(products())
@settings(**COMMON)
def test_products(x64_once, layout):
    x, w, numbers, swapped = layout

    def loss(p, example):
        pair = (p, example) if swapped else (example, p)
        return jnp.sum(jnp.sin(lax.dot_general(*pair, numbers)))

    agrees(loss, *arrays(w, (EXAMPLES, *x)))


@st.composite
def convolutions(draw):
    """`(x, w, options)` of `lax.conv_general_dilated`, with an output of at least one entry."""
    dims = draw(st.integers(1, 3))
    feature_groups, batch_groups = draw(st.sampled_from([(1, 1), (2, 1), (3, 1), (1, 2)]))
    features = feature_groups * draw(st.integers(1, 2))
    out_features = feature_groups * batch_groups * draw(st.integers(1, 2))
    per_axis = lambda low, high: [draw(st.integers(low, high)) for _ in range(dims)]  # noqa: E731
    kernel, rhs_dilation = per_axis(1, 3), per_axis(1, 2)
    image, lhs_dilation = per_axis(2, 4), per_axis(1, 2)
    before = per_axis(0, 2)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, rhs_dilation, strict=True)]
    spread = [(n - 1) * d + 1 for n, d in zip(image, lhs_dilation, strict=True)]
    after = [
        draw(st.integers(0, 2)) + max(0, r - n - b)
        for r, n, b in zip(reach, spread, before, strict=True)
    ]
    padding = draw(st.sampled_from(["SAME", "explicit"]))
    orders = [draw(st.permutations(range(dims + 2))) for _ in range(3)]
    shapes = [
        (batch_groups * draw(st.integers(1, 2)), features, *image),
        (out_features, features // feature_groups, *kernel),
    ]
    x, w = (laid_out(shape, order) for shape, order in zip(shapes, orders, strict=False))
    plain = max(lhs_dilation) == 1 and padding == "SAME"
    options = {
        "window_strides": per_axis(1, 2),
        "padding": "SAME" if plain else list(zip(before, after, strict=True)),
        "lhs_dilation": lhs_dilation,
        "rhs_dilation": rhs_dilation,
        "dimension_numbers": lax.ConvDimensionNumbers(*map(tuple, orders)),
        "feature_group_count": feature_groups,
        "batch_group_count": batch_groups,
    }
    return x, w, options


def laid_out(sizes, order):
    """Sizes of (batch or output features, features, *space) at the axes that `order` names."""
    shape = [0] * len(sizes)
    for size, axis in zip(sizes, order, strict=True):
        shape[axis] = size
    return tuple(shape)


@given(convolutions())
@settings(**COMMON)
def test_convolutions(x64_once, layout):
    x, w, options = layout

    def loss(p, example):
        return jnp.sum(jnp.sin(lax.conv_general_dilated(example, p, **options)))

    agrees(loss, *arrays(w, (EXAMPLES, *x)))
