"""Cases for funcbackprop.reference.rules.fourier."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .case import Case, cplx, normal

SHAPES = {"even": (2, 6), "odd": (2, 5), "one point": (3, 1), "no rows": (0, 4)}
BLOCKS = {"2 axes": (2, 3, 4), "3 axes": (2, 4, 3, 5)}


def half(shape):
    """The shape of the frequencies of a real array of this shape."""
    return (*shape[:-1], shape[-1] // 2 + 1)


def over(kind, shape, axes):
    """The transform `kind` over the last axes of an array of `shape`."""
    return lambda x: lax.fft(x, kind, shape[-axes:])


def cases(label, shape, axes):
    yield f"FFT, {label}", Case(over("fft", shape, axes), (cplx(*shape),))
    yield f"IFFT, {label}", Case(over("ifft", shape, axes), (cplx(*shape),))
    yield f"RFFT, {label}", Case(over("rfft", shape, axes), (normal(*shape),))
    yield f"IRFFT, {label}", Case(over("irfft", shape, axes), (cplx(*half(shape)),))


CASES = {
    **{name: case for label, shape in SHAPES.items() for name, case in cases(label, shape, 1)},
    **dict(cases("2 axes", BLOCKS["2 axes"], 2)),
    **dict(cases("3 axes", BLOCKS["3 axes"], 3)),
    **dict(cases("3 axes, last one even", (3, 2, 4), 3)),
    "FFT of a real array": Case(jnp.fft.fft, (normal(3, 4),)),
    "FFT over a middle axis": Case(lambda x: jnp.fft.fft(x, axis=1), (cplx(2, 4, 3),)),
    "FFT with padding": Case(lambda x: jnp.fft.fft(x, n=7), (cplx(2, 4),)),
    "IRFFT, length given": Case(lambda x: jnp.fft.irfft(x, n=5), (cplx(2, 4),)),
    "orthonormal FFT": Case(lambda x: jnp.fft.fft(x, norm="ortho"), (cplx(5),)),
    "HFFT": Case(jnp.fft.hfft, (cplx(4),)),
    "power spectrum": Case(lambda x: jnp.abs(jnp.fft.rfft2(x)) ** 2, (normal(3, 4),)),
    "convolution by RFFT": Case(
        lambda x, w: jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(w), n=6),
        (normal(2, 6), normal(2, 6, seed=1)),
    ),
    "FFT under vmap": Case(jax.vmap(jnp.fft.fft, in_axes=1), (cplx(4, 3),)),
    "RFFT inside grad": Case(
        jax.grad(lambda x: jnp.sum(jnp.abs(jnp.fft.rfft(x)) ** 4)), (np.arange(1.0, 6.0),)
    ),
}
