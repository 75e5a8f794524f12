"""Signed statements and heads of envelopes, believed only after their signature verified: what accuses a party.

Rules of the file:
- `open_exhibit` is the only way from bytes to a `Shown`: charter, signature over the exact bytes, form, digest.
- A statement counts as its signer's own if it names its signer as who it speaks for, and its role may say so. One that
  somebody else signed is a cosignature where there are such (`RoundStatement`), and nothing at all elsewhere.
"""

from dataclasses import dataclass
from typing import Final, TypeVar

from ..crypto.errors import Misbehaviour
from ..crypto.identity import verify
from ..crypto.labels import Label, digest, frame
from ..protocol.charter import Charter, Role
from ..protocol.check_messages import MaskedFingerprint, MaskKey, SumCheck
from ..protocol.codec import decode_as
from ..protocol.errors import MalformedMessage, WrongCharter, WrongRole, WrongSender
from ..protocol.ledger import Checkpoint, Exhibit
from ..protocol.messages import (
    Abort,
    CloseList,
    Decline,
    Evaluation,
    Header,
    HolderList,
    OpenRound,
    Receipt,
    RoundKeyStatement,
    RoundOffer,
    RoundStatement,
    SealedHead,
    SessionEnd,
    SessionOffer,
    Signed,
    Statement,
)
from ..protocol.statements import open_signed

S = TypeVar("S", bound=Statement)

_ANY: Final = tuple(Role)
_OWNER: Final = (Role.MODEL_OWNER,)
_WORKER: Final = (Role.SECURE_WORKER,)
_SITE: Final = (Role.DATA_OWNER, Role.EVALUATOR)
SAID_BY: Final[dict[type[Statement], tuple[str | None, tuple[Role, ...]]]] = {
    SessionOffer: ("holder", _WORKER),
    OpenRound: (None, _OWNER),
    RoundOffer: ("holder", _WORKER),
    RoundKeyStatement: ("party", _SITE),
    Decline: ("party", _SITE),
    Receipt: ("holder", (Role.SECURE_WORKER, Role.MODEL_OWNER)),
    HolderList: ("holder", _WORKER),
    CloseList: ("holder", _WORKER),
    RoundStatement: ("holder", _WORKER),
    Abort: ("party", _ANY),
    SessionEnd: (None, _OWNER),
    Evaluation: ("party", (Role.EVALUATOR,)),
    MaskKey: ("party", (Role.DATA_OWNER,)),
    MaskedFingerprint: ("party", (Role.DATA_OWNER,)),
    SumCheck: (None, _OWNER),
    Checkpoint: ("party", _ANY),
}
"""Which field of a statement names who says it, if one does, and whose role it is to say it."""
KINDS: Final = {kind.label: kind for kind in SAID_BY}


@dataclass(frozen=True)
class Shown:
    """Something a party signed, verified."""

    exhibit: Exhibit
    signer: str
    subject: bytes
    content: Statement | Header
    own: bool
    """Whether its signer says it, and did not only cosign it."""

    @property
    def label(self) -> Label:
        """Under which label it was signed; of an envelope, what it holds."""
        return self.content.label


def open_exhibit(charter: Charter, exhibit: Exhibit) -> Shown:
    """Return what an exhibit shows.

    Raises:
        NotInCharter, BadSignature, MalformedMessage: it is not what the party it names signed.
        WrongCharter, WrongSender, WrongRole: the party signed it, and it speaks for somebody else.
    """
    return _open_head(charter, exhibit) if exhibit.label is Label.HEADER else _open_statement(charter, exhibit)


def _open_head(charter: Charter, exhibit: Exhibit) -> Shown:
    head = decode_as(SealedHead, exhibit.content)
    header = decode_as(Header, head.header)
    signed = frame(header.label, [head.header, head.wrapped_key])
    verify(charter.party(exhibit.signer).signing, Label.HEADER, signed, head.signature, party=None)
    if head.subject != exhibit.subject:
        raise MalformedMessage("an exhibit under the digest of something else")
    if header.charter != charter.digest:
        raise WrongCharter("an envelope of another charter", party=exhibit.signer)
    if header.sender != exhibit.signer:
        raise WrongSender("an envelope that names somebody else as its sender", party=exhibit.signer)
    return Shown(exhibit, exhibit.signer, head.subject, header, own=True)


def _open_statement(charter: Charter, exhibit: Exhibit) -> Shown:
    kind = KINDS.get(exhibit.label)
    if kind is None:
        raise MalformedMessage(f"nothing is signed as {exhibit.label.value!r} that an entry could name")
    signed = decode_as(Signed, exhibit.content)
    if signed.signer != exhibit.signer:
        raise MalformedMessage("an exhibit under the name of somebody else")
    statement = open_signed(charter, signed, kind)
    subject = digest(kind.label, signed.statement)
    if subject != exhibit.subject:
        raise MalformedMessage("an exhibit under the digest of something else")
    said_charter = getattr(statement, "charter", charter.digest)
    if said_charter != charter.digest:
        raise WrongCharter("a statement under another charter", party=signed.signer)
    field, roles = SAID_BY[kind]
    named = signed.signer if field is None else getattr(statement, field)
    own = named == signed.signer
    if own and charter.party(signed.signer).role not in roles:
        raise WrongRole(f"signed a {kind.__name__}, which is not for its role", party=signed.signer)
    if not own and kind is not RoundStatement:
        raise WrongSender(f"signed a {kind.__name__} in the name of {named}", party=signed.signer)
    return Shown(exhibit, signed.signer, subject, statement, own=own)


def is_of(charter: Charter, exhibit: Exhibit) -> Shown | Misbehaviour:
    """Return what an exhibit shows, or why it shows nothing."""
    try:
        return open_exhibit(charter, exhibit)
    except Misbehaviour as error:
        return error
