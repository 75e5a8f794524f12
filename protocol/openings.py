"""What a party keeps so that it can open its commitments to an auditor later, where its own site file says so.

Rules of the file:
- The content of an envelope is committed to in its signed header, with a salt that only its two ends know. Whoever is
  given salt and content can check that they are what was sent, and add the sum up again; it also knows them then. So
  nothing is kept by default, and a data owner that keeps its openings has its updates on its own disk, in the clear.
- A data owner keeps what it sealed, all shares of it; the model owner what it opened, the totals. Nobody else has
  anything to open: a secure worker that could would be keeping other people's updates.
- One file an envelope, whole or not at all, for this user alone. It is bounded before it is read.
"""

import contextlib
from collections.abc import Iterator, Sequence
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
_MODE = 0o600


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Salt and content of one envelope, by the digest of its signed header."""

    subject: Digest
    salt: Digest
    sections: Annotated[tuple[Annotated[bytes, Meta(max_length=limits.MODEL_BYTES)], ...], Meta(max_length=4)]

    def check(self, header: Header) -> None:
        """Check that this is what a header committed to; raises `CommitmentMismatch`, naming who keeps it."""
        lengths = tuple(len(section) for section in self.sections)
        if lengths != header.sections or commit(header.binding, self.salt, self.sections) != header.commitment:
            raise CommitmentMismatch("opens an envelope with something other than its header committed to")

    def __repr__(self) -> str:
        return f"Opening({self.subject[:4].hex()})"


class OpeningStore:
    """One party's openings, as files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, header: Header, subject: bytes, salt: Buffer, sections: Sequence[Buffer]) -> None:
        """Write the opening of an envelope; raises `SiteFileError` where it cannot be written."""
        opening = Opening(subject, bytes(salt), tuple(bytes(section) for section in sections))
        path = self.folder / f"round-{header.round:06d}.{header.attempt}.{subject[:8].hex()}.opening"
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            replace_file(path, encode(opening), mode=_MODE)
        except OSError as error:
            raise SiteFileError(f"{path} cannot be written: {reason(error)}") from None


def keeps(label: Label, *, sealed: bool) -> bool:
    """Whether an envelope is one that a party can open to an auditor: a share it sealed, or a total it opened."""
    return label is (Label.CONTRIBUTION if sealed else Label.AGGREGATE)


def read_openings(folder: Path) -> Iterator[Opening]:
    """Yield the openings in a folder, of which nothing is believed until `Opening.check`.

    Raises:
        SiteFileError: a file cannot be read, is too long, or is none.
    """
    paths: list[Path] = []
    with contextlib.suppress(FileNotFoundError):
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".opening")
    for path in paths:
        try:
            yield decode_as(Opening, read_bounded(path, limits.OPENING_BYTES))
        except OSError as error:
            raise SiteFileError(f"{path} cannot be read: {reason(error)}") from None
        except MalformedMessage as error:
            raise SiteFileError(f"{path} is no opening: {error.reason}") from None
