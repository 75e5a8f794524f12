"""What a party notes: every sealing, opening and statement once, in order, and before anything follows from it."""

import typing
from typing import Any

import pytest
from tertium.crypto.labels import Label
from tertium.crypto.sealing import RoundKey
from tertium.protocol import limits
from tertium.protocol.charter import Role
from tertium.protocol.codec import AnyMessage, decode_as
from tertium.protocol.context import RoundContext
from tertium.protocol.errors import IllegalMessage
from tertium.protocol.ledger import Act, Content, DataClass, Exhibit, LedgerEntry
from tertium.protocol.messages import (
    Closed,
    CloseList,
    Contribution,
    Cosignature,
    Credit,
    Decline,
    Declined,
    Fetch,
    Ready,
    RoundRecord,
    RoundStatement,
    SealedHead,
    SendModel,
    Signed,
    Statement,
)
from tertium.protocol.messages import Release as ReleaseMessage
from tertium.protocol.stated import STATEMENTS
from tertium.protocol.statements import sign, statement_digest
from tertium.protocol.view import View
from tertium.protocol.witness import CARRIES

SIGNALS = {
    "Hello",
    "Refusal",
    "RequestSession",
    "Fetch",
    "Grant",
    "Credit",
    "Closes",
    "Cosign",
    "MaskKeys",
    "MaskSeeds",
    "Challenge",
}
"""Messages without an entry of their own: connection signals; signatures whose statement is noted; what is relayed."""
HEADED = (SendModel, Ready, ReleaseMessage)


def close_list(world: Any, *names: str, holder: str = "third") -> CloseList:
    listed = tuple(Contribution(name, bytes(32)) for name in names)
    return CloseList(open_round=world.name, holder=holder, contributions=listed, declined=(), missing=())


# --- what is noted


def test_every_message_is_noted_by_its_statements_or_its_head_or_is_a_mere_signal() -> None:
    kinds = set(typing.get_args(AnyMessage))
    assert set(STATEMENTS) | set(HEADED) | {kind for kind in kinds if kind.__name__ in SIGNALS} == kinds
    assert not set(STATEMENTS) & set(HEADED)
    assert kinds >= CARRIES
    for kind, fields in STATEMENTS.items():
        for name, statement in fields:
            held = typing.get_type_hints(kind)[name]
            assert held is Signed or Signed in typing.get_args(held), (kind, name)
            assert issubclass(statement, Statement)


def test_an_envelope_is_sent_received_and_opened_by_its_subject(kept: Any) -> None:
    world = kept.world
    alice, third = kept.exchange("alice"), kept.exchange("third")
    content = Content(DataClass.UPDATE, ("alice",))
    alice.view.begin(world.context)
    alice.view.derived(DataClass.UPDATE, ("alice",), sources=(), payload=5, commitment=bytes(32))
    sealed = alice.seal(
        Label.CONTRIBUTION, world.context, "third", world.third_key.public, [world.payload()], content=content
    )
    header = third.examine(sealed.head, Label.CONTRIBUTION, world.context, "alice", world.third_key, world.sections)
    for _ in range(2):  # the second over a new connection
        incoming = third.open(sealed.head, world.third_key, content=content)
    assert [entry.act for entry in kept.entries("third")] == [Act.RECEIVED]
    for record in sealed.records():
        incoming.feed(record)
    incoming.finish()
    derived, sent = kept.entries("alice")
    received, opened = kept.entries("third")
    assert [each.act for each in (derived, sent, received, opened)] == [
        Act.DERIVED,
        Act.SENT,
        Act.RECEIVED,
        Act.OPENED,
    ]
    assert (sent.peer, received.peer, opened.peer) == ("third", "alice", "alice")
    assert (sent.derived_from, received.derived_from, opened.derived_from) == ((0,), (), (0,))
    for each in (sent, received, opened):
        assert (each.data, each.whose, each.round, each.attempt) == (DataClass.UPDATE, ("alice",), 2, 1)
        assert (each.subject, each.commitment) == (sealed.subject, header.commitment)
        assert (each.payload, each.open_round) == (world.sections[0], world.name)
        assert each.wire == sum(len(record) for record in sealed.records())
    for name in ("alice", "third"):
        label, exhibit = kept.exhibits(name)[sealed.subject, "alice"]
        assert (label, decode_as(SealedHead, exhibit)) == (Label.HEADER.value, sealed.head)


