"""Parties that are killed (-9), as processes, at every step of a round: what becomes of the round and of the others.

A cell is a party, a place in its program, whether it ends before or after that, and whether it comes back. In each the
outcome rule holds: every checkpoint is what the oracle works out over the set all journals agree on, or there is a
signed abort and every survivor ends with one sentence; nobody hangs; nothing is half written. Whatever has ended
without being finished is started again by everybody, and then comes to its end.

`make test` runs the cells in `TELLING`; with TERTIUM_TORTURE set, as in `make torture`, all of them run.
"""

import os
import time
from dataclasses import dataclass, field
from typing import Any, get_args

import pytest
from killing import DATA_OWNERS, KILLED, OWNER, SCORER, THIRD, Killable, Step, lives_ended_well
from tertium.protocol.charter import Role
from tertium.protocol.codec import AnyMessage
from tertium.protocol.journal import WRITES, Write
from tertium.protocol.messages import Closes, Listed, Lists

TORTURE = bool(os.environ.get("TERTIUM_TORTURE"))
VICTIM = "bob"
VICTIMS = {
    Role.MODEL_OWNER: OWNER,
    Role.SECURE_WORKER: THIRD,
    Role.DATA_OWNER: VICTIM,
    Role.EVALUATOR: SCORER,
}
ROUNDS, IN_ROUND = 4, 2
BACK_WITHIN, GONE_FOR = 15.0, 5.0
"""Seconds: `deadlines.absence` where the killed party comes back, and where it does not."""
LONGEST = 100.0
"""Seconds within which a federation has ended: to join (30), to be gone (15) and a round's deadlines (25), once each,
and as much as this machine may take to start seven processes beside other tests."""
START, END = "start", "end"


@dataclass(frozen=True)
class Place:
    """Where a party can be killed: the number-th time in round 2, at the start, or at the end."""

    name: str
    number: int = 1
    during: str = ""
    before: dict[str, tuple[tuple[Step, ...], ...]] = field(default_factory=dict)
    """By party: what its lives before that one are to meet, for places that an undisturbed run never comes to."""
    since: int = IN_ROUND
    declines: bool = False

    @property
    def step_since(self) -> int:
        return 0 if self.during else self.since


def at(name: str, number: int = 1, *, when: str = "after", action: str = "kill", since: int = IN_ROUND) -> Step:
    return (action, name, number, when, since)


NOBODY_IS_ASKED = {OWNER: ((at("send SendModel", 4),),)}
"""The model owner is gone once most have the model, so that they are left alone with a round."""
PLACES: dict[Role, tuple[Place, ...]] = {
    Role.MODEL_OWNER: (
        Place("send Hello", 3, START),
        Place("send RequestSession", 1, START),
        Place("write SESSION_OPENED", 1, START),
        Place("write QUESTION_SIGNED"),
        Place("send ProposeRound"),
        Place("send Invitation", 3),
        Place("send SendModel", 3),
        Place("send Grant", 3),
        Place("record out", 3),
        Place("send Fetch"),
        Place("send Credit"),
        Place("record in"),
        Place("send Cosign"),
        Place("send MaskKeys", 3),
        Place("send MaskSeeds", 3),
        Place("send Challenge", 3),
        Place("work"),
        Place("send Checked", 3),
        Place("work", 2),
        Place("replace"),
        Place("replace", 2),
        Place("write STEP_TAKEN"),
        Place("replace", 3),
        Place("send Invitation", 6),
        Place("write SESSION_ENDED", 1, before={OWNER: ((at("send SendModel", 3, action="term"),),)}),
        Place("send Aborted", 3, before={OWNER: ((at("send SendModel", 3, action="term"),),)}),
        Place("send SessionOver", 3, END),
    ),
    Role.SECURE_WORKER: (
        Place("send Hello", 3, START),
        Place("write SESSION_OFFERED", 1, START),
        Place("send OfferSession", 1, START),
        Place("write QUESTION_ADMITTED"),
        Place("send OfferRound"),
        Place("send Grant", 3),
        Place("send Credit", 3),
        Place("record in", 3),
        Place("write CONTRIBUTION_ADDED", 3),
        Place("send Receipted", 3),
        Place("write ATTEMPT_ABORTED", 1, START, {THIRD: ((at("write CONTRIBUTION_ADDED", 3),),)}),
        Place(
            "send Aborted", 2, "", {name: ((at("send Ready", when="before"),),) for name in ("alice", "bob", "carol")}
        ),
        Place("write RELEASE_DECIDED"),
        Place("send Closed", 3),
        Place("send Release"),
        Place("record out"),
        Place("send RequestCosignature", 3),
        Place("write ROUND_ATTESTED"),
        Place("send RoundRecord", 3),
        Place("write SESSION_LEFT", 1, END),
    ),
    Role.DATA_OWNER: (
        Place("send Hello", 1, START),
        Place("send Hello", 2, START),
        Place("write INVITATION_ANSWERED"),
        Place("send Acceptance"),
        Place("send Fetch"),
        Place("send Credit"),
        Place("record in"),
        Place("work"),
        Place("write UPDATE_SEALED"),
        Place("send Ready"),
        Place("record out"),
        Place("write RECEIPT_TAKEN"),
        Place("write SET_CLOSED"),
        Place("send Cosign"),
        Place("send OfferMaskKey"),
        Place("send MaskSeeds"),
        Place("work", 2),
        Place("send Answered"),
        Place("write SUM_CHECKED"),
        Place("send Declined", 1, since=3, declines=True),
        Place("send Declined", 2, since=3, declines=True),
        Place("write ABANDONED", before=NOBODY_IS_ASKED),
    ),
    Role.EVALUATOR: (
        Place("send Hello", 1, START),
        Place("write INVITATION_ANSWERED"),
        Place("send Acceptance"),
        Place("send Fetch"),
        Place("send Credit"),
        Place("record in"),
        Place("work"),
        Place("send Evaluated"),
        Place("send Declined", 1, before={SCORER: ((at("send Acceptance", action="term"),),)}),
        Place("write ABANDONED", before={OWNER: ((at("send SendModel", 6),),)}),
    ),
}
RECORD_LOST = (
    ("owner after replace,", ""),
    ("owner before replace 2,", ""),
    ("owner after replace 2,", ""),
    ("owner before write STEP_TAKEN,", ""),
    ("owner after write STEP_TAKEN,", ""),
    ("owner before replace 3,", ""),
    ("third after record out,", "gone"),
    ("third before write ROUND_ATTESTED,", "gone"),
    ("third after write ROUND_ATTESTED,", "gone"),
    ("third before send RoundRecord 3,", "gone"),
    ("third after send RoundRecord 3,", "gone"),
)
"""Cells (begin and end of their names) in which the step is taken and the record is not on the model owner's disk yet.
It is asked for again only by the process, and in the session, that it belongs to. The aggregate is there, and exact."""
NEVER_IN_ORDER = {"send Refusal"}
"""Sent only in answer to something that was refused, and never waited for."""


