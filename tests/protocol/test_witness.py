"""What a party is held to by the checkpoints it shows, and what an unsigned one does not do."""

import dataclasses
from typing import Any

import pytest
from tertium.crypto.errors import BadSignature
from tertium.crypto.labels import Label, digest
from tertium.crypto.sealing import RoundKey
from tertium.protocol import witness
from tertium.protocol.codec import decode_as, encode
from tertium.protocol.errors import IllegalMessage, MalformedMessage, SplitView, WrongCharter, WrongSender
from tertium.protocol.ledger import Act, Checkpoint
from tertium.protocol.messages import Abort, Aborted, Cause, Closed, Ready, Signed
from tertium.protocol.statements import sign
from tertium.protocol.witness import CARRIES


@pytest.fixture
def grown(kept: Any) -> Any:
    """Checkpoints of third's ledger, as it grows, by how many entries it has."""

    def grow(entries: int) -> Signed:
        view = kept.view("third")
        while view._ledger.size < entries:
            view.drew(RoundKey())
        view._ledger.settle()
        return view.checkpoint()

    return grow


SAYS = Closed(close=Signed("third", b"", bytes(64)))


def test_a_ledger_that_grows_is_held_and_each_checkpoint_noted(kept: Any, grown: Any) -> None:
    alice = kept.view("alice")
    signed = [grown(size) for size in (1, 2, 2, 5)]
    for each in signed:
        alice.hold("third", each, SAYS)
    names = [digest(Label.CHECKPOINT, each.statement) for each in (signed[0], signed[1], signed[3])]
    assert [(entry.act, entry.peer, entry.subject) for entry in kept.entries("alice")] == [
        (Act.RECEIVED, "third", name) for name in names
    ]
    exhibits = kept.exhibits("alice")
    assert all(decode_as(Signed, exhibits[name, "third"][1]) in signed for name in names)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_ledger_that_is_shorter_or_another_one_is_refused_by_every_process(
    kept: Any, grown: Any, restarted: bool
) -> None:
    alice, world = kept.view("alice"), kept.world
    old, new = grown(3), grown(6)
    alice.hold("third", new, SAYS)
    alice.settle()
    if restarted:
        alice = kept.view("alice", again=True)
    with pytest.raises(SplitView, match="shows a view ledger of 3 entries, and has signed for 6") as caught:
        alice.hold("third", old, SAYS)
    assert caught.value.party == "third"
    other = sign(world.identities["third"], Checkpoint(world.charter.digest, "third", 6, bytes(32)))
    with pytest.raises(SplitView, match="has signed for two view ledgers of 6 entries") as caught:
        alice.hold("third", other, SAYS)
    assert caught.value.party == "third"
    alice.hold("third", new, SAYS)
    alice.hold("third", grown(7), SAYS)


def test_a_checkpoint_is_its_senders_own_signed_and_of_this_charter(kept: Any, grown: Any) -> None:
    world, alice = kept.world, kept.view("alice")
    good = grown(2)
    said = decode_as(Checkpoint, good.statement)
    for spoilt, error in [
        (Signed("third", good.statement, bytes(64)), BadSignature),
        (sign(world.identities["bob"], said), WrongSender),
        (sign(world.identities["third"], Checkpoint(said.charter, "bob", said.size, said.root)), WrongSender),
        (sign(world.identities["third"], Checkpoint(bytes(32), "third", said.size, said.root)), WrongCharter),
    ]:
        with pytest.raises(error):
            alice.hold("third", spoilt, SAYS)
    with pytest.raises(WrongSender):
        alice.hold("bob", good, SAYS)
    assert kept.entries("alice") == []


