"""Parties of committees that are killed (-9), as processes, at every step of a round, and started again each time.

A run is one federation in which one party is killed over and over: each of its lives ends at the next place of its
role, before or after what is done there. Which places there are follows from the code, as `places` says; a write or a
message of a run that is not among them fails it. In each run the outcome rule holds: every round's aggregate is what
the oracle works out over the one set that all secure workers released and all journals agree on, added once, made in
another attempt or session where it has to be; all rounds come to an end in time; nothing is half written or summed.

Whoever ends before the model is there is started again at once, as a supervisor would. `make test` runs `TELLING`;
with TERTIUM_TORTURE set, as in `make torture`, every party of every mode is killed everywhere.
"""

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from killing import KILLED, OWNER, THIRD, Killable, Life, Step, lives_ended_well
from tertium.protocol.charter import Mode, Role
from tertium.protocol.journal import WRITES, Write
from tertium.protocol.training import UpdateKind
from tertium.simulation.scenario import WORKERS, Scenario

TORTURE = bool(os.environ.get("TERTIUM_TORTURE"))
VICTIM, NAMES = "bob", ("alice", "bob", "carol", "dave")
DEADLINES = {"join": 20.0, "upload": 40.0, "close": 10.0, "release": 10.0, "statement": 5.0, "absence": 12.0}
STILL = 90.0
"""Seconds without a new life and without a new round that are a hang: all deadlines of a round, once each."""
ONCE = frozenset({Write.ABANDONED})
"""A data owner's word that the model owner is gone for good: the same in every mode, so it is in `test_kills.py`."""


@dataclass(frozen=True)
class Kind:
    """A mode, its scheme, and how many secure workers there are."""

    mode: Mode
    scheme: str
    count: int

    def __str__(self) -> str:
        return f"{self.scheme} of {self.count}"

    @property
    def workers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*WORKERS, "fourth", "fifth", "sixth", "seventh")))[: self.count]

    @property
    def holders(self) -> int:
        """How many get a share of each contribution."""
        return self.count + (self.mode is Mode.MASKED)

    @property
    def scenario(self) -> Scenario:
        """What the simulator knows of an honest run; `test_crash_points.py` holds that against a run."""
        made = {"seed": 1, "family": "by hand", "data_owners": NAMES, "minimum": 3, "rounds": 1}
        return Scenario(**made, mode=self.mode, workers=self.workers)

    @property
    def roles(self) -> dict[str, Role]:
        """Who is killed."""
        return {OWNER: Role.MODEL_OWNER, **dict.fromkeys(self.workers, Role.SECURE_WORKER), VICTIM: Role.DATA_OWNER}


KINDS = (
    Kind(Mode.ADDITIVE, "additive", 2),
    Kind(Mode.ADDITIVE, "additive", 3),
    Kind(Mode.MASKED, "masked", 1),
    Kind(Mode.SHARED, "replicated", 3),
    Kind(Mode.SHAMIR, "shamir", 4),
)
OF_EVERY_CONNECTION = {
    Role.MODEL_OWNER: ("Hello", "Grant", "Credit"),
    Role.SECURE_WORKER: ("Hello", "Grant", "Credit"),
    Role.DATA_OWNER: ("Hello", "Credit"),
}
WHEN_SOMETHING_IS_LOST = {
    Role.MODEL_OWNER: ("Aborted",),
    Role.SECURE_WORKER: ("Aborted",),
    Role.DATA_OWNER: ("Declined",),
}
BESIDE_MESSAGES = {
    Role.MODEL_OWNER: ("record out", "record in", "work", "replace"),
    Role.SECURE_WORKER: ("record out", "record in"),
    Role.DATA_OWNER: ("record out", "record in", "work"),
}
NEVER_IN_ORDER = {"send Refusal"}
AT_THE_START = (
    "send Hello",
    "send RequestSession",
    "write SESSION_OPENED",
    "write SESSION_OFFERED",
    "send OfferSession",
)
AT_THE_END = ("send SessionOver", "write SESSION_LEFT")


def at(name: str, number: int = 1, *, when: str = "after", action: str = "kill", since: int = 2) -> Step:
    return (action, name, number, when, since)


def places(kind: Kind, role: Role) -> set[str]:
    """Return every place at which this role is killed in this mode: its writes, its messages, and what is beside."""
    messages = (*kind.scenario.sent(role), *OF_EVERY_CONNECTION[role], *WHEN_SOMETHING_IS_LOST[role])
    writes = {write.name for write in kind.scenario.writes(role) if write not in ONCE}
    return {f"write {name}" for name in writes} | {f"send {name}" for name in messages} | set(BESIDE_MESSAGES[role])


