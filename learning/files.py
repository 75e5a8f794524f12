"""Checkpoints and records on disk: `crypto/files.py`, with errors that are this party's to mend."""

from pathlib import Path

from ..crypto.files import reason, replace_file
from ..crypto.labels import Buffer
from ..protocol.errors import SiteFileError


def write_atomically(path: Path, data: Buffer) -> None:
    """Write `data` to `path`, mode 0600, so that a crash leaves either the old file or the new one.

    Raises:
        SiteFileError: the file cannot be written; the old one, if there was one, is as it was.
    """
    try:
        replace_file(path, data, mode=0o600)
    except OSError as error:
        raise SiteFileError(f"{path.name} cannot be written: {reason(error)}") from error


def read_whole(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        SiteFileError: the file is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise SiteFileError(f"{path.name} cannot be read: {reason(error)}") from error
