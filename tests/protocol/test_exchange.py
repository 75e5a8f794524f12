"""The choke point: each numbered check of a head refuses by its own name, before anything is decrypted or allocated."""

import os
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tertium.crypto import sealing
from tertium.crypto.errors import BadBody, BadSignature, BadWrappedKey, CommitmentMismatch, Misbehaviour
from tertium.crypto.identity import Identity
from tertium.crypto.labels import Label, frame
from tertium.crypto.sealing import RoundKey
from tertium.protocol import limits
from tertium.protocol.codec import decode_as, encode
from tertium.protocol.errors import (
    MalformedMessage,
    NotInCharter,
    OversizedClaim,
    UnsupportedVersion,
    WrongAttempt,
    WrongCharter,
    WrongLabel,
    WrongOpenRound,
    WrongRecipient,
    WrongRound,
    WrongSender,
    WrongSession,
)
from tertium.protocol.exchange import Exchange, Outgoing
from tertium.protocol.messages import Header, SealedHead

OTHER = bytes(range(32))
SLOW = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
# `world` is the fixture of conftest.py; conftest cannot be imported for its types.
World = Any


def received(world: World, outgoing: Outgoing, records: list[bytes] | None = None, **said: Any) -> list[bytes]:
    """Open an envelope at the secure worker, from its head to its last byte."""
    world.examine(outgoing.head)
    incoming = world.exchanges["third"].open(outgoing.head, world.third_key, **said)
    for record in outgoing.records() if records is None else records:
        incoming.feed(record)
    return [bytes(section) for section in incoming.finish()]


def test_a_contribution_opens_as_it_was_sealed(world: World) -> None:
    payload = world.payload()
    assert received(world, world.seal("alice", payload)) == [payload]


def test_a_second_sealing_after_a_lost_connection_opens_to_the_same(world: World) -> None:
    payload = world.payload()
    outgoing = world.seal("alice", payload)
    list(outgoing.records())
    assert received(world, outgoing) == [payload]


# --- the numbered checks


def test_check_1_a_party_that_is_not_in_the_charter(world: World) -> None:
    with pytest.raises(NotInCharter):
        world.examine(world.seal().head, "mallory")


def test_check_1_comes_before_the_signature(world: World) -> None:
    head = msgspec.structs.replace(world.seal().head, signature=bytes(64))
    with pytest.raises(NotInCharter):
        world.examine(head, "mallory")


def test_check_2_a_strangers_signature(world: World) -> None:
    exchange = Exchange(Identity.generate("alice"), world.charter)
    with pytest.raises(BadSignature):
        world.examine(world.seal(exchange=exchange).head)


def test_check_2_another_partys_envelope(world: World) -> None:
    with pytest.raises(BadSignature):
        world.examine(world.seal("bob").head, "alice")


def test_check_2_a_signature_under_another_label(world: World) -> None:
    head = world.seal().head
    signed = frame(Label.CONTRIBUTION, [head.header, head.wrapped_key])
    signature = world.identities["alice"].sign(Label.RECEIPT, signed)
    with pytest.raises(BadSignature):
        world.examine(msgspec.structs.replace(head, signature=signature))


def test_check_2_comes_before_the_decoding(world: World) -> None:
    with pytest.raises(BadSignature):
        world.examine(msgspec.structs.replace(world.seal().head, header=b"garbage"))


def signed_by(world: World, name: str, header: bytes, label: Label = Label.CONTRIBUTION) -> SealedHead:
    wrapped = os.urandom(sealing.WRAPPED_KEY_BYTES)
    signature = world.identities[name].sign(Label.HEADER, frame(label, [header, wrapped]))
    return SealedHead(header=header, wrapped_key=wrapped, signature=signature)


def test_check_3_a_header_that_is_none(world: World) -> None:
    with pytest.raises(MalformedMessage):
        world.examine(signed_by(world, "alice", b"garbage"))


def test_check_3_a_header_in_another_encoding(world: World) -> None:
    # One byte of the map's length written as two: the same meaning, another digest.
    header = world.seal().head.header
    assert header[0] == 0xDE or header[0] & 0xF0 == 0x80
    with pytest.raises(MalformedMessage):
        world.examine(signed_by(world, "alice", header + b"\xc0"))


