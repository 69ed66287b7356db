"""A parameter in a convolution."""

import jax
import jax.numpy as jnp
from cases import Case
from jax import lax

from .random import normal

NWC, NHWC, NDHWC = ("NWC", "WIO", "NWC"), ("NHWC", "HWIO", "NHWC"), ("NDHWC", "DHWIO", "NDHWC")
NCHW = ("NCHW", "OIHW", "NCHW")


def _conv(numbers, x, w, stride=1, padding="SAME", **options):
    """sum sin(convolution) for an example [*x], without a batch axis, and a kernel [*w]."""
    place = numbers[0].index("N")
    strides = (stride,) * (len(w) - 2)

    def make(rng):
        def loss(p, image):
            image = jnp.expand_dims(image, place)
            y = lax.conv_general_dilated(
                image, p["w"], strides, padding, dimension_numbers=numbers, **options
            )
            return jnp.sum(jnp.sin(y))

        return loss, {"w": normal(rng, *w)}, lambda n: normal(rng, n, *x)

    return make


def _batch_groups(rng):
    """An example is four images in two groups, each with its own filters."""

    def loss(p, x):
        y = lax.conv_general_dilated(
            *(x, p, (1, 1), "VALID"), dimension_numbers=NHWC, batch_group_count=2
        )
        return jnp.sum(jnp.sin(y))

    return loss, normal(rng, 2, 2, 3, 4), lambda n: normal(rng, n, 4, 4, 3, 3)


def _transposed(rng):
    params = {"w": normal(rng, 3, 3, 2, 3), "b": normal(rng, 3)}

    def loss(p, x):
        y = lax.conv_transpose(x[None], p["w"], (2, 2), "SAME", dimension_numbers=NHWC)
        return jnp.sum(jnp.sin(y + p["b"][None, None, None]))

    return loss, params, lambda n: normal(rng, n, 3, 3, 2)


def _separable(rng):
    params = {"depthwise": normal(rng, 3, 3, 1, 6), "pointwise": normal(rng, 1, 1, 6, 2)}

    def loss(p, x):
        y = lax.conv_general_dilated(
            *(x[None], p["depthwise"], (1, 1), "SAME"),
            dimension_numbers=NHWC,
            feature_group_count=3,
        )
        y = lax.conv_general_dilated(
            jnp.tanh(y), p["pointwise"], (1, 1), "VALID", dimension_numbers=NHWC
        )
        return jnp.sum(jnp.sin(y))

    return loss, params, lambda n: normal(rng, n, 4, 4, 3)


def _kernel_of_the_example(rng):
    """The parameter is the image, the example the filter."""

    def loss(p, kernel):
        y = lax.conv_general_dilated(p[None], kernel, (1,), "VALID", dimension_numbers=NWC)
        return jnp.sum(jnp.sin(y))

    return loss, normal(rng, 6, 2), lambda n: normal(rng, n, 3, 2, 2)


def _patches(rng):
    def loss(p, x):
        patches = lax.conv_general_dilated_patches(x[None], (2, 2), (1, 1), "VALID")
        return jnp.sum(jnp.sin(jnp.einsum("npij,pm->mij", patches, p)))

    return loss, normal(rng, 8, 3), lambda n: normal(rng, n, 2, 4, 3)


def _locally_connected(rng):
    def loss(p, x):
        y = lax.conv_general_dilated_local(x[None], p, (1,), "VALID", (2,), dimension_numbers=NWC)
        return jnp.sum(jnp.sin(y))

    return loss, normal(rng, 4, 4, 3), lambda n: normal(rng, n, 5, 2)


def _pooled(rng):
    """LeNet in small: convolution, maximum, convolution, mean, linear."""
    params = {
        "first": normal(rng, 3, 3, 1, 2),
        "second": normal(rng, 2, 2, 2, 3),
        "last": normal(rng, 3, 2),
    }

    def loss(p, x):
        y = lax.conv_general_dilated(
            x[None, :, :, None], p["first"], (1, 1), "SAME", dimension_numbers=NHWC
        )
        y = lax.reduce_window(
            jax.nn.relu(y), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
        )
        y = lax.conv_general_dilated(y, p["second"], (1, 1), "SAME", dimension_numbers=NHWC)
        return -jax.nn.log_softmax(jnp.mean(y, (0, 1, 2)) @ p["last"])[0]

    return loss, params, lambda n: normal(rng, n, 6, 6)


CASES = {
    "1-D convolution, stride 2": Case(_conv(NWC, (7, 2), (3, 2, 3), stride=2)),
    "1-D causal convolution, dilated": Case(
        _conv(NWC, (6, 2), (2, 2, 3), padding=[(2, 0)], rhs_dilation=(2,))
    ),
    "1-D convolution, padding beyond the kernel": Case(
        _conv(NWC, (4, 2), (2, 2, 2), padding=[(3, 2)])
    ),
    "1-D convolution, cropped": Case(_conv(NWC, (7, 2), (2, 2, 2), padding=[(-1, -2)])),
    "2-D convolution, VALID": Case(_conv(NHWC, (5, 4, 2), (3, 2, 2, 3), padding="VALID")),
    "2-D convolution, channels first": Case(
        _conv(NCHW, (2, 5, 6), (4, 2, 3, 3), stride=2, padding=[(1, 0), (2, 1)])
    ),
    "2-D convolution, dilated input": Case(
        _conv(NHWC, (3, 3, 2), (2, 2, 2, 2), padding=[(1, 1), (0, 2)], lhs_dilation=(2, 3))
    ),
    "2-D convolution, mixed layouts": Case(
        _conv(("HWNC", "OIHW", "NCHW"), (4, 4, 2), (3, 2, 2, 3))
    ),
    "3-D convolution": Case(_conv(NDHWC, (3, 4, 3, 2), (2, 2, 2, 2, 2), stride=2)),
    "depthwise convolution": Case(_conv(NHWC, (4, 4, 3), (3, 3, 1, 6), feature_group_count=3)),
    "grouped convolution, strided and dilated": Case(
        _conv(
            *(NCHW, (4, 6, 6), (6, 2, 2, 2), 2, [(1, 1), (1, 1)]),
            rhs_dilation=(2, 2),
            feature_group_count=2,
        )
    ),
    "batch groups": Case(_batch_groups),
    "transposed convolution": Case(_transposed),
    "separable convolution": Case(_separable),
    "kernel of the example": Case(_kernel_of_the_example),
    "patches": Case(_patches),
    "locally connected": Case(_locally_connected),
    "small LeNet": Case(_pooled),
}
