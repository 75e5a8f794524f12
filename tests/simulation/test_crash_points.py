"""A party ends exactly where its plan says, and goes on from its journal."""

import os
from typing import Any

import pytest
from tertium.protocol.charter import Mode, Role
from tertium.protocol.errors import JournalError
from tertium.protocol.journal import WRITES, Write
from tertium.secure_worker.gate import SlotKept
from tertium.simulation.crashes import Crash, CrashPlan, CrashSchedule, FaultyJournal
from tertium.simulation.scenario import NAMES, SENT, WORKERS, ClockTrouble, Scenario, kinds

SLOT = SlotKept(bytes(32), 1, bytes(32))


def journal(*plans: CrashPlan) -> FaultyJournal:
    schedule = CrashSchedule(list(plans))
    return FaultyJournal(None, party="third", role=Role.SECURE_WORKER, signing=bytes(32), schedule=schedule)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", ["write RELEASE_DECIDED", "write"])
def test_a_crash_at_a_write_is_before_or_after_its_commit(when: str, at: str) -> None:
    made = journal(CrashPlan("third", at, 2, when))
    made.write(Write.RELEASE_DECIDED)
    with pytest.raises(Crash):
        made.write(Write.RELEASE_DECIDED, SLOT)
    assert (made.read(SlotKept, SLOT.key) is not None) == (when == "after")
    made.reopen()
    made.write(Write.RELEASE_DECIDED, SLOT)
    assert made.read(SlotKept, SLOT.key) == SLOT


def test_a_full_disk_stays_full_until_the_party_is_started_anew() -> None:
    made = journal(CrashPlan("third", "full", 1))
    for _ in range(2):
        with pytest.raises(JournalError):
            made.write(Write.RELEASE_DECIDED, SLOT)
    assert made.is_full
    assert made.read(SlotKept, SLOT.key) is None
    made.reopen()
    made.write(Write.RELEASE_DECIDED, SLOT)
    assert made.read(SlotKept, SLOT.key) == SLOT


PARTY = {Role.MODEL_OWNER: "owner", Role.SECURE_WORKER: "third", Role.DATA_OWNER: "alice", Role.EVALUATOR: "vera"}
LOST_ATTEMPT = CrashPlan("third", "Send Receipted", 2, "after", "after its last words", 0.3)
NO_OWNER = CrashPlan("owner", "Send SendModel", 4, "after", "after its last words", None)
NO_OWNER_FOR_VERA = CrashPlan("owner", "Send SendModel", 5, "after", "after its last words", None)
LEADS_TO: dict[tuple[str, str], dict[str, Any]] = {
    ("third", "ATTEMPT_ABORTED"): {"crashes": (LOST_ATTEMPT,)},
    ("owner", "SESSION_ENDED"): {"declines": ("alice", "bob")},
    ("alice", "ABANDONED"): {"crashes": (NO_OWNER,), "clocks": (ClockTrouble("alice", 5.0, "jumps", 300.0),)},
    ("vera", "ABANDONED"): {"crashes": (NO_OWNER_FOR_VERA,), "clocks": (ClockTrouble("vera", 5.0, "jumps", 300.0),)},
}
"""What must have gone wrong before, for the writes that an undisturbed run never comes to."""
ALONE: dict[str, Any] = {"mode": Mode.TRUSTED, "workers": WORKERS[:1]}
SEATED: dict[str, Any] = {"mode": Mode.MASKED, "workers": WORKERS[:1]}
TWO: dict[str, Any] = {"mode": Mode.ADDITIVE, "workers": WORKERS[:2]}
THREE: dict[str, Any] = {"mode": Mode.ADDITIVE, "workers": WORKERS[:3]}
PLAIN: dict[str, Any] = {"mode": Mode.PLAIN, "workers": WORKERS[:1]}
REPLICATED: dict[str, Any] = {"mode": Mode.SHARED, "scheme": "replicated", "workers": WORKERS[:3]}
SHAMIR: dict[str, Any] = {"mode": Mode.SHAMIR, "workers": WORKERS[:3]}
ONE_TO_SPARE: dict[str, Any] = {"mode": Mode.SHAMIR, "workers": WORKERS[:4]}
KINDS = {
    "trusted": ALONE,
    "masked": SEATED,
    "two": TWO,
    "three": THREE,
    "plain": PLAIN,
    "replicated": REPLICATED,
    "shamir": SHAMIR,
    "one to spare": ONE_TO_SPARE,
}
SEATED_OWNER = ("masked", "plain")
TORTURE = os.environ.get("TERTIUM_TORTURE") == "1"


