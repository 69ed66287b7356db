"""Cases for funcbackprop.reference.rules.fourier."""

CASES = {}
