"""Files that are read within bounds, and written whole or not at all.

A file appears under its name complete: written beside it, flushed to the disk, renamed over it, and the folder flushed
too, since a rename is durable only then. What is read is judged by the open descriptor, not by its name.
"""

import contextlib
import errno
import os
import re
import stat
from pathlib import Path

from .labels import Buffer

UNFINISHED = re.compile(r"\..+\.[0-9a-f]{16}\.new")
"""Names of files that were being written when a process was killed."""


def read_bounded(path: Path, limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Raises:
        OSError: it cannot be read, is not a regular file, or is longer (EFBIG); never waits on a pipe or device.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return read_descriptor(descriptor, limit)
    finally:
        os.close(descriptor)


def create_file(path: Path, content: Buffer, *, mode: int) -> None:
    """Create `path` with this content and mode, synced to disk; raises `FileExistsError` rather than overwrite.

    A file that could not be written whole (a full disk) is removed again.
    """
    _create(path, content, mode)
    _sync_folder(path.parent)


def _create(path: Path, content: Buffer, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def replace_file(path: Path, content: Buffer, *, mode: int) -> None:
    """Put a whole new file in the place of `path`, or leave the old one as it is; synced to disk."""
    beside = path.with_name(f".{path.name}.{os.urandom(8).hex()}.new")
    _create(beside, content, mode)
    try:
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
    _sync_folder(path.parent)


def reason(error: OSError) -> str:
    """Return an operating system's error in words, without path or number."""
    return (error.strerror or type(error).__name__).lower()


def read_descriptor(descriptor: int, limit: int) -> bytes:
    """Return what an open descriptor of a regular file holds; raises `OSError` as `read_bounded` does."""
    facts = os.fstat(descriptor)
    if stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    content = bytearray()
    while len(content) <= limit and (part := os.read(descriptor, min(limit + 1 - len(content), 1 << 20))):
        content += part
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it is longer than {limit} bytes")
    return bytes(content)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
