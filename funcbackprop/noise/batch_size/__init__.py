"""Criteria for the batch size, and what they say side by side."""
