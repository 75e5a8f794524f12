"""Random message sequences against the real machines: the model owner gets aggregates and nothing else."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sequence_run
from sequence_run import RUN, Outcome, Run, legal_pairs
from sequence_world import Broken

RUNS = 80 if os.environ.get("TERTIUM_LONG") == "1" else 30
"""Runs of `RUN` sequences each, 80 with `make long`; `make torture` plays 10,000. Thirty try every pair."""


# One process plays them, for both tests that look at what came of it.
together = pytest.mark.xdist_group("random sequences")


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return [sequence_run.play(number) for number in range(RUNS)]


@together
@pytest.mark.timeout(600)
def test_no_sequence_makes_a_machine_send_anything_but_an_aggregate(outcomes: list[Outcome]) -> None:
    broken = [
        f"run {each.run}, sequence {each.at[0]}: {each.broken}; "
        f"python tests/sequences/sequence_run.py --run {each.run} plays it again and cuts it down"
        for each in outcomes
        if each.broken
    ]
    assert not broken, "\n".join(broken)
    assert sum(each.sequences for each in outcomes) == RUNS * RUN
    # That nothing broke says something only if much was tried.
    assert sum(each.messages for each in outcomes) > 3 * RUNS * RUN
    assert sum(each.accepted for each in outcomes) > RUNS * RUN
    assert sum(each.releases for each in outcomes) > RUNS


@together
def test_every_pair_of_phase_and_message_is_tried(outcomes: list[Outcome]) -> None:
    tried: Counter[sequence_run.Pair] = Counter()
    for each in outcomes:
        tried += each.tried
    missed = [f"{kind.__name__} at a {role} that is {phase}" for role, phase, kind in legal_pairs() - set(tried)]
    assert not missed, "\n".join(sorted(missed))


def test_a_run_repeats_although_its_keys_differ() -> None:
    first, again = Run(11).play(40), Run(11).play(40)
    assert first.trace == again.trace
    assert (first.tried, first.taken, first.releases) == (again.tried, again.taken, again.releases)


def test_a_failure_names_the_run_that_plays_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(self: Run, number: int) -> None:
        raise Broken("planted")

    monkeypatch.setattr(Run, "_sequence", fails)
    assert sequence_run.main(["--sequences", "0:200"]) == 1
    said = capsys.readouterr().out
    assert "run 1, sequence 0, step 0: planted" in said
    assert "sequence_run.py --run 1" in said


def test_the_command_plays_sequences_in_several_processes() -> None:
    command = [sys.executable, sequence_run.__file__, "--sequences", "0:400", "--jobs", "2"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, cwd=Path(__file__).parents[2]
    )
    assert "400 sequences in" in done.stdout, done.stderr
    assert "0 runs broken" in done.stdout
