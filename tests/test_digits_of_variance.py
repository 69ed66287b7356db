"""What float32 leaves of the variance, as `experiments/digits_of_variance.py` counts it."""

from digits_of_variance import digits


def test_digits_in_float32():
    """At most 3 of 7.2 digits go where the mean is 1e4 times the spread; norms say they fail."""
    found = digits(1e4)
    norms, status = found.pop("SquaredNorms alone")
    assert status == "below rounding"
    assert norms < 1
    assert all(kept > 4.2 for kept, _ in found.values()), found
