"""Somebody else's ledger: every single edit, deletion, insertion, truncation and swap is found, in one sentence."""

import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tertium.crypto.errors import BadProof, BadSignature, NotInTree
from tertium.crypto.identity import Identity
from tertium.crypto.merkle import Tree, leaf_hash, node_hash, verify_consistency, verify_inclusion
from tertium.protocol.charter import Role
from tertium.protocol.codec import decode_as, encode
from tertium.protocol.errors import BrokenLedger, JournalError, NotInCharter, WrongCharter, WrongSender
from tertium.protocol.journal import FILE, Journal, Write
from tertium.protocol.ledger import Act, Checkpoint, DataClass, Ledger, LedgerEntry
from tertium.protocol.ledger_file import _ROWS, LedgerFile
from tertium.protocol.messages import Signed
from tertium.protocol.statements import sign

TORTURE = bool(os.environ.get("TERTIUM_TORTURE"))
ENTRIES = 1000
STRIDE = 1 if TORTURE else 97
"""Of the changes that are also made to a file on the disk, and read back, one in so many; all of them with torture."""
Row = tuple[int, bytes, bytes]
Forge = Callable[[list[bytes]], list[bytes]]


def noted(number: int, charter: bytes, **changes: Any) -> LedgerEntry:
    said = {"act": Act.SENT, "data": DataClass.CONTROL, "charter": charter, "peer": "alice", "wire": number}
    return LedgerEntry(**{**said, **changes})


def make(folder: Path, world: Any, count: int = ENTRIES, name: str = "third") -> tuple[Path, Signed]:
    """The file of a party with this many entries, and the checkpoint that somebody else has of it."""
    folder.mkdir(exist_ok=True)
    journal = Journal.of(world.identities[name], world.charter.party(name).role, folder)
    ledger = Ledger(journal, world.charter.digest)
    for number in range(count):
        ledger.append(noted(number, world.charter.digest))
    signed = ledger.checkpoint(world.identities[name])
    journal.settle()
    journal.close()
    return folder / FILE, signed


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory, parties: Any) -> tuple[Path, Signed, Any]:
    path, signed = make(tmp_path_factory.mktemp("thousand"), parties)
    return path, signed, parties


def rows_of(path: Path) -> list[Row]:
    database = sqlite3.connect(path)
    rows = database.execute("select * from ledger order by sequence").fetchall()
    database.close()
    return rows


def hashed(leaves: Iterable[bytes]) -> list[Row]:
    """The rows of a forger who makes everything anew from the bytes of the entries."""
    tree = Tree()
    return [(at, leaf, b"".join(tree.append(leaf_hash(leaf)))) for at, leaf in enumerate(leaves)]


def rewritten(path: Path, folder: Path, rows: Iterable[Row]) -> Path:
    """A copy of the file with these rows in place of its own."""
    copy = folder / "forged.db"
    shutil.copyfile(path, copy)
    database = sqlite3.connect(copy)
    with database:
        database.execute("delete from ledger")
        database.executemany("insert into ledger values (?, ?, ?)", rows)
    database.execute("pragma wal_checkpoint(truncate)")
    database.close()
    return copy


def judged(path: Path, world: Any, signed: Signed) -> str | None:
    """What an auditor with the charter and one checkpoint says of a file; None if nothing is wrong with it."""
    try:
        with LedgerFile(path, "third") as ledger:
            ledger.accept(world.charter, signed)
            list(ledger.entries())
            return None
    except BrokenLedger as error:
        found = error
    assert found.party == "third"
    assert str(path) in str(found)
    assert "\n" not in str(found)
    return found.reason


