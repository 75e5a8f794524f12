"""What a party must not forget, in one SQLite file: written, and on the disk, before it is acted on.

Rules of the file:
- A machine writes before it queues the effect that the entry is about. A write that fails ends the party at once, its
  queued effects with it: for everybody else that is a crash at this write, and a restart goes on from here.
- One `write` is one transaction: all of its entries, what it forgets and the body it keeps, or nothing.
- Each place in the code that writes has a name of its own in `Write`; crashes are tried at every one of them, and a
  name without a crash fails the tests.
- Nothing secret is kept but the model owner's round key, until its aggregate is checkpointed; that is then
  overwritten (`secure_delete`) and the write-ahead log cut off. Disks promise no more, and the documentation says so.
- One process at a time: the file is locked while it is open.

The schema is one table of typed entries, by kind and key, and one of sealed bodies, in records.
"""

import contextlib
import enum
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar, Final, TypeVar

import msgspec

from ..crypto.identity import Identity
from ..crypto.labels import Buffer
from .charter import Role
from .codec import encode
from .errors import JournalError

SCHEMA: Final = 1
FILE: Final = "journal.db"


class Write(enum.Enum):
    """Every write of every role, by name."""

    # secure worker
    SESSION_OFFERED = "session offered"
    QUESTION_ADMITTED = "question admitted"
    CONTRIBUTION_ADDED = "contribution added"
    ATTEMPT_ABORTED = "attempt aborted"
    RELEASE_DECIDED = "release decided"
    ROUND_ATTESTED = "round attested"
    SESSION_LEFT = "session left"
    # model owner
    SESSION_OPENED = "session opened"
    QUESTION_SIGNED = "question signed"
    STEP_TAKEN = "step taken"
    SESSION_ENDED = "session ended"
    # data owner, evaluator
    INVITATION_ANSWERED = "invitation answered"
    UPDATE_SEALED = "update sealed"
    RECEIPT_TAKEN = "receipt taken"
    SET_CLOSED = "set closed"
    ABANDONED = "abandoned"


