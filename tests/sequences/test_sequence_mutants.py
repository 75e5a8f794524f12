"""The watch goes red for each guard that is taken away: else the sequences would prove nothing.

Five mutants are found only after thousands of sequences: `make mutants`, with TERTIUM_MUTANTS set, looks for them too.
"""

import os

import pytest
from sequence_aids import Chance
from sequence_mutants import MUTANTS, OF_ANOTHER_ATTEMPT, Mutant, without
from sequence_run import RUN, Run, cut_down
from sequence_watch import Watch
from sequence_world import Broken, Setting, World, people
from tertium.protocol.charter import Role
from tertium.protocol.messages import Message, Ready
from tertium.simulation.federation import THIRD

RUNS = 80
"""Runs of `RUN` sequences in which a mutant has to be found; play ends with the first that does."""
ALL = bool(os.environ.get("TERTIUM_MUTANTS"))
SELDOM = (
    "the secure worker has a gate that remembers nothing",
    "the secure worker does not verify heads",
    "a data owner sends what training came to, whatever it sent before",
    "the secure worker takes a question nobody signed",
    "the secure worker releases below the minimum",
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "mutant", [each for each in MUTANTS if ALL or each.name not in SELDOM], ids=lambda mutant: mutant.name
)
def test_a_mutant_is_found(mutant: Mutant) -> None:
    said = []
    for number in range(RUNS):
        broken = Run(number, mutant.changes, hostile=mutant.hostile, fickle=mutant.fickle).play().broken
        if broken is not None and mutant.says in broken:
            return
        said.append(broken)
    pytest.fail(f"not found in {RUNS * RUN} sequences; found instead: {sorted(set(filter(None, said)))[:3]}")


def test_a_failure_is_cut_down_to_what_brings_it_about() -> None:
    changes = next(mutant.changes for mutant in MUTANTS if mutant.says == "raises KeyError")
    # The soonest: honest steps depend on all that was before, and a long way there has more that matters.
    played = [Run(number, changes).play() for number in range(20)]
    # At step 0 it was an honest step that brought it about.
    number = min((each for each in played if each.broken and each.at[1]), key=lambda each: each.at).run
    best, steps = cut_down(number, changes)
    assert best.broken is not None
    assert "raises KeyError" in best.broken
    assert 1 <= len(steps) <= 3


def _an_envelope_comes_again(removed: tuple[str, ...]) -> None:
    """Play a round whose first attempt a restart ends, and send an envelope of it in the second; raises `Broken`."""
    identities, charter = people(None)
    watch, chance, ready = Watch(identities, charter, None), Chance(1), list[tuple[str, Ready]]()

    def heard(name: str, peer: str, message: Message) -> None:
        if isinstance(message, Ready):
            ready.append((name, message))

    setting = Setting(fickle=False, serve=True, stable=None, kept=6, cohort=0, leaps=False, crashes=0.0)
    world = World(setting, watch, {Role.SECURE_WORKER: without(*removed)})
    world.heard = heard
    while not world.has_contributions():
        world.honest(chance)
    name, message = next((name, each) for name, each in ready if each.head.subject in world.bodies)
    world.restart(THIRD)
    while not world.in_another_attempt(THIRD):
        world.honest(chance)
    taken = world.give(THIRD, name, message, forged=True)
    if taken and (THIRD, message.head.subject) in world.transfers():
        world.transfer((THIRD, message.head.subject))
    while not watch.releases and world.now < 300:
        world.honest(chance)
    assert watch.releases


@pytest.mark.parametrize("kept", OF_ANOTHER_ATTEMPT)
def test_each_guard_keeps_an_envelope_out_of_another_attempt(kept: str) -> None:
    _an_envelope_comes_again(tuple(guard for guard in OF_ANOTHER_ATTEMPT if guard != kept))


def test_without_all_of_them_it_is_added_and_seen() -> None:
    with pytest.raises(Broken, match="in another attempt"):
        _an_envelope_comes_again(tuple(OF_ANOTHER_ATTEMPT))
