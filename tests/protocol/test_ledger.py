"""The view ledger: in order, on the disk with the act or before it, whole after a crash, and signed for only then."""

import os
import random
import select
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tertium.crypto.errors import NotInTree
from tertium.crypto.identity import Identity
from tertium.crypto.labels import Label
from tertium.crypto.merkle import EMPTY_ROOT, leaf_hash, verify_consistency, verify_inclusion
from tertium.protocol.charter import Role
from tertium.protocol.codec import decode_as, encode
from tertium.protocol.errors import BadEntry, JournalError, MalformedMessage
from tertium.protocol.exchange import MAY_SEND, TO_AN_OWNER_THAT_HOLDS
from tertium.protocol.journal import FILE, REPEATABLE, WRITES, Journal, Write
from tertium.protocol.ledger import (
    ALONE,
    IN_PARTS,
    LABELS,
    OF_ONE,
    WITH_A_PEER,
    Act,
    Checkpoint,
    DataClass,
    Ledger,
    LedgerEntry,
    Part,
)
from tertium.protocol.statements import open_signed

CHARTER = b"c" * 32
KILLS = 5


def noted(number: int = 0, **changes: Any) -> LedgerEntry:
    """An entry of a share that came in; each number gives another."""
    said = {
        "act": Act.RECEIVED,
        "data": DataClass.SHARE,
        "charter": CHARTER,
        "peer": "alice",
        "whose": ("alice",),
        "part": Part(1, 3),
        "session": b"s" * 32,
        "round": number,
        "open_round": b"o" * 32,
        "payload": 400,
        "wire": 512,
        "subject": number.to_bytes(32, "big"),
        "commitment": b"k" * 32,
    }
    return LedgerEntry(**{**said, **changes})


def opened(path: Path | None = None, role: Role = Role.SECURE_WORKER) -> tuple[Journal, Ledger]:
    journal = Journal(path, party="third", role=role, signing=bytes(32))
    return journal, Ledger(journal, CHARTER)


def stored(path: Path, *, log: bool = True) -> int:
    """How many rows are in the file, as somebody else finds it."""
    copy = path.with_name("copy.db")
    for suffix in ("", "-wal"):
        source = path.with_name(path.name + suffix)
        if source.exists() and (log or not suffix):
            copy.with_name(copy.name + suffix).write_bytes(source.read_bytes())
    database = sqlite3.connect(copy)
    ((count,),) = database.execute("select count(*) from ledger").fetchall()
    database.close()
    for suffix in ("", "-wal", "-shm"):
        copy.with_name(copy.name + suffix).unlink(missing_ok=True)
    return int(count)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / FILE


# --- entries


def test_every_label_that_may_travel_sealed_is_a_class_of_data() -> None:
    sealed = {label for label, _, _ in (*MAY_SEND, TO_AN_OWNER_THAT_HOLDS)}
    assert sealed == set(LABELS.values()) - {Label.EVALUATION}
    assert set(DataClass) - set(LABELS) == {DataClass.CONTROL, DataClass.KEY}


def test_every_act_says_whether_it_has_a_peer() -> None:
    assert set(Act) - WITH_A_PEER - ALONE == {Act.REFUSED}
    assert not WITH_A_PEER & ALONE
    for act in Act:
        code = "SplitView" if act is Act.REFUSED else ""
        for peer in (None, "alice"):
            if act in (WITH_A_PEER if peer is None else ALONE):
                with pytest.raises(ValueError, match=f"what was {act.value} {'has' if peer else 'lacks'} a peer"):
                    noted(act=act, peer=peer, code=code)
            else:
                noted(act=act, peer=peer, code=code)


@pytest.mark.parametrize("act", Act)
def test_a_refusal_alone_has_the_name_of_an_error(act: Act) -> None:
    peer = None if act in ALONE else "alice"
    with pytest.raises(ValueError, match="a refusal has the name of an error, and nothing else has one"):
        noted(act=act, peer=peer, code="" if act is Act.REFUSED else "SplitView")


