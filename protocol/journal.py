"""What a party must not forget, in one SQLite file: written, and on the disk, before it is acted on.

Rules of the file:
- A machine writes before it queues the effect that the entry is about. A write that fails ends the party at once, its
  queued effects with it: for everybody else that is a crash at this write, and a restart goes on from here.
- One `write` is one transaction: all of its entries, what it forgets and the body it keeps, or nothing.
- Each place in the code that writes has a name of its own in `Write`; crashes are tried at every one of them, and a
  name without a crash fails the tests.
- A write is on the disk when it returns, but for those in `REPEATABLE`: a kill does not lose them, a power failure may,
  and then the party only does something again. They are on the disk with the next write.
- Nothing secret is in it. The model owner's round key lies beside it (`keyslots.py`) until its aggregate is
  checkpointed, and is then overwritten.
- The write-ahead log has its length from the start, and is used again from its beginning: while a file grows, each
  sync of it waits for the file system's own journal.
- One process at a time: the file is locked while it is open. A process loses its locks on a file with the first
  descriptor of it that it closes (POSIX), so nothing here opens the file beside SQLite.

- The rows of the party's view ledger (`ledger.py`) are staged one by one and go in with the next write, so that an act
  and its entry are in the file together or not at all; `settle` writes them where there is nothing else to write. No
  row is changed or deleted. A kill loses none; `durable` says how many a power failure cannot take back either, and a
  party signs for no more of them.
- Beside the rows lie the exhibits: signed statements and heads of envelopes, in the exact bytes that their entries
  name by digest, so that who signed what can be shown to somebody who was not there.

The schema is one table of typed entries, by kind and key, one of sealed bodies, in records, one of ledger rows, and one
of exhibits.
"""

import contextlib
import enum
import fcntl
import os
import sqlite3
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import ClassVar, Final, TypeVar
from urllib.parse import quote

import msgspec

from ..crypto.identity import Identity
from ..crypto.labels import Buffer
from .charter import Role
from .codec import encode
from .errors import JournalError
from .keyslots import FILE as KEY_FILE
from .keyslots import KeySlots

SCHEMA: Final = 1
FILE: Final = "journal.db"


class Write(enum.Enum):
    """Every write of every role, by name."""

    # secure worker
    SESSION_OFFERED = "session offered"
    QUESTION_ADMITTED = "question admitted"
    CONTRIBUTION_ADDED = "contribution added"
    ATTEMPT_ABORTED = "attempt aborted"
    SET_AGREED = "set agreed"
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
    SUM_CHECKED = "sum checked"
    ABANDONED = "abandoned"