@dataclass(frozen=True)
class Cell:
    """One end of one party."""

    role: Role
    place: Place
    when: str
    back: bool

    def __str__(self) -> str:
        number = f" {self.place.number}" if self.place.number > 1 else ""
        return f"{VICTIMS[self.role]} {self.when} {self.place.name}{number}, {'back' if self.back else 'gone'}"

    @property
    def victim(self) -> str:
        return VICTIMS[self.role]

    @property
    def others(self) -> set[str]:
        """Who else is killed, for the victim to come to this place."""
        return set(self.place.before) - {self.victim}

    def plans(self) -> dict[str, list[list[Step]]]:
        """Return by party the plans of its lives: the first is what it starts with."""
        place = self.place
        plans = {name: [list(steps) for steps in lives] for name, lives in place.before.items()}
        kill: Step = ("kill", place.name, place.number, self.when, place.step_since)
        earlier = plans.setdefault(self.victim, [])
        if earlier and earlier[-1][-1][0] == "term":
            earlier[-1].append(kill)
        else:
            earlier.append([kill])
        return plans


CELLS = [
    Cell(role, place, when, back)
    for role, places in PLACES.items()
    for place in places
    for when in ("before", "after")
    for back in (True, False)
]
TELLING = {
    "owner after write QUESTION_SIGNED, back",
    "owner before replace, back",
    "owner before write STEP_TAKEN, back",
    "owner after send SendModel 3, gone",
    "owner before send Cosign, gone",
    "third before write CONTRIBUTION_ADDED 3, back",
    "third after write RELEASE_DECIDED, back",
    "third before write ROUND_ATTESTED, back",
    "third after send Receipted 3, gone",
    "third after write RELEASE_DECIDED, gone",
    "bob after write UPDATE_SEALED, back",
    "bob before write RECEIPT_TAKEN, back",
    "bob before write SET_CLOSED, gone",
    "bob after send Ready, gone",
    "vera after write INVITATION_ANSWERED, back",
    "vera before send Evaluated, gone",
}


