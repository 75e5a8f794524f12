"""Every call that seals or opens a body stands in this file; `identity.py` has the signatures.

An envelope's secrecy is three steps, none of them ours: HPKE (RFC 9180 with the hybrid KEM MLKEM768_X25519) wraps a
fresh 32-byte content key to a fresh recipient key; Cobblestone-256 (C2SP chunked-encryption) seals the body under it;
BLAKE3 over the salted plaintext is the commitment that a signature can bind.

Rules of the file:
- A `RoundKey` lives in memory only, for one (session, round, attempt), and is erased at its end. Erasing drops the only
  references to OpenSSL's keys, and OpenSSL overwrites them; no copy of the bytes is made in Python. One exception: the
  model owner's is in its journal too until the aggregate is checkpointed, or a crash would lose the round, and bytes
  that went there may stay in its memory: CPython cannot overwrite them.
- A content key seals exactly one plaintext. Sealing that again, after a lost connection, draws a fresh salt
  (Cobblestone does it), so there is no nonce to manage.
- `BodyOpener` writes to a staging buffer and counts bytes against the length the signed header fixed: a body that is
  too long is refused before the surplus is decrypted. Its plaintext is not to be used before `finish` has returned,
  and `finish` does not return unless the commitment matches.
"""

import functools
import hmac
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from .errors import BadBody, BadRecipientKey, BadWrappedKey, CommitmentMismatch, Misuse
from .labels import Buffer, Label, digest, hasher

SUITE = "HPKE(MLKEM768_X25519,HKDF_SHA256,AES_256_GCM)+Ed25519+Cobblestone-256+BLAKE3"
PUBLIC_KEY_BYTES = 1184 + 32
WRAPPED_KEY_BYTES = 1168
CONTENT_KEY_BYTES = 32
SALT_BYTES = 32
KEY_ID_BYTES = 16

RECORD_OVERHEAD = 32 * 1024
"""How much longer than its plaintext a record may be: tags, the body's prefix, a chunk carried over."""

Staging = npt.NDArray[np.uint8]
"""Where a body is opened to. A numpy array and no bytearray: numpy asks the kernel for huge pages, and the first touch
of 100 MB in small pages takes longer than opening what goes into them."""

_HPKE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_CHUNK = 16 * 1024
_TAG = 16
_PREFIX = 56
_MLKEM_PUBLIC = 1184
_MLKEM_SEED = 64


class RoundKey:
    """A recipient's HPKE key for one (session, round, attempt)."""

    __slots__ = ("_halves", "_private", "key_id", "on_erasure", "public")

    def __init__(self, secret: bytes | None = None) -> None:
        """Draw a key, or take the one that `secret` gave; raises `Misuse` if those bytes are no key."""
        self.on_erasure: Callable[[], None] | None = None
        """Called once, when it is erased."""
        if secret is None:
            kem, curve = mlkem.MLKEM768PrivateKey.generate(), x25519.X25519PrivateKey.generate()
        else:
            kem, curve = _kept(secret)
        # As OpenSSL's own, which it overwrites when they are freed: bytes that Python frees stay until they are reused.
        self._halves: tuple[mlkem.MLKEM768PrivateKey, x25519.X25519PrivateKey] | None = (kem, curve)
        self._private: MLKEM768X25519PrivateKey | None = MLKEM768X25519PrivateKey(kem, curve)
        self.public = kem.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
        """1216 bytes: the ML-KEM-768 encapsulation key, then the X25519 public key."""
        self.key_id = key_id(self.public)

    def unwrap(self, wrapped: bytes, info: bytes) -> bytes:
        """Return the content key wrapped under `info`; raises `BadWrappedKey`, or `Misuse` once erased."""
        if self._private is None:
            raise Misuse("this round key has been erased")
        if len(wrapped) != WRAPPED_KEY_BYTES:
            raise BadWrappedKey("a wrapped content key has the wrong length")
        try:
            content_key = _HPKE.decrypt(wrapped, self._private, info=info)
        except InvalidTag:
            raise BadWrappedKey("a wrapped content key does not open with this round's key and header") from None
        if len(content_key) != CONTENT_KEY_BYTES:
            raise BadWrappedKey("a wrapped content key holds something else")
        return content_key

    def erase(self) -> None:
        """Forget the private half. Idempotent."""
        self._private = self._halves = None
        told, self.on_erasure = self.on_erasure, None
        if told is not None:
            told()

    @property
    def secret(self) -> bytes:
        """The private half, for a model owner's journal alone: 96 bytes. Raises `Misuse` once erased."""
        if self._halves is None:
            raise Misuse("this round key has been erased")
        kem, curve = self._halves
        return kem.private_bytes_raw() + curve.private_bytes_raw()

    @property
    def erased(self) -> bool:
        """Whether the private half is gone."""
        return self._private is None

    def __repr__(self) -> str:
        return f"RoundKey({self.key_id.hex()}{', erased' if self.erased else ''})"

    def __reduce__(self) -> str:
        raise TypeError("a round key never leaves the process that made it")


