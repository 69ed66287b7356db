"""Cases for funcbackprop.reference.rules.sorting."""

CASES = {}