def test_a_class_of_one_party_names_one_and_a_sum_its_contributors() -> None:
    for data in DataClass:
        part = Part(0, 2) if data in IN_PARTS else None
        for whose in ((), ("alice",), ("alice", "bob")):
            wrong = (data in OF_ONE and len(whose) != 1) or (data is DataClass.AGGREGATE and not whose)
            if wrong:
                with pytest.raises(ValueError, match=r"one party's|of its contributors"):
                    noted(data=data, whose=whose, part=part)
            else:
                noted(data=data, whose=whose, part=part)


def test_a_share_says_which_and_nothing_else_does_but_a_sum() -> None:
    for data in set(DataClass) - IN_PARTS:
        with pytest.raises(ValueError, match="has no parts"):
            noted(data=data, part=Part(0, 2))
    for data in (DataClass.SHARE, DataClass.SEED):
        with pytest.raises(ValueError, match="says which"):
            noted(data=data, part=None)
        noted(data=data, part=None, payload=0)
    noted(data=DataClass.AGGREGATE, part=None)
    for index, of in ((2, 2), (5, 2)):
        with pytest.raises(ValueError, match="there is no share"):
            Part(index, of)


@pytest.mark.parametrize(
    "changes",
    [
        {"whose": ("bob", "alice"), "data": DataClass.AGGREGATE},
        {"whose": ("bob", "bob"), "data": DataClass.AGGREGATE},
        {"derived_from": (2, 1)},
        {"derived_from": (1, 1)},
        {"session": None},
        {"session": None, "open_round": None},
        {"session": None, "round": 0},
        {"session": None, "open_round": None, "round": 0, "attempt": 1},
    ],
    ids=str,
)
def test_an_entry_that_contradicts_itself_cannot_be_built_or_decoded(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"rise|a session"):
        noted(**{"round": 1, **changes})
    good = noted(1)
    fields = {name: msgspec.to_builtins(getattr(good, name), builtin_types=(bytes,)) for name in good.__struct_fields__}
    fields |= msgspec.to_builtins(changes, builtin_types=(bytes,))
    with pytest.raises(MalformedMessage):
        decode_as(LedgerEntry, msgspec.msgpack.encode(list(fields.values())))


@pytest.mark.parametrize(
    "changes",
    [
        {"peer": "Alice"},
        {"peer": ""},
        {"whose": ("",)},
        {"charter": b"c" * 31},
        {"subject": b""},
        {"payload": -1},
        {"wire": 2**53 + 1},
        {"part": Part(1, 65)},
        {"part": Part(-1, 2)},
        {"derived_from": (-1,)},
        {"charter": b"d" * 32},
        {"derived_from": (0,)},
        {"derived_from": (10**9,)},
    ],
    ids=str,
)
def test_what_does_not_belong_into_this_ledger_leaves_it_as_it_was(changes: dict[str, Any]) -> None:
    journal, ledger = opened()
    before = ledger.root(0)
    entry = noted(**changes)
    with pytest.raises(BadEntry):
        ledger.append(entry)
    assert (ledger.size, ledger.root(0)) == (0, before)
    assert ledger.append(noted()) == 0
    journal.close()


def test_an_entry_longer_than_any_reader_takes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    journal, ledger = opened()
    monkeypatch.setattr("tertium.protocol.limits.LEDGER_ENTRY_BYTES", len(encode(noted())) - 1)
    with pytest.raises(BadEntry, match="too long"):
        ledger.append(noted())
    assert ledger.size == 0
    journal.close()


def test_the_longest_honest_entry_is_within_the_bound() -> None:
    """A sum over everybody in the largest charter, made from an entry each."""
    names = tuple(f"{number:032d}" for number in range(100_000))
    late = tuple(range(2**53 - 100_000, 2**53))
    entry = noted(act=Act.DERIVED, data=DataClass.AGGREGATE, peer=None, whose=names, part=None, derived_from=late)
    assert len(encode(entry)) < 5 * 2**20


# --- what comes back


