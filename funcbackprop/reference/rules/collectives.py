"""Communication between devices, on a mesh of one device."""

RULES = {}