def scenario(kind: str) -> Scenario:
    """An undisturbed federation of a kind, which knows what its parties send and write."""
    return Scenario(seed=1, family="by hand", data_owners=NAMES[:4], minimum=3, rounds=1, **KINDS[kind])


ENDS_WITHOUT_SUCCESS = {"SESSION_ENDED", "ABANDONED"}
POINTS = [
    *[(PARTY[role], f"write {write.name}") for role in WRITES for write in scenario("trusted").writes(role)],
    *[(PARTY[role], f"Send {name}") for role, names in SENT.items() for name in names],
    *[("third", name) for name in ("Expect", "Permit", "Provide", "Drop", "Finish")],
    *[("owner", name) for name in ("Expect", "Permit", "Provide", "Dial", "Work", "Finish")],
    *[("alice", name) for name in ("Expect", "Provide", "Dial", "Drop", "Work", "Finish")],
    *[("vera", name) for name in ("Expect", "Dial", "Work")],
]


WHERE_SHARES_GO = [
    *[(name, "third", f"write {write.name}") for name in KINDS for write in scenario(name).writes(Role.SECURE_WORKER)],
    *[
        (name, PARTY[role], f"Send {kind}")
        for name in KINDS
        for role in (Role.SECURE_WORKER, Role.MODEL_OWNER, Role.DATA_OWNER)
        for kind in scenario(name).sent(role)
    ],
    *[(name, "alice", f"write {write}") for name in KINDS for write in ("UPDATE_SEALED", "RECEIPT_TAKEN")],
    *[(kind, "owner", name) for kind in SEATED_OWNER for name in ("Expect", "Permit", "Drop")],
]
"""In every mode but `trusted`, which `POINTS` is about."""
LONG = os.environ.get("TERTIUM_LONG") == "1"
RARE = () if TORTURE else (*(() if LONG else ("two", "three")), "plain", "replicated", "shamir", "one to spare")
"""Kinds in which a crash at every point is tried by `make torture` only, and the first two by `make long`; the seeds
crash in them everywhere."""
USUAL = {each[1:] for each in WHERE_SHARES_GO if each[0] not in RARE}
AMONG = [
    each
    for each in WHERE_SHARES_GO
    if each[0] not in ("trusted", *RARE) or (each[0] == "two" and each[1:] not in USUAL)
]
"""Of kinds that are left out, what no other kind comes to is tried with two secure workers."""


def test_every_kind_of_federation_there_is_is_here() -> None:
    named = {(made.mode, made.rules.scheme.name, len(made.workers)) for made in map(scenario, KINDS)}
    assert named == {(kind.mode, kind.scheme, kind.workers) for kind in kinds()}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("kind", "party", "at"), AMONG, ids=[": ".join(each) for each in AMONG])
