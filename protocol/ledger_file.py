"""Somebody else's view ledger, read by whoever audits it: nothing in the file is believed.

Rules of the file:
- The file is the party's own database, so its schema is somebody else's too: it is read through no table, view or index
  but the one this release makes, and never written. A log that a killed party left beside it is taken in on a copy.
- Pages that point at one page many times make a file of some kilobytes into a table without end. So no table gives more
  bytes than its file has, and the schema takes no longer to read than a sound one can.
- Opening reads all of it once. Reading the entries again checks them again, and that they still come to the same root.
- An error names the file and, where there is one, the entry. What cannot be read at all is a `JournalError`, since it
  accuses nobody; a ledger that contradicts itself, or what its party signed, is a `BrokenLedger`.
- Exhibits are in no tree, so whoever had the file can have changed one: each is handed on as it lies there, and shows
  nothing before its signature verifies and its digest is its subject.

Checks, numbered; a ledger that passes 1 to 6 is a log, and 7 makes it the party's.
 1. the file is a database of this format, says that it is the party's, and no running process has it open
 2. entries are numbered from 0, and none is left out
 3. entry and hashes are bytes, within bounds
 4. an entry decodes, canonically and within bounds
 5. what it is made from comes before it
 6. the hashes are those of the tree at this entry
 7. a checkpoint is signed by the party, no longer than the log, and the log's root at its size is the one signed
"""

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from ..crypto.errors import NotInTree
from ..crypto.files import reason
from ..crypto.labels import Label
from ..crypto.merkle import Tree, consistency_proof, inclusion_proof, last_leaf, leaf_hash
from . import limits
from .charter import Charter
from .codec import decode_as
from .errors import BrokenLedger, JournalError, MalformedMessage, WrongCharter, WrongSender
from .journal import ENTRIES_TABLE, EXHIBITS_TABLE, LEDGER_TABLE, check_closed, party_of
from .ledger import Checkpoint, CheckpointKept, Exhibit, LedgerEntry, stored_node
from .messages import Signed
from .statements import open_signed
from .text import printable

_ROW_BYTES: Final = 4
"""What the smallest row takes in a file: its length, its number, and how many columns it has."""
_SCHEMA_STEPS: Final = 20_000
"""Steps of SQLite's machine for one statement while a file is opened; ours takes some hundreds."""
_ROWS: Final = "select sequence, entry, hashes from ledger not indexed order by sequence"
_ROW: Final = "select hashes from ledger where sequence = ?"
_ENTRY: Final = "select entry from ledger where sequence = ?"
_EXHIBITS: Final = "select subject, signer, label, content from exhibits not indexed"


