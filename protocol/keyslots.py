"""Where a model owner keeps the key to the answer of the question that is open, so that it can be gone a moment later.

A file of two sectors that are overwritten in place, outside the journal: what a database deletes stands in its log
until that is cut off, and cutting off a log costs more than the rest of a small round. A new key goes into the slot
that is free, then the journal says which slot counts, then the other is overwritten; so a crash leaves the key the
journal speaks of. What a file system or an SSD keeps of an overwritten sector is beyond this file.
"""

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

from .errors import JournalError

FILE: Final = "round.key"
SLOTS: Final = 2
_SECTOR: Final = 4096
_LENGTH: Final = 2
LONGEST: Final = _SECTOR - _LENGTH
"""Most bytes of a secret; it is far shorter, and then stands in one 512-byte sector."""


class KeySlots:
    """Two places for a secret."""

    def __init__(self, path: Path | None) -> None:
        """Open the file or make it, mode 0600; None keeps it in memory, for simulations.

        Raises:
            JournalError: it cannot be opened, or is no file of this kind.
        """
        self._where = str(path) if path is not None else "the round key in memory"
        self._memory = bytearray(SLOTS * _SECTOR)
        self._descriptor: int | None = None
        if path is None:
            return
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            self._descriptor = os.open(path, flags, 0o600)
            about = os.fstat(self._descriptor)
            if not stat.S_ISREG(about.st_mode) or about.st_size not in (0, len(self._memory)):
                raise JournalError(f"{path} is not a file of round keys")
            os.fchmod(self._descriptor, 0o600)
            if about.st_size == 0:
                os.pwrite(self._descriptor, self._memory, 0)
                os.fsync(self._descriptor)
            self._memory[:] = os.pread(self._descriptor, len(self._memory), 0)
        except OSError as error:
            self.close()
            raise JournalError(f"{path} cannot be opened: {error.strerror}") from None
        except JournalError:
            self.close()
            raise

    def put(self, slot: int, secret: bytes) -> None:
        """Write a secret into a slot, and to the disk. Raises `JournalError`."""
        self._write(slot, len(secret).to_bytes(_LENGTH, "big") + secret)

    def get(self, slot: int) -> bytes:
        """Return what is in a slot; empty if nothing is."""
        at = slot * _SECTOR
        length = int.from_bytes(self._memory[at : at + _LENGTH], "big")
        return bytes(self._memory[at + _LENGTH : at + _LENGTH + min(length, LONGEST)])

    def clear(self, *, but: int | None = None) -> None:
        """Overwrite what is in the slots, all but one. Raises `JournalError`."""
        for slot in range(SLOTS):
            at = slot * _SECTOR
            if slot != but and any(self._memory[at : at + _SECTOR]):
                self._write(slot, bytes(_SECTOR))

    def _write(self, slot: int, data: bytes) -> None:
        at = slot * _SECTOR
        self._memory[at : at + len(data)] = data
        if self._descriptor is not None:
            try:
                os.pwrite(self._descriptor, data, at)
                os.fdatasync(self._descriptor)
            except OSError as error:
                raise JournalError(f"{self._where} cannot be written: {error.strerror}") from None

    def contents(self) -> bytes:
        """Return everything in the slots, to be searched."""
        return bytes(self._memory)

    def close(self) -> None:
        """Close the file and forget what was in it. Idempotent."""
        if self._descriptor is not None:
            self._memory[:] = bytes(len(self._memory))
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None

    def __repr__(self) -> str:
        return f"KeySlots({self._where})"
