"""A party's two long-term keys, the file they lie in, and every signature of the system.

Rules of the file:
- An `Identity` is one Ed25519 key, which signs, and one X25519 key, which the control lane uses for CURVE. Both are
  32 raw bytes; libzmq takes them as they are, and X25519 of `cryptography` gives the public key libzmq expects.
- What is signed is always `labels.frame(label, [payload])`: a signature made for one purpose
  never verifies for another.
- A key file is created once with mode 0600 and never overwritten. It is judged by the descriptor that is read, not by
  its name, so nothing can be exchanged between the look and the reading.
- No secret reaches a repr, an error, a pickle, a copy or the locals of a frame that raises.
"""

import functools
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import Meta

from .errors import BadSignature, KeyFileError, Misuse
from .files import create_file, read_descriptor, reason
from .labels import Buffer, Label, digest, frame

KEY_BYTES = 32
SIGNATURE_BYTES = 64
KEY_FILE_MODE = 0o600
KEY_FILE_BYTES = 4 * 1024
REMEMBERED_BYTES = 4 * 1024
"""The longest framed bytes over which a signature that verified is remembered."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}", re.ASCII)
_HEADER = (
    "# The secret keys of a party of a tertium federation. Never leaves this machine; whoever reads it is this party.\n"
)

SMALL_ORDER_CURVE = frozenset(
    bytes.fromhex(point)
    for point in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)
"""X25519 public keys under which every exchange gives zero (RFC 7748, section 6.1), top bit clear."""

SMALL_ORDER_SIGNING = frozenset(
    bytes.fromhex(point)
    for point in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    )
)
"""Ed25519 points of order 1 to 8, odd encodings too. One signature under such a key verifies for many messages, so its
holder could deny what it signed."""


class PublicIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The public halves of a party's keys, 32 bytes each."""

    signing: Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
    curve: Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]

    @property
    def fingerprint(self) -> str:
        """128 bits over both keys, in groups of four hexadecimal digits, to be read out over a telephone."""
        text = digest(Label.KEY_ID, self.signing, self.curve)[:16].hex()
        return " ".join(text[i : i + 4] for i in range(0, len(text), 4))

    def weakness(self) -> str | None:
        """Say what is wrong with keys that no honest generator makes, or return None."""
        if self.signing in SMALL_ORDER_SIGNING:
            return "the signing key is a point of small order, under which a signature proves nothing"
        if self.curve[:-1] + bytes([self.curve[-1] & 0x7F]) in SMALL_ORDER_CURVE:
            return "the curve key is a point of small order, under which nothing is secret"
        return None


