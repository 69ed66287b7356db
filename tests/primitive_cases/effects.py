"""Cases for funcbackprop.reference.rules.effects."""

CASES = {}
