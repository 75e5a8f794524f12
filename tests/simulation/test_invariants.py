"""Every invariant goes red when it is violated: a party of another class, or another exchange, violates it."""

import contextlib
import os
from collections.abc import Callable
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pytest
from tertium.crypto.errors import TertiumError
from tertium.crypto.sealing import RoundKey
from tertium.crypto.sharing.base import Seed
from tertium.protocol.charter import Mode
from tertium.protocol.check_messages import SumState
from tertium.protocol.codec import decode_as
from tertium.protocol.errors import SplitView
from tertium.protocol.exchange import Exchange
from tertium.protocol.journal import Write
from tertium.protocol.ledger import Content, DataClass
from tertium.protocol.messages import (
    Abort,
    Aborted,
    Cause,
    Closed,
    CloseList,
    Header,
    Ready,
    Receipted,
    Refusal,
    Release,
    RoundOffer,
    SealedHead,
)
from tertium.protocol.statements import sign
from tertium.protocol.training import UpdateKind
from tertium.secure_worker.gate import SlotKept
from tertium.simulation.crashes import CrashPlan
from tertium.simulation.invariants import ALL
from tertium.simulation.scenario import NAMES, WORKERS

SEATED: dict[str, Any] = {"mode": Mode.MASKED}
TWO: dict[str, Any] = {"mode": Mode.ADDITIVE, "workers": WORKERS[:2]}
THREE: dict[str, Any] = {"mode": Mode.ADDITIVE, "workers": WORKERS[:3]}
SHAMIR: dict[str, Any] = {"mode": Mode.SHAMIR, "workers": WORKERS[:3]}
REPLICATED: dict[str, Any] = {"mode": Mode.SHARED, "scheme": "replicated", "workers": WORKERS[:3]}
CONSPIRED: dict[str, Any] = {
    "mode": Mode.SHAMIR,
    "workers": WORKERS,
    "data_owners": NAMES[:5],
    "hostile": "owner",
    "accomplice": WORKERS[0],
    "lie": "conspires",
    "leaves": 200.0,
}
RESTARTED = (CrashPlan("third", "Send Receipted", 2, "after", "after its last words", 0.3),)


def sends(change: Callable[[Any, str, Any], Any]) -> Callable[[type], type]:
    """Make a class that sends what `change(self, peer, message)` returns: a message, or several."""

    def make(kind: type) -> type:
        class Changed(kind):  # type: ignore[misc]
            def send(self, peer: str, message: Any) -> None:
                told = change(self, peer, message)
                for each in told if isinstance(told, list) else [told]:
                    super().send(peer, each)

        return Changed

    return make


def with_method(name: str, body: Callable[..., Any]) -> Callable[[type], type]:
    """Make a class with another method; `body` is called with the old one first."""

    def make(kind: type) -> type:
        old = getattr(kind, name)
        return type("Changed", (kind,), {name: lambda self, *a, **k: body(old, self, *a, **k)})

    return make


def tells_its_update(old: Any, self: Any, tag: str, result: Any, now: float) -> None:
    old(self, tag, result, now)
    if hasattr(result, "words"):
        self.send("owner", Refusal(code="leak", about=result.words.tobytes()[:32]))


def writes_its_update(old: Any, self: Any, peer: str, incoming: Any, sections: Any, now: float) -> None:
    self._memory._journal.write(Write.CONTRIBUTION_ADDED, SlotKept(b"", 0, bytes(sections[0])))
    old(self, peer, incoming, sections, now)


def opens_its_own(old: Any, self: Any, asked: Any, vector: Any) -> None:
    old(self, asked, vector)
    for upload in self._uploads.values():
        with contextlib.suppress(TertiumError):
            self.exchange.open(upload.outgoing.head, self.asked.key)


def seals_to_another(old: Any, self: Any, asked: Any, vector: Any) -> None:
    asked.holder_keys["third"] = RoundKey().public
    old(self, asked, vector)


