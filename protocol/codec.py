"""Bytes to messages and back, with one error.

Whatever a frame holds, `decode` returns a valid message or raises `MalformedMessage`; nothing else leaks. Encodings are
canonical: a decoded message encodes to the bytes it came from, so that no two frames mean the same thing and a digest
over bytes is a digest over meaning.
"""

import functools
from typing import Any, TypeVar

import msgspec

from .check_messages import Answered, Challenge, Checked, MaskKeys, MaskSeeds, OfferMaskKey
from .errors import MalformedMessage
from .messages import (
    Aborted,
    Acceptance,
    Closed,
    Closes,
    Cosign,
    Credit,
    Declined,
    Evaluated,
    Fetch,
    Grant,
    Hello,
    Invitation,
    Listed,
    Lists,
    Message,
    OfferRound,
    OfferSession,
    ProposeRound,
    Ready,
    Receipted,
    Refusal,
    Release,
    RequestCosignature,
    RequestSession,
    RoundRecord,
    SendModel,
    SessionOver,
)

AnyMessage = (
    Hello
    | Refusal
    | RequestSession
    | OfferSession
    | ProposeRound
    | OfferRound
    | Invitation
    | Acceptance
    | Declined
    | SendModel
    | Ready
    | Release
    | Fetch
    | Grant
    | Credit
    | Receipted
    | Listed
    | Lists
    | Closed
    | Closes
    | OfferMaskKey
    | MaskKeys
    | MaskSeeds
    | Challenge
    | Answered
    | Checked
    | RequestCosignature
    | Cosign
    | RoundRecord
    | Evaluated
    | Aborted
    | SessionOver
)
"""What a control frame can hold."""
S = TypeVar("S", bound=msgspec.Struct)

_ENCODER = msgspec.msgpack.Encoder()
_MESSAGES: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(AnyMessage)


def encode(struct: msgspec.Struct) -> bytes:
    """Return the bytes of a message, statement or header."""
    return _ENCODER.encode(struct)


def decode_message(frame: bytes, *, party: str | None = None) -> Message:
    """Return the message in a control frame; raises `MalformedMessage` naming `party`, who sent it."""
    return _canonical(frame, _MESSAGES, party)


def decode_as(kind: type[S], data: bytes, *, party: str | None = None) -> S:
    """Return the `kind` in `data`; raises `MalformedMessage`."""
    decoder: msgspec.msgpack.Decoder[S] = _decoder(kind)
    return _canonical(data, decoder, party)


@functools.cache
def _decoder(kind: type[msgspec.Struct]) -> Any:
    return msgspec.msgpack.Decoder(kind)


def _canonical(data: bytes, decoder: "msgspec.msgpack.Decoder[S]", party: str | None) -> S:
    try:
        struct = decoder.decode(data)
    # ValueError covers UnicodeDecodeError, which msgspec lets through for a string that is not UTF-8; RecursionError
    # comes from frames that nest thousands of arrays.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedMessage(f"not a message of this protocol ({_brief(error)})", party=party) from None
    if _ENCODER.encode(struct) != data:
        raise MalformedMessage("a message that is not in canonical form", party=party)
    return struct


def _brief(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
