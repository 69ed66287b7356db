"""Special functions."""

RULES = {}
