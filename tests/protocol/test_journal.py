"""The journal: everything that was written comes back, half a write never does, and what is wrong is one sentence."""

import importlib
import os
import pkgutil
import random
import re
import select
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tertium import owner, protocol, secure_worker, workers
from tertium.crypto.identity import Identity
from tertium.crypto.sealing import RoundKey
from tertium.owner.memory import Memory, QuestionKept, ReachedKept
from tertium.protocol.charter import Role
from tertium.protocol.errors import JournalError
from tertium.protocol.journal import FILE, WRITES, Entry, Journal, Write, _Owner
from tertium.protocol.messages import Signed
from tertium.protocol.statements import sign

KEY = b"k" * 32
KILLS = 24


class Counted(Entry, frozen=True):
    """One of several entries that are written together."""

    kind: ClassVar[str] = "counted"

    number: int
    value: int
    padding: bytes = b""

    @property
    def key(self) -> bytes:
        return self.number.to_bytes(4, "big")


def kinds() -> list[type[Entry]]:
    """Every kind of entry in the tree but the one that says whose journal it is, which nobody else writes."""
    for package in (owner, protocol, secure_worker, workers):
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
    return sorted(
        (kind for kind in Entry.__subclasses__() if kind.__module__.startswith("tertium.") and kind is not _Owner),
        key=lambda kind: (kind.__module__, kind.kind),
    )


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


# --- what comes back


def asked(world: Any, attempt: int = 0) -> tuple[Signed, RoundKey]:
    key = RoundKey()
    return sign(world.identities["owner"], world.ask(attempt=attempt, owner_key=key.public)), key


