"""Cases for funcbackprop.reference.rules.reductions."""

CASES = {}