def test_what_is_opened_is_in_the_file_before_anybody_has_it(kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world, third = kept.world, kept.exchange("third")
    sealed = world.seal()
    incoming = third.open(sealed.head, world.third_key, content=Content(DataClass.UPDATE, ("alice",)))
    for record in sealed.records():
        incoming.feed(record)
    order = []
    settle, finish = third.view.settle, incoming._opener.finish
    monkeypatch.setattr(third.view, "settle", lambda: (settle(), order.append(kept.journals["third"].ledger_size())))
    monkeypatch.setattr(incoming._opener, "finish", lambda: (order.append("authentic"), finish())[1])
    incoming.finish()
    assert order == ["authentic", 2]


def test_a_body_that_is_not_authentic_is_never_noted_as_opened(kept: Any) -> None:
    world, third = kept.world, kept.exchange("third")
    sealed = world.seal()
    incoming = third.open(sealed.head, world.third_key, content=Content(DataClass.UPDATE, ("alice",)))
    spoilt = [bytes(len(record)) for record in sealed.records()]
    with pytest.raises(Exception, match="body"):
        any(incoming.feed(record) for record in spoilt) and incoming.finish()
    assert [entry.act for entry in kept.entries("third")] == [Act.RECEIVED]


def test_a_statement_is_noted_once_by_whoever_says_it_and_whoever_hears_it(kept: Any) -> None:
    world = kept.world
    signed = sign(world.identities["third"], close_list(world, "alice", "bob", "carol"))
    message, name = Closed(close=signed), statement_digest(CloseList, signed)
    third, alice = kept.view("third"), kept.view("alice")
    third.begin(world.context)
    for peer in ("alice", "bob", "alice"):
        third.said(peer, message)
    third.begin(world.context)
    third.said("alice", message)
    for _ in range(2):
        alice.hear("third", message)
        alice.heard()
    assert [(entry.act, entry.peer, entry.subject) for entry in kept.entries("third")] == [
        (Act.SENT, "alice", name),
        (Act.SENT, "bob", name),
    ]
    assert [(entry.act, entry.peer, entry.subject) for entry in kept.entries("alice")] == [
        (Act.RECEIVED, "third", name)
    ]
    for party in ("third", "alice"):
        label, exhibit = kept.exhibits(party)[name, "third"]
        assert (label, decode_as(Signed, exhibit)) == (Label.CLOSE.value, signed)
    # In another attempt it is said anew.
    third.begin(RoundContext(world.charter.digest, world.context.session, 2, 2, bytes(32)))
    third.said("alice", message)
    assert len(kept.entries("third")) == 3


def test_a_record_keeps_every_cosignature_as_what_it_is(kept: Any) -> None:
    world = kept.world
    said = RoundStatement(
        open_round=world.name,
        holder="third",
        close=bytes(32),
        contributors=("alice", "bob", "carol"),
        release=bytes(32),
        commitment=bytes(32),
    )
    signed = sign(world.identities["third"], said)
    names = ("alice", "owner")
    cosigned = tuple(
        Cosignature(name, world.identities[name].sign(Label.ROUND_STATEMENT, signed.statement)) for name in names
    )
    record = RoundRecord(statement=signed, cosignatures=cosigned, absent=("bob", "carol"))
    view = kept.view("owner")
    view.hear("third", record)
    view.heard()
    view.cosigned(record)
    subject = statement_digest(RoundStatement, signed)
    exhibits = kept.exhibits("owner")
    assert set(exhibits) == {(subject, "third"), (subject, "alice"), (subject, "owner")}
    for name in names:
        kept_as = decode_as(Signed, exhibits[subject, name][1])
        assert (kept_as.signer, kept_as.statement) == (name, signed.statement)


def test_an_exhibit_lies_there_once_and_what_is_remembered_of_them_is_bounded(
    kept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tertium.protocol.limits.EXHIBITS_REMEMBERED", 2)
    ledger = kept.view("bob")._ledger
    first, second, third = (Exhibit(bytes([each]) * 32, "third", Label.CLOSE, b"x") for each in range(3))
    for each in (first, first, second, first, third, first):
        ledger.keep(each)
    ledger.append(LedgerEntry(Act.REFUSED, DataClass.CONTROL, kept.world.charter.digest, code="too-late"))
    ledger.settle()
    rows = kept.journals["bob"]._db.execute("select subject from exhibits").fetchall()
    assert [row[0][0] for row in rows] == [0, 1, 2, 0]


def test_cosignatures_that_nobody_here_verified_are_not_kept(kept: Any) -> None:
    """A data owner takes the record as its holder's word; a holder could put any bytes there as a signature."""
    world, view = kept.world, kept.view("bob")
    said = RoundStatement(world.name, "third", bytes(32), ("alice", "bob", "carol"), bytes(32), bytes(32))
    signed = sign(world.identities["third"], said)
    view.hear("third", RoundRecord(statement=signed, cosignatures=(Cosignature("alice", bytes(64)),), absent=()))
    view.heard()
    assert set(kept.exhibits("bob")) == {(statement_digest(RoundStatement, signed), "third")}


def test_what_a_handler_takes_unseen_is_noted_only_if_it_is_signed(kept: Any) -> None:
    """Lists that come a second time, say: whoever passes them on could have put anything into them."""
    world, view = kept.world, kept.view("third")
    true = sign(world.identities["third"], close_list(world, "alice"))
    forged = Signed("third", true.statement, bytes(64))
    stranger = Signed("nobody", true.statement, bytes(64))
    for signed in (forged, stranger):
        view.hear("owner", Closed(close=signed))
        view.heard()
    assert kept.entries("third") == []
    assert kept.exhibits("third") == {}
    view.hear("owner", Closed(close=true))
    view.heard()
    ((_, content),) = kept.exhibits("third").values()
    assert decode_as(Signed, content) == true


def test_in_another_attempt_a_sum_is_of_what_was_opened_in_it_and_a_vector_the_one_before(kept: Any) -> None:
    world = kept.world
    third, alice = kept.exchange("third"), kept.exchange("alice")
    content, payload = Content(DataClass.UPDATE, ("alice",)), world.payload()
    contexts = [RoundContext(world.charter.digest, world.context.session, 2, attempt, bytes(32)) for attempt in (0, 1)]
    alice.view.begin(contexts[0])
    alice.view.derived(DataClass.UPDATE, ("alice",), sources=(), commitment=bytes(32))
    for context in contexts:
        for exchange in (third, alice):
            exchange.view.begin(context)
        sealed = alice.seal(Label.CONTRIBUTION, context, "third", world.third_key.public, [payload], content=content)
        incoming = third.open(sealed.head, world.third_key, content=content)
        for record in sealed.records():
            incoming.feed(record)
        incoming.finish()
    third.seal(
        Label.AGGREGATE,
        contexts[1],
        "owner",
        world.owner_key.public,
        [payload],
        content=Content(DataClass.AGGREGATE, ("alice",)),
    )
    assert [entry.derived_from for entry in kept.entries("alice") if entry.act is Act.SENT] == [(0,), (0,)]
    assert [entry.act for entry in kept.entries("third")] == [*(2 * [Act.RECEIVED, Act.OPENED]), Act.SENT]
    assert kept.entries("third")[-1].derived_from == (3,)
    # The next round knows nothing of either.
    alice.view.begin(RoundContext(world.charter.digest, world.context.session, 3, 0, bytes(32)))
    alice.seal(Label.CONTRIBUTION, world.context, "third", world.third_key.public, [payload], content=content)
    assert kept.entries("alice")[-1].derived_from == ()


def test_what_follows_from_a_message_is_noted_behind_it_and_what_is_refused_not_at_all(kept: Any) -> None:
    world, view = kept.world, kept.view("alice")
    signed = sign(world.identities["third"], close_list(world, "alice"))
    view.hear("third", Closed(close=signed))
    view.drew(RoundKey())
    view.heard()
    assert [(entry.act, entry.data) for entry in kept.entries("alice")] == [
        (Act.RECEIVED, DataClass.CONTROL),
        (Act.DERIVED, DataClass.KEY),
    ]
    other = sign(world.identities["third"], close_list(world, "bob"))
    view.hear("third", Closed(close=other))
    view.unheard()
    view.refused("third", "split-view", bytes(32))
    last = kept.entries("alice")[-1]
    assert len(kept.entries("alice")) == 3
    assert (last.act, last.peer, last.code, last.subject) == (Act.REFUSED, "third", "split-view", bytes(32))
    assert (statement_digest(CloseList, other), "third") not in kept.exhibits("alice")


def test_a_statement_that_is_refused_is_kept_as_evidence_if_it_is_signed(kept: Any) -> None:
    world, view = kept.world, kept.view("alice")
    first, second = (sign(world.identities["third"], close_list(world, *names)) for names in (["alice"], ["bob"]))
    view.hear("third", Closed(close=first))
    view.heard()
    view.refused("third", "split-view", message=Closed(close=second))
    subject = statement_digest(CloseList, second)
    assert kept.entries("alice")[-1].subject == subject
    assert decode_as(Signed, kept.exhibits("alice")[subject, "third"][1]) == second
    # One that is too long is not kept, nor a signature that is none: it would keep the true one from its place.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "EXHIBIT_OF_A_REFUSAL", 10)
        long = sign(world.identities["third"], close_list(world, "alice", "bob"))
        view.refused("third", "split-view", bytes(32), message=Closed(close=long))
        assert kept.entries("alice")[-1].subject == bytes(32)
    true = sign(world.identities["third"], close_list(world, "carol"))
    name = statement_digest(CloseList, true)
    for signer, error in (("third", "bad-signature"), ("nobody", "not-in-charter")):
        view.refused("bob", error, bytes(32), message=Closed(close=Signed(signer, true.statement, bytes(64))))
        assert kept.entries("alice")[-1].subject == bytes(32)
        assert (name, signer) not in kept.exhibits("alice")
    view.hear("third", Closed(close=true))
    view.heard()
    assert decode_as(Signed, kept.exhibits("alice")[name, "third"][1]) == true


def test_a_round_key_is_noted_when_it_is_drawn_and_when_it_is_erased(kept: Any) -> None:
    world, view = kept.world, kept.view("third")
    view.begin(world.context)
    key = view.drew(RoundKey())
    before = view.drew(RoundKey(), before=True)
    view.begin(RoundContext(world.charter.digest, world.context.session, 3, 0, bytes(32)))
    key.erase()
    key.erase()
    before.erase()
    drawn, erased, other = kept.entries("third")
    assert drawn.subject == erased.subject == key.key_id + bytes(16)
    assert (drawn.act, erased.act, erased.derived_from) == (Act.DERIVED, Act.ERASED, (0,))
    assert (drawn.round, erased.round) == (2, 2)
    assert (other.act, other.subject, other.derived_from) == (Act.ERASED, before.key_id + bytes(16), ())


def test_a_sum_is_derived_from_what_was_opened_of_its_contributors(kept: Any) -> None:
    world, view = kept.world, kept.view("third")
    view.begin(world.context)
    for name in ("alice", "bob", "carol"):
        content = Content(DataClass.UPDATE, (name,))
        sealed = world.seal(name)
        incoming = kept.exchange("third").open(sealed.head, world.third_key, content=content)
        for record in sealed.records():
            incoming.feed(record)
        incoming.finish()
    exchange, content = kept.exchange("third"), Content(DataClass.AGGREGATE, ("alice", "carol"))
    outgoing = exchange.seal(
        Label.AGGREGATE,
        world.context,
        "owner",
        world.owner_key.public,
        [world.payload()],
        contributors=2,
        close=bytes(32),
        content=content,
    )
    view.released("owner", outgoing.head, content, outgoing.commitment)
    *_, sent, released = kept.entries("third")
    opened = [at for at, entry in enumerate(kept.entries("third")) if entry.act is Act.OPENED]
    assert sent.derived_from == (opened[0], opened[2])
    assert (released.act, released.derived_from) == (Act.RELEASED, (len(kept.entries("third")) - 2,))
    assert (released.subject, released.whose, released.peer) == (outgoing.subject, ("alice", "carol"), "owner")


def test_without_a_ledger_nothing_is_noted_and_nothing_demanded(world: Any) -> None:
    view = View(world.identities["alice"], world.charter)
    view.hold("third", None, Closed(close=sign(world.identities["third"], close_list(world, "alice"))))
    view.refused("third", "split-view")
    view.settle()
    assert view.checkpoint() is None


# --- how much


def test_a_peer_can_have_us_note_only_so_much_in_an_attempt(kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NOTED_OF_A_PEER", 5)
    world, third = kept.world, kept.exchange("third")
    third.view.begin(world.context)
    declines = [
        Declined(decline=sign(world.identities["alice"], Decline(open_round=bytes([at]) * 32, party="alice")))
        for at in range(3)
    ]
    for message in declines:
        third.view.hear("alice", message)
        third.view.heard()
    content = Content(DataClass.UPDATE, ("alice",))
    for _ in range(2):
        third.open(world.seal().head, world.third_key, content=content)
    with pytest.raises(IllegalMessage, match="more in one attempt") as caught:
        third.open(world.seal().head, world.third_key, content=content)
    assert caught.value.party == "alice"
    with pytest.raises(IllegalMessage, match="more in one attempt"):
        third.view.hear("alice", declines[0])
    assert len(kept.entries("third")) == 5
    # Signals cost no room, others have their own, and so has the next attempt.
    for _ in range(9):
        third.view.hear("alice", Fetch(subject=bytes(32)))
        third.view.hear("alice", Credit(subject=bytes(32), records=1))
    third.open(world.seal("bob").head, world.third_key, content=Content(DataClass.UPDATE, ("bob",)))
    third.view.begin(RoundContext(world.charter.digest, world.context.session, 2, 2, bytes(32)))
    third.view.hear("alice", declines[0])


def test_of_a_peers_refusals_only_so_many_are_noted(kept: Any) -> None:
    view = kept.view("third")
    for _ in range(limits.REFUSALS_NOTED + 10):
        view.refused("alice", "malformed-message")
        view.refused(None, "stranger-key")
    assert len(kept.entries("third")) == 2 * limits.REFUSALS_NOTED


def test_every_role_writes_one(kept: Any) -> None:
    for name, role in (("owner", Role.MODEL_OWNER), ("judge", Role.EVALUATOR)):
        view = kept.view(name)
        view.drew(RoundKey())
        view.settle()
        assert kept.world.charter.party(name).role is role
        assert kept.journals[name].ledger_size() == 1