@pytest.mark.parametrize("changes", [{"version": 2}, {"version": 0}, {"suite": "HPKE(X25519)+AES"}])
def test_check_4_another_version_or_suite(world: World, changes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedVersion):
        world.examine(world.resigned(world.seal(), **changes))


@pytest.mark.parametrize("label", [Label.MODEL, Label.AGGREGATE, Label.RECEIPT])
def test_check_5_another_label(world: World, label: Label) -> None:
    header = msgspec.structs.replace(decode_as(Header, world.seal().head.header), label=label)
    # Signed under the frame of the label that is expected, or check 2 would be the one to refuse it.
    with pytest.raises(WrongLabel):
        world.examine(signed_by(world, "alice", encode(header)))


@pytest.mark.parametrize("sender", ["owner", "judge", "third"])
def test_check_5_a_role_that_may_not_send_this(world: World, sender: str) -> None:
    head = world.resigned(world.seal(), sender, sender=sender)
    with pytest.raises(WrongLabel):
        world.examine(head, sender)


def test_check_5_a_model_owner_opens_no_contribution(world: World) -> None:
    key = RoundKey()
    head = world.resigned(world.seal(), recipient="owner", recipient_key=key.key_id)
    with pytest.raises(WrongLabel):
        world.exchanges["owner"].examine(head, Label.CONTRIBUTION, world.context, "alice", key, world.sections)


def test_check_6_a_header_that_names_another_sender(world: World) -> None:
    with pytest.raises(WrongSender):
        world.examine(world.resigned(world.seal(), "alice", sender="bob"))


def test_check_7_another_charter(world: World) -> None:
    with pytest.raises(WrongCharter):
        world.examine(world.seal(charter=OTHER).head)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"session": OTHER}, WrongSession),
        ({"round": 1}, WrongRound),
        ({"round": 3}, WrongRound),
        ({"attempt": 0}, WrongAttempt),
        ({"attempt": 2}, WrongAttempt),
        ({"open_round": OTHER}, WrongOpenRound),
    ],
)
def test_check_8_a_replay_from_elsewhere(world: World, changes: dict[str, Any], error: type[Misbehaviour]) -> None:
    with pytest.raises(error):
        world.examine(world.seal(**changes).head)


def test_check_9_another_recipient(world: World) -> None:
    with pytest.raises(WrongRecipient):
        world.examine(world.resigned(world.seal(), recipient="judge"))


def test_check_9_another_key_of_ours(world: World) -> None:
    with pytest.raises(WrongRecipient):
        world.examine(world.seal(key=RoundKey()).head)


@pytest.mark.parametrize("surplus", [-4, -1, 1, 4, 2**30])
def test_check_10_another_length(world: World, surplus: int) -> None:
    with pytest.raises(OversizedClaim):
        world.examine(world.resigned(world.seal(), sections=(world.sections[0] + surplus,)))


def test_check_10_more_sections(world: World) -> None:
    with pytest.raises(OversizedClaim):
        world.examine(world.resigned(world.seal(), sections=(world.sections[0], 0)))


def test_check_11_a_commitment_stands_where_there_is_a_body(world: World) -> None:
    with pytest.raises(MalformedMessage):
        world.examine(world.resigned(world.seal(), commitment=bytes(32)))
    key = RoundKey()
    head, _ = world.exchanges["alice"].seal_seed(world.context, "bob", key.public)
    assert world.exchanges["bob"].open_seeds([("alice", head)], world.context, key)
    header = encode(msgspec.structs.replace(decode_as(Header, head.header), commitment=OTHER))
    signature = world.identities["alice"].sign(Label.HEADER, frame(Label.MASK_SEED, [header, head.wrapped_key]))
    with pytest.raises(MalformedMessage):
        world.exchanges["bob"].open_seeds(
            [("alice", SealedHead(header, head.wrapped_key, signature))], world.context, key
        )


def test_check_11_a_contribution_lists_its_shares_and_nothing_else_does(world: World) -> None:
    with pytest.raises(MalformedMessage):
        world.examine(world.resigned(world.seal(), shares=()))
    key = RoundKey()
    body = world.exchanges["third"].seal(Label.AGGREGATE, world.context, "owner", key.public, [b"sum"])
    owner, said = world.exchanges["owner"], decode_as(Header, body.head.header)
    assert owner.examine(body.head, Label.AGGREGATE, world.context, "third", key, [3]).shares == ()
    head = world.exchanges["third"].seal_head(msgspec.structs.replace(said, shares=(OTHER,)), key.public, OTHER)
    with pytest.raises(MalformedMessage):
        owner.examine(head, Label.AGGREGATE, world.context, "third", key, [3])