def refused(path: Path, party: str = "third") -> str:
    """The sentence with which a file is refused that accuses nobody."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(JournalError) as caught:
        LedgerFile(path, party)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert before is None or path.read_bytes() == before
    return str(caught.value)


# --- one thing wrong in a thousand entries


def edits(leaves: list[bytes]) -> Iterator[list[bytes]]:
    chance = random.Random(1)
    for at, leaf in enumerate(leaves):
        changed = bytearray(leaf)
        changed[chance.randrange(len(leaf))] ^= 1 << chance.randrange(8)
        yield [*leaves[:at], bytes(changed), *leaves[at + 1 :]]


def deletions(leaves: list[bytes]) -> Iterator[list[bytes]]:
    return (leaves[:at] + leaves[at + 1 :] for at in range(len(leaves)))


def insertions(leaves: list[bytes]) -> Iterator[list[bytes]]:
    """Another entry before each, or each a second time. Behind the last it would be growth, as any log grows."""
    another = encode(noted(77_777, bytes(32)))
    last = len(leaves) - 1
    return ([*leaves[:at], leaf if at % 2 and at < last else another, *leaves[at:]] for at, leaf in enumerate(leaves))


def truncations(leaves: list[bytes]) -> Iterator[list[bytes]]:
    return (leaves[:size] for size in range(len(leaves)))


def swapped(leaves: list[bytes], one: int, other: int) -> list[bytes]:
    out = list(leaves)
    out[one], out[other] = out[other], out[one]
    return out


def adjacent_swaps(leaves: list[bytes]) -> Iterator[list[bytes]]:
    return (swapped(leaves, at, at + 1) for at in range(len(leaves) - 1))


def random_swaps(leaves: list[bytes]) -> Iterator[list[bytes]]:
    chance = random.Random(2)
    return (swapped(leaves, *chance.sample(range(len(leaves)), 2)) for _ in range(1000))


CHANGES = {
    change.__name__: change for change in (edits, deletions, insertions, truncations, adjacent_swaps, random_swaps)
}
COUNTS = {"adjacent_swaps": ENTRIES - 1}


class Forger:
    """Makes every hash of a changed log again, but for subtrees in which nothing changed."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.rows = hashed(leaves)
        self.leaves = list(leaves)
        self._hash = {leaf: leaf_hash(leaf) for leaf in leaves}

    def node(self, level: int, number: int) -> bytes:
        hashes = self.rows[((number + 1) << level) - 1][2]
        return hashes[32 * level : 32 * level + 32]

    def root(self, leaves: list[bytes], size: int) -> bytes:
        """The root of the first `size` entries of the changed log."""
        changed = [at for at, (one, other) in enumerate(zip(leaves[:size], self.leaves, strict=False)) if one != other]
        if 0 < len(changed) <= 2:
            return self._patched(leaves, changed, 0, size)
        tree = Tree.resume(min([size, *changed]), self.node)
        for leaf in leaves[tree.size : size]:
            tree.append(self._hash.get(leaf) or leaf_hash(leaf))
        return tree.root()

    def _patched(self, leaves: list[bytes], changed: list[int], begin: int, end: int) -> bytes:
        level = (end - begin - 1).bit_length()
        if end - begin == 1 << level and not any(begin <= at < end for at in changed):
            return self.node(level, begin >> level)
        if level == 0:
            return leaf_hash(leaves[begin])
        middle = begin + (1 << (level - 1))
        parts = (self._patched(leaves, changed, begin, middle), self._patched(leaves, changed, middle, end))
        return node_hash(*parts)


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_has_another_root_or_is_too_short(thousand: Any, change: str) -> None:
    """However its maker hashes it again: the root at the size of the checkpoint is what the party signed."""
    path, signed, _ = thousand
    leaves = [row[1] for row in rows_of(path)]
    forger, wanted = Forger(leaves), decode_as(Checkpoint, signed.statement)
    assert (wanted.size, forger.root(leaves, ENTRIES)) == (ENTRIES, wanted.root)
    seen = 0
    for forged in CHANGES[change](leaves):
        seen += 1
        assert len(forged) < wanted.size or forger.root(forged, wanted.size) != wanted.root
    assert seen == COUNTS.get(change, ENTRIES)