class Credulous(Exchange):
    """Does not verify what a head says."""

    def examine(self, head: Any, label: Any, context: Any, sender: str, key: Any, sections: Any) -> Any:
        return decode_as(Header, head.header)


def unsigned(self: Any, peer: str, message: Any) -> Any:
    if isinstance(message, Ready):
        return Ready(head=SealedHead(message.head.header, message.head.wrapped_key, bytes(64)))
    return message


def twice(self: Any, peer: str, message: Any) -> Any:
    if isinstance(message, Release):
        header = decode_as(Header, message.head.header)
        whose = Content(DataClass.AGGREGATE, ("alice",))
        again = self.exchange.seal_head(header, self._memory.question.owner_key, bytes(32), whose)
        return [message, Release(head=again)]
    return message


def to_alice_too(self: Any, peer: str, message: Any) -> Any:
    if isinstance(message, Release):
        self._effects.append(type(self._effects[-1])("alice", message)) if self._effects else None
    return message


def seals_anew(old: Any, self: Any) -> Any:
    """The release of an earlier life, sealed once more instead of taken from the journal."""
    outgoing = old(self)
    records = [bytes(len(record)) for record in outgoing.records()]
    outgoing.records = lambda: iter(records)
    return outgoing


def over_few(old: Any, self: Any, question: Any, contributors: Any) -> Any:
    self._minimum = 1
    return old(self, question, contributors)


class Lax:
    """A gate that lets everything pass."""

    def __init__(self, gate: Any, minimum: int) -> None:
        self._gate, self._least = gate, minimum
        self.entries = gate.entries

    def bind(self, decision: Any) -> Any:
        return ()

    def decide(self, question: Any, contributors: Any) -> Any:
        from tertium.secure_worker.gate import Decision

        return Decision(question.session, question.round, question.model, contributors)


def lax(kind: type) -> type:
    class LaxWorker(kind):  # type: ignore[misc]
        _minimum = 1

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._memory.gate = Lax(self._memory.gate, 1)

    return LaxWorker


def another_list(self: Any, peer: str, message: Any) -> Any:
    if isinstance(message, Closed) and peer == "alice":
        close = decode_as(CloseList, message.close.statement)
        fewer = msgspec.structs.replace(close, contributions=close.contributions[:-1])
        return Closed(close=sign(self.identity, fewer))
    return message


def adds_one_more(old: Any, self: Any, peer: str, incoming: Any, sections: Any, now: float) -> None:
    if self._intake is not None and not self._intake.added:
        self._intake._total[0] += 1
    old(self, peer, incoming, sections, now)


def adds_something_else(old: Any, self: Any, peer: str, incoming: Any, sections: Any, now: float) -> None:
    sections[0][0] ^= 1
    old(self, peer, incoming, sections, now)


def applies_twice(old: Any, self: Any, question: Any, total: Any, contributors: int, **more: Any) -> Any:
    from tertium.protocol.vector import decode_vector

    means = list(decode_vector(question, self._model.layout, total, contributors).means())
    self._model.apply(question.kind, means)
    return old(self, question, total, contributors, **more)


def applies_nothing(old: Any, self: Any, question: Any, total: Any, contributors: int, **more: Any) -> Any:
    self._model.apply = lambda *_: None
    return old(self, question, total, contributors, **more)


def asks_something_else(old: Any, self: Any, asked: Any, now: float) -> None:
    question, signed, key = asked
    if question.attempt:
        question = msgspec.structs.replace(question, layout=bytes(32))
        signed = sign(self.identity, question)
    old(self, (question, signed, key), now)


def without_receipts(self: Any, peer: str, message: Any) -> Any:
    from tertium.protocol.messages import OfferRound

    if isinstance(message, OfferRound):
        offer = decode_as(RoundOffer, message.offer.statement)
        if offer.aborted is not None:
            abort = msgspec.structs.replace(decode_as(Abort, offer.aborted.statement), receipted=())
            offer = msgspec.structs.replace(offer, aborted=sign(self.identity, abort))
            return OfferRound(offer=sign(self.identity, offer))
    return message