WRITES: Final = {
    Role.SECURE_WORKER: frozenset(
        {
            Write.SESSION_OFFERED,
            Write.QUESTION_ADMITTED,
            Write.CONTRIBUTION_ADDED,
            Write.ATTEMPT_ABORTED,
            Write.SET_AGREED,
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
            Write.SUM_CHECKED,
            Write.ABANDONED,
        },
    ),
    Role.EVALUATOR: frozenset({Write.INVITATION_ANSWERED, Write.ABANDONED}),
}
"""Who writes what; a role that writes anything else is stopped."""
REPEATABLE: Final = frozenset(
    {Write.INVITATION_ANSWERED, Write.RECEIPT_TAKEN, Write.ROUND_ATTESTED, Write.STEP_TAKEN, Write.SUM_CHECKED}
)
"""Writes that nothing anybody was told depends on: an invitation is answered again, with a new key, before anything was
sealed for it; a receipt or a record is asked for again; nothing follows from the outcome of a check; a step that was
taken is in the checkpoint."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """One thing to remember; kind and key name it, and a later one of the same name replaces it."""

    kind: ClassVar[str]

    @property
    def key(self) -> bytes:
        """What names this entry among those of its kind; empty where there is only one."""
        return b""


E = TypeVar("E", bound=Entry)

ENTRIES_TABLE: Final = "entries (kind text, key blob, value blob not null, primary key (kind, key)) without rowid"
LEDGER_TABLE: Final = "ledger (sequence integer primary key, entry blob not null, hashes blob not null)"
# No key: an index over digests has a page of its own for every one, and each write would touch all of them.
EXHIBITS_TABLE: Final = (
    "exhibits (subject blob not null, signer text not null, label text not null, content blob not null)"
)
_BODIES_TABLE: Final = "bodies (subject blob, number integer, record blob not null, primary key (subject, number))"


class _Owner(Entry, frozen=True):
    """Whose journal this is; the first entry of each."""

    kind: ClassVar[str] = "journal"

    schema: int
    party: str
    signing: bytes


_LEAST_PAGE: Final = 512
_PAGE: Final = 4096
_LOG: Final = 256 * _PAGE
"""Length of the write-ahead log, and how much of it is filled before it is moved into the file."""
_LOG_LATER: Final = 4 * _LOG
"""How much of it is filled before a write that is not synced itself moves it: that syncs log and file."""
_SETTINGS: Final = ("secure_delete = on", "trusted_schema = off")
_FILE_SETTINGS: Final = (
    "locking_mode = exclusive",
    "journal_mode = wal",
    "synchronous = full",
    "cache_size = -2000",
    f"journal_size_limit = {_LOG}",
    *_SETTINGS,
)
"""What a journal in memory has none of besides: a lock, a log, and syncs."""
_LOCKS: Final = 1 << 30, 512
"""Where in a file SQLite locks, and how many bytes of it (its file format, "The Lock-Byte Page")."""


class Journal:
    """One party's journal."""

    def __init__(self, path: Path | None, *, party: str, role: Role, signing: bytes) -> None:
        """Open the journal of `party` at `path`, or make it; None keeps it in memory, for simulations.

        A party with new keys goes on with its journal: what its gate knows must outlive a key.

        Raises:
            JournalError: another process has it open, it is another party's, or it is damaged.
        """
        self._where = str(path) if path is not None else "the journal in memory"
        self._writes = WRITES[role]
        self._broken = False
        self._staged: list[tuple[int, bytes, bytes]] = []
        self._exhibits: list[tuple[bytes, str, str, bytes]] = []
        self._beside: dict[tuple[str, bytes], Entry] = {}
        self._written = 0
        self._later: bool | None = None
        self.durable = 0
        """How many rows of the ledger are on the disk whatever happens to the machine; at first it is not known."""
        self.synced: Callable[[], None] = lambda: None
        """Called when `durable` has risen."""
        self._reserved = path is None
        with _reported(self._where, "cannot be opened"):
            if path is not None:
                _make_private(path)
            # One thread uses it, the loop's, which need not be the one that opened it.
            self._db = sqlite3.connect(path or ":memory:", isolation_level=None, timeout=0.0, check_same_thread=False)
            try:
                self._ours = _Owner(SCHEMA, party, signing)
                self._prepare(self._ours, _SETTINGS if path is None else _FILE_SETTINGS)
                # Behind the lock: another process of this party must not find its key overwritten.
                keeps_keys = path is not None and role is Role.MODEL_OWNER
                self.slots = KeySlots(path.with_name(KEY_FILE) if path is not None and keeps_keys else None)
            except BaseException:
                self._db.close()
                raise

    @classmethod
    def of(cls, identity: Identity, role: Role, folder: Path | None = None) -> "Journal":
        """Return the journal of this party in its state folder, or one in memory; raises `JournalError`."""
        path = folder / FILE if folder is not None else None
        return cls(path, party=identity.name, role=role, signing=identity.public.signing)

    def _prepare(self, ours: _Owner, settings: Iterable[str]) -> None:
        for setting in settings:
            self._db.execute(f"pragma {setting}")
        self._db.execute("begin immediate")
        for table in (ENTRIES_TABLE, _BODIES_TABLE, LEDGER_TABLE, EXHIBITS_TABLE):
            self._db.execute(f"create table if not exists {table}")
        # A page that lost its place would hide entries, and what the gate does not find it does not stop.
        ((sound,),) = self._db.execute("pragma integrity_check(entries)").fetchmany(1)
        if sound != "ok":
            raise sqlite3.DatabaseError(str(sound).strip().splitlines()[-1])
        known = self.read(_Owner)
        if known is not None:
            _check_ours(self._where, known, ours.party)
        if known != ours:
            self._put(ours)
        self._db.execute("commit")
        if known is None:
            # Into the file itself, where `look` finds it.
            self._db.execute("pragma wal_checkpoint(truncate)")

    def _reserve(self) -> None:
        """Give log and file their length: with the first write, since a start that is refused is to change nothing."""
        self._reserved = True
        self._db.execute("insert or replace into bodies values (x'', -1, zeroblob(?))", (_LOG - 32 * _PAGE,))
        self._db.execute("delete from bodies where subject = x'' and number = -1")
        self._db.execute("pragma wal_checkpoint(restart)")

    @property
    def where(self) -> str:
        """Its file, for sentences."""
        return self._where

    # --- writing

    def write(
        self,
        name: Write,
        *entries: Entry,
        forget: Iterable[type[Entry] | Entry] = (),
        keep: tuple[bytes, Iterable[Buffer]] | None = None,
    ) -> None:
        """Write, in one transaction, and return once it is on the disk, or for `REPEATABLE` ones in the system's hands.

        Args:
            name: which write this is.
            entries: what to remember.
            forget: kinds to forget altogether, or single entries, before that.
            keep: subject and records of the one sealed body that is kept; those kept before are dropped.

        Raises:
            JournalError: the disk is full or broken, or an earlier write has failed. The party is to end.
        """
        if name not in self._writes:
            raise JournalError(f"{name.value} is no write of this role")
        with self._transaction(name.value, later=name in REPEATABLE):
            for each in forget:
                if isinstance(each, Entry):
                    self._db.execute("delete from entries where kind = ? and key = ?", (each.kind, each.key))
                else:
                    self._db.execute("delete from entries where kind = ?", (each.kind,))
            for entry in entries:
                self._put(entry)
            if keep is not None:
                self._keep(*keep)

    @contextlib.contextmanager
    def _transaction(self, what: str, *, later: bool) -> Iterator[None]:
        if self._broken:
            raise JournalError(f"{self._where} could not be written before; nothing is written after that")
        with _reported(self._where, f"cannot be written ({what})"):
            try:
                if not self._reserved:
                    self._reserve()
                if self._later is not later:
                    self._db.execute(f"pragma synchronous = {'normal' if later else 'full'}")
                    self._db.execute(f"pragma wal_autocheckpoint = {(_LOG_LATER if later else _LOG) // _PAGE}")
                    self._later = later
                self._db.execute("begin immediate")
                yield
                self._put_staged()
                self._db.execute("commit")
            except BaseException:
                self._broken = True
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("rollback")
                raise
        if self._staged:
            self._written = self._staged[-1][0] + 1
        self._staged, self._exhibits, self._beside = [], [], {}
        if not later and self.durable < self._written:
            self.durable = self._written
            self.synced()

    def _put_staged(self) -> None:
        if self._staged:
            self._db.executemany("insert into ledger values (?, ?, ?)", self._staged)
        if self._exhibits:
            self._db.executemany("insert into exhibits values (?, ?, ?, ?)", self._exhibits)
        for entry in self._beside.values():
            self._put(entry)

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
        with _reported(self._where, "cannot be read"):
            row = self._db.execute("select value from entries where kind = ? and key = ?", (kind.kind, key)).fetchone()
            return None if row is None else self._decoded(kind, row[0])

    def all(self, kind: type[E]) -> list[E]:
        """Return all entries of a kind, by key. Raises `JournalError` if one is damaged."""
        with _reported(self._where, "cannot be read"):
            rows = self._db.execute("select value from entries where kind = ? order by key", (kind.kind,)).fetchall()
            return [self._decoded(kind, row[0]) for row in rows]

    def body(self, subject: bytes) -> Iterator[bytes]:
        """Yield the records of the body that is kept under this subject; the very bytes that were written."""
        number = 0
        while True:
            with _reported(self._where, "cannot be read"):
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

    # --- the view ledger's rows

    def stage(self, sequence: int, entry: bytes, hashes: bytes) -> None:
        """Have a row of the ledger written with the next transaction."""
        self._staged.append((sequence, entry, hashes))

    def stage_exhibit(self, subject: bytes, signer: str, label: str, content: bytes) -> None:
        """Have an exhibit written with the next transaction."""
        self._exhibits.append((subject, signer, label, content))

    def stage_beside(self, entry: Entry) -> None:
        """Have this entry written with the next transaction too; nobody waits for it, and a later one replaces it."""
        self._beside[entry.kind, entry.key] = entry

    def settle(self, *, later: bool = False) -> None:
        """Write the rows that are staged, if there are any, or with `later` give them to the system.

        Raises:
            JournalError: as `write` does.
        """
        if self._staged or (not later and (self._beside or self.durable < self._written)):
            with self._transaction("view ledger", later=later):
                if not self._staged:
                    # A transaction that changes nothing is not synced, nor is what was written before it.
                    self._put(self._ours)

    def unstage(self) -> None:
        """Drop what is staged: whoever staged it has ended, and what it was about never happened."""
        self._staged, self._exhibits, self._beside = [], [], {}
        # An earlier process may have ended before what it wrote was on the disk.
        self._written, self.durable = self.ledger_size(), 0

    def ledger_size(self) -> int:
        """Return how many rows of the ledger are written; raises `JournalError`."""
        with _reported(self._where, "cannot be read"):
            ((last,),) = self._db.execute("select max(sequence) from ledger").fetchall()
            return 0 if last is None else int(last) + 1

    def ledger_row(self, sequence: int) -> tuple[bytes, bytes]:
        """Return entry and hashes of a row, also of one that is staged; raises `JournalError` if there is none."""
        if self._staged and sequence >= self._staged[0][0]:
            return self._staged[sequence - self._staged[0][0]][1:]
        with _reported(self._where, "cannot be read"):
            row = self._db.execute("select entry, hashes from ledger where sequence = ?", (sequence,)).fetchone()
        if row is None or not isinstance(row[0], bytes) or not isinstance(row[1], bytes):
            raise JournalError(f"{self._where} is damaged: entry {sequence} of the view ledger is missing")
        return row[0], row[1]

    def copy_to(self, path: Path) -> None:
        """Write everything, staged rows too, and copy the journal to a new file: for an auditor.

        After a write that failed it is copied as that left it.

        Raises:
            JournalError: it cannot be written, or there is a file of that name.
        """
        if not self._broken:
            self.settle()
        with _reported(str(path), "cannot be written"):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            with contextlib.closing(sqlite3.connect(path)) as copy:
                self._db.backup(copy)

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._db.close()
        self.slots.close()

    def __repr__(self) -> str:
        return f"Journal({self._where})"