def _kept(secret: bytes) -> tuple[mlkem.MLKEM768PrivateKey, x25519.X25519PrivateKey]:
    try:
        return (
            mlkem.MLKEM768PrivateKey.from_seed_bytes(secret[:_MLKEM_SEED]),
            x25519.X25519PrivateKey.from_private_bytes(secret[_MLKEM_SEED:]),
        )
    except ValueError:
        raise Misuse("a kept round key is malformed") from None


def key_id(public: bytes) -> bytes:
    """Return the 16 bytes by which a header names a recipient key."""
    return digest(Label.KEY_ID, public)[:KEY_ID_BYTES]


def wrap(public: bytes, content_key: bytes, info: bytes) -> bytes:
    """Wrap a 32-byte content key to a `RoundKey.public`, bound to `info`; raises `BadRecipientKey`."""
    try:
        return _HPKE.encrypt(content_key, _recipient(public), info=info)
    except ValueError:
        # A point of small order passes as an X25519 key until it is used.
        raise BadRecipientKey("nothing can be sealed to a recipient key") from None


def check_public_key(public: bytes, *, party: str) -> None:
    """Raise `BadRecipientKey`, naming `party`, unless `public` is a key that something can be wrapped to."""
    try:
        _can_be_wrapped_to(public)
    except BadRecipientKey as error:
        raise BadRecipientKey(error.reason, party=party) from None


@functools.lru_cache(maxsize=64)
def _can_be_wrapped_to(public: bytes) -> None:
    # Only what did not raise is remembered: a round looks at the same few keys several times.
    wrap(public, bytes(CONTENT_KEY_BYTES), b"")


def _recipient(public: bytes) -> MLKEM768X25519PublicKey:
    if len(public) != PUBLIC_KEY_BYTES:
        raise BadRecipientKey("a recipient key has the wrong length")
    try:
        return MLKEM768X25519PublicKey(
            mlkem.MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC]),
            x25519.X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC:]),
        )
    except ValueError:
        raise BadRecipientKey("a recipient key is malformed") from None


def new_content_key() -> bytes:
    """Return 32 bytes of the operating system's randomness."""
    return os.urandom(CONTENT_KEY_BYTES)


def new_salt() -> bytes:
    """Return the 32 bytes that stand first in every body, so that a commitment cannot be searched for."""
    return os.urandom(SALT_BYTES)


