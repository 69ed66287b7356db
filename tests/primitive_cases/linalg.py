"""Cases for funcbackprop.reference.rules.linalg."""

CASES = {}