@pytest.mark.timeout(1800 if TORTURE else 120)
@pytest.mark.parametrize("hashes", ["left as they were", "made again"])
@pytest.mark.parametrize("change", CHANGES)
def test_every_change_to_a_file_is_found(thousand: Any, tmp_path: Path, change: str, hashes: str) -> None:
    """A forger who only changes rows, and one who makes every hash again; the auditor has one checkpoint."""
    path, signed, world = thousand
    rows = rows_of(path)
    leaves = [row[1] for row in rows]
    for at, forged in enumerate(CHANGES[change](leaves)):
        if at % STRIDE:
            continue
        if hashes == "made again":
            made = hashed(forged)
        else:
            made = [(at, leaf, rows[min(at, ENTRIES - 1)][2]) for at, leaf in enumerate(forged)]
        assert judged(rewritten(path, tmp_path, made), world, signed) is not None, (change, at)


def test_the_honest_file_is_accepted_and_left_as_it_was(thousand: Any) -> None:
    path, signed, world = thousand
    before = {each.name: each.read_bytes() for each in path.parent.iterdir()}
    assert judged(path, world, signed) is None
    with LedgerFile(path, "third") as ledger:
        assert (ledger.party, ledger.size) == ("third", ENTRIES)
        assert [entry.wire for _, entry in ledger.entries()] == list(range(ENTRIES))
        kept = ledger.last_signed()
        assert {each.name for each in path.parent.iterdir()} == set(before)
        assert ledger.accept(world.charter, signed).size == ENTRIES
        assert repr(ledger) == f"LedgerFile(third: 1000 entries in {path})"
    assert kept == signed or kept is None
    assert {each.name: each.read_bytes() for each in path.parent.iterdir()} == before


def test_a_log_that_grew_since_is_accepted_with_its_proofs(tmp_path: Path, parties: Any) -> None:
    path, early = make(tmp_path / "third", parties, 13)
    journal = Journal.of(parties.identities["third"], Role.SECURE_WORKER, path.parent)
    own = Ledger(journal, parties.charter.digest)
    for number in range(13, 40):
        own.append(noted(number, parties.charter.digest))
    late = own.checkpoint(parties.identities["third"])
    journal.write(Write.SESSION_LEFT)
    journal.close()
    with LedgerFile(path, "third") as ledger:
        assert ledger.last_signed() == late
        old, new = (ledger.accept(parties.charter, each) for each in (early, late))
        assert (old.size, new.size) == (13, 40)
        verify_consistency(13, 40, ledger.consistency_proof(13, 40), old.root, new.root)
        for at, entry in ledger.entries():
            verify_inclusion(leaf_hash(encode(entry)), at, 40, ledger.inclusion_proof(at, 40), new.root)
            with pytest.raises(BadProof):
                verify_inclusion(leaf_hash(encode(entry)), at + 1, 40, ledger.inclusion_proof(at, 40), new.root)
        for call in (
            ledger.root,
            lambda size: ledger.inclusion_proof(0, size),
            lambda s: ledger.consistency_proof(1, s),
        ):
            with pytest.raises(NotInTree):
                call(41)


# --- one row that is none

SPOILT = {
    "update ledger set sequence = 9 where sequence = 8": "lacks entry 8: the next is 9",
    "update ledger set sequence = -1 where sequence = 0": "lacks entry 0: the next is -1",
    "update ledger set entry = 'text' where sequence = 5": "has an entry 5 that is not bytes",
    "update ledger set entry = cast(x'ff' as text) where sequence = 5": "has an entry 5 that is not bytes",
    "update ledger set entry = 7 where sequence = 5": "has an entry 5 that is not bytes",
    "update ledger set hashes = 7 where sequence = 5": "has an entry 5 that is not bytes",
    "update ledger set hashes = cast(hashes || x'00' as blob) where sequence = 5": "has an entry 5 that is not the one",
    "update ledger set hashes = x'' where sequence = 5": "has an entry 5 that is not the one its hashes are of",
    "update ledger set entry = x'' where sequence = 5": "has an entry 5 that is none: ",
    "update ledger set entry = cast(entry || x'00' as blob) where sequence = 5": "has an entry 5 that is none: ",
    "update ledger set entry = x'81a161a162' where sequence = 5": "has an entry 5 that is none: ",
    "update ledger set entry = zeroblob(8388609) where sequence = 5": "has an entry 5 of 8388609 bytes",
}


