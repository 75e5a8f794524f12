"""Federated against centralised accuracy on held-out digits: five seeds, five real processes each.

Both train the same model with the same number of batches and the same falling learning rate; the centralised one has
all the data in one place. The seeds are 1 to 5, whatever they give.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SEEDS = (1, 2, 3, 4, 5)
POINTS = 0.03
"""The federated median may be this far below the centralised one."""


def main() -> int:
    """Print one line a seed and the medians; return 1 if the medians are further apart than `POINTS`."""
    federated, centralised = [], []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "tertium", "demo", "digits", "--json"]
            command += ["--seed", str(seed), "--out", str(Path(folder) / "run")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            print(f"seed {seed}: the demo failed: {done.stderr.strip().splitlines()[-1:]}")
            return 1
        run = json.loads(done.stdout)
        federated.append(run["accuracy"])
        centralised.append(run["centralised"]["accuracy"])
        print(
            f"seed {seed}: federated {federated[-1]:.4f}, centralised {centralised[-1]:.4f}, {run['seconds']:.0f} s",
            flush=True,
        )
    ours, theirs = statistics.median(federated), statistics.median(centralised)
    print(f"median: federated {ours:.4f}, centralised {theirs:.4f}, difference {theirs - ours:+.4f}")
    return int(ours < theirs - POINTS)
