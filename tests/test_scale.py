"""What docs/scale.md says of communication and buffers, at a small size."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "experiments/scale.py"


def test_statistics_of_a_fully_sharded_decoder():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--json"],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["base"]
    size, plain = counts.pop("size"), counts["plain"]
    for name, its in counts.items():
        assert its["flops"] <= 1.001 * plain["flops"], name
        # Weights, and nothing of an example; of variance the gains of norms once more.
        assert its["gathered"] <= 1.001 * plain["gathered"], name
        # Of no more than one weight there are gradients of some examples, never of all weights.
        largest_weight = 4 * size["width"] ** 2
        assert its["largest"] <= max(plain["largest"], size["per_device"] * largest_weight), name
    parameters = plain["added_up"]
    assert counts["mean + norms"]["added_up"] == parameters
    assert counts["mean + variance"]["added_up"] <= 2.01 * parameters
    assert 0 < counts["norms, tracked"]["added_up"] - parameters <= 64  # numbers of 4 bytes
