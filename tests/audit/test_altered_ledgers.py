"""A ledger that is not what its party signed for: shortened, altered, reordered, forked. Each names its party."""

import contextlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tertium.audit import evidence
from tertium.audit.report import Kind, Severity
from tertium.crypto.identity import Identity
from tertium.crypto.labels import Label
from tertium.protocol.codec import decode_as, encode
from tertium.protocol.ledger import Checkpoint, Exhibit, LedgerEntry
from tertium.protocol.messages import OpenRound, Signed
from tertium.protocol.statements import sign

Maker = Any


@pytest.fixture(scope="module")
def once(make_once: Maker) -> tuple[Any, Path, dict[str, int]]:
    """A run, its folder, and by party up to how many entries others hold its checkpoint; each test alters a copy."""
    ran = make_once.ran(rounds=2)
    folder = make_once.export(ran)
    return ran, folder, {party.name: party.vouched for party in make_once.audit(folder).report.parties}


@pytest.fixture
def folder(once: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(once[1], tmp_path / "copy"))


@pytest.mark.parametrize("name", ["first", "owner", "bob"])
def test_a_ledger_cut_before_a_held_checkpoint(make: Maker, once: Any, folder: Path, rewrite: Any, name: str) -> None:
    size = once[2][name]
    assert size > 10
    rewrite(folder, name, lambda rows: rows[: size - 1])
    done = make.audit(folder)
    finding = done.holds(Kind.TRUNCATED_LEDGER, name)
    assert f"ends after {size - 1}" in finding.text
    assert {party for _, party in done.violations} == {name}


def test_a_ledger_cut_after_the_last_held_checkpoint_is_what_no_audit_sees(
    make: Maker, once: Any, folder: Path, rewrite: Any
) -> None:
    size = once[2]["bob"]
    rewrite(folder, "bob", lambda rows: rows[:size])
    assert make.audit(folder).violations == []


def without_payload(row: bytes) -> bytes:
    entry = decode_as(LedgerEntry, row)
    return encode(msgspec.structs.replace(entry, wire=entry.wire + 1))


def without_entry(rows: list[bytes], left: int) -> list[bytes]:
    """Leave one entry out, so that what is made from others still says from which."""
    out = []
    for at, row in enumerate(rows):
        entry = decode_as(LedgerEntry, row)
        moved = tuple(each - (each > left) for each in entry.derived_from if each != left)
        out += [] if at == left else [encode(msgspec.structs.replace(entry, derived_from=moved))]
    return out


CHANGES = {
    "one entry altered": lambda rows: [without_payload(row) if at == 7 else row for at, row in enumerate(rows)],
    "one entry left out": lambda rows: without_entry(rows, 12),
    "one entry twice": lambda rows: [*rows[:20], rows[1], *rows[20:]],
    "two swapped": lambda rows: [rows[1], rows[0], *rows[2:]],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_ledger_with_other_entries_and_every_hash_made_anew(
    make: Maker, folder: Path, rewrite: Any, change: str
) -> None:
    rewrite(folder, "bob", CHANGES[change])
    done = make.audit(folder)
    done.holds(Kind.EDITED_LEDGER, "bob")
    assert {party for _, party in done.violations} == {"bob"}


@pytest.mark.parametrize("change", ["one entry altered", "two swapped"])
def test_one_that_its_party_signed_for_anew_is_a_fork(
    make: Maker, once: Any, folder: Path, rewrite: Any, change: str
) -> None:
    ran = once[0]
    rewrite(folder, "bob", CHANGES[change], signed_by=(ran.identities["bob"], ran.charter))
    done = make.audit(folder)
    done.holds(Kind.FORKED_LEDGER, "bob")
    # That proof takes no word of whoever hands the ledger over: two signatures and hashes between them.
    bundle = done.bundle(Kind.FORKED_LEDGER)
    assert bundle.log is None
    assert len(evidence.to_bytes(bundle)) < 4096


def test_a_party_that_shows_two_ledgers(make: Maker) -> None:
    federation = make.federation(rounds=2)
    view = federation.machines["bob"].exchange.view
    real = view.checkpoint
    shown: list[Any] = []

    def checkpoint(**how: Any) -> Any:
        signed = real(**how)
        said = decode_as(Checkpoint, signed.statement)
        shown.append(said)
        # The third that it shows is of a ledger it never had.
        return sign(view._identity, msgspec.structs.replace(said, root=bytes(32))) if len(shown) == 3 else signed

    view.checkpoint = checkpoint
    federation.run()
    assert len(shown) > 3
    make.audit(federation).holds(Kind.FORKED_LEDGER, "bob")


def test_a_ledger_whose_hashes_do_not_fit_names_its_party_and_the_audit_goes_on(make: Maker, folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / "bob" / "state" / "journal.db")) as database, database:
        database.execute("update ledger set hashes = zeroblob(length(hashes)) where sequence = 5")
    done = make.audit(folder)
    assert done.violations == [(Kind.BROKEN_LEDGER, "bob")]
    assert [party.name for party in done.report.parties if not party.given] == ["bob"]
    assert "bob" in done.report.cannot_show[-1]


@pytest.mark.parametrize(
    "how", ["update exhibits set content = x'00' where rowid = 3", "delete from exhibits where rowid = 3"]
)
def test_an_exhibit_that_was_altered_or_taken_away_is_an_anomaly(make: Maker, folder: Path, how: str) -> None:
    with contextlib.closing(sqlite3.connect(folder / "bob" / "state" / "journal.db")) as database, database:
        database.execute(how)
    done = make.audit(folder)
    assert done.violations == []
    wrong = [each for each in done.report.of(Severity.ANOMALY) if each.kind is Kind.WRONG_EXHIBIT]
    assert wrong
    assert all(each.party == "bob" for each in wrong)


def test_a_forged_exhibit_accuses_nobody(make: Maker, folder: Path) -> None:
    """A second question, signed with another key than the owner's, beside an honest ledger."""
    with contextlib.closing(sqlite3.connect(folder / "bob" / "state" / "journal.db")) as database, database:
        label = Label.OPEN_ROUND.value
        (content,) = database.execute("select content from exhibits where label = ?", (label,)).fetchone()
        question = decode_as(OpenRound, decode_as(Signed, content).statement)
        other = msgspec.structs.replace(question, model=bytes(32))
        made = Exhibit.of_statement(Label.OPEN_ROUND, sign(Identity.generate("owner"), other))
        row = (made.subject, made.signer, made.label.value, made.content)
        database.execute("insert into exhibits values (?, ?, ?, ?)", row)
    done = make.audit(folder)
    assert done.violations == []
    assert [each.party for each in done.report.of(Severity.ANOMALY)] == ["bob"]