def test_a_party_that_ends_there_costs_nothing_in_any_mode(
    play: Any, kind: str, party: str, at: str, when: str
) -> None:
    plan = CrashPlan(party, at, 1, when, "after its last words", 0.2)
    before = LEADS_TO.get((party, at.removeprefix("write ")), {})
    world = play(**{**KINDS[kind], **before, "crashes": (*before.get("crashes", ()), plan), "rounds": 1})
    assert plan in world.schedules[party].fired
    assert world.broken == []
    # A model owner that loses its own shares of a sum may get that very sum again, in another session.
    assert len(world.released) == 1 or (kind in SEATED_OWNER and party == "owner")
    assert {number for _, number in world.released} == {1}
    assert world.parties["owner"].error is None


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("party", "at"), POINTS, ids=[f"{party}: {at}" for party, at in POINTS])
def test_a_party_that_ends_there_and_is_soon_back_costs_nothing(play: Any, party: str, at: str, when: str) -> None:
    plan = CrashPlan(party, at, 1, when, "after its last words", 0.2)
    name = at.removeprefix("write ")
    before = LEADS_TO.get((party, name), {})
    world = play(**{**before, "crashes": (*before.get("crashes", ()), plan), "rounds": 1, "evaluator": True})
    assert plan in world.schedules[party].fired
    assert world.broken == []
    if name in ENDS_WITHOUT_SUCCESS:
        assert world.parties[party].error
        return
    assert len(world.released) == 1
    assert world.parties["owner"].error is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_messages_that_are_sent_are_the_ones_a_crash_is_tried_at(play: Any, kind: str) -> None:
    """A message that is new has a crash before and after it, or this fails."""
    world = play(rounds=2, evaluator=True, **KINDS[kind])
    of_connections = {"Hello", "Credit", "Grant"}
    for role in SENT:
        party = PARTY[role]
        said = {entry[4] for entry in world.trace if entry[1:3] == ("says", party)} - of_connections
        assert said == set(world.scenario.sent(role)), party


@pytest.mark.parametrize("party", ["third", "fourth"])
def test_a_list_that_was_passed_on_to_some_is_passed_on_again(play: Any, party: str) -> None:
    """The model owner ends when one secure worker has the lists, and that one, or the other, right after it."""
    crashes = (
        CrashPlan("owner", "Send Lists", 1, "after", "after its last words", 0.4),
        CrashPlan(party, "write SET_AGREED" if party == "third" else "Send Listed", 1, "after", "at once", 0.2),
    )
    world = play(**TWO, crashes=crashes)
    assert world.broken == []
    assert world.parties["owner"].error is None


def test_every_write_is_one_a_crash_is_tried_at() -> None:
    tried = {at.removeprefix("write ") for _, at in POINTS} | {at.removeprefix("write ") for _, _, at in AMONG}
    assert {write.name for write in Write} <= tried


def test_an_attempt_that_is_lost_is_made_again(play: Any) -> None:
    plan = CrashPlan("third", "Send Receipted", 3, "after", "after its last words", 0.2)
    world = play(crashes=(plan,))
    assert world.broken == []
    assert sorted(question.attempt for question in world.questions.values()) == [0, 1]


@pytest.mark.parametrize("party", ["owner", "third", "alice"])
def test_a_full_disk_ends_a_party_in_a_sentence_and_it_goes_on_with_room(play: Any, party: str) -> None:
    plan = CrashPlan(party, "full", 2, back_after=1.0)
    world = play(crashes=(plan,))
    assert world.broken == []
    ends = [entry for entry in world.trace if entry[1:3] == ("ends", party)]
    assert "disk is full" in ends[0][3]
    assert world.parties["owner"].error is None


def test_a_party_that_never_comes_back_ends_the_others(play: Any) -> None:
    plan = CrashPlan("third", "write CONTRIBUTION_ADDED", 2, "before", "without a word", None)
    world = play(crashes=(plan,))
    assert world.broken == []
    assert "third" in world.lost
    assert all(party.error for party in world.parties.values())


def test_a_secure_worker_that_forgets_its_sessions_is_asked_in_time(play: Any) -> None:
    """Found by seed 1222: what an answer had to come within began before the asked one was gone."""
    world = play(crashes=(CrashPlan("third", "full", 1, back_after=5.0),))
    assert world.broken == []
    assert world.parties["owner"].error is None