def test_the_longest_list_of_shares_fits_a_header(world: World) -> None:
    """With the longest names and the largest numbers beside it; one more is refused by its length alone."""
    long, most = "n" * limits.NAME_LENGTH, 2**53
    header = msgspec.structs.replace(
        decode_as(Header, world.seal().head.header),
        sender=long,
        recipient=long,
        round=most,
        attempt=most,
        sections=(limits.MODEL_BYTES,) * 4,
        first=most,
        contributors=most,
        close=OTHER,
        shares=(OTHER,) * limits.SHARES,
    )
    assert len(encode(header)) <= limits.HEADER_BYTES
    assert decode_as(Header, encode(header)) == header
    with pytest.raises(MalformedMessage):
        decode_as(Header, encode(msgspec.structs.replace(header, shares=(OTHER,) * (limits.SHARES + 1))))


def test_a_commitment_made_ahead_is_the_one_of_the_body(world: World) -> None:
    payload, to = world.payload(), ("third", world.third_key.public)
    exchange, other = world.exchanges["alice"], os.urandom(32)
    ahead = exchange.commit(Label.CONTRIBUTION, world.context, *to, [payload])
    listed = (other, ahead.commitment)
    sealed = exchange.seal(Label.CONTRIBUTION, world.context, *to, [payload], committed=ahead, shares=listed)
    header = world.examine(sealed.head)
    assert (header.commitment, header.shares) == (ahead.commitment, listed)
    assert received(world, sealed) == [payload]
    assert repr(ahead.salt) not in repr(ahead)


def test_the_checks_come_in_their_order(world: World) -> None:
    """A head with everything wrong is refused by the lowest number; each one put right uncovers the next."""
    right = decode_as(Header, world.seal().head.header)
    wrong: dict[str, Any] = {
        "version": 9,
        "sender": "bob",
        "charter": OTHER,
        "session": OTHER,
        "round": 9,
        "attempt": 9,
        "open_round": OTHER,
        "recipient": "judge",
        "sections": (1,),
    }
    order = [
        UnsupportedVersion,
        WrongSender,
        WrongCharter,
        WrongSession,
        WrongRound,
        WrongAttempt,
        WrongOpenRound,
        WrongRecipient,
        OversizedClaim,
    ]
    for error, (field, _) in zip(order, list(wrong.items()), strict=True):
        header = msgspec.structs.replace(right, **wrong)
        with pytest.raises(error):
            world.examine(signed_by(world, "alice", encode(header)))
        del wrong[field]
    world.examine(signed_by(world, "alice", encode(right)))


# --- seeds of masks: envelopes without a body


def test_a_seed_is_the_content_key_of_a_head(world: World) -> None:
    key = RoundKey()
    (head, seed), (other, another) = (
        world.exchanges["alice"].seal_seed(world.context, "bob", key.public) for _ in range(2)
    )
    assert world.exchanges["bob"].open_seeds([("alice", head)], world.context, key) == [seed] != [another]
    assert seed not in head.header + head.wrapped_key
    assert other.subject == head.subject  # nothing in the header tells two seeds apart; what is wrapped does
    shown = [handled for name in ("alice", "bob") for handled in world.handled[name]]
    assert [(each.sealed, each.peer, each.payload) for each in shown] == [
        (True, "bob", 0),
        (True, "bob", 0),
        (False, "alice", 0),
    ]


def test_a_seed_that_does_not_open_names_who_sealed_it(world: World) -> None:
    key = RoundKey()
    head, _ = world.exchanges["alice"].seal_seed(world.context, "bob", key.public)
    wrapped = bytes([head.wrapped_key[0] ^ 1]) + head.wrapped_key[1:]
    signature = world.identities["alice"].sign(Label.HEADER, frame(Label.MASK_SEED, [head.header, wrapped]))
    with pytest.raises(BadWrappedKey) as raised:
        world.exchanges["bob"].open_seeds([("alice", SealedHead(head.header, wrapped, signature))], world.context, key)
    assert raised.value.party == "alice"


