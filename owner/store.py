"""What a model owner keeps on disk: a checkpoint a round, the records others signed, and the finished model.

Every file is there whole or not at all (`crypto/files.py`), so that a crash leaves the old one or the new one. The
number of the last round that was applied is the number in the newest checkpoint's name.
"""

import re
from pathlib import Path

from ..crypto.files import UNFINISHED
from ..learning.files import write_atomically
from ..learning.task import GlobalModel

KEPT = 2
"""Checkpoints that are kept; the one before the newest survives a disk that lies about a sync."""
_NAME = re.compile(r"^round-(\d{6})\.(?:safetensors|npz)$")


class OwnerStore:
    """One model owner's folder."""

    def __init__(self, folder: Path, suffix: str = "safetensors") -> None:
        self.folder = folder
        self._suffix = suffix
        self._checkpoints = folder / "checkpoints"
        self._records = folder / "records"

    @property
    def place(self) -> str:
        """Where it is, whichever way it was named."""
        return str(self.folder.resolve())

    def prepare(self) -> None:
        """Make the folders, for this user alone, and drop what an earlier process had not finished writing."""
        for folder in (self.folder, self._checkpoints, self._records):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in folder.iterdir():
                if UNFINISHED.fullmatch(path.name):
                    # A process that was killed while it wrote; each would leave one as large as the model.
                    path.unlink(missing_ok=True)

    def newest(self) -> tuple[int, Path] | None:
        """Return the last round that was applied and its checkpoint, or None."""
        found = []
        if self._checkpoints.is_dir():
            for path in self._checkpoints.iterdir():
                match = _NAME.match(path.name)
                if match:
                    found.append((int(match[1]), path))
        return max(found, default=None)

    def checkpoint(self, model: GlobalModel, round_number: int) -> None:
        """Write the model after a round, then drop checkpoints older than the last `KEPT`."""
        model.save(self._checkpoints / f"round-{round_number:06d}.{self._suffix}")
        numbered = sorted(path for path in self._checkpoints.iterdir() if _NAME.match(path.name))
        for path in numbered[:-KEPT]:
            path.unlink(missing_ok=True)

    def record(self, round_number: int, holder: str, data: bytes) -> None:
        """Write a round record as it was received: signed statement and cosignatures."""
        path = self._records / f"round-{round_number:06d}.{holder}.record"
        write_atomically(path, data)

    def check(self, round_number: int, open_round: bytes, data: bytes) -> None:
        """Write what came of checking a sum, as everybody was told: signed, with the contributors' signed answers."""
        write_atomically(self._records / f"round-{round_number:06d}.{open_round[:4].hex()}.check", data)

    def finish(self, model: GlobalModel) -> Path:
        """Write the finished model; returns its path."""
        path = self.folder / f"model.{self._suffix}"
        model.save(path)
        return path
