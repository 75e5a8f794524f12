"""The simulated population: 100 rounds among 40 data owners, summed gradients of cohorts of 20 to 29, and Adam.

The seed draws everybody's points, the model's first weights, the batches and the cohorts. The seeds are 1 to 5,
whatever they give. Beside each stands the same model and optimiser on everybody's points in one place, and how many of
the sums were verified.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SEEDS = (1, 2, 3, 4, 5)
ROUNDS = 100
LEAST = 0.99
"""The median accuracy at round 100."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line a seed and the median; return 1 if it is below `LEAST`, or a sum was not verified."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", default="trusted")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    chosen = parser.parse_args(arguments)
    reached, failed = [], False
    for seed in chosen.seeds:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "tertium", "demo", "halfplane", "--json", "--mode", chosen.mode]
            command += ["--rounds", str(ROUNDS), "--seed", str(seed), "--out", str(Path(folder) / "run")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
        if done.returncode:
            print(f"seed {seed}: the demo failed: {done.stderr.strip().splitlines()[-1:]}")
            return 1
        run = json.loads(done.stdout)
        reached.append(run["accuracy"])
        verified = run["checks"].get("verified", 0)
        failed |= verified != ROUNDS
        print(
            f"seed {seed}: {reached[-1]:.4f}, in one place {run['centralised']['accuracy']:.4f}, "
            f"{verified} of {ROUNDS} sums verified, {run['seconds']:.0f} s",
            flush=True,
        )
    median = statistics.median(reached)
    print(f"median of {len(reached)}: {median:.4f}, at least {LEAST}")
    return int(failed or median < LEAST)


if __name__ == "__main__":
    sys.exit(main())