@pytest.mark.parametrize(("statement", "words"), SPOILT.items(), ids=list(SPOILT))
def test_a_row_that_is_none_is_named(tmp_path: Path, parties: Any, statement: str, words: str) -> None:
    path, signed = make(tmp_path / "third", parties, 9)
    run(path, statement)
    assert words in (judged(path, parties, signed) or "")


def run(path: Path, *statements: str) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        database.execute(statement)
    database.execute("pragma wal_checkpoint(truncate)")
    database.close()


def test_an_entry_made_from_a_later_one_is_found(tmp_path: Path, parties: Any) -> None:
    path, signed = make(tmp_path / "third", parties, 9)
    leaves = [row[1] for row in rows_of(path)]
    for at, wrong in ((0, (0,)), (5, (5,)), (5, (1, 8)), (8, (9,))):
        entry = encode(noted(at, parties.charter.digest, derived_from=wrong))
        forged = hashed([*leaves[:at], entry, *leaves[at + 1 :]])
        said = judged(rewritten(path, tmp_path, forged), parties, signed)
        assert said is not None
        assert f"has an entry {at} that is made from a later one" in said


def test_another_encoding_of_the_same_entry_is_none(tmp_path: Path, parties: Any) -> None:
    path, signed = make(tmp_path / "third", parties, 3)
    leaves = [row[1] for row in rows_of(path)]
    assert leaves[1][:3] == b"\xdc\x00\x10"
    longer = b"\xdd\x00\x00\x00\x10" + leaves[1][3:]
    assert msgspec.msgpack.decode(longer) == msgspec.msgpack.decode(leaves[1])
    said = judged(rewritten(path, tmp_path, hashed([leaves[0], longer, leaves[2]])), parties, signed)
    assert said is not None
    assert "has an entry 1 that is none" in said
    assert "canonical" in said


def test_a_row_too_large_to_hold_is_not_held(tmp_path: Path, parties: Any) -> None:
    path, _ = make(tmp_path / "third", parties, 3)
    run(path, "update ledger set entry = zeroblob(30000000) where sequence = 1")
    assert "cannot be read as far as its last entry: string or blob too big" in refused(path)


def cut(rows: list[Row]) -> list[Row]:
    return hashed([row[1] for row in rows[:33]])


def in_words(rows: list[Row]) -> list[Any]:
    return [(at, entry, "words") for at, entry, _ in rows]


@pytest.mark.parametrize(("forge", "words"), [(cut, "changed while"), (in_words, "has an entry 0 that is not bytes")])
def test_a_file_that_changes_while_it_is_read_is_found(
    tmp_path: Path, parties: Any, forge: Callable[..., Any], words: str
) -> None:
    path, _ = make(tmp_path / "third", parties, 40)
    forged = rewritten(path, tmp_path, forge(rows_of(path)))
    with LedgerFile(path, "third") as ledger:
        with open(path, "r+b") as file:
            file.write(forged.read_bytes())
        ledger._db.execute("pragma shrink_memory")  # or a file this small is in memory whole
        with pytest.raises(BrokenLedger, match=words):
            list(ledger.entries())
        with pytest.raises(BrokenLedger, match="changed while it was read"):
            ledger.inclusion_proof(39, 40)


# --- whose it is, and who signed for it


