"""Every label of the system in one enum, and the only two ways labelled bytes are put together.

A label separates domains: bytes signed or hashed for one purpose never verify for another. Parts are length-prefixed,
so no two different lists of parts give the same bytes.
"""

import enum
import struct
from collections.abc import Callable, Iterable

from blake3 import blake3

Buffer = bytes | bytearray | memoryview
DIGEST_BYTES = 32

_length: Callable[[int], bytes] = struct.Struct(">Q").pack


class Label(enum.Enum):
    """What signed, hashed, derived or sealed bytes are for."""

    # signatures
    CHARTER = "tertium/1 charter"
    HELLO = "tertium/1 hello"
    OPEN_ROUND = "tertium/1 open round"
    ROUND_OFFER = "tertium/1 round offer"
    ROUND_KEY = "tertium/1 round key"
    DECLINE = "tertium/1 decline"
    RECEIPT = "tertium/1 receipt"
    HOLDER_LIST = "tertium/1 holder list"
    CLOSE = "tertium/1 close"
    ROUND_STATEMENT = "tertium/1 round statement"
    ABORT = "tertium/1 abort"
    SESSION_OFFER = "tertium/1 session offer"
    SESSION_END = "tertium/1 session end"
    EVALUATION = "tertium/1 evaluation"
    MASK_KEY = "tertium/1 mask key"
    MASKED_FINGERPRINT = "tertium/1 masked fingerprint"
    SUM_CHECK = "tertium/1 sum check"
    CHECKPOINT = "tertium/1 checkpoint"
    # envelopes: what a sealed body holds
    CONTRIBUTION = "tertium/1 contribution"
    MODEL = "tertium/1 model"
    AGGREGATE = "tertium/1 aggregate"
    MASK_SEED = "tertium/1 mask seed"
    # digests and derivations
    SESSION = "tertium/1 session"
    HEADER = "tertium/1 header"
    COMMITMENT = "tertium/1 commitment"
    KEY_ID = "tertium/1 key id"
    QUESTION = "tertium/1 question"
    SHARE_LIST = "tertium/1 share list"
    CONTRIBUTOR_SET = "tertium/1 contributor set"
    VECTOR = "tertium/1 vector"
    LAYOUT = "tertium/1 layout"
    MODEL_DIGEST = "tertium/1 model digest"
    COHORT_SAMPLE = "tertium/1 cohort sample"
    COHORT_SIZE = "tertium/1 cohort size"
    BATCH_ORDER = "tertium/1 batch order"
    KEYSTREAM = "tertium/1 keystream"
    KEYSTREAM_REPLACEMENTS = "tertium/1 keystream replacements"
    CHALLENGE = "tertium/1 challenge"
    FINGERPRINT = "tertium/1 fingerprint"
    FINGERPRINT_MASK = "tertium/1 fingerprint mask"
    SCHEME = "tertium/1 scheme"
    SHARE = "tertium/1 share"
    EVIDENCE = "tertium/1 evidence"

    framed: bytes
    """Its bytes behind their length: how everything begins that is put together under it."""

    def __init__(self, text: str) -> None:
        self.framed = _length(len(text)) + text.encode("ascii")

    def __bytes__(self) -> bytes:
        text: str = self.value
        return text.encode("ascii")


def frame(label: Label, parts: Iterable[Buffer]) -> bytes:
    """Return `label` and `parts`, each preceded by its length as 8 big-endian bytes."""
    out = bytearray(label.framed)
    for part in parts:
        out += _length(len(part))
        out += part
    return bytes(out)


def hasher(label: Label, *parts: Buffer) -> blake3:
    """Return a BLAKE3 hasher that has taken in the framed label and parts; feed it more with `update`."""
    h = blake3(label.framed)
    for part in parts:
        h.update(_length(len(part)))
        h.update(part)
    return h


def digest(label: Label, *parts: Buffer) -> bytes:
    """Return the 32-byte BLAKE3 digest of the framed label and parts."""
    return hasher(label, *parts).digest()
