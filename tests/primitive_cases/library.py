"""Cases for funcbackprop.reference.rules.library."""

CASES = {}
