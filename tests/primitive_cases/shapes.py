"""Cases for funcbackprop.reference.rules.shapes."""

CASES = {}
