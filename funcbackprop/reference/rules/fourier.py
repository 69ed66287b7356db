"""Fourier transforms."""

RULES = {}
