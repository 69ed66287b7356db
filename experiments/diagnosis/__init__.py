"""Faults to plant, for `diagnosis_calibration.py`."""