def half_way(kind: Kind, role: Role) -> dict[str, int]:
    """Return the places that a round comes to several times, and a number that is in the midst of them."""
    workers, uploads = kind.count, len(NAMES) - 1
    if role is Role.DATA_OWNER:
        return {
            "send Ready": kind.holders,
            "record out": kind.holders,
            "write RECEIPT_TAKEN": kind.holders,
            "send Cosign": workers,
        }
    if role is Role.SECURE_WORKER:
        names = ("Grant", "Credit", "Receipted", "Closed", "RequestCosignature", "RoundRecord")
        each = [f"send {name}" for name in names] + ["record in", "write CONTRIBUTION_ADDED"]
        return dict.fromkeys(each, uploads)
    several = ("RequestSession", "ProposeRound", "Fetch", "Lists", "Closes", "Cosign")
    found = {f"send {name}": workers for name in several if f"send {name}" in places(kind, role)}
    found |= {"replace": 1 + workers, "record in": workers}
    to_all = {f"send {name}": uploads for name in ("Hello", "Invitation", "SendModel", "Grant", "SessionOver")}
    shares = {"send Receipted": uploads} if kind.mode is Mode.MASKED else {}
    return found | to_all | shares | {"record out": uploads}


def lives(kind: Kind, role: Role, when: str) -> list[list[Step]]:
    """Return the plans of the lives of a party that is killed everywhere, once before or once after each place."""
    often = {place: number for place, number in half_way(kind, role).items() if number > 1}
    lost: Step = at("write CONTRIBUTION_ADDED", 2)
    stopped: Step = at("send SendModel", 3, action="term")
    on_the_way: dict[str, list[list[Step]]] = {
        "write ATTEMPT_ABORTED": [[lost], [at("write ATTEMPT_ABORTED", when=when, since=0)]],
        "write SESSION_ENDED": [[stopped, at("write SESSION_ENDED", when=when)]],
    }
    aborts = [[lost], [at("send Aborted", when=when, since=0)]]
    on_the_way["send Aborted"] = aborts if role is Role.SECURE_WORKER else [[stopped, at("send Aborted", 3, when=when)]]
    all_of_them = places(kind, role) - {"send Declined"}  # by one that never has anything to send: see `DECLINING`
    plans: list[list[Step]] = []
    for place in AT_THE_START:
        for number in sorted({1, often.get(place, 1)} if place in all_of_them else ()):
            plans.append([at(place, number, when=when, since=0)])
    for place in sorted(all_of_them - set(AT_THE_START) - set(AT_THE_END)):
        if place in on_the_way:
            plans += on_the_way[place]
            continue
        plans += [[at(place, number, when=when)] for number in sorted({1, often.get(place, 1)})]
    for place in AT_THE_END:
        if place in all_of_them:
            plans.append([at(place, often.get(place, 1), when=when, since=0)])
    return plans


