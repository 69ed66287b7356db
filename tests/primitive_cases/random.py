"""Cases for funcbackprop.reference.rules.random."""

CASES = {}
