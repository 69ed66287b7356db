"""The settings of `experiments/estimator_validation.py`, with fewer repetitions."""

import pytest
from estimator_validation import judged, settings
from tolerances import Z_MAX

REPETITIONS = 300
# With 300 repetitions the standard error of a coverage of .95 is .013; an interval that holds the
# truth in fewer than nine cases of ten is no 95 % interval.
COVERAGE = 0.90
SETTINGS = {f"{family}: {s.estimator}, {s.setting}": s for family, s in settings()}


@pytest.mark.parametrize("name", SETTINGS)
def test_unbiased_and_covered(name):
    setting = SETTINGS[name]
    found = judged(setting, REPETITIONS)
    assert setting.biased or abs(found["bias"]) < Z_MAX, found
    assert found["coverage"] is None or found["coverage"] >= COVERAGE, found
