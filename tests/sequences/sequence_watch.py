"""What is held against every effect of every machine: the model owner gets aggregates, and nothing else.

The watch knows more than any party: every round key, every vector that was ever encoded, every plaintext that whoever
attacks has sealed. It trusts no machine about what it sends: it opens each envelope and adds for itself.

 1. who says what to whom is one table; a data owner's and the secure worker's messages to the model owner are in it
 2. no message holds the words or the numbers of an update, whoever says it
 3. what is provided to a model owner comes from the secure worker, is labelled an aggregate, and is sealed to the key
    of an OpenRound that the model owner signed; to no other question does the secure worker offer a key
 4. it opens to the exact sum of the vectors whose commitments stand in the Close list it names, which the secure worker
    signed and sent before: at least the minimum cohort of data owners, all of the question's cohort, none that declined
 5. one release, and one Close list, a (session, round); sent again, it is the same bytes; one set a model, ever
 6. with `stable_cohort` k, the sets of two releases differ by 0 or by at least k parties either way
 7. a data owner's contribution goes to the secure worker, sealed to a key that the secure worker signed for a question
    that names this data owner; it is what this party encoded for that question, and one vector a (session, round)
 8. model owners and evaluators open nothing but aggregates, and models
"""

import contextlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from sequence_world import DATA_OWNERS, MINIMUM, ROLES, Broken
from tertium.crypto.errors import Misbehaviour
from tertium.crypto.identity import Identity, verify
from tertium.crypto.labels import Label, frame
from tertium.crypto.sealing import RoundKey, key_id
from tertium.protocol import limits
from tertium.protocol.charter import Charter, Role
from tertium.protocol.check_messages import Answered, Challenge, Checked, MaskKeys, MaskSeeds, OfferMaskKey
from tertium.protocol.codec import decode_as, encode
from tertium.protocol.exchange import MAY_SEND, Exchange, Incoming, Outgoing
from tertium.protocol.machine import Dial, Effect, Machine, Permit, Provide, Send
from tertium.protocol.messages import (
    Aborted,
    Acceptance,
    Closed,
    CloseList,
    Cosign,
    Declined,
    Evaluated,
    Fetch,
    Header,
    Invitation,
    Lists,
    Message,
    OfferRound,
    OfferSession,
    OpenRound,
    ProposeRound,
    Ready,
    Receipted,
    Release,
    RequestCosignature,
    RequestSession,
    RoundOffer,
    RoundRecord,
    SendModel,
    SessionOver,
    Signed,
)
from tertium.protocol.session import question_digest
from tertium.protocol.statements import statement_digest
from tertium.simulation.federation import OWNER, THIRD

MAY_SAY: dict[tuple[Role, Role], frozenset[type[Message]]] = {
    (Role.SECURE_WORKER, Role.MODEL_OWNER): frozenset(
        {OfferSession, OfferRound, Closed, Release, RequestCosignature, RoundRecord, Aborted}
    ),
    (Role.DATA_OWNER, Role.MODEL_OWNER): frozenset({Acceptance, Declined, Fetch, OfferMaskKey, MaskSeeds, Answered}),
    (Role.EVALUATOR, Role.MODEL_OWNER): frozenset({Acceptance, Declined, Fetch, Evaluated}),
    (Role.SECURE_WORKER, Role.DATA_OWNER): frozenset({Receipted, Closed, RequestCosignature, RoundRecord, Aborted}),
    (Role.DATA_OWNER, Role.SECURE_WORKER): frozenset({Ready, Declined, Cosign}),
    (Role.MODEL_OWNER, Role.SECURE_WORKER): frozenset(
        {RequestSession, ProposeRound, Lists, Fetch, Cosign, Aborted, SessionOver}
    ),
    (Role.MODEL_OWNER, Role.DATA_OWNER): frozenset(
        {Invitation, SendModel, MaskKeys, MaskSeeds, Challenge, Checked, Aborted, SessionOver}
    ),
    (Role.MODEL_OWNER, Role.EVALUATOR): frozenset({Invitation, SendModel, Aborted, SessionOver}),
}
"""Of all that machines say. A refusal is said for them by their driver, and holds a name and a digest it was sent.

The secure worker says `Refusal` itself in one place; see `_REFUSES`. There is one, and it says no `Listed`; a
hostile one that does gets its own list back, which is what the model owner's `Lists` is here."""
_REFUSES = (Role.SECURE_WORKER, Role.DATA_OWNER)


