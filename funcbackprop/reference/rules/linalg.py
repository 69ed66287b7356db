"""Linear algebra."""

RULES = {}
