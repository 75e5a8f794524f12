"""A seed is played again exactly: the same events, at the same times, of the same parties."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tertium.simulation.scenario import FAMILIES, draw
from tertium.simulation.torture import play

OF_EACH_FAMILY = {family: next(seed for seed in range(2000) if draw(seed).family == family) for family in FAMILIES}
AGAIN = """
import hashlib, sys
from pathlib import Path
from tertium.simulation.torture import play
for seed in sys.argv[2:]:
    print(seed, hashlib.sha256(repr(play(int(seed), Path(sys.argv[1])).trace).encode()).hexdigest())
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_two_runs_of_a_seed_have_equal_traces(family: str, tmp_path: Path) -> None:
    seed = OF_EACH_FAMILY[family]
    one, other = play(seed, tmp_path), play(seed, tmp_path)
    assert len(one.trace) > 20
    assert one.trace == other.trace
    # What protects is drawn by the operating system, and not from the seed.
    assert {identity.public for identity in one.identities.values()}.isdisjoint(
        identity.public for identity in other.identities.values()
    )


def test_traces_do_not_depend_on_how_a_process_hashes(tmp_path: Path) -> None:
    families = ("network", "crash", "everything", "hostile data owner", "hostile secure worker")
    seeds = [str(OF_EACH_FAMILY[family]) for family in families]

    def traces(salt: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", AGAIN, str(tmp_path), *seeds],
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": salt},
        )
        return done.stdout

    first = traces("1")
    assert len(first.splitlines()) == len(seeds)
    assert first == traces("2")


def test_other_seeds_have_other_traces(tmp_path: Path) -> None:
    traces = [hashlib.sha256(repr(play(seed, tmp_path).trace).encode()).digest() for seed in range(6)]
    assert len(set(traces)) == len(traces)