class Watch:
    """Holds one federation to its promises."""

    def __init__(self, identities: dict[str, Identity], charter: Charter, stable: int | None) -> None:
        self._charter, self._stable = charter, stable
        self._frame = limits.control_frame(len(charter.parties))
        self._openers = {name: Exchange(identities[name], charter) for name in (OWNER, THIRD)}
        self.keys: dict[bytes, bytes] = {}
        """Secret halves of all round keys there are, by key id."""
        self.contributions: dict[bytes, tuple[str, bytes, bytes]] = {}
        """By commitment: who sealed it, for which question, and the words."""
        self.encoded: dict[tuple[str, str], set[bytes]] = {}
        self.released: dict[tuple[bytes, int], tuple[bytes, tuple[bytes, ...]]] = {}
        self.releases = 0
        self._questions: dict[bytes, tuple[Signed, OpenRound]] = {}
        self._offers: set[tuple[bytes, bytes]] = set()
        self._closes: dict[bytes, CloseList] = {}
        self._closed: dict[tuple[bytes, int], bytes] = {}
        self._sent: dict[tuple[str, bytes, int], bytes] = {}
        self._models: dict[bytes, tuple[str, ...]] = {}
        self._needles: dict[bytes, str] = {}
        self._said: Message | None = None
        self._data = b""

    # --- what happens

    def delivers(self, name: str, message: Message) -> None:
        """Learn questions and offers where a machine is told of them."""
        if isinstance(message, ProposeRound | Invitation):
            self.asked(message.open_round)
            for offer in message.offers if isinstance(message, Invitation) else ():
                self._offered(offer)

    def asked(self, signed: Signed) -> None:
        """Learn a question, whoever signed it."""
        name = statement_digest(OpenRound, signed)
        if name not in self._questions:
            try:
                self._questions[name] = (signed, decode_as(OpenRound, signed.statement))
                self._verify(OWNER, Label.OPEN_ROUND, signed)
            except (Misbehaviour, Broken):
                self._questions.pop(name, None)

    def _offered(self, signed: Signed) -> None:
        with contextlib.suppress(Misbehaviour, Broken):
            offer = decode_as(RoundOffer, signed.statement)
            self._verify(THIRD, Label.ROUND_OFFER, signed)
            self._offers.add((key_id(offer.key), offer.open_round))

    def looks(self, name: str, machine: Machine) -> None:
        """Learn the keys a machine has drawn."""
        held = getattr(machine, "_intake", None) or getattr(machine, "_asking", None)
        key = getattr(held, "key", None)
        if isinstance(key, RoundKey) and key.key_id not in self.keys and not key.erased:
            self.keys[key.key_id] = key.secret

    def trains(self, name: str, tag: str, result: Any) -> None:
        """Learn what a data owner encoded, and what nobody may find in a message from now on."""
        words = getattr(result, "words", None)
        if words is None:
            return
        self.encoded.setdefault((name, tag), set()).add(words.astype(words.dtype.newbyteorder("<")).tobytes())
        flat = np.concatenate([np.asarray(each).reshape(-1) for each in result.update.values])
        for secret in (words.tobytes(), flat.astype("<f4").tobytes(), flat.astype("<f8").tobytes()):
            self._needles[secret[:16]] = name

    def opens(self, name: str, incoming: Incoming) -> None:
        """8: what is opened is what may be."""
        header = incoming.header
        row = (header.label, ROLES[header.sender], ROLES[name])
        if row not in MAY_SEND:
            raise Broken(f"{name} opens a {header.label.value} of {header.sender}")

    def effect(self, name: str, effect: Effect) -> None:
        """Hold an effect to the rules."""
        match effect:
            case Send(peer, message):
                self._says(name, peer, message)
            case Provide(peer, outgoing):
                self._provides(name, peer, outgoing)
            case Permit(peer, _) | Dial(peer, _):
                if ROLES[name] is Role.DATA_OWNER and ROLES[peer] is Role.DATA_OWNER:
                    raise Broken(f"{name} opens a connection to {peer}")

    # --- 1, 2: what is said

    def _says(self, name: str, peer: str, message: Message) -> None:
        kind, pair = type(message), (ROLES[name], ROLES[peer])
        if kind not in MAY_SAY.get(pair, ()) and not (kind.__name__ == "Refusal" and pair == _REFUSES):
            raise Broken(f"{name} says {kind.__name__} to {peer}")  # 1
        if message is self._said:
            return
        self._said, self._data = message, encode(message)
        if len(self._data) > self._frame:
            raise Broken(f"{name} says {kind.__name__} in {len(self._data)} bytes")
        for needle, whose in self._needles.items():
            if needle in self._data:
                raise Broken(f"{name} says to {peer}, in {kind.__name__}, the update of {whose}")  # 2
        if isinstance(message, Ready | Release):
            label = Label.CONTRIBUTION if isinstance(message, Ready) else Label.AGGREGATE
            header = decode_as(Header, message.head.header)
            if header.label is not label or header.recipient != peer or header.sender != name:
                raise Broken(f"{name} announces a {header.label.value} to {peer}")
            if isinstance(message, Ready):
                self._is_for_a_holder(name, header)
        elif isinstance(message, OfferRound):
            if decode_as(RoundOffer, message.offer.statement).open_round not in self._questions:
                raise Broken(f"{name} consents to a question the model owner did not sign")
        elif isinstance(message, Closed):
            self._closes_with(message.close)

    def _closes_with(self, signed: Signed) -> None:
        self._verify(THIRD, Label.CLOSE, signed)
        close = decode_as(CloseList, signed.statement)
        known = self._questions.get(close.open_round)
        if known is None:
            raise Broken("the secure worker closes a question the model owner did not sign")
        question, digest = known[1], statement_digest(CloseList, signed)
        if self._closed.setdefault((question.session, question.round), digest) != digest:
            raise Broken(f"the secure worker closes round {question.round} over two sets")  # 5
        self._closes[digest] = close

    # --- 3 to 7: what is sealed

    def _provides(self, name: str, peer: str, outgoing: Outgoing) -> None:
        header = decode_as(Header, outgoing.head.header)
        row = (header.label, ROLES[name], ROLES[peer])
        if row not in MAY_SEND or header.sender != name or header.recipient != peer:
            raise Broken(f"{name} provides a {header.label.value} to {peer}")  # 3
        if outgoing.subject != outgoing.head.subject:
            raise Broken(f"{name} provides a body under another name")
        self._verify_head(name, outgoing, header.label)
        if header.label is Label.AGGREGATE:
            self._release(outgoing, header)
        elif header.label is Label.CONTRIBUTION:
            self._contribution(name, outgoing, header)

    def _release(self, outgoing: Outgoing, header: Header) -> None:
        records = tuple(outgoing.records())
        slot = (header.session, header.round)
        before = self.released.get(slot)
        if before is not None:
            if before != (encode(outgoing.head), records):
                raise Broken(f"round {header.round} is released twice, and not byte for byte")  # 5
            return
        question = self._question(header)
        if header.recipient_key != key_id(question.owner_key):
            raise Broken("an aggregate is sealed to a key that the question does not name")  # 3
        close = self._closes.get(header.close or b"")
        if close is None or close.open_round != header.open_round:
            raise Broken("an aggregate of a set that was not closed before")
        names = close.contributors
        if not MINIMUM <= len(names) == header.contributors:
            raise Broken(f"an aggregate of {', '.join(names) or 'nobody'}, said to be of {header.contributors}")  # 4
        if set(names) - (set(question.cohort) & set(DATA_OWNERS)) or set(names) & set(close.declined):
            raise Broken(f"an aggregate of {', '.join(names)}, of whom not all were asked")
        (plain,) = self._opened(OWNER, outgoing, header, records)
        self._is_the_sum(plain, close, question)
        if self._models.setdefault(question.model, names) != names:
            raise Broken(f"one model is released over {self._models[question.model]} and over {names}")  # 5
        for other in self._models.values() if self._stable else ():
            for change in (set(names) - set(other), set(other) - set(names)):
                if 0 < len(change) < (self._stable or 0):
                    raise Broken(f"sets differ by {', '.join(sorted(change))} alone")  # 6
        self.released[slot] = (encode(outgoing.head), records)
        self.releases += 1

    def _is_the_sum(self, plain: bytes, close: CloseList, question: OpenRound) -> None:
        dtype = question.plan.dtype
        total = np.zeros(question.words, dtype)
        for entry in close.contributions:
            party, asked, words = self.contributions.get(entry.commitment, ("", b"", b""))
            if party != entry.party:
                raise Broken(f"{entry.party} stands in a Close list with what it did not send")
            if asked != close.open_round:
                raise Broken(f"{entry.party} stands in a Close list with what it sent in another attempt")
            total += np.frombuffer(words, dtype)
        if total.tobytes() != plain:
            raise Broken(f"a release is not the sum over {', '.join(close.contributors)}")  # 4

    def _contribution(self, name: str, outgoing: Outgoing, header: Header) -> None:
        if header.commitment in self.contributions:
            return
        question = self._question(header)
        if name not in question.cohort:
            raise Broken(f"{name} contributes to a question that does not name it")
        self._is_for_a_holder(name, header)
        (plain,) = self._opened(THIRD, outgoing, header, outgoing.records())
        if plain not in self.encoded.get((name, question_digest(question).hex()), ()):
            raise Broken(f"{name} sends something else than it encoded for this question")
        slot = (name, header.session, header.round)
        if self._sent.setdefault(slot, plain) != plain:
            raise Broken(f"{name} sends two vectors for round {header.round}")  # 7
        self.contributions[header.commitment] = (name, header.open_round, plain)

    def _is_for_a_holder(self, name: str, header: Header) -> None:
        if (header.recipient_key, header.open_round) not in self._offers:
            raise Broken(f"{name} seals its update to a key that no holder offered")  # 7

    # --- small things

    def _question(self, header: Header) -> OpenRound:
        known = self._questions.get(header.open_round)
        if known is None:
            raise Broken(f"a {header.label.value} for a question the model owner did not sign")
        question = known[1]
        ties = (question.charter, question.session, question.round, question.attempt)
        if ties != (header.charter, header.session, header.round, header.attempt):
            raise Broken(f"a {header.label.value} whose header says otherwise than its question")
        return question

    def _opened(self, name: str, outgoing: Outgoing, header: Header, records: Iterable[bytes]) -> tuple[bytes, ...]:
        secret = self.keys.get(header.recipient_key)
        if secret is None:
            raise Broken(f"a {header.label.value} sealed to a key that nobody drew")
        try:
            incoming = self._openers[name].open(outgoing.head, RoundKey(secret))
            for record in records:
                incoming.feed(record)
            return tuple(bytes(section) for section in incoming.finish())
        except Misbehaviour as error:
            raise Broken(f"a {header.label.value} that does not open: {error}") from error

    def _verify(self, name: str, label: Label, signed: Signed) -> None:
        try:
            key = self._charter.party(name).signing
            verify(key, label, signed.statement, signed.signature, party=name)
        except Misbehaviour as error:
            raise Broken(f"a {label.value} that {name} did not sign") from error

    def _verify_head(self, name: str, outgoing: Outgoing, label: Label) -> None:
        head, key = outgoing.head, self._charter.party(name).signing
        verify(key, Label.HEADER, frame(label, [head.header, head.wrapped_key]), head.signature, party=name)