class _KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key file as it is written: `name` and two secrets in hexadecimal."""

    name: str
    signing: str
    curve: str

    def __repr__(self) -> str:
        return f"_KeyFile(name={self.name!r})"


class Identity:
    """One party's name and secret keys."""

    __slots__ = ("_curve", "_signing", "name", "public")

    name: str
    public: PublicIdentity

    def __init__(self, name: str, signing: bytes, curve: bytes) -> None:
        """Take 32 secret bytes for Ed25519 (RFC 8032) and 32 for X25519; raises `KeyFileError` for others."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise KeyFileError(
                "a party's name is 1 to 32 lower-case letters, digits, dots, dashes and underscores, "
                "and starts with a letter or digit"
            )
        if len(signing) != KEY_BYTES or len(curve) != KEY_BYTES:
            raise KeyFileError(f"the secret keys of {name} must be {KEY_BYTES} bytes each")
        self.name = name
        self._signing = Ed25519PrivateKey.from_private_bytes(signing)
        self._curve = bytes(curve)
        self.public = PublicIdentity(
            signing=self._signing.public_key().public_bytes_raw(),
            curve=X25519PrivateKey.from_private_bytes(curve).public_key().public_bytes_raw(),
        )

    @classmethod
    def generate(cls, name: str) -> "Identity":
        """Return a new identity from the operating system's generator; raises `KeyFileError` for a bad name."""
        return cls(name, os.urandom(KEY_BYTES), os.urandom(KEY_BYTES))

    @property
    def curve_secret(self) -> bytes:
        """The 32 secret bytes the control lane's CURVE socket needs."""
        return self._curve

    def sign(self, label: Label, payload: Buffer) -> bytes:
        """Return the 64-byte Ed25519 signature over `frame(label, [payload])`."""
        return self._signing.sign(frame(label, [payload]))

    def save(self, path: Path) -> None:
        """Write the key file: created here and now, mode 0600, on disk when this returns.

        Raises:
            KeyFileError: something of that name exists (even a dangling link), or the file cannot be written.
        """
        lines = (
            f'name = "{self.name}"',
            f'signing = "{self._signing.private_bytes_raw().hex()}"',
            f'curve = "{self._curve.hex()}"',
        )
        try:
            create_file(path, (_HEADER + "\n".join(lines) + "\n").encode(), mode=KEY_FILE_MODE)
        except FileExistsError:
            raise KeyFileError(f"{path} exists; keys are never overwritten, so choose another folder") from None
        except OSError as error:
            raise KeyFileError(f"cannot write {path}: {reason(error)}") from None

    @classmethod
    def load(cls, path: Path) -> "Identity":
        """Read a key file.

        Raises:
            KeyFileError: it is missing, a symbolic link, not a regular file, open to others than its owner (any mode
                bit beyond 0600), longer than 4 KiB, or not what `save` writes.
        """
        found = _parse(_read_private(path))
        if isinstance(found, str):
            raise KeyFileError(f"{path} {found}")
        return found

    def __repr__(self) -> str:
        return f"Identity({self.name!r}, {self.public.fingerprint})"

    def __reduce__(self) -> NoReturn:
        raise Misuse("an identity holds secret keys and can be neither pickled nor copied")


def verify(signing_key: bytes, label: Label, payload: Buffer, signature: bytes, *, party: str | None) -> None:
    """Check a signature made by `Identity.sign`; `party` is who is said to have made it.

    Raises:
        BadSignature: it was not made by this key, for this label, over this payload; or key or signature has no valid
            form.
    """
    data = frame(label, [payload])
    check = _check_remembered if len(data) <= REMEMBERED_BYTES else _check
    try:
        check(signing_key, signature, data)
    except (InvalidSignature, ValueError):
        raise BadSignature(f"the signature over a {label.value!r} does not verify", party=party) from None


def _check(signing_key: bytes, signature: bytes, data: bytes) -> None:
    Ed25519PublicKey.from_public_bytes(signing_key).verify(signature, data)


# Whether a signature verifies follows from these three strings of bytes alone, and they are compared whole: who said
# so, about what, and when, is no part of it. Only what did not raise is remembered, so nothing false ever is; long data
# is not, or a peer would choose how much memory this takes. In a round a party meets one statement several times.
_check_remembered = functools.lru_cache(maxsize=512)(_check)


def _read_private(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        # With O_NOFOLLOW the error for a link is "too many levels", which helps nobody.
        why = "it is a symbolic link" if path.is_symlink() else reason(error)
        raise KeyFileError(f"cannot read the key file {path}: {why}") from None
    try:
        facts = os.fstat(descriptor)
        mode = stat.S_IMODE(facts.st_mode)
        if stat.S_ISREG(facts.st_mode) and mode & ~KEY_FILE_MODE:
            raise KeyFileError(
                f"{path} has mode {mode:04o}, so others may have read it: make new keys, "
                "or run chmod 600 on it if nobody could"
            )
        return read_descriptor(descriptor, KEY_FILE_BYTES)
    except OSError as error:
        raise KeyFileError(f"cannot read the key file {path}: {reason(error)}") from None
    finally:
        os.close(descriptor)


def _parse(content: bytes) -> "Identity | str":
    """Return the identity, or what is wrong with the file.

    Nothing is raised out of here: a traceback that shows locals would show the keys.
    """
    try:
        fields = msgspec.convert(tomllib.loads(content.decode("utf-8")), _KeyFile)
        return Identity(fields.name, bytes.fromhex(fields.signing), bytes.fromhex(fields.curve))
    except (ValueError, RecursionError, KeyFileError):
        return "is not a key file: it must hold name, signing and curve, as `tertium keygen` writes them"