def test_a_seed_goes_from_one_data_owner_to_another_and_nowhere_else(world: World) -> None:
    for recipient in ("third", "owner", "judge"):
        with pytest.raises(WrongLabel):
            world.exchanges["alice"].seal_seed(world.context, recipient, RoundKey().public)
    with pytest.raises(WrongLabel):
        world.exchanges["third"].seal_seed(world.context, "alice", RoundKey().public)


# --- nothing is decrypted or allocated before the last check


def test_nothing_is_unwrapped_or_allocated_for_an_oversized_claim(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = world.resigned(world.seal(), sections=(2**35,))

    def never(*_: object, **__: object) -> None:
        raise AssertionError("touched before the head was admitted")

    monkeypatch.setattr(RoundKey, "unwrap", never)
    monkeypatch.setattr(sealing, "BodyOpener", never)
    with pytest.raises(OversizedClaim):
        world.examine(head)


# --- the head and the body, bit by bit


@SLOW
@given(st.data())
def test_a_flipped_bit_anywhere_in_a_head_is_refused(world: World, data: st.DataObject) -> None:
    head = world.seal().head
    field = data.draw(st.sampled_from(["header", "wrapped_key", "signature"]))
    content = bytearray(getattr(head, field))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BadSignature):
        world.examine(msgspec.structs.replace(head, **{field: bytes(content)}))


