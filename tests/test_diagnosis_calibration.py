"""`experiments/diagnosis_calibration.py`: its plants can be made, and its table counts rightly."""

import diagnosis_calibration as calibration
import jax
import numpy as np
import pytest
from diagnosis.plants import HEALTHY, PLANTS, base

from funcbackprop import diagnosis


def test_every_finding_is_planted():
    assert set(PLANTS) == set(diagnosis.RULES)


@pytest.mark.parametrize("kind", PLANTS)
def test_a_plant_can_be_made(kind):
    plant = PLANTS[kind]
    for arch in plant.archs:
        ground = base(arch, plant.kinds[0])
        faulty, sound = plant.make(ground, plant.span[1], np.random.default_rng(0))
        for case in (faulty, sound):
            problem = case.problem()
            params = jax.eval_shape(problem.params, jax.random.key(0))
            example = jax.tree.map(lambda a: a[0], case.data)
            assert jax.eval_shape(problem.loss, params, example).shape == ()
            jax.eval_shape(case.optimizer.init, params)


def test_there_are_enough_runs():
    assert sum(len(plant.archs) for plant in PLANTS.values()) >= 24
    assert len(HEALTHY) >= 12


def test_the_table_counts_ranks():
    def row(kind, arch, *found, mild=False):
        findings = [[name, 1.5, None, *same] for name, *same in found]
        more = {"optimizer": "sgd", "strength": 2.0, "mild": mild, "findings": findings}
        return {"kind": kind, "arch": arch, **more}

    first = row("vanishing", "mlp", ("vanishing",))
    second = row(
        "rate_too_large", "mlp", ("noise_dominated", "rate_too_large"), ("rate_too_large",)
    )
    missed = row("saturated", "convnet", ("vanishing",))
    assert [calibration.rank(r, same=False) for r in (first, second, missed)] == [1, 2, None]
    assert [calibration.rank(r, same=True) for r in (first, second, missed)] == [1, 1, None]
    text = calibration.tables([first, second, missed])
    assert "3 runs; first 2 (67 %), of which 1 by name" in text
    assert "not found" in text


@pytest.mark.full
def test_a_quick_run():
    rows = [f(*args) for f, args in calibration.jobs(["mlp"], seed=0, quick=True)]
    assert len(rows) == 3
    assert all(row["rows"] for row in rows)
