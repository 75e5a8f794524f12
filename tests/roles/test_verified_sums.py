"""Sums that are checked: right ones pass in every mode, wrong ones never do, and whoever is silent stops nobody."""

import os
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
from tertium.crypto.fingerprint import agree, fingerprint
from tertium.crypto.ring import FIELD_32, FIELD_64
from tertium.owner.memory import AbortKept, CheckKept
from tertium.protocol import limits
from tertium.protocol.charter import Deadlines, Mode, Role, SchemeName
from tertium.protocol.check_messages import (
    Answered,
    Challenge,
    Checked,
    MaskKeys,
    MaskSeeds,
    OfferMaskKey,
    SumCheck,
    SumState,
)
from tertium.protocol.codec import decode_as
from tertium.protocol.messages import Abort, Cause
from tertium.protocol.progress import RoundDone, Said, SumChecked
from tertium.protocol.rounds import Phase
from tertium.protocol.seats import Seats
from tertium.protocol.statements import open_signed
from tertium.protocol.verification import check_outcome, read_answers
from tertium.secure_worker.machine import SecureWorker
from tertium.workers.data_owner import DataOwner

Maker = Any
Run = Any
TORTURE = bool(os.environ.get("TERTIUM_TORTURE"))
LIES = 1001 if TORTURE else 7
"""Altered sums a mode."""
NAMES = ("alice", "bob", "carol", "dave")
SOON = Deadlines(join=10, upload=30, close=10, release=10, statement=5, absence=20)
MODES = {
    "trusted": (Mode.TRUSTED, "trusted", None, 1),
    "masked": (Mode.MASKED, "masked", None, 1),
    "additive": (Mode.ADDITIVE, "additive", None, 3),
    "shamir 2 of 3": (Mode.SHAMIR, "shamir", 2, 3),
    "shamir 2 of 4": (Mode.SHAMIR, "shamir", 2, 4),
    "replicated": (Mode.SHARED, "replicated", None, 3),
}
NAMING = ("shamir 2 of 3", "shamir 2 of 4", "replicated")
"""Modes in which one secure worker that lies is named and the round goes on without its total."""
WORKERS = ("first", "second", "third", "fourth")


def in_mode(make: Maker, mode: str, rounds: int = 1, machines: Any = None, **more: Any) -> Run:
    kind, scheme, threshold, workers = MODES[mode]
    named = SchemeName(name=scheme) if threshold is None else SchemeName(name=scheme, threshold=threshold)
    return make(
        4,
        plan=make.plan(rounds=rounds),
        rules=make.rules(mode=kind, scheme=named, deadlines=SOON),
        workers=WORKERS[:workers],
        machines={"owner": make.sums, **(machines or {})},
        **more,
    )


def outcomes(run: Run) -> list[Checked]:
    files = sorted((run.store.folder / "records").glob("*.check"))
    return [decode_as(Checked, path.read_bytes()) for path in files]


# --- what is right


@pytest.mark.parametrize("mode", MODES)
def test_every_sum_is_verified_in_every_mode(make: Maker, plain_sum: Any, mode: str) -> None:
    run = in_mode(make, mode, rounds=2)
    assert set(run.run().values()) == {None}
    assert [done.check for done in run.said("owner", RoundDone)] == ["verified", "verified"]
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 2, NAMES))
    for name in NAMES:
        assert [(each.round, each.state) for each in run.said(name, SumChecked)] == [(1, "verified"), (2, "verified")]
        assert run.machines[name]._answering is None
    assert run.all_refused == []
    # What was kept says so to whoever has the charter, and nothing else.
    for number, kept in enumerate(outcomes(run), 1):
        check = open_signed(run.charter, kept.check, SumCheck, Role.MODEL_OWNER)
        values = read_answers(run.charter, check.open_round, check.challenge, NAMES, kept.answers, shown_by="owner")
        check_outcome(run.charter, NAMES, Seats(run.charter).holders, check, values)
        assert (check.state, check.silent, check.contradicted) == (SumState.VERIFIED, (), ())
        total = plain_sum(run, number, NAMES)
        assert agree(values.values(), fingerprint(total, check.challenge))
        # A vector's own fingerprint appears in no answer: they are all masked.
        own = {fingerprint(run.encoded[name, number], check.challenge) for name in NAMES}
        assert not own & set(values.values())


