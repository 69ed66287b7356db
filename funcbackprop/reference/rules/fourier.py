"""Fourier transforms, over the last axes.

Each is linear over the reals, with coefficients of modulus 1, up to the scale of the inverse ones.
The matrix of FFT is symmetric: without conjugation it is its own transpose.
"""

import numpy as np

from .kinds import general


def _axes(p):
    return tuple(range(-len(p["fft_lengths"]), 0))


def _forward(p, x):
    lengths, axes = p["fft_lengths"], _axes(p)
    transform = {
        "FFT": lambda: np.fft.fftn(x, axes=axes),
        "IFFT": lambda: np.fft.ifftn(x, axes=axes),
        "RFFT": lambda: np.fft.rfftn(x, lengths, axes),
        "IRFFT": lambda: np.fft.irfftn(x, lengths, axes),
    }
    return transform[p["fft_type"].name]()


def _pull(local, dys):
    (dy,), p = dys, local.p
    kind, axes = p["fft_type"].name, _axes(p)
    if kind == "FFT":
        return [np.fft.fftn(dy, axes=axes)]
    if kind == "IFFT":
        return [np.fft.ifftn(dy, axes=axes)]
    if kind == "RFFT":
        # The FFT of a real x, cut to the first frequencies of the last axis: pad, transform.
        return [np.fft.fftn(dy, p["fft_lengths"], axes).real]
    return [_pull_irfft(dy, p["fft_lengths"][-1], axes)]


def _pull_irfft(dy, length, axes):
    """y = IFFT over all axes but the last, then Re sum_k w_k z_k exp(2 pi i k n / N) / N.

    w_k is 2 where the frequency N - k is left out, 1 where k is its own mirror image: at 0, and at
    N/2 for even N.
    """
    weights = np.full(length // 2 + 1, 2.0)
    weights[0] = 1.0
    if length % 2 == 0:
        weights[-1] = 1.0
    dz = weights / length * np.conj(np.fft.rfft(dy, axis=-1))
    return np.fft.ifftn(dz, axes=axes[:-1]) if axes[:-1] else dz


def _square(local, dys):
    """All partial derivatives have the same size, but for a factor of at most 2 in IRFFT."""
    (dy,), p = dys, local.p
    scale = {"FFT": 1.0, "RFFT": 1.0, "IFFT": 1.0, "IRFFT": 2.0}[p["fft_type"].name]
    if p["fft_type"].name in ("IFFT", "IRFFT"):
        scale /= np.prod(p["fft_lengths"])
    total = dy.sum(_axes(p), keepdims=True)
    return [np.broadcast_to(scale**2 * total, local.x[0].shape)]


RULES = {
    "fft": general(
        _pull,
        formula="FFT: dx = FFT(dy); IFFT: dx = IFFT(dy); RFFT: dx = Re FFT(dy padded with zeros); "
        "IRFFT: dx = w / N conj(RFFT(dy)), w = 2 for frequencies that stand for two, else 1",
        forward=_forward,
        square=_square,
    ),
}
