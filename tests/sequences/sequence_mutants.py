"""Machines with one guard gone, or one honest habit changed: the watch has to find each of them."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from tertium.crypto.labels import Label
from tertium.crypto.sealing import RoundKey
from tertium.protocol import exchange
from tertium.protocol.charter import Role
from tertium.protocol.codec import decode_as
from tertium.protocol.exchange import Exchange
from tertium.protocol.intake import Intake
from tertium.protocol.machine import Provide
from tertium.protocol.messages import (
    Abort,
    Closed,
    CloseList,
    Decline,
    Declined,
    Fetch,
    Header,
    OpenRound,
    Receipt,
    RoundOffer,
    Signed,
)
from tertium.protocol.seats import Seats
from tertium.protocol.statements import sign, statement_digest
from tertium.secure_worker import admission, memory
from tertium.secure_worker import machine as third
from tertium.secure_worker.gate import Decision
from tertium.simulation.federation import OWNER, THIRD
from tertium.workers import recipient

Make = Callable[[Any], Any]


@contextlib.contextmanager
def _instead(module: Any, name: str, other: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, other)
    try:
        yield
    finally:
        setattr(module, name, before)


def _method(name: str, body: Callable[..., Any]) -> Make:
    """Make a class with another method; `body` gets the old one first."""

    def make(kind: Any) -> Any:
        old = getattr(kind, name)
        return type("Changed", (kind,), {name: lambda self, *a, **k: body(old, self, *a, **k)})

    return make


def _within(name: str, module: Any, what: str, other: Any) -> Make:
    """Make a class whose method runs with something of a module replaced."""

    def body(old: Any, self: Any, *a: Any, **k: Any) -> Any:
        with _instead(module, what, other):
            return old(self, *a, **k)

    return _method(name, body)


def _gate(**changes: Any) -> Make:
    """Make a secure worker whose gate has other attributes."""

    def body(old: Any, self: Any, *a: Any, **k: Any) -> None:
        old(self, *a, **k)
        for name, value in changes.items():
            setattr(self._memory.gate, name, value)

    return _method("__init__", body)


def _intake(kind: type[Intake]) -> Make:
    return _within("_collect", third, "Intake", kind)


# --- data owners


def _shows_its_update(old: Any, self: Any, upload: Any) -> None:
    old(self, upload)
    self.effect(Provide(self.owner, upload.outgoing))


def _hides_words_in_a_fetch(old: Any, self: Any, asked: Any, vector: Any) -> None:
    old(self, asked, vector)
    self.send(self.owner, Fetch(subject=vector.words.tobytes()[:32]))


def _unsigned_offer(charter: Any, question: Any, name: bytes, holder: str, signed: Signed) -> Any:
    offer = msgspec.structs.replace(decode_as(RoundOffer, signed.statement), holder=holder)
    return offer, None if offer.aborted is None else decode_as(Abort, offer.aborted.statement)


def _seals_another_vector(old: Any, self: Any, asked: Any, vector: Any) -> None:
    before, self._sent = self._sent, []
    old(self, asked, vector)
    self._sent = [*before, *self._sent]


def _never_resumes(kind: Any) -> Any:
    changed = _method("resume", lambda old, self, *a: setattr(self, "_vector", None))(kind)
    return _method("_seal", _seals_another_vector)(changed)


# --- the secure worker


class _Last(Intake):
    """Forgets all but the last contribution."""

    def take(self, sender: str, incoming: Any, sections: Any) -> Receipt:
        assert self._total is not None
        self._total.fill(0)
        return super().take(sender, incoming, sections)


class _Twice(Intake):
    """Adds each contribution twice."""

    def take(self, sender: str, incoming: Any, sections: Any) -> Receipt:
        share = self._seats.share(self.question, sender, THIRD, sections)
        assert share is not None
        self._accumulate(sender, share)
        return super().take(sender, incoming, sections)


class _SeatsForAll(Seats):
    """Gives turns also to who is in no cohort."""

    def turn(self, question: OpenRound, contributor: str) -> int:
        return super().turn(question, contributor) if contributor in question.cohort else 0


class _Anybody(Intake):
    """Admits who has no slot."""

    def __init__(self, identity: Any, charter: Any, exchange: Any, _: Any, *given: Any, **more: Any) -> None:
        super().__init__(identity, charter, exchange, _SeatsForAll(charter), *given, **more)

    def admit(self, sender: str, head: Any, receipts: Any = ()) -> Any:
        asked, declined = self.question, self.declined
        self.question, self.declined = (
            msgspec.structs.replace(asked, cohort=tuple(sorted({*asked.cohort, sender}))),
            set(),
        )
        try:
            return super().admit(sender, head, receipts)
        finally:
            self.question, self.declined = asked, declined


class _Unsigned(Exchange):
    """Does not verify what it opens."""

    def examine(self, head: Any, *given: Any) -> Any:
        with _instead(exchange, "verify", lambda *a, **k: None):
            return super().examine(head, *given)


class _AnyAttempt(Exchange):
    """Takes what was sealed for any attempt at this round."""

    def examine(self, head: Any, label: Any, context: Any, sender: str, key: Any, sections: Any) -> Any:
        said = decode_as(Header, head.header)
        if (said.session, said.round) == (context.session, context.round):
            context = type(context)(context.charter, context.session, context.round, said.attempt, said.open_round)
        return super().examine(head, label, context, sender, key, sections)


def _exchange(kind: type[Exchange]) -> Make:
    def body(old: Any, self: Any, identity: Any, charter: Any, _: Any, *a: Any, **k: Any) -> None:
        old(self, identity, charter, kind(identity, charter), *a, **k)

    return _method("__init__", body)


def _opens_any(old: Any, self: Any, peer: str, incoming: Any, sections: Any, now: float) -> None:
    if self._intake is not None:
        incoming.header = msgspec.structs.replace(incoming.header, open_round=self._intake.open_round)
    old(self, peer, incoming, sections, now)


def _keeps_its_key(kind: Any) -> Any:
    """One round key for all attempts at a round."""

    class Kept(Intake):
        keys: dict[tuple[bytes, int], bytes] = {}  # noqa: RUF012 - one a mutant

        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            slot = (self.question.session, self.question.round)
            self.key = RoundKey(self.keys.setdefault(slot, self.key.secret))

    return _intake(Kept)(kind)


OF_ANOTHER_ATTEMPT: Mapping[str, Make] = {
    "the checks of attempt and OpenRound digest in a header": _exchange(_AnyAttempt),
    "a fresh key an attempt": _keeps_its_key,
    "the OpenRound digest of a body that is opened": _method("opened", _opens_any),
}
"""What keeps a contribution out of another attempt than its own. Each is covered by the others: with any one of them
left, no sequence can bring such a contribution into a sum, so no mutant lacks only one. One that lacks all is found.

