"""Gather, scatter and slices."""

RULES = {}