def test_a_checkpoint_counts_only_as_this_partys_own_word(tmp_path: Path, parties: Any) -> None:
    path, signed = make(tmp_path / "third", parties, 5)
    good = decode_as(Checkpoint, signed.statement)
    stranger = Identity.generate("stranger")

    def said(who: Identity, **changes: Any) -> Signed:
        return sign(who, msgspec.structs.replace(good, **changes))

    third, alice = parties.identities["third"], parties.identities["alice"]
    with LedgerFile(path, "third") as ledger:
        assert ledger.accept(parties.charter, signed) == good
        for wrong, error in (
            (msgspec.structs.replace(signed, signature=bytes(64)), BadSignature),
            (msgspec.structs.replace(signed, signer="alice"), BadSignature),
            (said(stranger, party="stranger"), NotInCharter),
            (said(alice), WrongSender),
            (said(alice, party="alice"), WrongSender),
            (said(third, party="alice"), WrongSender),
            (said(third, charter=bytes(32)), WrongCharter),
            (said(third, root=bytes(32)), BrokenLedger),
            (said(third, size=4), BrokenLedger),
            (said(third, size=0), BrokenLedger),
            (said(third, size=6), BrokenLedger),
        ):
            with pytest.raises(error):
                ledger.accept(parties.charter, wrong)
        assert ledger.accept(parties.charter, said(third, size=4, root=ledger.root(4))).size == 4


def test_another_partys_ledger_accuses_nobody(tmp_path: Path, parties: Any) -> None:
    path, _ = make(tmp_path / "alice", parties, 3, "alice")
    assert refused(path).endswith("is the ledger of alice, not of third")


def test_a_ledger_in_use_is_refused(
    tmp_path: Path, parties: Any, other_process: Callable[..., subprocess.Popen]
) -> None:
    path, _ = make(tmp_path / "third", parties, 3)
    holder = other_process(HOLDER, path)
    assert holder.stdout.readline() == b"open\n"
    assert f"is in use: this party runs already, as process {holder.pid}" in refused(path)
    holder.kill()
    holder.wait(20)
    LedgerFile(path, "third").close()


HOLDER = """
import sys
from pathlib import Path
from tertium.protocol.charter import Role
from tertium.protocol.journal import Journal
journal = Journal(Path(sys.argv[1]), party="third", role=Role.SECURE_WORKER, signing=bytes(32))
print("open", flush=True)
sys.stdin.read()
"""
KILLED = """
import os, sys
from pathlib import Path
from tertium.crypto.identity import Identity
from tertium.protocol.charter import Role
from tertium.protocol.journal import Journal
from tertium.protocol.ledger import Act, DataClass, Ledger, LedgerEntry
journal = Journal(Path(sys.argv[1]), party="third", role=Role.SECURE_WORKER, signing=bytes(32))
ledger = Ledger(journal, b"c" * 32)
for number in range(7):
    ledger.append(LedgerEntry(Act.SENT, DataClass.CONTROL, b"c" * 32, "alice", wire=number))
    ledger.settle()
os._exit(0)
"""


def test_what_a_killed_party_wrote_last_is_read_and_its_files_are_left_alone(
    tmp_path: Path, other_process: Callable[..., subprocess.Popen], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / FILE
    assert other_process(KILLED, path).communicate(timeout=60) == (b"", b"")
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    assert f"{FILE}-wal" in before
    with LedgerFile(path, "third") as ledger:
        assert [entry.wire for _, entry in ledger.entries()] == list(range(7))
        copies = list(Path(ledger._db.execute("pragma database_list").fetchone()[2]).parent.iterdir())
        assert tmp_path not in {each.parent for each in copies}
    assert not any(each.exists() for each in copies)
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path))
        assert refused(path, "alice").endswith("is the ledger of third, not of alice")
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


# --- a file that somebody made to be read