def drops_somebody(old: Any, self: Any, now: float) -> None:
    if len(self._intake.added) > 3:
        del self._intake.added["alice"]
        self._intake._in_total.discard("alice")
    old(self, now)


def keeps_its_key(old: Any, self: Any, intake: Any, close: Any, now: float) -> None:
    intake.close = list
    old(self, intake, close, now)


def writes_its_key(old: Any, self: Any, question: Any, name: bytes, before: Any, now: float) -> None:
    old(self, question, name, before, now)
    self._memory._journal.write(Write.CONTRIBUTION_ADDED, SlotKept(b"", 0, self._intake.key.secret))


def never_forgets_its_key(kind: type) -> type:
    class Keeps(kind):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._memory.take_step = lambda *_: None

    return Keeps


def accuses(old: Any, self: Any, peer: str, message: Any, now: float) -> None:
    raise SplitView("for no reason", party=peer)


def takes_all(old: Any, self: Any) -> None:
    if self._intake is not None:
        self._intake._opening.clear()
    old(self)


def deaf_to_the_end(kind: type) -> type:
    class Stays(kind):  # type: ignore[misc]
        def finish(self, error: str | None = None) -> None:
            pass

        def next_deadline(self) -> float | None:
            return None

    return Stays


def gives_up(old: Any, self: Any, peer: str, message: Any, now: float) -> None:
    self._fail(Cause.FAULT, "gives up at the first abort")


def content_too_soon(old: Any, self: Any, now: float) -> None:
    self.finish()


def aborts_what_it_released(self: Any, peer: str, message: Any) -> Any:
    if isinstance(message, Release):
        question = self._memory.question
        abort = Abort(question.session, question.round, question.attempt, "third", Cause.FAULT, "not so")
        return [message, Aborted(abort=sign(self.identity, abort))]
    return message


def receipts_to_another(self: Any, peer: str, message: Any) -> Any:
    if isinstance(message, Receipted) and peer != "dave":
        from tertium.protocol.machine import Send

        self.effect(Send("dave", message))
    return message


def also_deals(which: int, to: int) -> Callable[..., Any]:
    """A data owner that seals the share of holder `which` for holder `to` too, whose number is the scheme's."""

    def body(old: Any, self: Any, asked: Any, vector: Any) -> None:
        holders, seal = self._seats.holders, self.exchange.seal
        keys = {"owner": asked.question.owner_key, **asked.holder_keys}

        def twice(label: Any, context: Any, holder: str, key: bytes, sections: Any, **more: Any) -> Any:
            if holder == holders[which]:
                seal(label, context, holders[to], keys[holders[to]], sections)
            return seal(label, context, holder, key, sections, **more)

        with mock.patch.object(self.exchange, "seal", twice):
            old(self, asked, vector)

    return body


def hides_nothing(old: Any, self: Any, asked: Any, vector: Any) -> None:
    with mock.patch("tertium.crypto.sharing.additive.hide", lambda secret, seeds, out: np.copyto(out, secret)):
        old(self, asked, vector)


def reuses_randomness(old: Any, self: Any, asked: Any, vector: Any) -> None:
    with mock.patch.object(Seed, "fresh", return_value=Seed(bytes(range(100, 132)))):
        old(self, asked, vector)


def hides_by_nothing_dealt(old: Any, self: Any, asked: Any, vector: Any) -> None:
    def noise(secret: Any, seeds: Any, out: Any) -> None:
        np.copyto(out, np.frombuffer(os.urandom(out.nbytes), out.dtype))

    with mock.patch("tertium.crypto.sharing.additive.hide", noise):
        old(self, asked, vector)


def keeps_a_vector(kind: type) -> type:
    """A secure worker that seals one share it was given in place of its total."""

    class Forwards(kind):  # type: ignore[misc]
        _vector: Any = None

        def opened(self, peer: str, incoming: Any, sections: Any, now: float) -> None:
            if self._intake is not None and self._intake.counts(peer):
                self._vector = np.array(np.frombuffer(bytes(sections[0]), self._intake.question.plan.dtype))
            super().opened(peer, incoming, sections, now)

        def _settle_on(self, intake: Any, close: Any, now: float) -> None:
            intake.total = lambda _: self._vector
            super()._settle_on(intake, close, now)

    return Forwards


