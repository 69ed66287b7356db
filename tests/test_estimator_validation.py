"""The settings of `experiments/estimator_validation.py`, with fewer repetitions."""

import math

import pytest
from estimator_validation import judged, settings
from tolerances import Z_MAX

REPETITIONS = 300
SETTINGS = {f"{family}: {s.estimator}, {s.setting}": s for family, s in settings()}


@pytest.mark.full
@pytest.mark.parametrize("name", SETTINGS)
def test_unbiased_and_covered(name):
    setting = SETTINGS[name]
    repetitions = min(REPETITIONS, setting.repetitions)
    found = judged(setting, repetitions)
    assert setting.biased or abs(found["bias"]) < Z_MAX, found
    if found["coverage"] is not None:
        error = math.sqrt(setting.covers * (1 - setting.covers) / repetitions)
        assert found["coverage"] > setting.covers - Z_MAX * error, found


def test_a_bias_and_a_short_interval_are_seen():
    setting = next(s for _, s in settings("noise_scale") if s.estimator == "noise_scale S")
    found = judged(setting._replace(truth=1.5 * setting.truth), REPETITIONS)
    assert found["bias"] < -Z_MAX
    assert found["coverage"] < setting.covers - 0.2
