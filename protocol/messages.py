"""Everything parties say to each other, as frozen tagged structs that cannot be built out of bounds.

Two layers. A *statement* is signed: it travels as `Signed` (exact bytes, signer, signature), is verified over those
bytes before it is decoded, and its digest names it from then on. A *message* is what a control frame holds; it carries
statements, heads of envelopes, and the small unsigned signals (fetch, grant, credit) that only matter to the
connection they came on. What each role may receive when is in `rounds.py`; the bytes are in `codec.py`.
"""

import enum
from collections.abc import Sequence
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from ..crypto.labels import Label, digest
from ..crypto.ring import Plan
from . import limits
from .ticket import Ticket
from .training import Name, Score, TrainingPlan, UpdateKind, WeightRule

Digest = Annotated[bytes, Meta(min_length=limits.DIGEST, max_length=limits.DIGEST)]
Nonce = Annotated[bytes, Meta(min_length=32, max_length=32)]
PublicKey = Annotated[bytes, Meta(min_length=limits.HPKE_PUBLIC_KEY, max_length=limits.HPKE_PUBLIC_KEY)]
Signature = Annotated[bytes, Meta(min_length=limits.SIGNATURE, max_length=limits.SIGNATURE)]
Text = Annotated[str, Meta(max_length=limits.TEXT_LENGTH)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Names = Annotated[tuple[Name, ...], Meta(max_length=limits.PARTIES)]


class Purpose(enum.Enum):
    """What an OpenRound asks its cohort for."""

    TRAIN = "train"
    EVALUATE = "evaluate"


class Cause(enum.Enum):
    """Why a round ended without an aggregate."""

    TOO_FEW = "too few contributors"
    TIMEOUT = "deadline passed"
    INTERRUPTED = "stopped by its operator"
    FAULT = "protocol fault"
    LOCAL = "local failure"


# --- statements: signed -------------------------------------------------------------------------------------------


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A statement's exact bytes with who signed them; see `statements.py` for the only way in and out."""

    signer: Name
    statement: Annotated[bytes, Meta(max_length=2**31)]
    signature: Signature


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a party signs. `label` separates one kind of statement from every other."""

    label: ClassVar[Label]


class HelloStatement(Statement, frozen=True):
    """Ties a signing key to a connection: the first thing said on it, by both ends."""

    label: ClassVar[Label] = Label.HELLO
    charter: Digest
    sender: Name
    recipient: Name
    sender_curve: Digest
    recipient_curve: Digest


class SessionOffer(Statement, frozen=True):
    """A secure worker's part in a session id, so that no session can be opened without it knowing."""

    label: ClassVar[Label] = Label.SESSION_OFFER
    charter: Digest
    owner_nonce: Nonce
    holder: Name
    holder_nonce: Nonce


class OpenRound(Statement, frozen=True):
    """The one question of a round, signed by the model owner once, the same for every party."""

    label: ClassVar[Label] = Label.OPEN_ROUND
    charter: Digest
    session: Digest
    round: Count
    attempt: Count
    purpose: Purpose
    owner_nonce: Nonce
    holder_nonces: Annotated[tuple[Nonce, ...], Meta(max_length=64)]
    """In the order of `holders`; with `owner_nonce` they give `session`."""
    model: Digest
    layout: Digest
    layout_bytes: Annotated[int, Meta(ge=1, le=limits.LAYOUT_BYTES)]
    model_bytes: Annotated[int, Meta(ge=0, le=limits.MODEL_BYTES)]
    coordinates: Annotated[int, Meta(ge=0, le=limits.COORDINATES)]
    """How many of the summed vector's words are the update; the weight and one word a metric follow."""
    plan: Plan
    training: TrainingPlan
    weight_rule: WeightRule
    cohort: Names
    holders: Annotated[tuple[Name, ...], Meta(max_length=64)]
    owner_key: PublicKey
    """The round key to which each holder seals what it releases."""
    without: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    """Holders of the session that this attempt does without; that each of the others offers a key for this very
    question makes it a list signed by all of them."""

    def __post_init__(self) -> None:
        if list(self.cohort) != sorted(set(self.cohort)) or len(set(self.holders)) != len(self.holders):
            raise ValueError("a cohort is sorted and names nobody twice, nor does the list of holders")
        if len(self.holder_nonces) != len(self.holders):
            raise ValueError("one nonce a holder")
        if self.without != tuple(name for name in self.holders if name in self.without):
            raise ValueError("only holders can be done without, in their order")

    @property
    def present(self) -> tuple[str, ...]:
        """The holders that take part in this attempt."""
        return tuple(name for name in self.holders if name not in self.without)

    @property
    def words(self) -> int:
        """Length of the summed vector."""
        return self.coordinates + 1 + len(self.training.metrics)

    @property
    def kind(self) -> UpdateKind:
        """What the update holds."""
        return self.training.kind


class RoundOffer(Statement, frozen=True):
    """A holder's consent to one OpenRound, with its fresh key."""

    label: ClassVar[Label] = Label.ROUND_OFFER
    open_round: Digest
    holder: Name
    key: PublicKey
    aborted: Signed | None = None
    """From the second attempt on, this holder's own `Abort` of the attempt before, so that everybody sees its list."""


class RoundKeyStatement(Statement, frozen=True):
    """A data owner's or evaluator's consent to one OpenRound, with its fresh key for the model."""

    label: ClassVar[Label] = Label.ROUND_KEY
    open_round: Digest
    party: Name
    key: PublicKey


class Decline(Statement, frozen=True):
    """A data owner takes no part in this round. Why is nobody's business but its own."""

    label: ClassVar[Label] = Label.DECLINE
    open_round: Digest
    party: Name


class Receipt(Statement, frozen=True):
    """A holder has opened its share of a contribution, found its commitment right, and taken it."""

    label: ClassVar[Label] = Label.RECEIPT
    open_round: Digest
    holder: Name
    contributor: Name
    header: Digest
    commitment: Digest
    shares: Digest
    """`share_list` of what the header listed, so that who counts the contribution sees that all saw one list."""


class Contribution(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """One line of a Close list."""

    party: Name
    commitment: Digest


class HolderList(Statement, frozen=True):
    """Whose contributions a secure worker counted, final; where there are several, the set is what all list."""

    label: ClassVar[Label] = Label.HOLDER_LIST
    open_round: Digest
    holder: Name
    contributions: Annotated[tuple[Contribution, ...], Meta(max_length=limits.PARTIES)]
    declined: Names
    missing: Names
    added: Names
    """Whose share is in this holder's total though another counts the contribution: a set without one of them is not
    summed here. Vectors that went first; nobody where those are seeds, which are kept."""

    def __post_init__(self) -> None:
        names = [c.party for c in self.contributions]
        if names != sorted(set(names)) or list(self.added) != sorted(set(self.added)):
            raise ValueError("a list of contributions, or of what was added, is sorted and names nobody twice")


class CloseList(Statement, frozen=True):
    """The contributor set of a round, final; signed before anything is released."""

    label: ClassVar[Label] = Label.CLOSE
    open_round: Digest
    holder: Name
    contributions: Annotated[tuple[Contribution, ...], Meta(max_length=limits.PARTIES)]
    declined: Names
    missing: Names

    def __post_init__(self) -> None:
        names = [c.party for c in self.contributions]
        if names != sorted(set(names)):
            raise ValueError("a Close list is sorted and names nobody twice")

    @property
    def contributors(self) -> tuple[str, ...]:
        """Names of the contributors, sorted."""
        return tuple(c.party for c in self.contributions)

    def same_set(self, other: "CloseList") -> bool:
        """Whether another holder's list says the same."""
        ours, theirs = (self.contributions, self.declined), (other.contributions, other.declined)
        return ours == theirs and self.missing == other.missing


def close_over(lists: Sequence[HolderList], open_round: bytes, holder: str) -> CloseList:
    """Return the Close list, in one holder's name, of the set that the lists of all who take part make."""
    found = {entry.party: entry for said in lists for entry in said.contributions}
    declined = {name for said in lists for name in said.declined} - set(found)
    missing = {name for said in lists for name in said.missing} - declined - set(found)
    contributions = tuple(found[name] for name in sorted(found))
    return CloseList(open_round, holder, contributions, tuple(sorted(declined)), tuple(sorted(missing)))


class RoundStatement(Statement, frozen=True):
    """What a round came to: who was in the sum, and which sealed bytes were released. Cosigned by who took part."""

    label: ClassVar[Label] = Label.ROUND_STATEMENT
    open_round: Digest
    holder: Name
    close: Digest
    contributors: Names
    release: Digest
    """Digest of the released envelope's signed header."""
    commitment: Digest


class Abort(Statement, frozen=True):
    """The end of a round or session without an aggregate. Accuses a party only where a signature proves it."""

    label: ClassVar[Label] = Label.ABORT
    session: Digest
    round: Count
    attempt: Count
    party: Name
    """Who aborts."""
    cause: Cause
    text: Text
    about: Names = ()
    """Who was not heard from, as seen by `party`. An observation, no accusation."""
    receipted: Annotated[tuple[Contribution, ...], Meta(max_length=limits.PARTIES)] = ()
    """Whose contribution a holder had given a receipt for when it gave the attempt up."""


class SessionEnd(Statement, frozen=True):
    """The model owner has what it came for; round numbers up to `rounds` were released."""

    label: ClassVar[Label] = Label.SESSION_END
    session: Digest
    rounds: Count


class Evaluation(Statement, frozen=True):
    """An evaluator's score of the global model of an OpenRound."""

    label: ClassVar[Label] = Label.EVALUATION
    open_round: Digest
    party: Name
    score: Score


# --- envelopes ----------------------------------------------------------------------------------------------------


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a sealed body is, who sealed it for whom, and what it belongs to. Signed; public to who carries it."""

    version: int
    suite: Annotated[str, Meta(max_length=120)]
    label: Label
    charter: Digest
    session: Digest
    round: Count
    attempt: Count
    sender: Name
    recipient: Name
    recipient_key: Annotated[bytes, Meta(min_length=16, max_length=16)]
    open_round: Digest
    broadcast: bool
    """One body for several recipients: sealed under the OpenRound digest, committed to no single recipient."""
    sections: Annotated[tuple[Annotated[int, Meta(ge=0, le=limits.MODEL_BYTES)], ...], Meta(max_length=4)]
    """Lengths of the plaintext's parts after the salt, in bytes."""
    first: Count
    """First word of the vector this body holds: where a model is split by range over several processes."""
    commitment: Digest
    contributors: Count = 0
    """How many contributions an aggregate sums."""
    close: Digest | None = None
    """Digest of the signed Close list an aggregate sums."""
    shares: Annotated[tuple[Digest, ...], Meta(max_length=limits.SHARES)] = ()
    """Commitments to all shares of a contribution, in the order in which holders get them."""

    @property
    def binding(self) -> tuple[bytes, ...]:
        """What the commitment binds the content to; one body for several recipients names none."""
        return (
            bytes(self.label),
            self.session,
            self.round.to_bytes(8, "big"),
            self.attempt.to_bytes(8, "big"),
            self.sender.encode(),
            b"" if self.broadcast else self.recipient.encode(),
        )


def share_list(shares: Sequence[bytes]) -> bytes:
    """Return the digest of a header's list of commitments: the same in every header of one contribution."""
    return digest(Label.SHARE_LIST, *shares)


class SealedHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """An envelope without its body: header, wrapped content key, signature over both."""

    header: Annotated[bytes, Meta(max_length=limits.HEADER_BYTES)]
    wrapped_key: Annotated[bytes, Meta(min_length=limits.WRAPPED_KEY, max_length=limits.WRAPPED_KEY)]
    signature: Signature

    @property
    def subject(self) -> bytes:
        """The 32 bytes that name this envelope: in tickets, credits and receipts, and as the context of its body."""
        return digest(Label.HEADER, self.header)


# --- messages: what a control frame holds -------------------------------------------------------------------------


class Message(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="m",
    array_like=False,
    kw_only=True,
    omit_defaults=True,
):
    """The root of all control messages."""

    checkpoint: Signed | None = None
    """Of its sender's view ledger, where it carries one (`witness.CARRIES`); the loop puts it on and takes it off."""

    @property
    def about(self) -> bytes | None:
        """The digest by which its sender knows this message, for a refusal to name; None where it has none."""
        return None


class Headed(Message, frozen=True):
    """A message that holds the head of an envelope."""

    head: SealedHead

    @property
    def about(self) -> bytes | None:
        """The envelope's subject."""
        return self.head.subject


class Hello(Message, frozen=True, tag="hello"):
    """First on every connection, both ways; holds a `HelloStatement`."""

    hello: Signed


class Refusal(Message, frozen=True, tag="refusal"):
    """A request was refused: the name of the error, and the digest it is about."""

    code: Name
    about: Digest


class RequestSession(Message, frozen=True, tag="request-session"):
    """Model owner to secure worker: give me a nonce."""

    owner_nonce: Nonce


class OfferSession(Message, frozen=True, tag="offer-session"):
    """Secure worker to model owner; holds a `SessionOffer`."""

    offer: Signed


class ProposeRound(Message, frozen=True, tag="propose-round"):
    """Model owner to secure worker; holds an `OpenRound`."""

    open_round: Signed


class OfferRound(Message, frozen=True, tag="offer-round"):
    """Secure worker to model owner; holds a `RoundOffer`."""

    offer: Signed


class Invitation(Message, frozen=True, tag="invitation"):
    """Model owner to data owner or evaluator: the OpenRound, and an offer of every secure worker that takes part."""

    open_round: Signed
    offers: Annotated[tuple[Signed, ...], Meta(max_length=64)]


class Acceptance(Message, frozen=True, tag="acceptance"):
    """Data owner or evaluator to model owner; holds a `RoundKeyStatement`."""

    key: Signed


class Declined(Message, frozen=True, tag="declined"):
    """Data owner to model owner and to every secure worker; holds a `Decline`."""

    decline: Signed


class SendModel(Headed, frozen=True, tag="send-model"):
    """Model owner to one recipient: the head of the model's envelope."""


class Ready(Headed, frozen=True, tag="ready"):
    """Data owner to holder: the head of a contribution that waits for a grant."""

    receipts: Annotated[tuple[Signed, ...], Meta(max_length=64)] = ()
    """To the secure worker that counts it: every other holder's `Receipt`."""


class Release(Headed, frozen=True, tag="release"):
    """Holder to model owner: the head of the aggregate's envelope."""


class Fetch(Message, frozen=True, tag="fetch"):
    """Recipient to sender: grant me the body of this head."""

    subject: Digest


class Grant(Message, frozen=True, tag="grant"):
    """Listening side to connecting side: the ticket of one bulk connection."""

    ticket: Ticket


class Credit(Message, frozen=True, tag="credit"):
    """Receiver to sender: records up to this count (from the body's first) may be sent."""

    subject: Digest
    records: Count


class Receipted(Message, frozen=True, tag="receipted"):
    """Holder to data owner; holds a `Receipt`."""

    receipt: Signed


class Listed(Message, frozen=True, tag="listed"):
    """Secure worker to model owner; holds a `HolderList`."""

    list: Signed


class Lists(Message, frozen=True, tag="lists"):
    """Model owner to secure workers: the `HolderList` of each that takes part."""

    lists: Annotated[tuple[Signed, ...], Meta(max_length=64)]


class Closed(Message, frozen=True, tag="closed"):
    """Holder to model owner and cohort; holds a `CloseList`."""

    close: Signed


class RequestCosignature(Message, frozen=True, tag="request-cosignature"):
    """Holder to model owner and contributors; holds a `RoundStatement`."""

    statement: Signed


class Cosignature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A party's own signature over a round statement's bytes."""

    party: Name
    signature: Signature


class Closes(Message, frozen=True, tag="closes"):
    """Model owner to secure workers: the signatures of q of them, or more, each of its own `CloseList`.

    The lists differ in nothing but who signed, so whoever has one has the bytes of all.
    """

    signatures: Annotated[tuple[Cosignature, ...], Meta(max_length=64)]


class Cosign(Message, frozen=True, tag="cosign"):
    """Model owner or contributor to holder."""

    statement: Digest
    cosignature: Cosignature


class RoundRecord(Message, frozen=True, tag="round-record"):
    """Holder to model owner and contributors: the statement, who cosigned, who did not."""

    statement: Signed
    cosignatures: Annotated[tuple[Cosignature, ...], Meta(max_length=limits.PARTIES)]
    absent: Names


class Evaluated(Message, frozen=True, tag="evaluated"):
    """Evaluator to model owner; holds an `Evaluation`."""

    evaluation: Signed


class Aborted(Message, frozen=True, tag="aborted"):
    """Model owner or secure worker to everyone in the round; holds an `Abort`."""

    abort: Signed


class SessionOver(Message, frozen=True, tag="session-over"):
    """Model owner to everyone; holds a `SessionEnd`."""

    end: Signed
