"""A party of a run that writes what it likes into its own journal: nobody else is accused, nothing signed is hidden."""

import contextlib
import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tertium.audit import evidence
from tertium.audit.errors import NotShown
from tertium.audit.page import draw
from tertium.audit.report import Kind, Level, Severity
from tertium.audit.report import encode as encode_report
from tertium.crypto.labels import Label, digest, frame
from tertium.crypto.merkle import Tree, leaf_hash
from tertium.protocol.check_messages import SumCheck, SumState
from tertium.protocol.codec import decode_as, encode
from tertium.protocol.ledger import Act, Checkpoint, Content, DataClass, Exhibit, LedgerEntry
from tertium.protocol.messages import Abort, Cause, CloseList, Header, OpenRound, Receipt, SealedHead, Signed
from tertium.protocol.statements import sign

Maker = Any
HONEST = {"first", "alice", "bob", "carol"}


@pytest.fixture(scope="module")
def once(make_once: Maker) -> tuple[Any, Path]:
    ran = make_once.ran(rounds=2)
    return ran, make_once.export(ran)


@pytest.fixture
def folder(once: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(once[1], tmp_path / "copy"))


@pytest.fixture
def written(once: Any, folder: Path, rewrite: Any) -> Callable[..., None]:
    """Have a party write its own entries anew, and sign for them."""

    def write(name: str, change: Callable[[list[LedgerEntry]], Iterable[LedgerEntry]]) -> None:
        def rows(data: list[bytes]) -> list[bytes]:
            return [encode(each) for each in change([decode_as(LedgerEntry, row) for row in data])]

        rewrite(folder, name, rows, signed_by=(once[0].identities[name], once[0].charter))

    return write


def show(folder: Path, name: str, *signed: tuple[Any, Signed]) -> None:
    """Lay signed statements beside a ledger."""
    with contextlib.closing(sqlite3.connect(folder / name / "state" / "journal.db")) as database, database:
        for label, each in signed:
            made = Exhibit.of_statement(label, each)
            row = (made.subject, made.signer, made.label.value, made.content)
            database.execute("insert into exhibits values (?, ?, ?, ?)", row)


def questions(folder: Path) -> list[tuple[bytes, OpenRound]]:
    with contextlib.closing(sqlite3.connect(folder / "owner" / "state" / "journal.db")) as database:
        rows = database.execute("select subject, content from exhibits where label = ?", (OpenRound.label.value,))
        return [(row[0], decode_as(OpenRound, decode_as(Signed, row[1]).statement)) for row in rows]


def named(done: Any) -> set[str]:
    return {party for _, party in done.violations if party is not None}


# --- accusing others


def test_a_model_owner_that_notes_two_sums_of_one_holder_accuses_nobody_else(
    make: Maker, folder: Path, written: Any
) -> None:
    def twice(entries: list[LedgerEntry]) -> Iterable[LedgerEntry]:
        opened = [each for each in entries if (each.act, each.data) == (Act.OPENED, DataClass.AGGREGATE)]
        other = msgspec.structs.replace(opened[0], subject=bytes(32), derived_from=())
        return [*entries, other]

    written("owner", twice)
    assert named(make.audit(folder)) <= {"owner"}


def test_two_heads_that_a_holder_signed_for_one_round_accuse_it(make: Maker) -> None:
    """The other way round: what the holder itself sealed twice, and the model owner has."""
    ran = make.ran()
    machine = ran.machines["owner"]
    view = machine.exchange.view
    ledger = view._ledger
    (head,) = [
        decode_as(SealedHead, each.content)
        for each in _kept(ledger)
        if each.signer == "first" and each.label.value.endswith("header")
    ]
    header = decode_as(Header, head.header)
    other = encode(msgspec.structs.replace(header, commitment=bytes([1]) * 32))
    signature = ran.identities["first"].sign(Label.HEADER, frame(header.label, [other, head.wrapped_key]))
    second = SealedHead(header=other, wrapped_key=head.wrapped_key, signature=signature)
    content = Content(DataClass.AGGREGATE, ("alice", "bob", "carol"))
    view.received(decode_as(Header, other), second, content)
    view.opened(decode_as(Header, other), second.subject, content)
    assert (Kind.TWO_RELEASES, "first") in make.audit(ran).violations


def _kept(ledger: Any) -> list[Exhibit]:
    ledger.settle()
    rows = ledger._journal._db.execute("select subject, signer, label, content from exhibits")
    return [Exhibit(row[0], row[1], Label(row[2]), row[3]) for row in rows]


