"""Every single bit of a small envelope, and of a signed statement, turned over: none is accepted, each by name.

What stands before a signature is refused before anything is unwrapped, decrypted or allocated. A sender may sign what
it likes, so each bit of its header is also turned over and signed again: then the binding of the wrapped key refuses.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from tertium.crypto import sealing
from tertium.crypto.errors import BadBody, BadSignature, BadWrappedKey, CommitmentMismatch, Misbehaviour
from tertium.crypto.identity import Identity
from tertium.crypto.labels import Label, frame
from tertium.crypto.sealing import RoundKey
from tertium.protocol.charter import Charter, Mode, Role, Rules, SchemeName
from tertium.protocol.check_messages import Answered, Checked, OfferMaskKey
from tertium.protocol.codec import decode_as, decode_message, encode
from tertium.protocol.context import RoundContext
from tertium.protocol.errors import MalformedMessage, NotInCharter
from tertium.protocol.exchange import Exchange
from tertium.protocol.ledger import Checkpoint
from tertium.protocol.messages import (
    Aborted,
    Acceptance,
    Closed,
    Declined,
    Evaluated,
    Hello,
    HelloStatement,
    Listed,
    OfferRound,
    OfferSession,
    OpenRound,
    ProposeRound,
    Ready,
    Receipted,
    RequestCosignature,
    SealedHead,
    SessionOver,
    Signed,
    Statement,
)
from tertium.protocol.statements import open_signed, sign
from tertium.simulation.federation import make_charter

ROLES = {
    "owner": Role.MODEL_OWNER,
    "third": Role.SECURE_WORKER,
    "alice": Role.DATA_OWNER,
    "bob": Role.DATA_OWNER,
    "carol": Role.DATA_OWNER,
}
WORDS = bytes(range(16))
"""Four words of 32 bits: one coordinate, the weight, two figures."""


@dataclass
class Desk:
    """One sealed contribution, and how often what a signature guards was touched."""

    identities: dict[str, Identity] = field(default_factory=lambda: {name: Identity.generate(name) for name in ROLES})
    touched: int = 0

    def __post_init__(self) -> None:
        rules = Rules(mode=Mode.TRUSTED, scheme=SchemeName(name="trusted"), minimum_cohort=3)
        self.charter: Charter = make_charter(self.identities, ROLES, rules)
        self.key = RoundKey()
        self.context = RoundContext(self.charter.digest, os.urandom(32), 1, 0, os.urandom(32))
        self.third = Exchange(self.identities["third"], self.charter)
        alice = Exchange(self.identities["alice"], self.charter)
        outgoing = alice.seal(Label.CONTRIBUTION, self.context, "third", self.key.public, [WORDS])
        self.head, self.records = outgoing.head, list(outgoing.records())

    def receive(self, head: SealedHead, records: list[bytes]) -> bytes:
        """All a secure worker does with an envelope, from its head to its last byte."""
        self.third.examine(head, Label.CONTRIBUTION, self.context, "alice", self.key, [len(WORDS)])
        incoming = self.third.open(head, self.key)
        for record in records:
            incoming.feed(record)
        (section,) = incoming.finish()
        return bytes(section)

    def signed_again(self, **changes: bytes) -> SealedHead:
        """The head with other parts, under a signature of its own sender."""
        head = msgspec.structs.replace(self.head, **changes)
        payload = frame(Label.CONTRIBUTION, [head.header, head.wrapped_key])
        return msgspec.structs.replace(head, signature=self.identities["alice"].sign(Label.HEADER, payload))


@pytest.fixture(scope="module")
def still_desk() -> Desk:
    return Desk()


@pytest.fixture
def desk(still_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The desk, with a count of every unwrapping and every opener, which is where memory is taken."""
    still_desk.touched = 0

    def counted(honest: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            still_desk.touched += 1
            return honest(*args, **kwargs)

        return call

    monkeypatch.setattr(RoundKey, "unwrap", counted(RoundKey.unwrap))
    monkeypatch.setattr(sealing, "BodyOpener", counted(sealing.BodyOpener))
    return still_desk


def flips(data: bytes) -> Iterator[bytes]:
    """Every `data` that differs from this one in one bit."""
    for at in range(len(data)):
        for bit in range(8):
            yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def test_the_envelope_opens_as_it_is(desk: Desk) -> None:
    assert desk.receive(desk.head, desk.records) == WORDS
    assert desk.touched == 2
    assert desk.receive(desk.signed_again(), desk.records) == WORDS
    assert sum(map(len, desk.records)) == sealing.body_bytes(len(WORDS))


@pytest.mark.parametrize("part", SealedHead.__struct_fields__)
def test_every_bit_of_the_head_is_refused_before_anything_is_opened(desk: Desk, part: str) -> None:
    tried = 0
    for flipped in flips(getattr(desk.head, part)):
        with pytest.raises(BadSignature):
            desk.receive(msgspec.structs.replace(desk.head, **{part: flipped}), desk.records)
        tried += 1
    assert tried == 8 * len(getattr(desk.head, part)) >= 512
    assert desk.touched == 0


def test_every_bit_of_the_body_is_refused(desk: Desk) -> None:
    body = b"".join(desk.records)
    tried = 0
    for flipped in flips(body):
        with pytest.raises(BadBody):
            desk.receive(desk.head, [flipped])
        tried += 1
    assert tried == 8 * len(body)


def test_a_body_flipped_in_two_records_is_refused_too(desk: Desk) -> None:
    body = b"".join(desk.records)
    for at in range(1, len(body), 7):
        for flipped in (bytes([body[0] ^ 1]) + body[1:], body[:-1] + bytes([body[-1] ^ 1])):
            with pytest.raises(BadBody):
                desk.receive(desk.head, [flipped[:at], flipped[at:]])


def test_every_bit_of_a_header_signed_again_is_refused(desk: Desk) -> None:
    refused = set()
    for flipped in flips(desk.head.header):
        with pytest.raises(Misbehaviour) as caught:
            desk.receive(desk.signed_again(header=flipped), desk.records)
        refused.add(type(caught.value).__name__)
        assert "\n" not in str(caught.value)
    # Each of the numbered checks that a bit can reach, and behind them the key that is bound to the header.
    assert {
        "MalformedMessage", "UnsupportedVersion", "WrongSender", "WrongCharter", "WrongSession", "WrongRound",
        "WrongAttempt", "WrongOpenRound", "WrongRecipient", "OversizedClaim", BadWrappedKey.__name__,
    } <= refused  # fmt: skip


def test_a_bit_of_every_byte_of_a_wrapped_key_signed_again_is_refused(desk: Desk) -> None:
    for number, flipped in enumerate(flips(desk.head.wrapped_key)):
        if number % 8 != (number // 8) % 8:
            continue
        with pytest.raises(BadWrappedKey):
            desk.receive(desk.signed_again(wrapped_key=flipped), desk.records)


def test_every_bit_of_a_commitment_is_refused_though_the_key_fits(desk: Desk) -> None:
    """A sender that wraps the same content key to a header with another commitment gets no further than the end."""
    alice = Exchange(desk.identities["alice"], desk.charter)
    content_key, salt = sealing.new_content_key(), sealing.new_salt()
    header = alice.new_header(Label.CONTRIBUTION, desk.context, "third", desk.key.public, [WORDS])
    for commitment in flips(bytes(32)):
        said = msgspec.structs.replace(header, commitment=commitment, shares=(commitment,))
        head = alice.seal_head(said, desk.key.public, content_key)
        records = list(sealing.seal_records(content_key, head.subject, salt, [WORDS], 2**20))
        with pytest.raises(CommitmentMismatch):
            desk.receive(head, records)


def test_every_bit_of_a_ready_message_around_its_head_is_refused(desk: Desk) -> None:
    """The few bytes that are neither header, wrapped key nor signature: the map, its names, the lengths."""
    message = encode(Ready(head=desk.head))
    inside: set[int] = set()
    for part in (desk.head.header, desk.head.wrapped_key, desk.head.signature):
        start = message.index(part)
        inside |= set(range(start, start + len(part)))
    around = [at for at in range(len(message)) if at not in inside]
    assert 10 < len(around) < 40
    for at in around:
        for bit in range(8):
            flipped = message[:at] + bytes([message[at] ^ 1 << bit]) + message[at + 1 :]
            with pytest.raises(MalformedMessage):
                decode_message(flipped, party="alice")
    assert desk.touched == 0


# Which message carries which statement, and in which field.
CARRIED: dict[type, tuple[str, str]] = {
    Hello: ("hello", "HelloStatement"),
    OfferSession: ("offer", "SessionOffer"),
    ProposeRound: ("open_round", "OpenRound"),
    OfferRound: ("offer", "RoundOffer"),
    Acceptance: ("key", "RoundKeyStatement"),
    Declined: ("decline", "Decline"),
    Receipted: ("receipt", "Receipt"),
    Listed: ("list", "HolderList"),
    Closed: ("close", "CloseList"),
    RequestCosignature: ("statement", "RoundStatement"),
    OfferMaskKey: ("key", "MaskKey"),
    Answered: ("fingerprint", "MaskedFingerprint"),
    Checked: ("check", "SumCheck"),
    Evaluated: ("evaluation", "Evaluation"),
    Aborted: ("abort", "Abort"),
    SessionOver: ("end", "SessionEnd"),
}
REST: dict[type, dict[str, Any]] = {Checked: {"answers": ()}}
"""What else such a message holds."""


# Statements that no message carries: they are handed on as they are.
BARE: tuple[type[Statement], ...] = (Checkpoint,)


def test_every_kind_of_statement_is_flipped() -> None:
    assert {kind for _, kind in CARRIED.values()} | {kind.__name__ for kind in BARE} == {
        kind.__name__ for kind in Statement.__subclasses__()
    }


@pytest.mark.parametrize("carrier", CARRIED, ids=lambda kind: kind.__name__)
def test_every_bit_of_a_signed_statement_is_refused(still_desk: Desk, sampler: Any, carrier: type) -> None:
    name, kind_name = CARRIED[carrier]
    kind = {each.__name__: each for each in Statement.__subclasses__()}[kind_name]
    signed = sign(still_desk.identities["owner"], sampler(1).make(kind))
    message = encode(carrier(**{name: signed}, **REST.get(carrier, {})))
    part = encode(signed)
    start = message.index(part)
    assert open_signed(still_desk.charter, getattr(decode_message(message), name), kind)
    refused = set()

    def take(flipped: bytes) -> None:
        found = decode_message(message[:start] + flipped + message[start + len(part) :], party="owner")
        open_signed(still_desk.charter, getattr(found, name), kind)

    # A question is flipped whole; of the two others that hold a long key, every third bit.
    step = 3 if len(part) > 1000 and carrier is not ProposeRound else 1
    for flipped in itertools.islice(flips(part), 0, None, step):
        with pytest.raises(Misbehaviour) as caught:
            take(flipped)
        refused.add(type(caught.value))
    assert refused == {BadSignature, MalformedMessage, NotInCharter}


@pytest.mark.parametrize("kind", BARE, ids=lambda kind: kind.__name__)
def test_every_bit_of_a_signed_statement_on_its_own_is_refused(still_desk: Desk, sampler: Any, kind: Any) -> None:
    signed = sign(still_desk.identities["owner"], sampler(1).make(kind))
    assert open_signed(still_desk.charter, decode_as(Signed, encode(signed)), kind)
    refused = set()
    for flipped in flips(encode(signed)):
        with pytest.raises(Misbehaviour) as caught:
            open_signed(still_desk.charter, decode_as(Signed, flipped), kind)
        refused.add(type(caught.value))
    assert refused == {BadSignature, MalformedMessage, NotInCharter}


@pytest.mark.parametrize("label", [label for label in Label if label is not Label.HELLO], ids=lambda label: label.name)
def test_a_statement_signed_under_another_label_is_refused(still_desk: Desk, sampler: Any, label: Label) -> None:
    data = encode(sampler(2).make(HelloStatement))
    signed = Signed(signer="owner", statement=data, signature=still_desk.identities["owner"].sign(label, data))
    with pytest.raises(BadSignature):
        open_signed(still_desk.charter, signed, HelloStatement)
    assert OpenRound.label is Label.OPEN_ROUND