@dataclass(frozen=True)
class Run:
    """One federation, and how the lives of its victims end."""

    kind: Kind
    name: str
    plans: dict[str, list[list[Step]]] = field(hash=False)
    rounds: int
    declines: bool = False
    """Whether the data owner that is killed has no examples."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"

    @property
    def kills(self) -> int:
        return sum(step[0] == "kill" for plans in self.plans.values() for plan in plans for step in plan)


def everywhere(kind: Kind, victim: str, when: str) -> Run:
    plans = lives(kind, kind.roles[victim], when)
    return Run(kind, f"{victim} {when}", {victim: plans}, 4 * len(plans))


TELLING = (
    Run(
        KINDS[0],
        "here and there",
        {
            THIRD: [[at("write SET_AGREED")], [at("send Closed", 2, since=6)]],
            "fourth": [[at("write RELEASE_DECIDED", when="before", since=4)]],
            OWNER: [[at("send Lists", since=8)], [at("write STEP_TAKEN", when="before")]],
            VICTIM: [[at("send Ready", 2, when="before", since=10)]],
        },
        14,
    ),
)
"""A few kills of each kind of party, each at a step that only a committee has."""
DECLINING = [[at("send Declined", number, when=when)] for number in (1, 2) for when in ("before", "after")]
RUNS = [everywhere(kind, victim, when) for kind in KINDS for victim in kind.roles for when in ("before", "after")]
RUNS += [Run(kind, f"{VICTIM} declines", {VICTIM: DECLINING}, 40, declines=True) for kind in KINDS]
RECORD_LOST = ("replace", "write STEP_TAKEN")
"""Places of a model owner between the step and the record of a round, which is lost then; the aggregate is there."""


def play(federation: Killable, run: Run) -> None:
    """Start everybody, and whoever ends too soon again, until the model is there and all have ended."""
    waiting = {name: [list(plan) for plan in plans] for name, plans in run.plans.items()}
    federation.gate.touch()
    federation.start_all({name: plans.pop(0) for name, plans in waiting.items()})
    most = run.kills + 4 * len(federation.lives)
    seen, since = (0, 0), time.monotonic()
    while not (federation.all_ended() and federation.model and not any(waiting.values())):
        for name in federation.lives:
            life = federation.now(name)
            if life.code() == KILLED:
                federation.start(name, waiting[name].pop(0) if waiting.get(name) else None)
            elif life.code() not in (None, 0) and federation.model is None:
                federation.start(name, life.plan)
            elif federation.all_ended():
                raise AssertionError(f"ended before all was tried:\n{federation.story()}")
        # Rounds that the victim misses are none in which it can be killed.
        present = all(introduced(federation.now(name)) for name in waiting if name == VICTIM)
        if present != federation.gate.exists():
            federation.gate.touch() if present else federation.gate.unlink()
        now = (len(federation.all_lives()), federation.done)
        seen, since = (seen, since) if now == seen else (now, time.monotonic())
        assert time.monotonic() - since < STILL, f"still for {STILL:g} s:\n{federation.story()}"
        assert len(federation.all_lives()) <= most, f"started too often:\n{federation.story()}"
        time.sleep(0.02)


def introduced(life: Life) -> bool:
    """Whether a data owner that runs has met model owner and a secure worker; nobody waits for one that has ended."""
    return life.code() in (0, 3) or [place for _, place in life.places].count("send Hello") >= 2


def no_place_is_forgotten(federation: Killable, kind: Kind) -> None:
    """What a party of this run wrote or sent is among the places at which its role is killed."""
    for life in federation.all_lives():
        role = federation.place.roles[life.name]
        told = {place for _, place in life.places if place.startswith(("write ", "send "))}
        known = places(kind, role) | {f"write {write.name}" for write in ONCE} | NEVER_IN_ORDER
        assert told <= known, (life.name, told - known)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("run", [*TELLING, *(RUNS if TORTURE else ())], ids=str)
def test_a_committee_loses_no_round_to_a_party_that_is_killed_and_comes_back(killable: Any, run: Run) -> None:
    kind = run.kind
    federation, oracle = killable(
        rounds=run.rounds,
        data_owners=NAMES,
        gated=1,
        kind=UpdateKind.DELTA,
        empty=VICTIM if run.declines else "",
        sharing={"mode": kind.mode, "scheme": kind.scheme, "workers": kind.workers},
        **DEADLINES,
    )
    play(federation, run)
    lives_ended_well(federation, killed=run.kills)
    ends = Counter(life.name for life in federation.all_lives() if life.code() == KILLED)
    assert ends == {name: len(plans) for name, plans in run.plans.items()}, federation.story()
    federation.nothing_is_half_written()
    federation.nothing_is_left_over()
    sets = federation.exact(oracle)
    assert len(sets) == federation.done == run.rounds
    assert all(len(chosen) >= 3 for chosen in sets)
    assert all(abort.party in federation.lives for abort in federation.aborts())
    complete = [number for number, kept in federation.records().items() if set(kept) == set(kind.workers)]
    may_lose = sum(step[1] in RECORD_LOST for plan in run.plans.get(OWNER, []) for step in plan)
    # Where the rest can do without one that is gone, its record is not waited for.
    assert run.rounds - len(complete) <= may_lose or kind.mode is Mode.SHAMIR, federation.story()
    no_place_is_forgotten(federation, kind)


def test_every_write_of_a_committee_has_its_place() -> None:
    """A write that is new is killed at, in each mode that has it, or this fails."""
    for kind in KINDS:
        for role in (Role.MODEL_OWNER, Role.SECURE_WORKER, Role.DATA_OWNER):
            plans = [plan for when in ("before", "after") for plan in lives(kind, role, when)]
            tried = {step[1] for plan in plans + (DECLINING if role is Role.DATA_OWNER else []) for step in plan}
            alone = {Write.SET_AGREED} if kind.count == 1 else set()
            assert {f"write {write.name}" for write in WRITES[role] - ONCE - alone} <= tried, (str(kind), role)
            assert places(kind, role) <= tried