def test_a_model_owner_that_notes_small_sums_makes_no_reader_of_anybody(
    make: Maker, folder: Path, written: Any
) -> None:
    def smaller(entries: list[LedgerEntry]) -> Iterable[LedgerEntry]:
        for each in entries:
            made = (each.act, each.data) == (Act.DERIVED, DataClass.AGGREGATE)
            yield msgspec.structs.replace(each, whose=("alice", "bob")) if made else each

    written("owner", smaller)
    done = make.audit(folder)
    assert named(done) == {"owner"}
    rows = {row.who[0]: row for row in done.report.matrix}
    assert [cell.text for cell in rows["bob"].cells] == ["aggregate of 2", "own", "aggregate of 2"]


@pytest.mark.parametrize("state", [SumState.VERIFIED, SumState.FAILED])
def test_the_word_of_a_model_owner_about_a_sum_accuses_no_holder(
    make: Maker, once: Any, folder: Path, state: SumState
) -> None:
    open_round, _ = questions(folder)[0]
    said = SumCheck(open_round, state, contradicted=("first",))
    show(folder, "owner", (SumCheck.label, sign(once[0].identities["owner"], said)))
    done = make.audit(folder)
    assert named(done) == set()
    finding = done.holds(Kind.CONTRADICTED_TOTAL, None)
    assert finding.others == ("first", "owner", "alice", "bob", "carol")
    if state is SumState.FAILED:
        assert "owner" in done.holds(Kind.FAILED_SUM, None).others


def test_what_an_earlier_charter_allowed_is_no_evidence(once: Any) -> None:
    """A journal goes on under the next charter, and its first entries are of a run in mode plain, of two."""
    ran = once[0]
    owner, first, other = ran.identities["owner"], ran.identities["first"], bytes(32)
    opened = LedgerEntry(Act.OPENED, DataClass.UPDATE, other, peer="alice", whose=("alice",), session=other)
    released = LedgerEntry(
        Act.RELEASED, DataClass.AGGREGATE, other, peer="owner", whose=("alice", "bob"), session=other, subject=other
    )
    for identity, kind, entry in (
        (owner, Kind.FORBIDDEN_ACCESS, opened),
        (first, Kind.SMALL_RELEASE, released),
    ):
        for charter, holds in ((other, False), (ran.charter.digest, True)):
            data, tree = encode(msgspec.structs.replace(entry, charter=charter)), Tree()
            tree.append(leaf_hash(data))
            signed = sign(identity, Checkpoint(ran.charter.digest, identity.name, 1, tree.root()))
            inclusion = evidence.Inclusion(0, data, signed, ())
            bundle = evidence.Bundle(1, ran.charter.digest, kind, identity.name, inclusions=(inclusion,))
            if holds:
                assert evidence.verify(ran.charter, bundle).party == identity.name
            else:
                with pytest.raises(NotShown):
                    evidence.verify(ran.charter, bundle)


def test_a_set_that_another_holder_signed_is_not_held_against_a_total(make: Maker, tmp_path: Path) -> None:
    ran = make.ran("additive", openings=tmp_path / "kept")
    folder = make.export(ran)
    # It is told first, since it lies beside the ledger that is read first.
    reader = ran.charter.parties[0].name
    with contextlib.closing(sqlite3.connect(folder / "second" / "state" / "journal.db")) as database:
        ours = "select content from exhibits where label = ? and signer = 'second'"
        row = database.execute(ours, (CloseList.label.value,)).fetchone()
    close = decode_as(CloseList, decode_as(Signed, row[0]).statement)
    fewer = msgspec.structs.replace(close, contributions=close.contributions[:2])
    path = folder / reader / "state" / "journal.db"
    made = Exhibit.of_statement(CloseList.label, sign(ran.identities["second"], fewer))
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("update exhibits set rowid = rowid + 1000")
        values = (1, made.subject, made.signer, made.label.value, made.content)
        database.execute("insert into exhibits (rowid, subject, signer, label, content) values (?, ?, ?, ?, ?)", values)
    done = make.audit(folder)
    assert named(done) == {"second"}
    assert Kind.WRONG_SUM not in {kind for kind, _ in done.violations}
    assert [each.outcome for each in done.report.replays] == ["not replayed", "equal"]


