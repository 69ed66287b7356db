"""Random numbers: drawn as the program draws them."""

RULES = {}
