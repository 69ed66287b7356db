"""Cases for funcbackprop.reference.rules.contractions."""

CASES = {}