def test_everything_comes_back_in_order_with_its_proofs(path: Path) -> None:
    journal, ledger = opened(path)
    entries = [noted(number, derived_from=tuple(range(max(0, number - 2), number))) for number in range(40)]
    assert [ledger.append(entry) for entry in entries] == list(range(40))
    for again in range(2):
        assert ledger.size == 40
        assert list(ledger.entries()) == list(enumerate(entries))
        assert list(ledger.entries(38)) == [(38, entries[38]), (39, entries[39])]
        for size in (1, 7, 32, 40):
            for at in range(0, size, 5):
                proof = ledger.inclusion_proof(at, size)
                verify_inclusion(leaf_hash(ledger.data(at)), at, size, proof, ledger.root(size))
            verify_consistency(size, 40, ledger.consistency_proof(size, 40), ledger.root(size), ledger.root(40))
        if not again:
            ledger.settle()
            journal.close()
            journal, ledger = opened(path)
    assert ledger.append(noted(40)) == 40
    journal.close()


def test_nothing_is_said_of_what_is_not_there() -> None:
    journal, ledger = opened()
    assert ledger.root(0) == EMPTY_ROOT
    ledger.append(noted())
    for call in (
        lambda: ledger.root(2),
        lambda: ledger.data(1),
        lambda: ledger.inclusion_proof(0, 2),
        lambda: ledger.consistency_proof(1, 2),
        lambda: ledger.inclusion_proof(1, 1),
        lambda: ledger.data(-1),
    ):
        with pytest.raises(NotInTree):
            call()
    assert repr(ledger) == "Ledger(1 entries in the journal in memory)"
    journal.close()


# --- one transaction with the journal


def test_an_entry_goes_in_with_the_next_write_and_not_before(path: Path) -> None:
    journal, ledger = opened(path)
    ledger.append(noted(0))
    ledger.append(noted(1))
    assert stored(path) == 0
    journal.write(Write.SESSION_LEFT)
    assert stored(path) == 2
    ledger.append(noted(2))
    ledger.settle()
    assert stored(path) == 3
    journal.close()


def test_a_write_that_fails_takes_its_entries_with_it(path: Path) -> None:
    def records() -> Any:
        yield b"x" * 1000
        raise RuntimeError("the sealer broke")

    journal, ledger = opened(path)
    ledger.append(noted(0))
    journal.write(Write.SESSION_LEFT)
    ledger.append(noted(1))
    with pytest.raises(RuntimeError):
        journal.write(Write.RELEASE_DECIDED, keep=(b"body", records()))
    for call in (ledger.settle, lambda: ledger.checkpoint(Identity.generate("third"))):
        with pytest.raises(JournalError, match="nothing is written after that"):
            call()
    journal.copy_to(path.with_name("copy.db"))
    assert stored(path.with_name("copy.db")) == 1
    journal.close()
    journal, ledger = opened(path)
    assert [entry for _, entry in ledger.entries()] == [noted(0)]
    assert list(journal.body(b"body")) == []
    journal.close()


def test_what_was_staged_by_a_party_that_ended_never_happened() -> None:
    """As a simulated world restarts one: another ledger over the same journal."""
    journal, ledger = opened()
    ledger.append(noted(0))
    ledger = Ledger(journal, CHARTER)
    assert ledger.size == 0
    ledger.append(noted(7))
    journal.write(Write.SESSION_LEFT)
    assert [entry for _, entry in Ledger(journal, CHARTER).entries()] == [noted(7)]
    journal.close()


