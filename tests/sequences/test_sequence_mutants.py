"""The watch goes red for each guard that is taken away: else the sequences would prove nothing."""

import pytest
from sequence_mutants import MUTANTS
from sequence_run import Run, cut_down
from test_random_sequences import RUNS


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name: str) -> None:
    changes, words = MUTANTS[name]
    for number in range(RUNS):
        broken = Run(number, changes).play().broken
        if broken is not None and words in broken:
            return
    pytest.fail(f"not found in {RUNS} runs")


def test_a_failure_is_cut_down_to_what_brings_it_about() -> None:
    changes, _ = MUTANTS["a message raises what nobody catches"]
    number = next(number for number in range(20) if Run(number, changes).play().broken)
    whole = Run(number, changes).play()
    best, steps = cut_down(number, changes)
    assert best.broken is not None
    assert len(steps) < max(4, len(whole.trace))