def test_a_contributor_that_left_is_in_no_check(make: Maker) -> None:
    run = make(4, machines={"dave": make.slow}, rules=make.rules(deadlines=SOON))
    run.run(until=lambda: run.machines["dave"].phase is Phase.TRAINING)
    run.lose("dave")
    run.run()
    (done,) = run.said("owner", RoundDone)
    assert (done.contributors, done.check) == (3, "verified")


# --- what is wrong


def lying(change: Callable[[Any, str, Callable[[str, Any], None]], None]) -> type[SecureWorker]:
    """A secure worker that does something else than add a contribution, or alters the total."""

    class Lies(SecureWorker):
        def _collect(self, *args: Any) -> None:
            super()._collect(*args)
            intake, add, total = self._intake, self._intake._accumulate, self._intake.total
            intake._accumulate = lambda sender, share: change(intake, sender, lambda *a: add(*a))(share)
            intake.total = lambda contributors: altered(change, total(contributors))

    return Lies


def altered(change: Any, total: Any) -> Any:
    alter = getattr(change, "alter", None)
    if alter is not None:
        alter(total)
    return total


class Lie:
    """One way to make a sum wrong."""

    def __init__(self, chance: Random, kind: str) -> None:
        self.kind, self.chance, self.done = kind, chance, False

    def __call__(self, intake: Any, sender: str, add: Callable[[str, Any], None]) -> Callable[[Any], None]:
        def instead(share: Any) -> None:
            if self.done or self.kind not in ("drops", "doubles"):
                add(sender, share)
                return
            self.done = True
            if self.kind == "doubles":
                add(sender, share)
                add(sender, share)
            else:
                intake._in_total.add(sender)

        return instead

    def alter(self, total: Any) -> None:
        bits = 8 * total.dtype.itemsize
        field = FIELD_32 if bits == 32 else FIELD_64
        at = self.chance.randrange(total.size)
        by = {
            "alters by one": lambda: self.chance.choice((1, -1)),
            "alters by anything": lambda: self.chance.randrange(1, field.modulus),
            "alters by a multiple of 2^31": lambda: 2**31 * self.chance.randrange(1, 2 ** (bits - 31)),
        }.get(self.kind)
        if self.kind == "leaves the field":
            total[at] = field.modulus + self.chance.randrange(4)
        elif by is not None:
            # Below the modulus, so that a scheme over the field takes it for an element.
            total[at] = (int(total[at]) + by()) % field.modulus
        elif self.kind == "adds":
            extra = np.array([self.chance.randrange(1000) for _ in range(total.size)], np.uint64)
            total[:] = ((total.astype(np.uint64) + extra) % np.uint64(field.modulus)).astype(total.dtype)


KINDS = (
    "alters by one",
    "alters by anything",
    "alters by a multiple of 2^31",
    "drops",
    "doubles",
    "adds",
    "leaves the field",
)


@pytest.mark.timeout(3600 if TORTURE else 120)
@pytest.mark.parametrize("mode", MODES)
def test_a_secure_worker_that_makes_a_sum_wrong_is_found_out(make: Maker, plain_sum: Any, mode: str) -> None:
    workers = WORKERS[: MODES[mode][3]]
    for number in range(LIES):
        chance = Random(number)
        kind, liar = KINDS[number % len(KINDS)], chance.choice(workers)
        run = in_mode(make, mode, machines={liar: lying(Lie(chance, kind))})
        before = run.model.to_bytes()
        errors = run.run()
        if mode in NAMING:
            assert set(errors.values()) == {None}, (kind, errors)
            assert [each.text for each in run.said("owner") if liar in each.text and "contradicts" in each.text], kind
            np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 1, NAMES))
            assert all(each.contradicted == (liar,) for name in NAMES for each in run.said(name, SumChecked))
        else:
            assert "the sum of round 1 is wrong" in str(errors["owner"]), (kind, liar)
            assert liar in str(errors["owner"])
            assert run.model.to_bytes() == before
            assert not run.released


