"""Sorting and the largest k."""

RULES = {}