In a header, the attempt is covered by the digest of the OpenRound, which it is a field of; they go together here."""


def without(*guards: str) -> Make:
    """Make a secure worker without these of `OF_ANOTHER_ATTEMPT`."""

    def make(kind: Any) -> Any:
        for guard in guards:
            kind = OF_ANOTHER_ATTEMPT[guard](kind)
        return kind

    return make


def _asks_no_gate(old: Any, self: Any, now: float) -> None:
    gate = self._memory.gate
    gate.decide = lambda question, names: Decision(question.session, question.round, question.model, names)
    old(self, now)


class _Keeps(Intake):
    """Keeps each contribution by itself."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.each: dict[str, Any] = {}

    def take(self, sender: str, incoming: Any, sections: Any) -> Receipt:
        share: Any = self._seats.share(self.question, sender, THIRD, sections)
        self.each[sender] = share.copy()
        return super().take(sender, incoming, sections)


def _releases_fewer_too(old: Any, self: Any, intake: _Keeps, close: CloseList, now: float) -> None:
    old(self, intake, close, now)
    fewer = close.contributions[:-1]
    if self._memory.released and len(fewer) >= self._minimum:
        signed = sign(self.identity, msgspec.structs.replace(close, contributions=fewer))
        total: Any = sum(intake.each[entry.party] for entry in fewer)
        question, name = intake.question, statement_digest(CloseList, signed)
        count, to = len(fewer), (self._owner, question.owner_key)
        body = [total.tobytes()]
        sealed = self.exchange.seal(Label.AGGREGATE, intake.context, *to, body, contributors=count, close=name)
        self.send(self._owner, Closed(close=signed))
        self.effect(Provide(self._owner, sealed))


def _releases_twice(kind: Any) -> Any:
    return _method("_settle_on", _releases_fewer_too)(_intake(_Keeps)(kind))