class LedgerFile:
    """A party's ledger, read only."""

    def __init__(self, path: Path, party: str) -> None:
        """Open the journal file at `path`, which is said to be `party`'s, and check all of its ledger.

        Raises:
            JournalError: it cannot be read, is in use, or is another party's.
            BrokenLedger: the ledger contradicts itself; the error names the party.
        """
        self._path = path
        self._party = party
        self._open = contextlib.ExitStack()
        self._tree = Tree()
        try:
            self._db = self._opened()
            for _ in self._checked(self._tree):
                pass
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> "LedgerFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def party(self) -> str:
        """Whose ledger it is said to be."""
        return self._party

    @property
    def size(self) -> int:
        """How many entries it has."""
        return self._tree.size

    def entries(self) -> Iterator[tuple[int, LedgerEntry]]:
        """Yield sequence number and entry, checked again; raises `BrokenLedger` also where the file was changed."""
        tree = Tree()
        yield from self._checked(tree)
        if (tree.size, tree.root()) != (self._tree.size, self._tree.root()):
            raise self._broken("changed while it was read")

    def root(self, size: int) -> bytes:
        """Return the root the log had at this size; raises `NotInTree` for one it never had."""
        return self._tree.root() if size == self.size else Tree.resume(self._known(size), self._node).root()

    def inclusion_proof(self, sequence: int, size: int) -> list[bytes]:
        """Return the proof that an entry is in the log of `size`; raises `NotInTree`."""
        return inclusion_proof(sequence, self._known(size), self._node)

    def consistency_proof(self, old: int, new: int) -> list[bytes]:
        """Return the proof that the log of `new` is that of `old`, grown; raises `NotInTree`."""
        return consistency_proof(old, self._known(new), self._node)

    def accept(self, charter: Charter, signed: Signed) -> Checkpoint:
        """Check a checkpoint of this party, from wherever it came, against the log, and return it.

        Raises:
            BadSignature, NotInCharter, MalformedMessage: the party did not sign it, so it shows nothing.
            WrongSender, WrongCharter: it is about another party's ledger, or was signed under another charter.
            BrokenLedger: the party signed it, and this ledger is not the one it signed for.
        """
        statement = open_signed(charter, signed, Checkpoint)  # 7
        if not signed.signer == statement.party == self._party:
            raise WrongSender(f"a checkpoint of {statement.party}, held against {self._path}", party=signed.signer)
        if statement.charter != charter.digest:
            raise WrongCharter("a checkpoint of another charter", party=signed.signer)
        if statement.size > self.size:
            raise self._broken(f"ends at entry {self.size - 1}, and its party signed for {statement.size} entries")
        if self.root(statement.size) != statement.root:
            raise self._broken(f"has other entries than the {statement.size} its party signed for")
        return statement

    def data(self, sequence: int) -> bytes:
        """Return the exact bytes of an entry; raises `NotInTree` for one that is not there."""
        if not 0 <= sequence < self.size:
            raise NotInTree(f"the view ledger has no entry {sequence}")
        return self._blob(_ENTRY, sequence)

    def exhibits(self) -> Iterator[Exhibit | None]:
        """Yield what lies beside the ledger, as somebody else wrote it; None for a row that can be no exhibit.

        Raises:
            JournalError: the table cannot be read to its end.
        """
        labels = {label.value: label for label in Label}
        with self._reading("has exhibits that cannot be read"):
            for subject, signer, label, content in self._counted(_EXHIBITS):
                whole = isinstance(subject, bytes) and isinstance(signer, str) and isinstance(content, bytes)
                known = labels.get(label) if isinstance(label, str) else None
                if whole and known is not None and len(subject) == limits.DIGEST:
                    yield Exhibit(subject, signer, known, content)
                else:
                    yield None

    def last_signed(self) -> Signed | None:
        """Return the last checkpoint the file itself holds, of which nothing is believed until `accept` has it."""
        with self._reading("cannot be read"):
            row = self._db.execute("select value from entries where kind = ?", (CheckpointKept.kind,)).fetchone()
        if row is None:
            return None
        if not isinstance(row[0], bytes):
            raise self._broken("holds a checkpoint that is none")
        try:
            return decode_as(CheckpointKept, row[0], party=self._party).signed
        except MalformedMessage:
            raise self._broken("holds a checkpoint that is none") from None

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._open.close()

    # --- reading what somebody else wrote

    def _opened(self) -> sqlite3.Connection:
        check_closed(self._path)  # 1
        with self._reading("cannot be opened"):
            path, how = self._path, "?mode=ro&immutable=1"
            log = path.with_name(f"{path.name}-wal")
            if log.is_file() and log.stat().st_size > 0:
                folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="tertium-ledger-")))
                for each in (path, log):
                    shutil.copyfile(each, folder / each.name)
                path, how = folder / path.name, ""
            database = sqlite3.connect(f"file:{quote(str(path))}{how}", uri=True, isolation_level=None)
            self._open.callback(database.close)
            # A file may ask for more memory than there is, and its text need not be text.
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limits.LEDGER_ENTRY_BYTES + limits.MIB)
            database.set_progress_handler(lambda: True, _SCHEMA_STEPS)
            database.text_factory = lambda content: content.decode("utf-8", "replace")
            for setting in ("locking_mode = exclusive", "trusted_schema = off", "cell_size_check = on"):
                database.execute(f"pragma {setting}")
            for table in (ENTRIES_TABLE, LEDGER_TABLE, EXHIBITS_TABLE):
                self._check_table(database, table)
            said = party_of(database)
            database.set_progress_handler(None, 0)
            (pages,), (page,) = (database.execute(f"pragma page_{each}").fetchone() for each in ("count", "size"))
            self._bytes = pages * page
        if said != self._party:
            raise JournalError(f"{self._path} is the ledger of {said or 'nobody'}, not of {self._party}")
        return database

    def _check_table(self, database: sqlite3.Connection, table: str) -> None:
        """A view or a virtual table of that name would run what its maker wrote, for as long as that takes."""
        name = table.partition(" ")[0]
        rows = database.execute("select type, sql from sqlite_schema where name = ?", (name,)).fetchmany(2)
        if rows != [("table", f"CREATE TABLE {table}")]:
            raise JournalError(f"{self._path} has no table of view ledgers as this release makes them ({name})")

    def _checked(self, tree: Tree) -> Iterator[tuple[int, LedgerEntry]]:
        for sequence, (number, data, hashes) in enumerate(self._rows()):
            if number != sequence:  # 2
                raise self._broken(f"lacks entry {sequence}: the next is {number}")
            if not isinstance(data, bytes) or not isinstance(hashes, bytes):  # 3
                raise self._broken(f"has an entry {sequence} that is not bytes")
            if len(data) > limits.LEDGER_ENTRY_BYTES:
                raise self._broken(f"has an entry {sequence} of {len(data)} bytes")
            try:
                entry = decode_as(LedgerEntry, data)  # 4
            except MalformedMessage as error:
                raise self._broken(f"has an entry {sequence} that is none: {error.reason}") from None
            if entry.derived_from and entry.derived_from[-1] >= sequence:  # 5
                raise self._broken(f"has an entry {sequence} that is made from a later one")
            if b"".join(tree.append(leaf_hash(data))) != hashes:  # 6
                raise self._broken(f"has an entry {sequence} that is not the one its hashes are of")
            yield sequence, entry

    def _rows(self) -> Iterator[tuple[object, object, object]]:
        with self._reading("cannot be read as far as its last entry"):
            yield from self._counted(_ROWS)

    def _counted(self, statement: str) -> Iterator[tuple[Any, ...]]:
        """Yield all rows; raises `sqlite3.DatabaseError` once they are more than the file can hold."""
        left = self._bytes
        for row in self._db.execute(statement):
            left -= _ROW_BYTES + sum(len(each) for each in row if isinstance(each, bytes | str))
            if left < 0:
                raise sqlite3.DatabaseError("a table has more than the file can hold")
            yield row

    def _node(self, level: int, number: int) -> bytes:
        return stored_node(self._blob(_ROW, last_leaf(level, number)), level)

    def _blob(self, statement: str, sequence: int) -> bytes:
        with self._reading("cannot be read"):
            row = self._db.execute(statement, (sequence,)).fetchone()
        if row is None or not isinstance(row[0], bytes):
            raise self._broken("changed while it was read")
        return bytes(row[0])

    def _known(self, size: int) -> int:
        if size > self.size:
            raise NotInTree(f"the view ledger has {self.size} entries, not {size}")
        return size

    def _broken(self, how: str) -> BrokenLedger:
        return BrokenLedger(f"the ledger in {self._path} {_plain(how)}", party=self._party)

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise JournalError(f"{self._path} {what}: {_plain(str(error))}") from None
        except OSError as error:
            raise JournalError(f"{self._path} {what}: {reason(error)}") from None

    def __repr__(self) -> str:
        return f"LedgerFile({self._party}: {self.size} entries in {self._path})"


def _plain(text: str) -> str:
    """Return what quotes the file as one line for a terminal."""
    return printable(text[: limits.TEXT_LENGTH])
