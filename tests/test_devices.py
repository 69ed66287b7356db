"""On several devices each works on its own rows of a sharded batch; results are added up once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["mlp", pytest.param("lstm", marks=pytest.mark.full)])
def test_every_device_works_on_its_own_rows(name):
    for title, flops, _, inner, gathers, difference in table(name):
        assert difference < 2e-5, title
        if title == "plain":
            continue
        assert (inner, gathers) == (0, 0), title
        # At these sizes norms come from products of positions, which are more FLOPs and less time;
        # clipping takes two passes; with one position there are squares of factors to multiply.
        if title == "mean" or (name != "mlp" and "variance" in title):
            assert flops <= 1.1, title


@pytest.mark.full
def test_every_device_works_on_its_own_rows_in_a_loop_over_layers():
    for title, *_, inner, gathers, difference in table("transformer"):
        assert (inner, gathers) == (0, 0), title
        assert difference < 2e-5, title


def test_parameters_that_lie_in_parts():
    """No gradient of an example is written out, and no factor of one is gathered."""
    rows = printed("sharded_params.py", "--json")
    assert len(rows) == 16
    for row in rows:
        assert row["difference"] < 1e-6, row
        if row["statistics"] != "training":
            assert row["other"] == [], row
            assert row["largest / B P"] < 0.05, row
        if row["statistics"] == "mean":
            assert row["gathered"] == row["by the plain gradient"], row
            assert row["bytes"] < 1.01, row


def table(name):
    """The rows of the table of a workload, in a process with 8 devices."""
    return [row[1:] for row in printed("device_table.py", "--quick", "--json", name)]


def printed(script, *options):
    """What a script prints as JSON."""
    script = Path(__file__).with_name(script)
    done = subprocess.run(
        [sys.executable, script, *options],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
