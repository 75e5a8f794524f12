"""Journals that are somebody else's, in use, damaged, or no journal: one sentence, and not a byte changed."""

import os
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tertium.protocol.charter import Role
from tertium.protocol.errors import JournalError
from tertium.protocol.journal import FILE, Entry, Journal, Write, look

KEY = b"k" * 32


class Counted(Entry, frozen=True):
    """One of several entries that are written together."""

    kind: ClassVar[str] = "counted"

    number: int
    value: int
    padding: bytes = b""

    @property
    def key(self) -> bytes:
        return self.number.to_bytes(4, "big")


def opened(path: Path | None, party: str = "third", role: Role = Role.SECURE_WORKER, signing: bytes = KEY) -> Journal:
    return Journal(path, party=party, role=role, signing=signing)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and not path.is_symlink()}


def refused(call: Callable[[], Any], *words: str) -> str:
    """The one sentence with which it is refused."""
    with pytest.raises(JournalError) as caught:
        call()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert all(word in sentence for word in words), sentence
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return sentence


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / FILE


# --- whose it is, and who has it open

ENDED = """
import os, sys
from pathlib import Path
from tertium.protocol.charter import Role
from tertium.protocol.journal import Journal, Write
journal = Journal(Path(sys.argv[1]), party="third", role=Role.SECURE_WORKER, signing=b"k" * 32)
journal.write(Write.RELEASE_DECIDED, keep=(b"body", [b"x" * 100_000]))
os._exit(0)
"""
HOLDER = """
import sys
from pathlib import Path
from tertium.protocol.charter import Role
from tertium.protocol.errors import JournalError
from tertium.protocol.journal import Journal
try:
    journal = Journal(Path(sys.argv[1]), party="third", role=Role.SECURE_WORKER, signing=b"k" * 32)
except JournalError as error:
    print(error, flush=True)
else:
    print("open", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time(path: Path, other_process: Callable[..., subprocess.Popen]) -> None:
    holder = other_process(HOLDER, path)
    assert holder.stdout.readline() == b"open\n"
    before = files(path.parent)
    refused(lambda: opened(path), "is in use: this party runs already")
    refused(lambda: look(path, "third"), f"is in use: this party runs already, as process {holder.pid}")
    assert files(path.parent) == before
    holder.kill()
    holder.wait(20)
    opened(path).close()


def test_a_second_one_in_the_same_process_is_refused_and_frees_the_file_for_nobody(
    path: Path, other_process: Callable[..., subprocess.Popen]
) -> None:
    journal = opened(path)
    refused(lambda: opened(path), "is in use")
    out, _ = other_process(HOLDER, path).communicate(timeout=60)
    assert b"is in use" in out
    journal.write(Write.SESSION_OFFERED, Counted(1, 1))
    journal.close()


def test_another_partys_journal_is_refused_unchanged(path: Path) -> None:
    opened(path).close()
    before = files(path.parent)
    refused(lambda: opened(path, party="alice"), "is the journal of third", "give alice a state folder of its own")
    refused(lambda: look(path, "alice"), "is the journal of third")
    assert files(path.parent) == before


def test_a_journal_of_another_schema_is_refused_unchanged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tertium.protocol.journal.SCHEMA", 2)
    opened(path).close()
    monkeypatch.undo()
    before = files(path.parent)
    refused(lambda: opened(path), "has schema 2; this release knows 1")
    refused(lambda: look(path, "third"), "has schema 2; this release knows 1")
    assert files(path.parent) == before


def test_a_party_with_new_keys_keeps_what_it_knows(path: Path) -> None:
    journal = opened(path)
    journal.write(Write.RELEASE_DECIDED, Counted(1, 1))
    journal.close()
    for _ in range(2):
        journal = opened(path, signing=b"n" * 32)
        assert journal.all(Counted) == [Counted(1, 1)]
        journal.close()


# --- files that are no journal


def attempted(path: Path) -> tuple[Journal | None, str]:
    """Open a journal that may be refused; the sentence if it is."""
    try:
        return opened(path), ""
    except JournalError as error:
        return None, str(error)


def some(path: Path) -> list[Counted]:
    """Make a journal of several pages; returns what it holds."""
    entries = [Counted(number, number, os.urandom(900)) for number in range(40)]
    journal = opened(path)
    journal.write(Write.SESSION_OFFERED, *entries, keep=(b"body", [os.urandom(20_000)]))
    journal.close()
    return entries


def damaged(path: Path) -> None:
    before = files(path.parent)
    for call in (lambda: opened(path), lambda: look(path, "third")):
        refused(call, "cannot be opened: it is damaged", "keep it")
        assert files(path.parent) == before


@pytest.mark.parametrize("left", [1, 15, 50, 99, 100, 511, 1000, 4096, 5000, 8192, 20_000])
def test_a_truncated_file_is_refused_unchanged(path: Path, left: int) -> None:
    some(path)
    os.truncate(path, left)
    damaged(path)


@pytest.mark.parametrize("content", [b"x", b"not a database", bytes(16384), b"\xff" * 5000, b"SQLite format 3\0" * 99])
def test_garbage_is_refused_unchanged(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    damaged(path)


def test_a_flipped_byte_in_the_header_is_refused_unchanged_or_changes_nothing_that_is_read(path: Path) -> None:
    entries = some(path)
    whole = path.read_bytes()
    refusals = 0
    for at in range(100):
        changed = bytearray(whole)
        changed[at] ^= 0xFF
        path.write_bytes(changed)
        journal, sentence = attempted(path)
        if journal is None:
            assert "cannot be opened" in sentence
            assert files(path.parent) == {FILE: bytes(changed)}
            refusals += 1
        else:
            assert journal.all(Counted) == entries
            journal.close()
    assert refusals > 20


def test_an_entry_that_lost_its_place_is_refused_before_anything_hangs_on_it(path: Path) -> None:
    some(path)
    whole = path.read_bytes()
    page = whole.index(b"counted") // 4096 * 4096
    refusals = 0
    for at in range(page, page + 8):  # the page's header: its kind, how many cells, where they are
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        journal, sentence = attempted(path)
        if journal is None:
            assert "it is damaged" in sentence
            refusals += 1
        else:
            assert len(journal.all(Counted)) == 40
            journal.close()
    assert refusals > 2


@pytest.mark.parametrize("damage", ["one fewer", "out of order"])
def test_entries_that_would_silently_not_be_found_are_noticed_at_the_start(path: Path, damage: str) -> None:
    """What the gate does not find it does not stop, so a page that reads well and lacks an entry is refused."""
    some(path)
    whole = bytearray(path.read_bytes())
    page = next(at for at in range(0, len(whole), 4096) if whole[at] == 10 and b"counted" in whole[at : at + 4096])
    cells = int.from_bytes(whole[page + 3 : page + 5], "big")
    assert cells > 1
    first = page + 8
    if damage == "one fewer":
        whole[page + 3 : page + 5] = (cells - 1).to_bytes(2, "big")
    else:
        whole[first : first + 4] = whole[first + 2 : first + 4] + whole[first : first + 2]
    path.write_bytes(whole)
    database = sqlite3.connect(path)
    assert database.execute("select count(*) from entries").fetchone()[0] > 0  # nothing is noticed by reading
    database.close()
    refused(lambda: opened(path), "cannot be opened: it is damaged")


def test_an_entry_that_is_none_is_one_sentence(path: Path) -> None:
    some(path)
    with sqlite3.connect(path) as database:
        database.execute("update entries set value = x'c1' where kind = 'counted' and key = x'00000003'")
    database.close()
    journal = opened(path)
    refused(lambda: journal.read(Counted, b"\0\0\0\3"), "holds an entry (counted) that this release cannot read")
    refused(lambda: journal.all(Counted), "holds an entry (counted) that this release cannot read")
    assert journal.read(Counted, b"\0\0\0\4") is not None
    journal.close()


@pytest.mark.parametrize("kind", ["directory", "symlink", "dangling", "fifo"])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / FILE
    elsewhere = tmp_path / "elsewhere.db"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        if kind == "symlink":
            some(elsewhere)
        path.symlink_to(elsewhere)
    before = files(tmp_path)
    for call in (lambda: opened(path), lambda: look(path, "third")):
        refused(call, "is not a regular file")
    assert files(tmp_path) == before
    assert elsewhere.exists() is (kind == "symlink")


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    refused(lambda: opened(tmp_path / "nowhere" / FILE), "cannot be opened: No such file or directory")


# --- a look


def test_a_look_changes_nothing_and_says_what_comes_first(
    path: Path, other_process: Callable[..., subprocess.Popen]
) -> None:
    some(path)
    before = files(path.parent)
    assert look(path, "third") == "is third's"
    assert files(path.parent) == before
    ended = other_process(ENDED, path.with_name("killed.db"))
    assert ended.wait(60) == 0
    before = files(path.parent)
    assert "killed.db-wal" in before
    assert "a process that was ended wrote last" in look(path.with_name("killed.db"), "third")
    refused(lambda: look(path.with_name("killed.db"), "alice"), "is the journal of third")
    assert files(path.parent) == before
    path.write_bytes(b"")
    assert "is empty" in look(path, "third")