WRITES: Final = {
    Role.SECURE_WORKER: frozenset(
        {
            Write.SESSION_OFFERED,
            Write.QUESTION_ADMITTED,
            Write.CONTRIBUTION_ADDED,
            Write.ATTEMPT_ABORTED,
            Write.RELEASE_DECIDED,
            Write.ROUND_ATTESTED,
            Write.SESSION_LEFT,
        }
    ),
    Role.MODEL_OWNER: frozenset(
        {Write.SESSION_OPENED, Write.QUESTION_SIGNED, Write.STEP_TAKEN, Write.SESSION_ENDED},
    ),
    Role.DATA_OWNER: frozenset(
        {
            Write.INVITATION_ANSWERED,
            Write.UPDATE_SEALED,
            Write.RECEIPT_TAKEN,
            Write.SET_CLOSED,
            Write.ABANDONED,
        },
    ),
    Role.EVALUATOR: frozenset({Write.INVITATION_ANSWERED, Write.ABANDONED}),
}
"""Who writes what; a role that writes anything else is stopped."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """One thing to remember; kind and key name it, and a later one of the same name replaces it."""

    kind: ClassVar[str]

    @property
    def key(self) -> bytes:
        """What names this entry among those of its kind; empty where there is only one."""
        return b""


E = TypeVar("E", bound=Entry)

_TABLES = """
create table if not exists entries (kind text, key blob, value blob not null, primary key (kind, key)) without rowid;
create table if not exists bodies (subject blob, number integer, record blob not null, primary key (subject, number));
"""


class _Owner(Entry, frozen=True):
    """Whose journal this is; the first entry of each."""

    kind: ClassVar[str] = "journal"

    schema: int
    party: str
    signing: bytes


class Journal:
    """One party's journal."""

    def __init__(self, path: Path | None, *, party: str, role: Role, signing: bytes) -> None:
        """Open the journal of `party` at `path`, or make it; None keeps it in memory, for simulations.

        Raises:
            JournalError: another process has it open, it is another party's, or it is damaged.
        """
        self._where = str(path) if path is not None else "the journal in memory"
        self._writes = WRITES[role]
        self._broken = False
        with self._reported("cannot be opened"):
            if path is not None:
                # Before SQLite does: its files get the permissions of this one.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            # One thread uses it, the loop's, which need not be the one that opened it.
            self._db = sqlite3.connect(path or ":memory:", isolation_level=None, timeout=0.0, check_same_thread=False)
            try:
                self._prepare(_Owner(SCHEMA, party, signing))
            except BaseException:
                self._db.close()
                raise

    @classmethod
    def of(cls, identity: Identity, role: Role, folder: Path | None = None) -> "Journal":
        """Return the journal of this party in its state folder, or one in memory; raises `JournalError`."""
        path = folder / FILE if folder is not None else None
        return cls(path, party=identity.name, role=role, signing=identity.public.signing)

    def _prepare(self, ours: _Owner) -> None:
        for setting in (
            "locking_mode = exclusive",
            "journal_mode = wal",
            "synchronous = full",
            "secure_delete = on",
            "journal_size_limit = 1048576",
            "trusted_schema = off",
        ):
            self._db.execute(f"pragma {setting}")
        self._db.execute("begin immediate")
        for table in filter(None, map(str.strip, _TABLES.split(";"))):
            self._db.execute(table)
        known = self.read(_Owner)
        if known is None:
            self._put(ours)
        elif known != ours:
            self._db.execute("rollback")
            if known.schema != ours.schema:
                raise JournalError(f"{self._where} has schema {known.schema}; this release knows {ours.schema}")
            raise JournalError(
                f"{self._where} is the journal of {known.party} or of another key; move it away to run as {ours.party}"
            )
        self._db.execute("commit")

    # --- writing

    def write(
        self,
        name: Write,
        *entries: Entry,
        forget: Iterable[type[Entry] | Entry] = (),
        keep: tuple[bytes, Iterable[Buffer]] | None = None,
        scrub: bool = False,
    ) -> None:
        """Write, in one transaction, and return once it is on the disk.

        Args:
            name: which write this is.
            entries: what to remember.
            forget: kinds to forget altogether, or single entries, before that.
            keep: subject and records of the one sealed body that is kept; those kept before are dropped.
            scrub: cut the write-ahead log off, because what is forgotten was secret.

        Raises:
            JournalError: the disk is full or broken, or an earlier write has failed. The party is to end.
        """
        if name not in self._writes:
            raise JournalError(f"{name.value} is no write of this role")
        with self._reported(f"cannot be written ({name.value})"):
            if self._broken:
                raise JournalError(f"{self._where} could not be written before; nothing is written after that")
            self._db.execute("begin immediate")
            try:
                for each in forget:
                    if isinstance(each, Entry):
                        self._db.execute("delete from entries where kind = ? and key = ?", (each.kind, each.key))
                    else:
                        self._db.execute("delete from entries where kind = ?", (each.kind,))
                for entry in entries:
                    self._put(entry)
                if keep is not None:
                    self._keep(*keep)
                self._db.execute("commit")
            except BaseException:
                self._broken = True
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("rollback")
                raise
            if scrub:
                self._db.execute("pragma wal_checkpoint(truncate)")

    def _put(self, entry: Entry) -> None:
        row = (entry.kind, entry.key, encode(entry))
        self._db.execute("insert or replace into entries values (?, ?, ?)", row)

    def _keep(self, subject: bytes, records: Iterable[Buffer]) -> None:
        # Sealed bytes are no secret; overwriting a large body with zeroes would cost as much as writing it.
        self._db.execute("pragma secure_delete = off")
        try:
            self._db.execute("delete from bodies")
            rows = ((subject, number, record) for number, record in enumerate(records))
            self._db.executemany("insert into bodies values (?, ?, ?)", rows)
        finally:
            self._db.execute("pragma secure_delete = on")

    # --- reading

    def read(self, kind: type[E], key: bytes = b"") -> E | None:
        """Return the entry of this kind and key, or None. Raises `JournalError` if it is damaged."""
        with self._reported("cannot be read"):
            row = self._db.execute("select value from entries where kind = ? and key = ?", (kind.kind, key)).fetchone()
            return None if row is None else self._decoded(kind, row[0])

    def all(self, kind: type[E]) -> list[E]:
        """Return all entries of a kind, by key. Raises `JournalError` if one is damaged."""
        with self._reported("cannot be read"):
            rows = self._db.execute("select value from entries where kind = ? order by key", (kind.kind,)).fetchall()
            return [self._decoded(kind, row[0]) for row in rows]

    def body(self, subject: bytes) -> Iterator[bytes]:
        """Yield the records of the body that is kept under this subject; the very bytes that were written."""
        number = 0
        while True:
            with self._reported("cannot be read"):
                row = self._db.execute(
                    "select record from bodies where subject = ? and number = ?", (subject, number)
                ).fetchone()
            if row is None:
                return
            yield row[0]
            number += 1

    def _decoded(self, kind: type[E], value: bytes) -> E:
        try:
            return msgspec.msgpack.decode(value, type=kind)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise JournalError(f"{self._where} holds an entry ({kind.kind}) that this release cannot read") from None

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._db.close()

    @contextlib.contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise JournalError(f"{self._where} is in use: this party runs already, in another process") from None
            raise JournalError(f"{self._where} {what}: {error}") from None
        except (sqlite3.Error, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise JournalError(f"{self._where} {what}: {reason}") from None

    def __repr__(self) -> str:
        return f"Journal({self._where})"