def test_a_crash_leaves_the_key_the_journal_speaks_of(path: Path, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended after the key was put down and before the question was, and after the step was noted and before the key
    was overwritten: the first process of all knows its key again, and the next one finds none."""

    def begun() -> tuple[Journal, Memory]:
        journal = Journal.of(owner, Role.MODEL_OWNER, path.parent)
        return journal, Memory(charter, journal)

    owner, charter = world.identities["owner"], world.charter
    (question, first), (again, second) = asked(world), asked(world, attempt=1)
    journal, memory = begun()
    memory.sign_question(question, first)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "write", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            memory.sign_question(again, second)
    assert traces(path.parent, second.secret)
    journal.close()
    journal, memory = begun()
    assert not traces(path.parent, second.secret)
    kept = memory.question()
    assert kept is not None
    assert kept[2].secret == first.secret
    with monkeypatch.context() as patch:
        patch.setattr(journal.slots, "clear", lambda **_: None)
        memory.take_step(ReachedKept(1, bytes(32), str(path.parent), finished=False))
    assert traces(path.parent, first.secret)
    journal.close()
    journal, memory = begun()
    assert memory.question() is None
    assert not traces(path.parent, first.secret)
    journal.close()


def test_a_key_that_is_not_the_questions_is_one_sentence(path: Path, world: Any) -> None:
    question, key = asked(world)
    journal = Journal.of(world.identities["owner"], Role.MODEL_OWNER, path.parent)
    memory = Memory(world.charter, journal)
    memory.sign_question(question, key)
    for secret in (RoundKey().secret, b"", b"x"):
        journal.slots.put(0, secret)
        refused(memory.question, "the key to the answer of round", "round.key")
    journal.close()


@pytest.mark.parametrize("content", [b"", b"x", bytes(4096), bytes(8193)])
def test_a_file_of_keys_that_is_none_is_one_sentence(path: Path, world: Any, content: bytes) -> None:
    key = path.with_name("round.key")
    key.write_bytes(content)
    if not content:
        Journal.of(world.identities["owner"], Role.MODEL_OWNER, path.parent).close()
        assert key.stat().st_mode & 0o777 == 0o600
        return
    refused(lambda: Journal.of(world.identities["owner"], Role.MODEL_OWNER, path.parent), "is not a file of round keys")
    assert key.read_bytes() == content
    key.unlink()
    key.symlink_to(path)
    refused(lambda: Journal.of(world.identities["owner"], Role.MODEL_OWNER, path.parent), "round.key cannot be opened")


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: f"{kind.__module__.rpartition('tertium.')[2]}:{kind.kind}")
def test_an_entry_of_every_kind_comes_back_from_the_disk(kind: type[Entry], path: Path, sampler: Any) -> None:
    made = [sampler(seed).make(kind) for seed in range(20)]
    wanted = {entry.key: entry for entry in made}
    journal = opened(path)
    for entry in made:
        journal.write(Write.SESSION_OFFERED, entry)
    journal.close()
    journal = opened(path)
    assert journal.all(kind) == [wanted[key] for key in sorted(wanted)]
    assert all(journal.read(kind, key) == entry for key, entry in wanted.items())
    assert journal.read(kind, b"no such key at all") is None
    journal.close()


def test_no_two_kinds_of_one_role_share_a_name() -> None:
    for package in ("owner", "secure_worker", "workers"):
        names = [kind.kind for kind in kinds() if f"tertium.{package}." in kind.__module__]
        assert names
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("sizes", [(), (0,), (1,), (5, 0, 4096), (1 << 20, 1 << 20, 77)])
def test_a_body_comes_back_byte_for_byte_and_one_is_kept(path: Path, sizes: tuple[int, ...]) -> None:
    records = [os.urandom(size) for size in sizes]
    journal = opened(path)
    journal.write(Write.RELEASE_DECIDED, keep=(b"old", [b"an older release"]))
    journal.write(Write.RELEASE_DECIDED, keep=(b"new", (memoryview(record) for record in records)))
    for again in range(2):
        assert list(journal.body(b"new")) == records
        assert list(journal.body(b"old")) == []
        if not again:
            journal.close()
            journal = opened(path)
    journal.close()


def test_what_is_forgotten_is_gone_and_the_rest_is_not(path: Path) -> None:
    journal = opened(path)
    journal.write(
        Write.SESSION_OFFERED, Counted(1, 1), Counted(2, 2), QuestionKept(Signed("owner", b"q", bytes(64)), 1)
    )
    journal.write(Write.SESSION_OFFERED, Counted(3, 3), forget=[Counted(1, 0)])
    assert [entry.number for entry in journal.all(Counted)] == [2, 3]
    journal.write(Write.SESSION_OFFERED, Counted(4, 4), forget=[Counted])
    assert [entry.number for entry in journal.all(Counted)] == [4]
    assert journal.read(QuestionKept) is not None
    journal.close()


def test_two_journals_in_memory_know_nothing_of_each_other() -> None:
    one, other = opened(None), opened(None)
    one.write(Write.SESSION_OFFERED, Counted(1, 1))
    assert other.all(Counted) == []


# --- all or nothing


def test_records_that_end_in_an_exception_leave_nothing_and_end_the_journal(path: Path) -> None:
    def records() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise RuntimeError("the sealer broke")

    journal = opened(path)
    journal.write(Write.RELEASE_DECIDED, Counted(1, 1), keep=(b"first", [b"body"]))
    with pytest.raises(RuntimeError, match="the sealer broke"):
        journal.write(Write.RELEASE_DECIDED, Counted(1, 2), Counted(2, 2), forget=[Counted], keep=(b"half", records()))
    refused(lambda: journal.write(Write.SESSION_LEFT, Counted(3, 3)), "nothing is written after that")
    for again in range(2):
        assert journal.all(Counted) == [Counted(1, 1)]
        assert list(journal.body(b"first")) == [b"body"]
        assert list(journal.body(b"half")) == []
        if not again:
            journal.close()
            journal = opened(path)
    journal.close()


def test_a_closed_journal_writes_and_reads_nothing(path: Path) -> None:
    journal = opened(path)
    journal.close()
    journal.close()
    before = files(path.parent)
    refused(lambda: journal.write(Write.SESSION_LEFT, Counted(1, 1)), "cannot be written (session left)")
    refused(lambda: journal.read(Counted), "cannot be read")
    refused(lambda: journal.all(Counted), "cannot be read")
    refused(lambda: list(journal.body(b"")), "cannot be read")
    assert files(path.parent) == before


@pytest.mark.parametrize("role", list(WRITES))
def test_a_write_of_another_role_is_refused_and_leaves_the_journal_whole(path: Path, role: Role) -> None:
    journal = opened(path, role=role)
    foreign = [name for name in Write if name not in WRITES[role]]
    assert foreign
    for name in foreign:
        refused(lambda name=name: journal.write(name, Counted(1, 1)), name.value, "no write of this role")
    assert journal.all(Counted) == []
    for number, name in enumerate(sorted(WRITES[role], key=lambda name: name.value)):
        journal.write(name, Counted(number, 0))
    assert len(journal.all(Counted)) == len(WRITES[role])
    journal.close()


def test_every_write_is_some_roles() -> None:
    assert frozenset().union(*WRITES.values()) == frozenset(Write)


WRITER = r"""
import os, random, sys
from pathlib import Path
from typing import ClassVar
from tertium.protocol.charter import Role
from tertium.protocol.journal import Entry, Journal, Write

class Counted(Entry, frozen=True):
    kind: ClassVar[str] = "counted"
    number: int
    value: int
    padding: bytes = b""
    @property
    def key(self): return self.number.to_bytes(4, "big")

journal = Journal(Path(sys.argv[1]), party="third", role=Role.SECURE_WORKER, signing=b"k" * 32)
value = max((entry.value for entry in journal.all(Counted)), default=0)
os.write(1, b"open\n")
while True:
    value += 1
    size = random.choice([10, 5_000, 60_000])
    parts = [Counted(number, value, bytes([value % 256]) * size) for number in range(4)]
    body = [value.to_bytes(8, "big") * (size // 8)] * 5
    forget = [Counted] if value % 3 == 0 else [parts[0]]
    journal.write(Write.RELEASE_DECIDED, *parts, forget=forget, keep=(b"body", body))
    os.write(1, b"%d\n" % value)
"""


def test_a_process_that_is_killed_while_it_writes_loses_no_write_and_leaves_no_half_one(
    path: Path, other_process: Callable[..., subprocess.Popen]
) -> None:
    acknowledged = 0
    for _ in range(KILLS):
        writer = other_process(WRITER, path)
        assert select.select([writer.stdout], [], [], 60)[0], "the writer did not start"
        time.sleep(random.uniform(0.0, 0.15))
        writer.send_signal(signal.SIGKILL)
        out, err = writer.communicate(timeout=20)
        assert err == b""
        lines = out.decode().split("\n")[:-1]
        assert lines[0] == "open"
        acknowledged = max([acknowledged, *map(int, lines[1:])])
        journal = opened(path)
        parts = journal.all(Counted)
        if parts:
            (value,) = {part.value for part in parts}
            assert acknowledged <= value <= acknowledged + 1
            assert [part.number for part in parts] == [0, 1, 2, 3]
            sizes = {len(part.padding) for part in parts}
            assert {part.padding for part in parts} == {bytes([value % 256]) * sizes.pop()}
            body = list(journal.body(b"body"))
            assert len(body) == 5
            assert set(body) == {value.to_bytes(8, "big") * (len(parts[0].padding) // 8)}
            acknowledged = value
        else:
            assert acknowledged == 0
        journal.close()
    assert acknowledged > 0


# --- a disk that is full

FILLER = """
import sys
from pathlib import Path
from typing import ClassVar
from tertium.protocol.charter import Role
from tertium.protocol.errors import JournalError
from tertium.protocol.journal import Entry, Journal, Write

class Counted(Entry, frozen=True):
    kind: ClassVar[str] = "counted"
    number: int
    value: int
    padding: bytes = b""
    @property
    def key(self): return self.number.to_bytes(4, "big")

try:
    journal = Journal(Path(sys.argv[1]), party="third", role=Role.SECURE_WORKER, signing=b"k" * 32)
    number = 0
    while True:
        body = (bytes([number]) * 20_000 * (number + 1) for _ in range(10))
        journal.write(Write.RELEASE_DECIDED, Counted(number, number), keep=(b"%d" % number, body))
        print(number, flush=True)
        number += 1
except JournalError as error:
    print("refused", error)
try:
    journal.write(Write.SESSION_LEFT, Counted(9999, 0))
    print("written")
except (JournalError, NameError) as error:
    print("then", error)
"""


def test_a_full_disk_is_one_sentence_and_nothing_is_written_after_it(
    path: Path, other_process: Callable[..., subprocess.Popen]
) -> None:
    out, err = other_process(FILLER, path, limit=6_000_000).communicate(timeout=60)
    assert err == b""
    *numbers, sentence, after = out.decode().splitlines()
    assert re.fullmatch(r"refused \S+ cannot be written \(release decided\): [A-Za-z/ ]+", sentence)
    assert "nothing is written after that" in after
    assert numbers
    journal = opened(path)
    last = int(numbers[-1])
    assert [entry.number for entry in journal.all(Counted)] == [*range(last + 1)]
    assert list(journal.body(b"%d" % last)) == [bytes([last]) * 20_000 * (last + 1)] * 10
    assert list(journal.body(b"%d" % (last + 1))) == []
    journal.write(Write.SESSION_LEFT, Counted(9999, 0))
    journal.close()


def test_a_full_disk_when_a_journal_is_made_is_one_sentence_too(
    path: Path, other_process: Callable[..., subprocess.Popen]
) -> None:
    out, err = other_process(FILLER, path, limit=2_000).communicate(timeout=60)
    assert err == b""
    assert re.match(r"refused \S+ cannot be opened: [A-Za-z/ ]+\n", out.decode())
    opened(path).close()


def test_a_database_that_may_not_grow_says_so(path: Path) -> None:
    journal = opened(path)
    journal._db.execute("pragma max_page_count = 10")
    sentence = refused(lambda: journal.write(Write.RELEASE_DECIDED, keep=(b"big", [b"x" * 2_000_000])))
    assert sentence.endswith("cannot be written (release decided): database or disk is full")
    refused(lambda: journal.write(Write.SESSION_LEFT), "nothing is written after that")
    journal.close()


# --- who may read it


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_every_file_is_this_users_alone(path: Path, mask: int) -> None:
    def modes() -> dict[str, int]:
        return {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}

    before = os.umask(mask)
    try:
        journal = opened(path)
        journal.write(Write.SESSION_OFFERED, Counted(1, 1))
        assert modes() == {FILE: 0o600, f"{FILE}-wal": 0o600}
        journal.close()
        assert modes() == {FILE: 0o600}
        path.chmod(0o666)  # a backup that was put back
        journal = opened(path)
        journal.write(Write.SESSION_OFFERED, Counted(1, 1))
        assert modes() == {FILE: 0o600, f"{FILE}-wal": 0o600}
        journal.close()
    finally:
        os.umask(before)


# --- secrets


def traces(folder: Path, secret: bytes) -> list[str]:
    """The files in which any 12 bytes of a secret stand."""
    pieces = [secret[at : at + 12] for at in range(0, len(secret) - 11, 4)]
    return [name for name, content in files(folder).items() if any(piece in content for piece in pieces)]


@pytest.mark.parametrize("size", [200, 3_500, 60_000])
def test_no_byte_of_a_round_key_is_left_once_the_step_is_taken(path: Path, world: Any, size: int) -> None:
    identity = Identity.generate("owner")
    journal = Journal.of(identity, Role.MODEL_OWNER, path.parent)
    memory = Memory(world.charter, journal)
    reached = ReachedKept(0, bytes(32), str(path.parent), finished=False)
    memory.open_session(b"n" * 32, (b"h" * 32,), reached)
    for number in range(6):
        signed = Signed("owner", os.urandom(size + 37 * number), os.urandom(64))
        attempts = [RoundKey() for _ in range(3)]
        secrets = [key.secret for key in attempts]
        for at, key in enumerate(attempts):
            memory.sign_question(signed, key)
            assert traces(path.parent, secrets[at])
        memory.take_step(reached)
        assert not any(traces(path.parent, secret) for secret in secrets)
    key = RoundKey()
    memory.sign_question(signed, key)
    assert traces(path.parent, key.secret)
    memory.end_session(signed)
    assert not traces(path.parent, key.secret)
    journal.close()
    assert not traces(path.parent, key.secret)


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: f"{kind.__module__.rpartition('tertium.')[2]}:{kind.kind}")
def test_no_secret_stands_in_the_text_of_an_entry(kind: type[Entry], sampler: Any) -> None:
    for seed in range(10):
        entry = sampler(seed).make(kind)
        for field in ("secret",):
            value = getattr(entry, field, None)
            assert not value or repr(value)[2:-1] not in repr(entry)


def test_the_journal_itself_shows_only_where_it_is(path: Path) -> None:
    journal = opened(path)
    assert repr(journal) == f"Journal({path})"
    journal.close()
