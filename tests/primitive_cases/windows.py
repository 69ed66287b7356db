"""Cases for funcbackprop.reference.rules.windows."""

CASES = {}