def look(path: Path, party: str) -> str:
    """Look at the journal of `party` without changing a byte; for a run that is to come.

    Returns:
        what is in it, as the end of a sentence.

    Raises:
        JournalError: that start would be refused.
    """
    where = str(path)
    check_closed(path)
    with _reported(where, "cannot be opened"):
        log = path.with_name(f"{path.name}-wal")
        replay = log.exists() and log.stat().st_size > 0
        try:
            # Read as it is: no lock, no log, no file beside it.
            with contextlib.closing(sqlite3.connect(f"file:{quote(where)}?immutable=1", uri=True)) as database:
                if path.stat().st_size == 0:
                    return "is empty, as if this party had never run"
                row = database.execute("select value from entries where kind = ?", (_Owner.kind,)).fetchone()
        except sqlite3.DatabaseError:
            # It may have ended in the middle of moving its log into the file; the next start does that again.
            if not replay:
                raise
            row = None
        if row is not None:
            _check_ours(where, msgspec.msgpack.decode(row[0], type=_Owner), party)
    if replay:
        return f"is {party}'s, and holds what a process that was ended wrote last; the next run takes it in"
    return f"is {party}'s"


def check_closed(path: Path) -> None:
    """Check that there is a regular file that no process of this machine has open as its journal.

    Raises:
        JournalError: there is none, it is no database, or a party that runs has it open.
    """
    with _reported(str(path), "cannot be opened"):
        _check_file(path)
        holder = _holder(path)
        if holder is not None:
            raise JournalError(f"{path} is in use: this party runs already, as process {holder}")


