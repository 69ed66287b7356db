"""Cases for funcbackprop.reference.rules.collectives."""

CASES = {}