@pytest.mark.parametrize("name", sorted(REPEATABLE, key=lambda name: name.value), ids=lambda name: name.name)
def test_a_party_signs_for_no_more_than_a_power_failure_leaves(path: Path, name: Write, world: Any) -> None:
    """What goes in with a write that is synced later survives a kill, and is signed for once it is synced."""
    role = next(role for role, names in WRITES.items() if name in names)
    identity = world.identities["third"]
    journal = Journal(path, party="third", role=role, signing=bytes(32))
    ledger = Ledger(journal, world.charter.digest)

    def signed() -> int:
        return open_signed(world.charter, ledger.checkpoint(identity, settle=False), Checkpoint).size

    def synced() -> bool:
        return journal._db.execute("pragma synchronous").fetchone() == (2,)

    assert signed() == 0
    ledger.append(noted(charter=world.charter.digest))
    ledger.settle()
    assert (signed(), synced()) == (1, True)
    ledger.append(noted(charter=world.charter.digest))
    journal.write(name)
    assert (stored(path), signed(), synced()) == (2, 1, False)
    ledger.append(noted(charter=world.charter.digest))
    ledger.settle(later=True)
    assert (stored(path), signed(), synced()) == (3, 1, False)
    before = path.with_name(f"{path.name}-wal").read_bytes()
    ledger.settle()
    assert (signed(), synced()) == (3, True)
    assert path.with_name(f"{path.name}-wal").read_bytes() != before, "an empty transaction is not synced"
    journal.close()
    # A process that has just begun does not know what of it is on the disk.
    journal = Journal(path, party="third", role=role, signing=bytes(32))
    ledger = Ledger(journal, world.charter.digest)
    assert journal.durable == 0
    assert (signed(), journal.durable, synced()) == (3, 3, True)
    journal.close()


def test_settling_nothing_writes_nothing(path: Path) -> None:
    journal, ledger = opened(path)
    before = path.read_bytes()
    ledger.settle()
    journal.close()
    assert path.read_bytes() == before


# --- checkpoints


def test_a_checkpoint_says_what_is_on_the_disk(path: Path, world: Any) -> None:
    identity = world.identities["third"]
    journal = Journal.of(identity, Role.SECURE_WORKER, path.parent)
    ledger = Ledger(journal, world.charter.digest)
    seen = []
    for number in range(9):
        signed = ledger.checkpoint(identity)
        assert stored(path) == number
        checkpoint = open_signed(world.charter, signed, Checkpoint)
        assert checkpoint == Checkpoint(world.charter.digest, "third", number, ledger.root(number))
        assert ledger.checkpoint(identity) is signed
        seen.append(checkpoint)
        ledger.append(noted(number, charter=world.charter.digest))
    for old in seen[1:]:
        for new in seen[old.size :]:
            proof = ledger.consistency_proof(old.size, new.size)
            verify_consistency(old.size, new.size, proof, old.root, new.root)
    journal.close()


# --- a file that is not what it was