def finish(federation: Killable, plans: dict[str, list[list[Step]]], victim: str, *, back: bool, within: float) -> None:
    """Start whoever was killed again, at once if it is to come back, until all have ended; never wait longer."""
    waiting = {name: lives[1:] for name, lives in plans.items()}
    begun = time.monotonic()
    while not federation.all_ended():
        assert time.monotonic() - begun < within, federation.story()
        for name, lives in list(federation.lives.items()):
            if lives[-1].code() != KILLED or name not in waiting:
                continue
            if waiting[name]:
                federation.start(name, waiting[name].pop(0))
            elif back and (name == victim or victim not in waiting):
                # Who was lost before, so that the victim comes to its place, is away until then.
                del waiting[name]
                federation.start(name)
        # Whoever has come back is let in before the others go on.
        missing = [name for name in waiting if back and federation.now(name).code() is None]
        if not missing and not federation.gate.exists() and all(_connected(federation, name) for name in plans):
            federation.gate.touch()
        time.sleep(0.02)


def _connected(federation: Killable, name: str) -> bool:
    life = federation.now(name)
    least = 2 if federation.place.roles[name] is Role.DATA_OWNER else 1
    return life.code() is not None or [place for _, place in life.places].count("send Hello") >= least


@pytest.mark.timeout(300)
@pytest.mark.parametrize("cell", [cell for cell in CELLS if TORTURE or str(cell) in TELLING], ids=str)
def test_a_party_that_is_killed_costs_no_more_than_its_part(killable: Any, cell: Cell) -> None:
    gated = 3 if cell.back and cell.role in (Role.DATA_OWNER, Role.EVALUATOR) else 0
    absence = BACK_WITHIN if cell.back and OWNER not in cell.others else GONE_FOR
    empty = VICTIM if cell.place.declines else ""
    federation, oracle = killable(rounds=ROUNDS, evaluator=True, absence=absence, gated=gated, empty=empty)
    plans = cell.plans()
    federation.start_all({name: lives[0] for name, lives in plans.items()})
    finish(federation, plans, cell.victim, back=cell.back, within=LONGEST)
    lives_ended_well(federation, killed=sum(len(lives) for lives in plans.values()))
    federation.nothing_is_half_written()
    federation.exact(oracle)
    if federation.model is None:
        kept: tuple[str, ...] = ()
        survivors = [name for name in federation.lives if federation.now(name).code() != KILLED]
        assert all(federation.now(name).code() != 0 for name in survivors), federation.story()
        if federation.opened > federation.done:
            kept = federation.kept_release(oracle)
            aborted = federation.opened in {abort.round for abort in federation.aborts()}
            assert aborted or kept, federation.story()
        before = federation.done
        again(federation)
        assert federation.done > before
        federation.nothing_is_half_written()
        sets = federation.exact(oracle)
        assert not kept or sets[before] == kept
    assert federation.done == ROUNDS, federation.story()
    federation.nothing_is_left_over()
    may_lose = any(str(cell).startswith(begin) and str(cell).endswith(end) for begin, end in RECORD_LOST)
    lost = {IN_ROUND} if may_lose else set()
    assert set(range(1, ROUNDS + 1)) - set(federation.records()) <= lost, federation.story()


def again(federation: Killable) -> None:
    """Everybody is started again by the same command, and comes to the end."""
    federation.gate.touch()
    federation.start_all()
    federation.until(federation.all_ended, LONGEST)
    assert {federation.now(name).code() for name in federation.lives} == {0}, federation.story()


OF_COMMITTEES = ({Write.SET_AGREED}, {Listed, Lists, Closes})
"""What several secure workers write and send; this federation has one. `simulation/` ends processes at each of these
(`test_crash_points.py`), and `test_modes.py` at every step."""


def test_no_write_and_no_message_is_without_its_cell(killable: Any) -> None:
    """A write or message that is new has a cell, or this fails: held against the code, and against a real run."""
    sends = {
        role: {place.name for place in places if place.name.startswith("send ")} for role, places in PLACES.items()
    }
    for role, places in PLACES.items():
        writes = {place.name.removeprefix("write ") for place in places if place.name.startswith("write ")}
        assert writes == {write.name for write in WRITES[role]} - {write.name for write in OF_COMMITTEES[0]}, role
    kinds = {f"send {kind.__name__}" for kind in get_args(AnyMessage)}
    of_committees = {f"send {kind.__name__}" for kind in OF_COMMITTEES[1]}
    assert set.union(*sends.values()) == kinds - NEVER_IN_ORDER - of_committees
    federation, oracle = killable(rounds=2, evaluator=True)
    federation.start_all()
    federation.until(federation.all_ended, LONGEST)
    lives_ended_well(federation, killed=0)
    assert federation.exact(oracle) == [DATA_OWNERS] * 2
    for role, places in PLACES.items():
        lives = [lives[0] for name, lives in federation.lives.items() if federation.place.roles[name] is role]
        sent = {place for life in lives for _, place in life.places if place.startswith("send ")}
        in_order = {place.name for place in places if not place.before and not place.declines}
        assert sent == sends[role] & in_order, role
