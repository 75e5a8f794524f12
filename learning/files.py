"""Files that must never be seen half written: checkpoints.

A file appears under its name whole or not at all: written beside it, flushed to the disk, then renamed over it.
"""

import contextlib
import os
import tempfile
from pathlib import Path

from ..crypto.labels import Buffer
from ..protocol.errors import SiteFileError


def write_atomically(path: Path, data: Buffer) -> None:
    """Write `data` to `path`, mode 0600, so that a crash leaves either the old file or the new one.

    Raises:
        SiteFileError: the file cannot be written.
    """
    try:
        # mkstemp gives 0600 and a name nobody else holds, so a link planted beside the target is not followed
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        # the rename itself is durable only once the folder is
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise SiteFileError(f"{path.name} cannot be written: {error.strerror or error}") from error


def read_whole(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        SiteFileError: the file is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise SiteFileError(f"{path.name} cannot be read: {error.strerror or error}") from error
