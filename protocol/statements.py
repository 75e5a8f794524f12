"""The only way a statement becomes signed bytes, and signed bytes a statement.

Order is the point: who may sign it (the charter), the signature over the exact bytes, and only then the decoding.
"""

from typing import TypeVar

from ..crypto.errors import BadSignature
from ..crypto.identity import Identity, verify
from ..crypto.labels import digest
from .charter import Charter, Role
from .codec import decode_as, encode
from .errors import WrongRole
from .messages import Signed, Statement

T = TypeVar("T", bound=Statement)


def sign(identity: Identity, statement: Statement) -> Signed:
    """Return `statement`, signed by `identity` under the label of its kind."""
    data = encode(statement)
    return Signed(signer=identity.name, statement=data, signature=identity.sign(statement.label, data))


def open_signed(charter: Charter, signed: Signed, kind: type[T], *roles: Role) -> T:
    """Return the statement of this `kind` that a party with one of `roles` (any, if none is given) signed.

    Raises:
        NotInCharter: the signer is no party.
        WrongRole: it is one, with another role.
        BadSignature: the bytes are not what it signed, or not under this kind's label. None of these names a party.
        MalformedMessage: it signed bytes that are no such statement.
    """
    try:
        party = charter.require(signed.signer, *roles) if roles else charter.party(signed.signer)
        verify(party.signing, kind.label, signed.statement, signed.signature, party=None)
    except (WrongRole, BadSignature) as error:
        # Until a signature verifies it proves nothing about the name beside it: whoever sent this has to answer.
        raise type(error)(f"passes on what {signed.signer} is said to have signed: {error.reason}") from None
    return decode_as(kind, signed.statement, party=signed.signer)


def statement_digest(kind: type[Statement], signed: Signed) -> bytes:
    """Return the 32-byte digest by which other messages name a signed statement: over its label and exact bytes."""
    return digest(kind.label, signed.statement)