def test_a_key_that_only_a_sender_names_is_nobodys_reused_key(make: Maker, once: Any, folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / "alice" / "state" / "journal.db")) as database, database:
        rows = database.execute(
            "select content from exhibits where label = ? and signer = 'alice'", (Label.HEADER.value,)
        )
        head = next(
            each
            for each in (decode_as(SealedHead, row[0]) for row in rows.fetchall())
            if decode_as(Header, each.header).label is Label.CONTRIBUTION
        )
        header = msgspec.structs.replace(decode_as(Header, head.header), open_round=bytes(32))
        data = encode(header)
        signature = once[0].identities["alice"].sign(Label.HEADER, frame(header.label, [data, head.wrapped_key]))
        made = Exhibit.of_head("alice", SealedHead(data, head.wrapped_key, signature))
        row = (made.subject, made.signer, made.label.value, made.content)
        database.execute("insert into exhibits values (?, ?, ?, ?)", row)
    done = make.audit(folder)
    assert "first" not in {each.party for each in done.report.of(Severity.ANOMALY)}


# --- hiding its own


@pytest.mark.parametrize("how", ["another charter", "another question", "left out"])
def test_a_receipt_stands_where_the_ledger_of_who_gave_it_says_less(
    make: Maker, folder: Path, written: Any, how: str
) -> None:
    def change(entries: list[LedgerEntry]) -> Iterable[LedgerEntry]:
        for each in entries:
            if (each.act, each.data) == (Act.OPENED, DataClass.UPDATE):
                if how == "another charter":
                    each = msgspec.structs.replace(each, charter=bytes(32))
                elif how == "another question":
                    each = msgspec.structs.replace(each, open_round=bytes(32))
                else:
                    each = msgspec.structs.replace(each, act=Act.RECEIVED, derived_from=())
            yield each

    written("first", change)
    done = make.audit(folder)
    row = next(row for row in done.report.matrix if row.who == ("first",))
    assert {cell.level for cell in row.cells} == {Level.PLAINTEXT}
    if how == "left out":
        done.holds(Kind.DENIED_RECEIVING, "first")
    else:
        done.holds(Kind.FALSE_ENTRY, "first")


def test_its_account_of_a_check_shows_that_a_model_owner_had_the_sum(make: Maker, folder: Path, written: Any) -> None:
    written(
        "owner",
        lambda entries: [
            msgspec.structs.replace(each, derived_from=())
            for each in entries
            if each.data is not DataClass.AGGREGATE or each.act is Act.SENT
        ],
    )
    for again in (folder, None):
        if again is None:
            (folder / "owner" / "state" / "journal.db").unlink()
        row = next(row for row in make.audit(folder).report.matrix if row.who == ("owner",))
        assert [cell.text for cell in row.cells] == ["aggregate of 3"] * 3


def test_a_sum_over_strangers_is_forbidden_and_no_sum(make: Maker, folder: Path, written: Any) -> None:
    def more(entries: list[LedgerEntry]) -> Iterable[LedgerEntry]:
        return [*entries, LedgerEntry(Act.DERIVED, DataClass.AGGREGATE, entries[0].charter, whose=("alice", "zoe"))]

    written("owner", more)
    done = make.audit(folder)
    done.holds(Kind.FORBIDDEN_ACCESS, "owner")
    assert done.report.matrix[0].cells[0].text == "aggregate of 3"


# --- ending the audit


def test_a_question_that_asks_no_holder_ends_nothing(make: Maker, once: Any, folder: Path) -> None:
    _, asked = questions(folder)[0]
    ran, owner = once[0], once[0].identities["owner"]
    nobody = msgspec.structs.replace(asked, holders=(), holder_nonces=(), without=())
    signed = sign(owner, nobody)
    name = digest(OpenRound.label, signed.statement)
    receipt = sign(ran.identities["first"], Receipt(name, "first", "alice", bytes(32), bytes(32), bytes(32)))
    close = sign(ran.identities["first"], CloseList(name, "first", (), (), ()))
    show(folder, "owner", (OpenRound.label, signed), (Receipt.label, receipt), (CloseList.label, close))
    done = make.audit(folder)
    done.holds(Kind.TWO_QUESTIONS, "owner")
    assert named(done) <= {"owner", "first"}
    items = tuple(
        evidence.Item(made.subject, made.signer, made.label, made.content)
        for made in (
            Exhibit.of_statement(OpenRound.label, signed),
            Exhibit.of_statement(Receipt.label, receipt),
            Exhibit.of_statement(CloseList.label, close),
        )
    )
    bundle = evidence.Bundle(1, ran.charter.digest, Kind.LEFT_OUT, "first", exhibits=items)
    assert evidence.verify(ran.charter, bundle).party == "first"


PAGE = 4096