HOSTILE = {
    "a view": (
        "alter table ledger rename to theirs",
        "create view ledger (sequence, entry, hashes) as "
        "with recursive n(i) as (select 0 union all select i + 1 from n) select i, x'', x'' from n",
    ),
    "no table": ("drop table ledger",),
    "another table": ("drop table ledger", "create table ledger (sequence integer, entry blob, hashes blob)"),
    "a generated column": (
        "drop table ledger",
        "create table ledger (sequence integer primary key, entry blob not null, hashes blob as (zeroblob(32)))",
    ),
    "no entries": ("drop table entries",),
    "an owner that is none": ("update entries set value = x'c0' where kind = 'journal'",),
    "an owner that is text": ("update entries set value = 'third' where kind = 'journal'",),
    "nobody's": ("delete from entries where kind = 'journal'",),
}


@pytest.mark.parametrize("statements", HOSTILE.values(), ids=list(HOSTILE))
def test_a_schema_of_somebody_elses_making_is_refused(
    tmp_path: Path, parties: Any, statements: tuple[str, ...]
) -> None:
    path, _ = make(tmp_path / "third", parties, 3)
    run(path, *statements)
    assert "no table of view ledgers" in (said := refused(path)) or said.endswith(
        "is the ledger of nobody, not of third"
    )


def test_an_index_that_says_something_else_is_not_read(tmp_path: Path, parties: Any) -> None:
    """An index over all columns is a second copy of the rows, or none, and the file says which costs less."""
    path, signed = make(tmp_path / "third", parties, 40)
    run(
        path,
        "create index everything on ledger (sequence, entry, hashes)",
        "analyze",
        "update sqlite_stat1 set stat = '1 1 1 1 sz=1'",
        "insert into sqlite_stat1 values ('ledger', null, '1000000 sz=100000')",
    )
    with LedgerFile(path, "third") as ledger:
        assert "INDEX" not in plan(ledger, _ROWS)
        assert "COVERING INDEX everything" in plan(ledger, _ROWS.replace("not indexed", ""))
    assert judged(path, parties, signed) is None


def plan(ledger: LedgerFile, query: str) -> str:
    return str(ledger._db.execute(f"explain query plan {query}").fetchall())


@pytest.mark.parametrize("kept", ["'text'", "x'00'", "7"])
def test_a_kept_checkpoint_that_is_none_is_named(tmp_path: Path, parties: Any, kept: str) -> None:
    path, _ = make(tmp_path / "third", parties, 3)
    run(path, f"insert or replace into entries values ('checkpoint', x'', {kept})")
    with LedgerFile(path, "third") as ledger, pytest.raises(BrokenLedger, match="holds a checkpoint that is none"):
        ledger.last_signed()


def test_a_file_that_is_no_ledger_is_one_sentence(tmp_path: Path, parties: Any) -> None:
    path, _ = make(tmp_path / "third", parties, 300)
    whole = path.read_bytes()
    assert "cannot be opened" in refused(tmp_path / "missing.db")
    assert "is not a regular file" in refused(tmp_path)
    made = tmp_path / "made.db"
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in refused(tmp_path / "pipe")
    for content in (b"", b"x" * 10, b"x" * 8192, whole[:4096], whole[: len(whole) // 2], bytes(8192)):
        made.write_bytes(content)
        assert refused(made)


def test_a_file_with_bytes_altered_anywhere_never_ends_in_anything_else(tmp_path: Path, parties: Any) -> None:
    """Noise in the pages of the database itself: refused, broken, or noise where nothing of the ledger lies."""
    path, signed = make(tmp_path / "third", parties, 60)
    whole, chance = path.read_bytes(), random.Random(3)
    made, found = tmp_path / "noise.db", 0
    for _ in range(150):
        content = bytearray(whole)
        # Most of the file is room for later.
        at = chance.randrange(min(len(whole), 40_000) - 16)
        content[at : at + 16] = chance.randbytes(16)
        made.write_bytes(content)
        try:
            said = judged(made, parties, signed)
        except JournalError as error:
            said = str(error)
        found += said is not None
    assert 0 < found < 150