@pytest.mark.parametrize("kind", sorted(CARRIES, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_a_message_that_has_to_carry_one_does_not_come_without(kept: Any, sampler: Any, kind: Any) -> None:
    with pytest.raises(IllegalMessage, match=f"{kind.__name__} without a checkpoint") as caught:
        kept.view("alice").hold("third", None, sampler(1).make(kind))
    assert caught.value.party == "third"


@pytest.fixture
def first(sampler: Any) -> Any:
    """A message of which the checkpoint is compared, and no more."""
    return sampler(1).make(Ready)


def test_the_first_of_a_round_is_compared_and_the_last_is_verified_and_noted(
    kept: Any, grown: Any, first: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, verified, real = kept.view("alice"), [], witness.open_signed
    monkeypatch.setattr(witness, "open_signed", lambda *given: (verified.append(given[1]), real(*given))[1])
    one, two, three = (grown(size) for size in (2, 4, 6))
    for signed, message in ((one, first), (one, first), (two, SAYS), (two, first), (two, SAYS), (three, SAYS)):
        alice.hold("third", signed, message)
    assert verified == [two, three]
    assert [entry.subject for entry in kept.entries("alice")] == [
        digest(Label.CHECKPOINT, each.statement) for each in (two, three)
    ]


@pytest.mark.parametrize("how", ["another attempt", "the end"])
def test_a_first_that_nothing_followed_is_verified_when_its_attempt_ends(
    kept: Any, grown: Any, first: Any, how: str
) -> None:
    alice, world = kept.view("alice"), kept.world
    alice.begin(world.context)
    signed = grown(3)
    alice.hold("third", signed, first)
    assert kept.entries("alice") == []
    alice.end() if how == "the end" else alice.begin(dataclasses.replace(world.context, attempt=7))
    (entry,) = kept.entries("alice")
    assert (entry.peer, entry.subject, entry.attempt) == ("third", digest(Label.CHECKPOINT, signed.statement), 1)
    assert alice._ledger.held["third"][0] == signed


def test_what_begins_an_attempt_is_noted_under_it(kept: Any, grown: Any, first: Any) -> None:
    """The checkpoint that came with it is of before; the statements in it are not."""
    alice, world = kept.view("alice"), kept.world
    alice.begin(world.context)
    signed, abort = grown(3), sign(world.identities["third"], Abort(bytes(32), 1, 0, "third", Cause.LOCAL, ""))
    alice.hold("third", signed, first)
    alice.hear("third", Aborted(abort=abort))
    alice.begin(dataclasses.replace(world.context, attempt=7))
    alice.heard()
    entries = kept.entries("alice")
    assert [(entry.subject, entry.attempt) for entry in entries] == [
        (digest(Label.CHECKPOINT, signed.statement), 1),
        (digest(Label.ABORT, abort.statement), 7),
    ]


def test_one_that_nobody_signed_binds_nobody_and_is_noted_as_refused(kept: Any, grown: Any, first: Any) -> None:
    alice, forged = kept.view("alice"), Signed("third", grown(3).statement, bytes(64))
    alice.hold("third", forged, first)
    alice.begin(kept.world.context)
    (entry,) = kept.entries("alice")
    assert (entry.act, entry.peer, entry.code) == (Act.REFUSED, "third", BadSignature.code)
    assert not alice._ledger.held
    assert not kept.exhibits("alice")


def test_what_contradicts_a_first_that_nobody_signed_is_taken(kept: Any, grown: Any, first: Any) -> None:
    """Or whoever could put one message into a connection could have a party refused by the others."""
    alice, world, good = kept.view("alice"), kept.world, grown(3)
    other = Signed("third", encode(Checkpoint(world.charter.digest, "third", 9, bytes(32))), bytes(64))
    alice.hold("third", other, first)
    alice.hold("third", good, SAYS)
    assert alice._ledger.held["third"][0] == good


@pytest.mark.parametrize("size", [3, 9], ids=["as long and another", "shorter"])
@pytest.mark.parametrize("verified_first", [True, False])
def test_a_first_that_contradicts_is_refused_and_both_signatures_are_kept_once(
    kept: Any, grown: Any, first: Any, size: int, verified_first: bool
) -> None:
    alice, world, good = kept.view("alice"), kept.world, grown(3)
    other = sign(world.identities["third"], Checkpoint(world.charter.digest, "third", size, bytes(32)))
    alice.hold("third", other, SAYS if verified_first else first)
    for message in (first, SAYS):
        with pytest.raises(SplitView) as caught:
            alice.hold("third", good, message)
        assert caught.value.party == "third"
    alice.refused("third", SplitView.code)
    names = {(digest(Label.CHECKPOINT, each.statement), "third") for each in (good, other)}
    assert set(kept.exhibits("alice")) == names
    rows = kept.journals["alice"]._db.execute("select count(*) from exhibits").fetchone()
    assert rows == (2,)


def test_one_that_was_held_before_a_longer_first_is_shorter_too(kept: Any, grown: Any, first: Any) -> None:
    """An old disk that was put back in the middle of a round shows what is held already."""
    alice = kept.view("alice")
    old, new = grown(3), grown(6)
    alice.hold("third", old, SAYS)
    alice.hold("third", new, first)
    for message in (SAYS, first):
        with pytest.raises(SplitView, match="of 3 entries, and has signed for 6"):
            alice.hold("third", old, message)


@pytest.mark.parametrize("message", ["first", "last"])
def test_a_first_too_is_its_senders_own_and_of_this_charter(kept: Any, first: Any, message: str) -> None:
    world, alice = kept.world, kept.view("alice")
    for party, charter, error in (("bob", world.charter.digest, WrongSender), ("third", bytes(32), WrongCharter)):
        signed = sign(world.identities["third"], Checkpoint(charter, party, 3, bytes(32)))
        with pytest.raises(error):
            alice.hold("third", signed, first if message == "first" else SAYS)
    with pytest.raises(MalformedMessage):
        alice.hold("third", Signed("third", b"none", bytes(64)), first)


def test_what_another_charter_held_is_begun_anew(kept: Any, grown: Any) -> None:
    """So a party whose disk is gone can come back, once all have signed."""
    alice = kept.view("alice")
    alice.hold("third", grown(4), SAYS)
    alice.settle()
    ledger = kept.views["alice"]._ledger
    assert set(ledger.held) == {"third"}
    assert set(type(ledger)(kept.journals["alice"], bytes(32)).held) == set()