def tells_a_share(old: Any, self: Any, peer: str, incoming: Any, sections: Any, now: float) -> None:
    self.send("owner", Refusal(code="leak", about=(bytes(sections[0]) + bytes(32))[:32]))
    old(self, peer, incoming, sections, now)


def calls_it(state: str) -> Any:
    def ends(old: Any, self: Any, asking: Any, verification: Any, summed: Any, _: Any, now: float) -> None:
        old(self, asking, verification, summed, SumState[state], now)

    return with_method("_end_verification", ends)


UNCHECKED = {"alice": with_method("_offer_mask_key", lambda old, self: None)}
"""A contributor that is silent, so that a wrong sum is applied, unverified."""

PLANTED: list[tuple[str, dict[str, Any]]] = [
    ("UpdatesStayHome", {"machines": {"bob": with_method("worked", tells_its_update)}}),
    ("UpdatesStayHome", {"machines": {"third": with_method("opened", writes_its_update)}}),
    ("UpdatesStayHome", {"machines": {"fourth": with_method("opened", tells_a_share)}, **TWO}),
    ("UpdatesStayHome", {"machines": {"bob": with_method("_seal", hides_nothing)}, **TWO}),
    ("NoUpdateDerivable", {"machines": {"bob": with_method("_seal", also_deals(1, 0))}, **TWO}),
    ("NoUpdateDerivable", {"machines": {"bob": with_method("_seal", also_deals(2, 1))}, **THREE}),
    ("NoUpdateDerivable", {"machines": {"bob": with_method("_seal", also_deals(0, 1))}, **SEATED}),
    ("NoUpdateDerivable", {"machines": {"bob": with_method("_seal", also_deals(1, 0))}, **REPLICATED}),
    ("NoUpdateDerivable", {"machines": {"bob": with_method("_seal", also_deals(1, 0))}, **SHAMIR}),
    ("NoUpdateDerivable", {"machines": {"bob": with_method("_seal", hides_nothing)}, **THREE}),
    ("NoUpdateDerivable", {"machines": {"bob": with_method("_seal", reuses_randomness)}, "rounds": 2, **TWO}),
    ("NoUpdateDerivable", {"machines": {"bob": with_method("_seal", reuses_randomness)}, "rounds": 2, **SEATED}),
    ("NoUpdateDerivable", {"machines": {"bob": with_method("_seal", hides_by_nothing_dealt)}, **TWO}),
    ("NoUpdateDerivable", {"machines": {"third": keeps_a_vector}, **TWO}),
    ("NoUpdateDerivable", {"machines": {"third": with_method("opened", adds_one_more)}, **TWO}),
    (
        "FreshRandomness",
        {"machines": {"bob": with_method("_seal", reuses_randomness)}, "crashes": RESTARTED, **TWO},
    ),
    ("OnlyWhoMayOpens", {"machines": {"bob": with_method("_seal", opens_its_own)}}),
    ("SealedToTheOffered", {"machines": {"bob": with_method("_seal", seals_to_another)}}),
    ("SignedBeforeOpened", {"machines": {"bob": sends(unsigned)}, "exchanges": {"third": lambda _: Credulous}}),
    ("OneReleaseASlot", {"machines": {"third": sends(twice)}}),
    ("MinimumCohort", {"machines": {"third": lax}, "declines": ("alice", "bob")}),
    ("OneContributorSet", {"machines": {"third": sends(another_list)}}),
    ("ExactSum", {"machines": {"third": with_method("opened", adds_one_more), **UNCHECKED}}),
    ("ExactSum", {"machines": {"third": with_method("opened", adds_something_else), **UNCHECKED}}),
    ("VerifiedIsTrue", {"machines": {"third": with_method("opened", adds_one_more), "owner": calls_it("VERIFIED")}}),
    ("NoFalseAlarm", {"machines": {"owner": calls_it("FAILED")}}),
    ("ModelContinuity", {"machines": {"owner": with_method("_apply", applies_twice)}, "kind": UpdateKind.DELTA}),
    ("ModelContinuity", {"machines": {"owner": with_method("_next", content_too_soon)}, "rounds": 2}),
    (
        "OneModelOneSet",
        {"machines": {"third": lax, "owner": with_method("_apply", applies_nothing)}, "rounds": 3, "cohort": 3},
    ),
    (
        "OneModelOneSet",
        {"machines": dict.fromkeys(WORKERS[1:], lax), "seed": 30, **CONSPIRED},
    ),
    ("SameQuestion", {"machines": {"owner": with_method("_propose", asks_something_else)}, "crashes": RESTARTED}),
    ("SameQuestion", {"machines": {"third": sends(without_receipts)}, "crashes": RESTARTED}),
    ("ReceiptMeansCounted", {"machines": {"third": with_method("_close", drops_somebody)}}),
    ("ReceiptMeansCounted", {"machines": {"third": sends(receipts_to_another)}}),
    ("KeysErased", {"machines": {"third": with_method("_settle_on", keeps_its_key)}}),
    ("JournalKeepsNoSecret", {"machines": {"third": with_method("_collect", writes_its_key)}}),
    ("JournalKeepsNoSecret", {"machines": {"owner": never_forgets_its_key}}),
    ("NoFalseAccusation", {"machines": {"alice": with_method("_on_closed", accuses)}}),
    ("BoundedMemory", {"machines": {"third": with_method("_start_uploads", takes_all)}, "data_owners": NAMES}),
    ("NoBusyLoop", {"machines": {"alice": with_method("next_deadline", lambda old, self: 0.0)}}),
    ("EverybodyEnds", {"machines": {"alice": deaf_to_the_end}}),
    ("RunsRecover", {"machines": {"owner": with_method("_on_aborted", gives_up)}, "crashes": RESTARTED}),
    ("AgreedOutcome", {"machines": {"owner": with_method("_next", content_too_soon)}, "rounds": 2}),
    ("AgreedOutcome", {"machines": {"third": sends(aborts_what_it_released)}}),
]


