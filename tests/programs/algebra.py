"""Linear algebra and Fourier transforms of parameters, and complex ones."""

import jax
import jax.numpy as jnp
import numpy as np
from cases import Case

from .random import normal


def _matrix(rng):
    """Well conditioned."""
    return 3 * np.eye(3) + 0.3 * normal(rng, 3, 3)


def _with_matrix(loss):
    return lambda rng: (loss, _matrix(rng), lambda n: normal(rng, n, 3))


def _solve(p, x):
    return jnp.sum(jnp.sin(jnp.linalg.solve(p, x)))


def _inverse(p, x):
    return jnp.sum(jnp.sin(jnp.linalg.inv(p) @ x))


def _cholesky(p, x):
    factor = jnp.linalg.cholesky(p @ p.T)
    half = jax.scipy.linalg.solve_triangular(factor, x, lower=True)
    return jnp.sum(half**2) / 2 + jnp.sum(jnp.log(jnp.diagonal(factor)))


def _triangular(p, x):
    return jnp.sum(jnp.sin(jax.scipy.linalg.solve_triangular(jnp.triu(p), x)))


def _exponential(p, x):
    return jnp.sum(jnp.sin(jax.scipy.linalg.expm(0.1 * p, max_squarings=2) @ x))


def _spectral_weight(rng):
    """A long convolution: the Fourier transform of the kernel."""

    def loss(p, x):
        y = jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(p), 6)
        return jnp.sum(jnp.sin(y))

    return loss, normal(rng, 6), lambda n: normal(rng, n, 6)


def _fourier_layer(rng):
    """Complex weights for each frequency and channel, as in a Fourier neural operator."""
    params = normal(rng, 3, 2, 2) + 1j * normal(rng, 3, 2, 2)

    def loss(p, x):
        modes = jnp.fft.rfft(x, axis=0)[:3]
        y = jnp.fft.irfft(jnp.einsum("km,kmn->kn", modes, p), 6, axis=0)
        return jnp.sum(jnp.sin(y))

    return loss, params, lambda n: normal(rng, n, 6, 2)


def _complex_product(rng):
    """A complex matrix and a complex example."""
    params = {"w": normal(rng, 3, 2) + 1j * normal(rng, 3, 2)}

    def loss(p, x):
        return jnp.sum(jnp.abs(jnp.tanh(0.2 * x @ p["w"])) ** 2)

    return loss, params, lambda n: normal(rng, n, 4, 3) + 1j * normal(rng, n, 4, 3)


CASES = {
    "solve": Case(_with_matrix(_solve)),
    "inverse": Case(_with_matrix(_inverse)),
    "Cholesky": Case(_with_matrix(_cholesky)),
    "triangular solve": Case(_with_matrix(_triangular)),
    "matrix exponential": Case(_with_matrix(_exponential)),
    "Fourier transform of a kernel": Case(_spectral_weight),
    "Fourier layer": Case(_fourier_layer),
    "complex matrix": Case(_complex_product),
}
