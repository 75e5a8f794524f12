"""What a party keeps so that it can open its commitments to an auditor later, where its own site file says so.

Rules of the file:
- The content of an envelope is committed to in its signed header, with a salt that only its two ends know. Whoever is
  given salt and content can check that they are what was sent, and add the sum up again; it also knows them then. So
  nothing is kept by default, and a data owner that keeps its openings has its updates on its own disk, in the clear.
- A data owner keeps what it sealed, all shares of it; the model owner what it opened, the totals. Nobody else has
  anything to open: a secure worker that could would be keeping other people's updates.
- One file an envelope, whole or not at all, for this user alone. An auditor's copy is read no further than the signed
  header says the envelope was long, and believed only once it matches its commitment.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from ..crypto.errors import CommitmentMismatch
from ..crypto.files import read_bounded, reason, replace_file
from ..crypto.labels import Buffer, Label
from ..crypto.sealing import commit
from . import limits
from .codec import decode_as, encode
from .errors import MalformedMessage, SiteFileError
from .messages import Digest, Header

FOLDER: Final = "openings"
_MODE: Final = 0o600
_AROUND: Final = 256
"""Bytes of a file beside the content, at most."""


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Salt and content of one envelope, by the digest of its signed header."""

    subject: Digest
    salt: Digest
    sections: Annotated[tuple[Annotated[bytes, Meta(max_length=limits.MODEL_BYTES)], ...], Meta(max_length=4)]

    def check(self, header: Header, subject: bytes) -> None:
        """Check that this is what the header of this digest committed to; raises `CommitmentMismatch`."""
        lengths = tuple(len(section) for section in self.sections)
        right = (self.subject, lengths) == (subject, header.sections)
        if not right or commit(header.binding, self.salt, self.sections) != header.commitment:
            raise CommitmentMismatch("opens an envelope with something other than its header committed to")

    def __repr__(self) -> str:
        return f"Opening({self.subject[:4].hex()})"


def _name(header: Header, subject: bytes) -> str:
    return f"round-{header.round:06d}.{header.attempt}.{subject[:8].hex()}.opening"


class OpeningStore:
    """One party's openings, as files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, header: Header, subject: bytes, salt: Buffer, sections: Sequence[Buffer]) -> None:
        """Write the opening of an envelope; raises `SiteFileError` where it cannot be written."""
        opening = Opening(subject, bytes(salt), tuple(bytes(section) for section in sections))
        path = self.folder / _name(header, subject)
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            replace_file(path, encode(opening), mode=_MODE)
        except OSError as error:
            raise SiteFileError(f"{path} cannot be written: {reason(error)}") from None


class OpeningFiles:
    """What parties handed to an auditor, read one by one, and each only as far as a signed header says it is long."""

    def __init__(self, folders: Mapping[str, Sequence[Path]]) -> None:
        """`folders` may hold a party's openings; they need not exist."""
        self._folders = folders

    def __bool__(self) -> bool:
        """Whether there is any."""
        return any(next(folder.glob("*.opening"), None) for folders in self._folders.values() for folder in folders)

    def has(self, party: str, header: Header, subject: bytes) -> bool:
        """Whether a party opens an envelope, with whatever."""
        return self._path(party, header, subject) is not None

    def find(self, party: str, header: Header, subject: bytes) -> Opening | None:
        """Return what a party opens an envelope with, checked; None if it does not.

        Raises:
            SiteFileError: its file cannot be read, is longer than that envelope's opening, or is none.
            CommitmentMismatch: it is not what the header committed to.
        """
        path = self._path(party, header, subject)
        if path is None:
            return None
        try:
            opening = decode_as(Opening, read_bounded(path, sum(header.sections) + _AROUND))
        except OSError as error:
            raise SiteFileError(f"{path.name} cannot be read: {reason(error)}") from None
        except MalformedMessage as error:
            raise SiteFileError(f"{path.name} is no opening: {error.reason}") from None
        opening.check(header, subject)
        return opening

    def _path(self, party: str, header: Header, subject: bytes) -> Path | None:
        places = (folder / _name(header, subject) for folder in self._folders.get(party, ()))
        return next((path for path in places if path.exists()), None)


def keeps(label: Label, *, sealed: bool) -> bool:
    """Whether an envelope is one that a party can open to an auditor: a share it sealed, or a total it opened."""
    return label is (Label.CONTRIBUTION if sealed else Label.AGGREGATE)