@SLOW
@given(at=st.integers(0, 2**20), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_in_a_body_is_refused(world: World, at: int, bit: int) -> None:
    outgoing = world.seal()
    body = bytearray(b"".join(outgoing.records()))
    body[at % len(body)] ^= 1 << bit
    with pytest.raises(BadBody):
        received(world, outgoing, [bytes(body)])


@pytest.mark.parametrize("change", ["cut", "extended", "of another envelope"])
def test_a_body_that_is_cut_extended_or_anothers_is_refused(world: World, change: str) -> None:
    outgoing = world.seal()
    body = b"".join(outgoing.records())
    other = {
        "cut": body[:-1],
        "extended": body + b"\0",
        "of another envelope": b"".join(world.seal().records()),
    }[change]
    with pytest.raises(BadBody):
        received(world, outgoing, [other])


def test_a_key_wrapped_for_another_envelope_is_refused(world: World) -> None:
    one, two = world.seal(), world.seal()
    exchange, header = world.exchanges["alice"], decode_as(Header, one.head.header)
    # Signed afresh, so that only the binding of the wrapped key to its header is left to refuse it.
    signature = world.identities["alice"].sign(
        Label.HEADER, frame(Label.CONTRIBUTION, [one.head.header, two.head.wrapped_key])
    )
    head = SealedHead(header=one.head.header, wrapped_key=two.head.wrapped_key, signature=signature)
    assert header.sender == exchange._identity.name
    world.examine(head)
    with pytest.raises(BadWrappedKey):
        world.exchanges["third"].open(head, world.third_key)


def test_another_body_under_the_known_content_key_does_not_match_the_commitment(world: World) -> None:
    """The sender itself, who knows the content key, makes a second body for one signed header."""
    content_key, salt = sealing.new_content_key(), sealing.new_salt()
    exchange, honest, other = world.exchanges["alice"], world.payload(), world.payload()
    header = exchange.new_header(Label.CONTRIBUTION, world.context, "third", world.third_key.public, [honest])

    commitment = sealing.commit(header.binding, salt, [honest])
    header = msgspec.structs.replace(header, commitment=commitment, shares=(commitment,))
    head = exchange.seal_head(header, world.third_key.public, content_key)
    for payload, matches in ((honest, True), (other, False)):
        records = list(sealing.seal_records(content_key, head.subject, salt, [payload], 2**20))
        outgoing = Outgoing(head, header.commitment, lambda records=records: iter(records))
        if matches:
            assert received(world, outgoing) == [payload]
        else:
            with pytest.raises(CommitmentMismatch):
                received(world, outgoing)


# --- what may be sent


@pytest.mark.parametrize(
    ("label", "sender", "recipient"),
    [
        (Label.CONTRIBUTION, "alice", "owner"),
        (Label.CONTRIBUTION, "alice", "bob"),
        (Label.CONTRIBUTION, "third", "owner"),
        (Label.CONTRIBUTION, "judge", "third"),
        (Label.AGGREGATE, "third", "alice"),
        (Label.AGGREGATE, "owner", "alice"),
        (Label.MODEL, "third", "alice"),
        (Label.MODEL, "alice", "owner"),
        (Label.RECEIPT, "alice", "third"),
    ],
)
def test_what_the_table_does_not_list_cannot_be_sealed(world: World, label: Label, sender: str, recipient: str) -> None:
    with pytest.raises(WrongLabel):
        world.seal(sender, label=label, recipient=recipient)
    assert not world.handled[sender]


# --- a broadcast


def test_a_broadcast_is_one_body_with_a_head_for_each(world: World) -> None:
    keys = {name: RoundKey() for name in ("alice", "bob", "judge")}
    content = os.urandom(3000)
    broadcast = world.exchanges["owner"].broadcast(Label.MODEL, world.context, [b"layout", content])
    sent = {name: broadcast.address(name, key.public) for name, key in keys.items()}
    bodies = {b"".join(outgoing.records()) for outgoing in sent.values()}
    assert len(bodies) == 1
    assert len({outgoing.commitment for outgoing in sent.values()}) == 1
    assert len({outgoing.subject for outgoing in sent.values()}) == 3
    for name, outgoing in sent.items():
        exchange = world.exchanges[name]
        exchange.examine(outgoing.head, Label.MODEL, world.context, "owner", keys[name], [6, 3000])
        incoming = exchange.open(outgoing.head, keys[name])
        for record in outgoing.records():
            incoming.feed(record)
        assert [bytes(section) for section in incoming.finish()] == [b"layout", content]


def test_the_head_of_one_recipient_is_not_anothers(world: World) -> None:
    keys = {name: RoundKey() for name in ("alice", "bob")}
    broadcast = world.exchanges["owner"].broadcast(Label.MODEL, world.context, [b"model"])
    head = broadcast.address("alice", keys["alice"].public).head
    with pytest.raises(WrongRecipient):
        world.exchanges["bob"].examine(head, Label.MODEL, world.context, "owner", keys["bob"], [5])


def test_a_recipient_cannot_pass_another_body_on(world: World) -> None:
    """Every recipient of a broadcast knows its content key; the commitment is all that ties the body to the owner."""
    keys = {name: RoundKey() for name in ("alice", "bob")}
    broadcast = world.exchanges["owner"].broadcast(Label.MODEL, world.context, [b"model"])
    for_bob = broadcast.address("bob", keys["bob"].public)
    content_key = keys["bob"].unwrap(for_bob.head.wrapped_key, frame(Label.MODEL, [for_bob.subject]))
    forged = sealing.seal_records(content_key, world.context.open_round, sealing.new_salt(), [b"trap!"], 2**20)
    incoming = world.exchanges["bob"].open(for_bob.head, keys["bob"])
    for record in forged:
        incoming.feed(record)
    with pytest.raises(CommitmentMismatch):
        incoming.finish()


# --- the observer


def test_every_sealing_and_opening_is_shown_to_the_observer(world: World) -> None:
    outgoing = world.seal()
    received(world, outgoing)
    (sealed,), (opened,) = world.handled["alice"], world.handled["third"]
    assert (sealed.sealed, sealed.peer, sealed.label) == (True, "third", Label.CONTRIBUTION)
    assert (opened.sealed, opened.peer, opened.label) == (False, "alice", Label.CONTRIBUTION)
    for handled in (sealed, opened):
        assert handled.payload == world.sections[0]
        assert handled.round == world.context.round
        assert handled.commitment == outgoing.commitment
        assert handled.header == outgoing.subject


def test_what_does_not_open_is_not_shown_as_opened(world: World) -> None:
    outgoing = world.seal()
    body = bytearray(b"".join(outgoing.records()))
    body[-1] ^= 1
    with pytest.raises(BadBody):
        received(world, outgoing, [bytes(body)])
    assert not world.handled["third"]


def test_reprs_show_no_content(world: World) -> None:
    outgoing = world.seal("alice", b"\xab" * world.sections[0])
    incoming = world.exchanges["third"].open(outgoing.head, world.third_key)
    for record in outgoing.records():
        incoming.feed(record)
    for shown in (repr(outgoing), repr(incoming), repr(incoming._opener)):
        assert len(shown) < 80
        assert "ab" * 4 not in shown
        assert "\\xab" not in shown
