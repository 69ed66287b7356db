"""Cases for funcbackprop.reference.rules.indexing."""

CASES = {}
