"""One flag changes the trust, never the model: every mode sums to the same bits, and each party gets only its share."""

from typing import Any

import numpy as np
import pytest
from tertium.crypto.labels import Label
from tertium.protocol.charter import Deadlines, Mode, SchemeName
from tertium.protocol.rounds import Phase
from tertium.protocol.site import LocalLimits

Maker = Any
Run = Any
NAMES = ("alice", "bob", "carol", "dave")
MODES: dict[str, tuple[Mode, str, tuple[str, ...]]] = {
    "trusted": (Mode.TRUSTED, "trusted", ("third",)),
    "masked": (Mode.MASKED, "masked", ("third",)),
    "plain": (Mode.PLAIN, "plain", ("third",)),
    "additive of 2": (Mode.ADDITIVE, "additive", ("first", "second")),
    "additive of 3": (Mode.ADDITIVE, "additive", ("first", "second", "third")),
    "additive of 5": (Mode.ADDITIVE, "additive", ("first", "second", "third", "v", "w")),
    "replicated": (Mode.SHARED, "replicated", ("first", "second", "third")),
    "shamir 2 of 3": (Mode.SHAMIR, "shamir", ("first", "second", "third")),
    "shamir 2 of 4": (Mode.SHAMIR, "shamir", ("first", "second", "third", "v")),
    "shamir 3 of 5": (Mode.SHAMIR, "shamir", ("first", "second", "third", "v", "w")),
}


def rules_of(make: Maker, name: str, **changes: Any) -> dict[str, Any]:
    mode, scheme, workers = MODES[name]
    more: dict[str, Any] = {"workers": workers}
    if mode is Mode.PLAIN:
        changes["unsafe_plain"] = "a test"
        more["limits_of"] = dict.fromkeys(make.names, LocalLimits(modes=tuple(Mode)))
    threshold = int(name.split()[1]) if mode is Mode.SHAMIR else None
    return {"rules": make.rules(mode=mode, scheme=SchemeName(name=scheme, threshold=threshold), **changes), **more}


@pytest.fixture(scope="module")
def in_mode(make_once: Maker) -> Any:
    def run_it(name: str, **more: Any) -> Run:
        run = make_once(
            4,
            plan=make_once.plan(rounds=3, metrics=("loss",)),
            machines={"owner": make_once.sums, **more.pop("machines", {})},
            **rules_of(make_once, name),
            **more,
        )
        errors = run.run()
        assert {who: error for who, error in errors.items() if error} == {}
        return run

    return run_it


@pytest.fixture(scope="module")
def trusted(in_mode: Any) -> Run:
    return in_mode("trusted")


def opened(run: Run, party: str) -> list[Any]:
    return [each for each in run.handled[party] if not each.sealed and each.label is Label.CONTRIBUTION]


@pytest.mark.parametrize("name", MODES)
def test_every_mode_makes_the_same_model_bit_for_bit(in_mode: Any, trusted: Run, plain_sum: Any, name: str) -> None:
    run = in_mode(name)
    assert run.released == [1, 2, 3]
    assert bytes(run.model.to_bytes()) == bytes(trusted.model.to_bytes())
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 3, NAMES))
    assert run.all_refused == []
    assert run.clock.now < 30


@pytest.mark.parametrize("name", MODES)
def test_who_opens_what_is_what_the_seats_say(in_mode: Any, name: str) -> None:
    run = in_mode(name)
    seats = run.machines["owner"]._seats
    for party in (*run.workers, "owner"):
        found = opened(run, party)
        if party not in (*seats.holders, *seats.workers):
            assert found == []
            continue
        assert len(found) == 3 * len(NAMES)
        sizes = {each.payload for each in found}
        if name == "masked":
            assert sizes == ({32} if party == "owner" else sizes - {32})
        if name == "plain" and party == "third":
            assert sizes == {0}


@pytest.mark.parametrize("name", ["additive of 2", "additive of 3"])
def test_the_load_goes_round_among_holders(in_mode: Any, name: str) -> None:
    run = in_mode(name)
    full = {worker: len([each for each in opened(run, worker) if each.payload != 32]) for worker in run.workers}
    assert max(full.values()) - min(full.values()) <= 1
    assert sum(full.values()) == 3 * len(NAMES)


STEPS = {
    "masked": {
        "owner": [Phase.OFFERING, Phase.COLLECTING, Phase.RECEIVING, Phase.VERIFYING, Phase.RELEASED],
        "third": [Phase.COLLECTING, Phase.RELEASED],
        "bob": [Phase.INVITED, Phase.RECEIVING, Phase.UPLOADING, Phase.CONTRIBUTED],
    },
    "additive of 3": {
        "owner": [Phase.OFFERING, Phase.COLLECTING, Phase.CLOSED, Phase.RECEIVING, Phase.VERIFYING, Phase.RELEASED],
        "second": [Phase.COLLECTING, Phase.LISTED, Phase.CLOSED, Phase.RELEASED],
        "bob": [Phase.INVITED, Phase.RECEIVING, Phase.UPLOADING, Phase.CONTRIBUTED],
    },
}


@pytest.mark.parametrize(
    ("name", "party", "phase"),
    [(name, party, phase) for name, steps in STEPS.items() for party, phases in steps.items() for phase in phases],
)
def test_a_round_survives_a_restart_at_every_step_or_says_who_was_lost(
    make: Maker, plain_sum: Any, name: str, party: str, phase: Phase
) -> None:
    run = make(
        4,
        plan=make.plan(rounds=2),
        machines={"owner": make.sums, "dave": make.slow},
        **rules_of(make, name, deadlines=Deadlines(join=10, upload=30, close=10, release=10, statement=5, absence=20)),
    )
    run.run(until=lambda: run.machines[party].phase is phase)
    run.restart(party)
    errors = run.run()
    assert {who: error for who, error in errors.items() if error} == {}
    contributors = run.statement(2, run.workers[0]).contributors
    # Who was restarted while it sent its shares sits that round out: some holder may have one of the first split.
    assert set(contributors) >= set(NAMES) - {party}
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 2, contributors))
    assert run.clock.now < 90