def test_a_sum_that_failed_is_kept_signed_and_names_everybody_who_can_have_lied(make: Maker) -> None:
    run = in_mode(make, "trusted", machines={"first": lying(Lie(Random(1), "drops"))})
    run.run()
    (kept,) = outcomes(run)
    check = open_signed(run.charter, kept.check, SumCheck, Role.MODEL_OWNER)
    values = read_answers(run.charter, check.open_round, check.challenge, NAMES, kept.answers, shown_by="owner")
    check_outcome(run.charter, NAMES, Seats(run.charter).holders, check, values)
    assert (check.state, check.silent, check.contradicted) == (SumState.FAILED, (), ())
    for name in NAMES:
        assert [each.state for each in run.said(name, SumChecked)] == ["failed"]
        assert "the sum of round 1 is wrong" in str(run.errors[name])
    journal = run.journals["owner"]
    assert journal.read(CheckKept).check == kept.check
    abort = open_signed(run.charter, journal.read(AbortKept).abort, Abort, Role.MODEL_OWNER)
    assert (abort.cause, abort.about) == (Cause.FAULT, tuple(sorted((*NAMES, "first"))))


def test_a_contributor_that_answers_for_another_vector_fails_the_sum(make: Maker) -> None:
    class Lies(DataOwner):
        def begin_answering(self, sent: Any, close: Any, words: Any) -> None:
            super().begin_answering(sent, close, words + words.dtype.type(1))

    run = in_mode(make, "shamir 2 of 4", machines={"bob": Lies})
    run.run()
    assert "the sum of round 1 is wrong: it is not what the contributors sent" in str(run.errors["owner"])
    assert not run.released


def test_a_sum_of_lies_that_add_up_is_verified_and_not_applied(make: Maker) -> None:
    class Poisons(DataOwner):
        def _seal(self, asked: Any, vector: Any) -> None:
            plan = asked.question.plan
            vector.words[0] = (plan.honest_sum(plan.values) + plan.largest_sum) // 2
            super()._seal(asked, vector)

    run = in_mode(make, "trusted", machines={"bob": Poisons})
    before = run.model.to_bytes()
    run.run()
    assert "the aggregate of round 1 could not be applied" in str(run.errors["owner"])
    assert run.model.to_bytes() == before
    assert not run.said("owner", RoundDone)
    assert [each.state for each in run.said("alice", SumChecked)] == ["verified"]


def test_two_that_contradict_each_other_and_a_silent_contributor_name_nobody(make: Maker) -> None:
    class Silent(DataOwner):
        def _offer_mask_key(self) -> None:
            """Offers none."""

    liar = lying(Lie(Random(3), "alters by one"))
    run = in_mode(make, "shamir 2 of 3", machines={"bob": Silent, "second": liar})
    run.run()
    assert "contradict each other" in str(run.errors["owner"])
    assert [each.state for name in ("alice", "carol") for each in run.said(name, SumChecked)] == ["failed", "failed"]
    assert run.all_refused == []
    # With one more, the totals alone say who lied.
    run = in_mode(make, "shamir 2 of 4", machines={"bob": Silent, "second": liar})
    run.run()
    assert set(run.errors.values()) == {None}
    (done,) = run.said("owner", RoundDone)
    assert (done.check, done.silent) == ("unverified", ("bob",))
    assert all(each.contradicted == ("second",) for name in NAMES[:1] for each in run.said(name, SumChecked))


# --- who is silent