def _seals_anew(old: Any, self: Any, party: str, **more: Any) -> None:
    outgoing = self._outgoing
    if outgoing is not None and party == self._owner:
        records = [bytes(len(record)) for record in outgoing.records()]
        if getattr(self, "shown", None) == outgoing.subject:
            outgoing.records = lambda: iter(records)
        self.shown = outgoing.subject
    old(self, party, **more)


def _two_lists(old: Any, self: Any, peer: str, message: Any) -> None:
    if isinstance(message, Closed) and peer == "dave":
        close = decode_as(CloseList, message.close.statement)
        message = Closed(close=sign(self.identity, msgspec.structs.replace(close, missing=("dave",))))
    old(self, peer, message)


def _declines_first(old: Any, self: Any, peer: str, message: Declined, now: float) -> None:
    if self._intake is not None and decode_as(Decline, message.decline.statement).party == peer:
        self._intake.declined.add(peer)
    old(self, peer, message, now)


def _knows_every_subject(old: Any, self: Any, peer: str, message: Fetch, now: float) -> None:
    {}[type(message).__name__]
    old(self, peer, message, now)


def _unverified(charter: Any, signed: Signed, kind: Any, *roles: Role) -> Any:
    return decode_as(kind, signed.statement)


def _believes_all(kind: Any) -> Any:
    for module in (admission, memory):
        kind = _within("_on_propose_round", module, "open_signed", _unverified)(kind)
    return kind


@dataclass(frozen=True)
class Mutant:
    """How classes are changed, words of what the watch is to say of it, and where it is looked for first."""

    name: str
    changes: Mapping[Role, Make]
    says: str
    hostile: tuple[str, ...] | None = None
    fickle: bool | None = None


def _worker(name: str, make: Make, says: str, hostile: tuple[str, ...] | None = None) -> Mutant:
    return Mutant(f"the secure worker {name}", {Role.SECURE_WORKER: make}, says, hostile)


def _owner_of_data(name: str, make: Make, says: str, hostile: Any = None, fickle: bool | None = None) -> Mutant:
    return Mutant(f"a data owner {name}", {Role.DATA_OWNER: make}, says, hostile, fickle)


MUTANTS = (
    _owner_of_data(
        "provides its contribution to the model owner", _method("_announce", _shows_its_update), "provides a"
    ),
    _owner_of_data(
        "hides words of its update in a message", _method("_seal", _hides_words_in_a_fetch), "the update of"
    ),
    _owner_of_data(
        "seals to a key no holder signed",
        _within("_admit", recipient, "check_offer", _unsigned_offer),
        "no holder offered",
        (OWNER,),
    ),
    _owner_of_data(
        "sends what training came to, whatever it sent before",
        _method("_seal", _seals_another_vector),
        "two vectors",
        ("bob",),
        fickle=True,
    ),
    _owner_of_data(
        "ignores the attempt before, and trains again", _never_resumes, "two vectors", ("bob",), fickle=True
    ),
    _worker("releases one contribution", _intake(_Last), "is not the sum"),
    _worker("adds a contribution twice", _intake(_Twice), "is not the sum"),
    _worker("does not check the cohort", _intake(_Anybody), "not all were asked", ("bob",)),
    _worker("does not verify heads", _exchange(_Unsigned), "what it did not send", (OWNER,)),
    _worker("ignores the attempt", without(*OF_ANOTHER_ATTEMPT), "another attempt", ("bob",)),
    _worker("releases below the minimum", _gate(_minimum=1), "an aggregate of"),
    _worker("skips the gate", _method("_close", _asks_no_gate), "an aggregate of"),
    _worker("has a gate that remembers nothing", _gate(entries=lambda decision: ()), "one model is released", (OWNER,)),
    _worker("ignores stable_cohort", _gate(_stable=None), "alone"),
    _worker("releases a round twice, over two sets", _releases_twice, "over two sets"),
    _worker("seals a release anew each time", _method("_show_release", _seals_anew), "byte for byte"),
    _worker("shows two Close lists", _method("send", _two_lists), "over two sets"),
    _worker("takes a question nobody signed", _believes_all, "did not sign", ("bob",)),
    _worker("changes something although it refuses", _method("_on_declined", _declines_first), "has changed"),
    _worker("raises what nobody catches", _method("_on_fetch", _knows_every_subject), "raises KeyError"),
)
