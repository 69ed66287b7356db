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


def table(name):
    """The rows of the table of a workload, in a process with 8 devices."""
    script = Path(__file__).with_name("device_table.py")
    done = subprocess.run(
        [sys.executable, script, "--quick", "--json", name],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [row[1:] for row in json.loads(done.stdout)]