@pytest.mark.parametrize("kind", [OfferMaskKey, MaskSeeds, Answered], ids=lambda kind: kind.__name__)
def test_who_is_silent_leaves_a_sum_unverified_and_stops_nobody(make: Maker, plain_sum: Any, kind: Any) -> None:
    run = in_mode(make, "trusted", machines={"bob": make.silent_about(kind)})
    assert set(run.run().values()) == {None}
    (done,) = run.said("owner", RoundDone)
    assert (done.check, done.silent) == ("unverified", ("bob",))
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 1, NAMES))
    assert SOON.statement <= run.clock.now < SOON.statement + 2
    for name in NAMES[:1] + NAMES[2:]:
        (said,) = run.said(name, SumChecked)
        assert (said.state, said.silent) == ("unverified", ("bob",))


def test_who_answered_and_is_called_silent_is_told(make: Maker) -> None:
    run = in_mode(make, "trusted", machines={"bob": make.silent_about(Answered)})
    run.run()
    assert [said.text for said in run.said("bob", Said) if said.warning] == [
        "round 1: owner says that we did not answer; our answer was late, or kept back"
    ]


def test_a_fingerprint_that_cannot_be_computed_is_told_to_its_own_operator(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [MemoryError("no room")]

    def failing_once(words: Any, challenge: bytes) -> int:
        if left:
            raise left.pop()
        return fingerprint(words, challenge)

    monkeypatch.setattr("tertium.workers.answering.fingerprint", failing_once)
    run = in_mode(make, "trusted")
    assert set(run.run().values()) == {None}
    (done,) = run.said("owner", RoundDone)
    assert done.check == "unverified"
    warned = {name: [said.text for said in run.said(name, Said) if said.warning] for name in NAMES}
    said = "round 1: the fingerprint of our vector could not be computed: no room"
    assert {name: texts for name, texts in warned.items() if texts} == {name: [said] for name in done.silent}


@pytest.mark.parametrize("comes_back", [False, True])
def test_who_is_gone_is_waited_for_only_a_moment(make: Maker, plain_sum: Any, comes_back: bool) -> None:
    run = in_mode(make, "trusted", machines={"bob": make.silent_about(Answered)})
    run.run(until=lambda: run.machines["owner"].phase is Phase.VERIFYING)
    if comes_back:
        run.restart("bob")
    else:
        run.lose("bob")
    gone = run.clock.now
    run.run(until=lambda: run.said("owner", RoundDone))
    (done,) = run.said("owner", RoundDone)
    assert (done.check, done.silent) == ("unverified", ("bob",))
    assert limits.ABSENCE <= run.clock.now - gone + 0.3 < SOON.statement
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 1, NAMES))


@pytest.mark.parametrize("kind", [MaskKeys, MaskSeeds, Challenge], ids=lambda kind: kind.__name__)
def test_what_was_lost_with_a_connection_is_said_again(make: Maker, kind: Any) -> None:
    lost: list[Any] = []

    class Loses(DataOwner):
        def receive(self, peer: str, message: Any, now: float) -> None:
            if isinstance(message, kind) and not lost:
                lost.append(message)
            else:
                super().receive(peer, message, now)

    run = in_mode(make, "trusted", machines={"bob": Loses})
    run.run(until=lambda: lost)
    run.network.disconnect("bob", "owner")
    assert set(run.run().values()) == {None}
    (done,) = run.said("owner", RoundDone)
    assert done.check == "verified"


def test_an_owner_that_was_restarted_asks_again_and_verifies(make: Maker, plain_sum: Any) -> None:
    run = in_mode(make, "shamir 2 of 4", machines={"dave": make.slow})
    run.run(until=lambda: run.machines["owner"].phase is Phase.VERIFYING)
    run.restart("owner")
    assert set(run.run().values()) == {None}
    (done,) = run.said("owner", RoundDone)
    assert done.check == "verified"
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 1, NAMES))
