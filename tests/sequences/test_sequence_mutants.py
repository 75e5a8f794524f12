"""The watch goes red for each guard that is taken away: else the sequences would prove nothing."""

import pytest
from sequence_mutants import MUTANTS, Mutant
from sequence_run import RUN, Run, cut_down
from test_random_sequences import RUNS

NOT_FOUND = "the secure worker ignores the attempt"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_found(mutant: Mutant, request: pytest.FixtureRequest) -> None:
    if mutant.name == NOT_FOUND:
        request.applymarker(pytest.mark.xfail(reason="not found in 8,000 sequences: the watch is too weak here"))
    said = []
    for number in range(RUNS):
        broken = Run(number, mutant.changes, hostile=mutant.hostile, fickle=mutant.fickle).play().broken
        if broken is not None and mutant.says in broken:
            return
        said.append(broken)
    pytest.fail(f"not found in {RUNS * RUN} sequences; found instead: {sorted(set(filter(None, said)))[:3]}")


def test_a_failure_is_cut_down_to_what_brings_it_about() -> None:
    changes = next(mutant.changes for mutant in MUTANTS if mutant.says == "raises KeyError")
    number = next(number for number in range(20) if Run(number, changes).play().broken)
    best, steps = cut_down(number, changes)
    assert best.broken is not None
    assert "raises KeyError" in best.broken
    assert 1 <= len(steps) <= 3