def party_of(database: sqlite3.Connection) -> str | None:
    """Return whose journal an open database says it is; None where it says nothing that this release can read."""
    row = database.execute("select value from entries where kind = ?", (_Owner.kind,)).fetchone()
    if row is None or not isinstance(row[0], bytes):
        return None
    try:
        known = msgspec.msgpack.decode(row[0], type=_Owner)
    except (msgspec.MsgspecError, ValueError):
        return None
    return known.party if known.schema == SCHEMA else None


def _holder(path: Path) -> int | None:
    """Return the process that has a lock on this database, or None."""
    asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, *_LOCKS, 0)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        kind, _, _, _, process = struct.unpack("hhqqi4x", fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    finally:
        os.close(descriptor)
    return None if kind == fcntl.F_UNLCK else int(process)


def _make_private(path: Path) -> None:
    """Have a file there that is this user's alone, before SQLite opens it: its log gets the permissions of this one."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        _check_file(path)
        for each in (path, path.with_name(f"{path.name}-wal")):
            with contextlib.suppress(FileNotFoundError):
                os.chmod(each, 0o600)


def _check_file(path: Path) -> None:
    about = os.lstat(path)
    if not stat.S_ISREG(about.st_mode):
        raise JournalError(f"{path} is not a regular file") from None
    if 0 < about.st_size < _LEAST_PAGE:
        # SQLite takes a file that is shorter than its header for a new one.
        raise sqlite3.DatabaseError("file is not a database")


def _check_ours(where: str, known: _Owner, party: str) -> None:
    if known.schema != SCHEMA:
        raise JournalError(f"{where} has schema {known.schema}; this release knows {SCHEMA}")
    if known.party != party:
        raise JournalError(f"{where} is the journal of {known.party}; give {party} a state folder of its own")


@contextlib.contextmanager
def _reported(where: str, what: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise JournalError(f"{where} is in use: this party runs already, in another process") from None
        raise JournalError(f"{where} {what}: {error}") from None
    except (sqlite3.Error, msgspec.MsgspecError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        if type(error) is sqlite3.DatabaseError or isinstance(error, msgspec.MsgspecError):
            reason = f"it is damaged ({error}); keep it, and read in docs/operating.md what a new one forgets"
        raise JournalError(f"{where} {what}: {reason}") from None
