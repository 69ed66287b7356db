"""Cases for funcbackprop.reference.rules.control_flow."""

CASES = {}
