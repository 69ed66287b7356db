"""Cases for funcbackprop.reference.rules.special."""

CASES = {}