def inner(children: list[int], head: bytes = b"") -> bytes:
    """Return a page of a table's tree that has only children, and these; `head` stands before it on the first page."""
    cells = {child: PAGE - 5 * (at + 1) for at, child in enumerate(dict.fromkeys(children[:-1]))}
    made = bytearray(PAGE)
    made[: len(head)] = head
    for child, at in cells.items():
        made[at : at + 5] = child.to_bytes(4, "big") + b"\x7f"
    fields = ((5, 1), (0, 2), (len(children) - 1, 2), (min(cells.values()), 2), (0, 1), (children[-1], 4))
    packed = b"".join(value.to_bytes(size, "big") for value, size in fields)
    packed += b"".join(cells[child].to_bytes(2, "big") for child in children[:-1])
    made[len(head) : len(head) + len(packed)] = packed
    return bytes(made)


def leaf(rows: list[bytes]) -> bytes:
    """Return a page of a table's tree that has only rows."""
    made, at, places = bytearray(PAGE), PAGE, []
    for row in rows:
        at -= len(row)
        made[at : at + len(row)] = row
        places.append(at)
    fields = ((13, 1), (0, 2), (len(rows), 2), (at, 2), (0, 1), *((each, 2) for each in places))
    packed = b"".join(value.to_bytes(size, "big") for value, size in fields)
    made[: len(packed)] = packed
    return bytes(made)


def loop_pages(path: Path, table: str, wide: int = 100) -> None:
    """Make the tree of a table one in which every page points many times at the same page below."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("pragma journal_mode = delete")
        database.execute("vacuum")
        found = database.execute("select rootpage from sqlite_schema where name = ?", (table,)).fetchone()
        assert database.execute("pragma page_size").fetchone() == (PAGE,)
    data = bytearray(path.read_bytes())
    pages = [bytes(data[at : at + PAGE]) for at in range(0, len(data), PAGE)]
    if table == "sqlite_schema":
        # The rows as they are, and then that of an index, which may stand there again and again.
        starts = [int.from_bytes(pages[0][108 + 2 * at : 110 + 2 * at], "big") for at in range(pages[0][104])]
        ends = [PAGE, *starts[:-1]]
        rows = [pages[0][start:end] for start, end in zip(starts, ends, strict=True)]
        first = len(pages) + 1
        pages += [leaf(rows), leaf([row for row in rows if b"autoindex" in row])]
        pages += [inner([len(pages)] * wide)]
        pages[0] = inner([first, *[len(pages)] * wide], pages[0][:100])
    else:
        root = at = found[0]
        while pages[at - 1][0] == 5:
            at = int.from_bytes(pages[at - 1][8:12], "big")
        pages += [pages[at - 1]]
        pages += [inner([len(pages)] * wide)]
        pages[root - 1] = inner([len(pages)] * wide)
    pages[0] = pages[0][:28] + len(pages).to_bytes(4, "big") + pages[0][32:]
    path.write_bytes(b"".join(pages))


@pytest.mark.parametrize("table", ["exhibits", "ledger", "sqlite_schema"])
def test_a_table_without_end_is_read_no_further_than_its_file_is_long(make: Maker, folder: Path, table: str) -> None:
    path = folder / "bob" / "state" / "journal.db"
    loop_pages(path, table)
    done = make.audit(folder)
    (bob,) = [each for each in done.report.parties if each.name == "bob"]
    assert not bob.given
    said = {"exhibits": "more than the file can hold", "ledger": "lacks entry", "sqlite_schema": "cannot be opened"}
    assert said[table] in bob.why_not
    assert ((Kind.BROKEN_LEDGER, "bob") in done.violations) is (table == "ledger")


def test_many_entries_about_one_thing_take_no_longer_than_as_many_about_many(
    make: Maker, once: Any, folder: Path, written: Any
) -> None:
    digest_of = once[0].charter.digest
    one = LedgerEntry(Act.SENT, DataClass.CONTROL, digest_of, peer="bob", subject=bytes(32))
    other = msgspec.structs.replace(one, act=Act.RECEIVED)
    written("bob", lambda entries: [*entries, *[one, other] * 5000])
    begin = time.monotonic()
    done = make.audit(folder)
    assert time.monotonic() - begin < 10
    assert named(done) <= {"bob"}


# --- writing into the report


def test_no_text_of_a_party_paints_in_a_terminal(make: Maker, once: Any, folder: Path) -> None:
    text = "\x1b[2J\x9b31m\u202e<script>\U000e0001\u2028"
    abort = Abort(bytes(32), 1, 0, "bob", Cause.LOCAL, text)
    show(folder, "bob", (Abort.label, sign(once[0].identities["bob"], abort)))
    done = make.audit(folder)
    data = encode_report(done.report).decode()
    assert all(each.isprintable() or each == "\n" for each in data)
    assert json.loads(data) == json.loads(msgspec.json.encode(done.report))
    page = draw(done.report, {})
    assert "<script>" not in page
    assert all(each.isprintable() or each == "\n" for each in page)