def body_bytes(payload: int) -> int:
    """Return the sealed length of a body whose payload (without salt) has `payload` bytes."""
    plaintext = SALT_BYTES + payload
    return _PREFIX + plaintext + _TAG * (plaintext // _CHUNK + 1)


def commit(binding: Sequence[Buffer], salt: Buffer, sections: Sequence[Buffer]) -> bytes:
    """Return the 32-byte commitment to salted sections, bound to what `binding` lists."""
    h = hasher(Label.COMMITMENT, *binding)
    h.update(salt)
    for section in sections:
        h.update(section)
    return h.digest()


def seal_records(
    content_key: bytes, context: bytes, salt: Buffer, sections: Sequence[Buffer], record: int
) -> Iterator[bytes]:
    """Yield a sealed body, record by record, reading each section once.

    At most one record of ciphertext exists at a time beyond the sections themselves. `record` is how many plaintext
    bytes go into one, a multiple of 16 KiB; none is longer than that and `RECORD_OVERHEAD`.
    """
    held = bytearray()
    for piece in _sealed_pieces(content_key, context, salt, sections, record):
        if held and len(held) + len(piece) > record + RECORD_OVERHEAD:
            yield bytes(held)
            held.clear()
        if held or len(piece) < record:
            held += piece
        else:
            yield piece
    yield bytes(held)


def _sealed_pieces(
    content_key: bytes, context: bytes, salt: Buffer, sections: Sequence[Buffer], record: int
) -> Iterator[bytes]:
    encryptor = Cobblestone256Encryptor(content_key, context)
    yield encryptor.update(salt)
    for section in sections:
        view = memoryview(section).cast("B")
        for start in range(0, len(view), record):
            yield encryptor.update(view[start : start + record])
    yield encryptor.finalize()


class BodyOpener:
    """Opens one body into a staging buffer, record by record; hands out its sections only if all of it is right."""

    def __init__(
        self,
        content_key: bytes,
        context: bytes,
        *,
        sections: Sequence[int],
        binding: Sequence[Buffer],
        commitment: bytes,
        staging: Staging | None = None,
        record: int,
    ) -> None:
        """Prepare to open a body with these section lengths.

        `staging` may be a buffer to use again, at least `staging_bytes(...)` long; its old content is overwritten.
        """
        self._sections = tuple(sections)
        self._length = SALT_BYTES + sum(self._sections)
        self._missing = body_bytes(sum(self._sections))
        needed = staging_bytes(self._length - SALT_BYTES, record)
        if staging is None:
            staging = np.empty(needed, np.uint8)
        elif len(staging) < needed:
            raise Misuse("a staging buffer is too small for the body it should take")
        self.staging = staging
        self._view = staging.data
        self._at = 0
        self._decryptor: Cobblestone256Decryptor | None = Cobblestone256Decryptor(content_key, context)
        self._hasher = hasher(Label.COMMITMENT, *binding)
        self._commitment = commitment
        self._record = record

    def feed(self, record: Buffer) -> bool:
        """Take the next record; True once all of the body's bytes are here. Raises `BadBody`."""
        if self._decryptor is None:
            raise BadBody("a body goes on after its end")
        if len(record) > self._missing:
            raise BadBody("a body is longer than its signed header says")
        self._missing -= len(record)
        try:
            written = self._decryptor.update_into(record, self._view[self._at :])
        except InvalidTag:
            self._decryptor = None
            raise BadBody("a body was altered, reordered or sealed under another key") from None
        self._hasher.update(self._view[self._at : self._at + written])
        self._at += written
        return self._missing == 0

    def finish(self) -> tuple[memoryview, ...]:
        """Return the sections as views of the staging buffer; raises `BadBody` or `CommitmentMismatch`."""
        if self._decryptor is None or self._missing:
            raise BadBody("a body ends before the length its signed header says")
        try:
            rest = self._decryptor.finalize()
        except InvalidTag:
            raise BadBody("a body was truncated or altered") from None
        finally:
            self._decryptor = None
        if self._at + len(rest) != self._length:
            raise BadBody("a body is not as long as its signed header says")
        self._view[self._at : self._length] = rest
        self._hasher.update(rest)
        # A party that knows the content key (the sender, or any recipient of a broadcast) can make other bodies that
        # open; only the commitment ties this one to the signature.
        if not hmac.compare_digest(self._hasher.digest(), self._commitment):
            raise CommitmentMismatch("a body opens, but is not the one its signed header committed to")
        views, start = [], SALT_BYTES
        for length in self._sections:
            views.append(self._view[start : start + length])
            start += length
        return tuple(views)

    @property
    def salt(self) -> memoryview:
        """The salt of the commitment, once `finish` has returned: a view of the staging buffer too."""
        return self._view[:SALT_BYTES]

    def __repr__(self) -> str:
        return f"BodyOpener({self._missing} bytes to come)"


def staging_bytes(payload: int, record: int) -> int:
    """Return how long a staging buffer must be for a payload: salt, payload, and room for a record being opened."""
    return SALT_BYTES + payload + record + 2 * _CHUNK
