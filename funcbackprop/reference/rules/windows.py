"""Windows that slide over an array: pooling."""

RULES = {}