@pytest.mark.parametrize(("name", "how"), PLANTED, ids=[f"{name}-{at}" for at, (name, _) in enumerate(PLANTED)])
def test_a_planted_violation_is_found(play: Any, name: str, how: dict[str, Any]) -> None:
    (invariant,) = [each for each in ALL if each.__name__ == name]
    clean = play(invariant, **{key: value for key, value in how.items() if key not in ("machines", "exchanges")})
    assert clean.broken == []
    broken = play(invariant, **how).broken
    assert broken
    assert broken[0].startswith(f"{name}: ")


def test_every_invariant_has_a_planted_violation() -> None:
    assert {each.__name__ for each in ALL} == {name for name, _ in PLANTED}
    assert len(ALL) >= 10


def test_every_invariant_says_why() -> None:
    for each in ALL:
        assert len(each.why) > 30
        assert each.__doc__


def test_an_error_that_escapes_a_party_is_found(play: Any) -> None:
    def raises(old: Any, self: Any, peer: str, message: Any, now: float) -> None:
        raise ZeroDivisionError("in the middle")

    broken = play(machines={"alice": with_method("_on_invitation", raises)}).broken
    assert broken[0].startswith("NothingEscapes: alice raised")
    assert "ZeroDivisionError" in broken[0]


@pytest.mark.parametrize("liar", ["alice", "owner", "third"])
def test_what_a_hostile_party_does_itself_breaks_nothing(play: Any, liar: str) -> None:
    """Only honest parties are held to account."""
    change = {"alice": with_method("_on_closed", accuses), "owner": with_method("_next", content_too_soon)}
    world = play(machines={liar: change.get(liar, sends(aborts_what_it_released))}, hostile=liar, leaves=1.0)
    assert world.broken == []