def damaged(path: Path, statement: str, *values: Any) -> str:
    """What a party says at its start after somebody ran this on its file; it may not change the file."""
    with sqlite3.connect(path, isolation_level=None) as database:
        database.execute(statement, values)
        database.execute("pragma wal_checkpoint(truncate)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(JournalError) as caught:
        list(opened(path)[1].entries())
    assert path.read_bytes() == before
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SPOILT = [
    ("update ledger set entry = x'00' where sequence = 11", "contradicts itself at entry 11"),
    ("update ledger set hashes = zeroblob(96) where sequence = 11", "contradicts itself at entry 11"),
    ("update ledger set hashes = zeroblob(256) where sequence = 7", "contradicts itself at entry 11|signed for"),
    ("delete from ledger where sequence > 8", "is not the one whose 10 entries this party signed for"),
    ("delete from ledger", "is not the one whose 10 entries this party signed for"),
    ("delete from ledger where sequence = 7", "entry 7 of the view ledger is missing"),
    ("delete from ledger where sequence = 3", "entry 3 of the view ledger is missing"),
    ("update ledger set entry = 'text' where sequence = 11", "entry 11 of the view ledger is missing"),
    ("update ledger set entry = x'00' where sequence = 2", "entry 2 is damaged"),
    ("update entries set value = x'90' where kind = 'checkpoint'", "cannot read"),
    ("update ledger set sequence = 99 where sequence = 11", "entry 98 of the view ledger is missing|is missing"),
]


@pytest.mark.parametrize(("statement", "words"), SPOILT, ids=[statement for statement, _ in SPOILT])
def test_a_damaged_ledger_is_one_sentence(path: Path, statement: str, words: str) -> None:
    identity = Identity.generate("third")
    journal, ledger = opened(path)
    for number in range(12):
        ledger.append(noted(number))
        if number == 9:
            ledger.checkpoint(identity)
    ledger.settle()
    journal.close()
    sentence = damaged(path, statement)
    assert any(each in sentence for each in words.split("|")), sentence


def test_a_kept_checkpoint_that_is_none_is_one_sentence(path: Path) -> None:
    journal, ledger = opened(path)
    ledger.append(noted())
    signed = ledger.checkpoint(Identity.generate("third"))
    journal.write(Write.SESSION_LEFT)
    journal.close()
    bad = msgspec.structs.replace(signed, statement=b"\x80")
    value = msgspec.msgpack.encode([msgspec.to_builtins(bad, builtin_types=(bytes,))])
    sentence = damaged(path, "update entries set value = ? where kind = 'checkpoint'", value)
    assert "has a checkpoint that is none" in sentence


# --- killed

WRITER = r"""
import os, sys
from pathlib import Path
from tertium.crypto.identity import Identity
from tertium.protocol.charter import Role
from tertium.protocol.codec import encode
from tertium.protocol.journal import Journal, Write
from tertium.protocol.ledger import Act, DataClass, Ledger, LedgerEntry

journal = Journal(Path(sys.argv[1]), party="third", role=Role.SECURE_WORKER, signing=bytes(32))
ledger = Ledger(journal, b"c" * 32)
identity = Identity("third", b"k" * 32, b"k" * 32)
os.write(1, b"open\n")
while True:
    for _ in range(3):
        ledger.append(LedgerEntry(Act.SENT, DataClass.CONTROL, b"c" * 32, "alice", wire=ledger.size))
    if ledger.size % 2:
        journal.write(Write.SESSION_LEFT, keep=(b"size", [ledger.size.to_bytes(8, "big")]))
    signed = ledger.checkpoint(identity)
    os.write(1, b"%d %s\n" % (ledger.size, ledger.root(ledger.size).hex().encode()))
"""


def test_a_process_that_is_killed_takes_back_nothing_that_it_signed(
    path: Path, other_process: Callable[..., subprocess.Popen]
) -> None:
    signed: dict[int, str] = {0: EMPTY_ROOT.hex()}
    for _ in range(KILLS):
        writer = other_process(WRITER, path)
        assert select.select([writer.stdout], [], [], 60)[0], "the writer did not start"
        lines = [writer.stdout.readline() for _ in range(4)]
        time.sleep(random.uniform(0.0, 0.05))
        writer.send_signal(signal.SIGKILL)
        out, err = writer.communicate(timeout=20)
        assert err == b""
        for line in (b"".join(lines[1:]) + out).decode().split("\n")[:-1]:
            size, root = line.split()
            signed[int(size)] = root
        journal, ledger = opened(path)
        assert ledger.size % 3 == 0, "half of what goes in together"
        assert max(signed) <= ledger.size <= max(signed) + 3
        for size, root in signed.items():
            assert ledger.root(size).hex() == root
        assert [entry.wire for _, entry in ledger.entries()] == list(range(ledger.size))
        signed[ledger.size] = ledger.root(ledger.size).hex()
        kept = next(iter(journal.body(b"size")), bytes(8))
        assert int.from_bytes(kept, "big") <= ledger.size
        journal.close()
    assert len(signed) > 10


def test_appending_costs_no_write(path: Path) -> None:
    journal, ledger = opened(path)
    ledger.append(noted())
    ledger.settle()
    before = os.stat(path.with_name(f"{path.name}-wal")).st_mtime_ns, path.read_bytes()
    for number in range(100):
        ledger.append(noted(number))
    assert (os.stat(path.with_name(f"{path.name}-wal")).st_mtime_ns, path.read_bytes()) == before
    journal.close()
