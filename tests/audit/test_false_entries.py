"""Ledgers whose hashes are right and whose entries are not true, or lack something, and what an audit says of them."""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tertium.audit import evidence
from tertium.audit.access import forbidden
from tertium.audit.report import Finding, Kind, Level, Severity
from tertium.crypto.labels import Label
from tertium.protocol.codec import decode_as, encode
from tertium.protocol.errors import GateShut, WrongSender
from tertium.protocol.ledger import Act, Checkpoint, Content, DataClass, Exhibit, LedgerEntry, Part
from tertium.protocol.messages import Abort, Cause, Contribution
from tertium.protocol.seats import Seats
from tertium.protocol.statements import sign

Maker = Any
Choice = Callable[[LedgerEntry], bool]


@pytest.fixture(scope="module")
def once(make_once: Maker) -> tuple[Any, Path]:
    ran = make_once.ran("shamir 2 of 3", rounds=2)
    return ran, make_once.export(ran)


@pytest.fixture
def told(make: Maker, once: Any, tmp_path: Path, rewrite: Any) -> Callable[..., Any]:
    """Alter one party's ledger, have the party sign it anew, and audit that."""
    ran, whole = once

    def audit(
        name: str, which: Choice, change: Callable[[LedgerEntry], LedgerEntry | None], lost: Label | None = None
    ) -> Any:
        folder = Path(shutil.copytree(whole, tmp_path / "copy"))
        for path in folder.glob("*/state/journal.db") if lost is not None else ():
            with contextlib.closing(sqlite3.connect(path)) as database, database:
                database.execute("delete from exhibits where label = ?", (lost.value,))  # type: ignore[union-attr]

        def alter(rows: list[bytes]) -> list[bytes]:
            out: list[bytes] = []
            moved: dict[int, int] = {}
            for at, row in enumerate(rows):
                entry: LedgerEntry | None = decode_as(LedgerEntry, row)
                sources = tuple(moved[each] for each in entry.derived_from if each in moved)  # type: ignore[union-attr]
                entry = msgspec.structs.replace(entry, derived_from=sources)  # type: ignore[type-var]
                entry = change(entry) if which(entry) else entry
                if entry is not None:
                    moved[at] = len(out)
                    out.append(encode(entry))
            return out

        rewrite(folder, name, alter, signed_by=(ran.identities[name], ran.charter))
        return make.audit(folder)

    return audit


def is_(act: Act, data: DataClass) -> Choice:
    return lambda entry: (entry.act, entry.data) == (act, data)


def replaced(**fields: Any) -> Callable[[LedgerEntry], LedgerEntry]:
    return lambda entry: msgspec.structs.replace(entry, **fields)


def found(done: Any, kind: Kind, severity: Severity) -> list[Finding]:
    return [each for each in done.report.findings if (each.kind, each.severity) == (kind, severity)]


def test_an_opened_sum_that_was_an_update(told: Any) -> None:
    change = replaced(data=DataClass.UPDATE, whose=("alice",), part=None)
    done = told("owner", is_(Act.OPENED, DataClass.AGGREGATE), change)
    done.holds(Kind.FORBIDDEN_ACCESS, "owner")
    done.holds(Kind.FALSE_ENTRY, "owner")
    assert done.report.matrix[0].cells[0].level is Level.PLAINTEXT


def test_a_share_that_is_said_to_have_gone_to_somebody_else(told: Any) -> None:
    done = told("bob", lambda entry: entry.act is Act.SENT and entry.peer == "first" and bool(entry.part),
                replaced(peer="second"))  # fmt: skip
    done.holds(Kind.FALSE_ENTRY, "bob")


def test_a_sum_over_other_contributors_than_were_closed_with(told: Any) -> None:
    done = told("owner", is_(Act.DERIVED, DataClass.AGGREGATE), replaced(whose=("alice", "bob")))
    assert {each.party for each in found(done, Kind.DIFFERENT_VIEWS, Severity.VIOLATION)} == {"owner"}


def test_a_model_that_comes_from_nowhere(told: Any) -> None:
    done = told("owner", is_(Act.STORED, DataClass.MODEL), replaced(subject=bytes(32)))
    assert [each.party for each in found(done, Kind.MODEL_JUMP, Severity.ANOMALY)] == ["owner"]


def test_a_key_that_was_never_drawn(told: Any) -> None:
    done = told("first", is_(Act.DERIVED, DataClass.KEY), lambda _: None)
    assert [each.party for each in found(done, Kind.UNKNOWN_KEY, Severity.ANOMALY)] == ["first"]


def test_one_holders_total_is_no_sum(told: Any) -> None:
    """Without what it made of them, an owner that opened one total of the two it takes has a share of a sum."""
    made = (Act.DERIVED, DataClass.AGGREGATE), (Act.DERIVED, DataClass.MODEL), (Act.STORED, DataClass.MODEL)
    done = told(
        "owner",
        lambda e: (e.act, e.data) in made or (e.act is Act.OPENED and e.peer in ("second", "third")),
        lambda _: None,
        # Its own account of the check says that it had the sum.
        Label.SUM_CHECK,
    )
    cell = done.report.matrix[0].cells[0]
    assert cell.level is Level.CIPHERTEXT
    shares = [each for each in cell.access if each.level is Level.SHARE]
    assert [(each.data, each.part, each.of, each.count) for each in shares] == [("aggregate", 1, 3, 3)]


@pytest.mark.parametrize("label", [Label.RECEIPT, Label.HEADER])
def test_a_statement_beside_the_ledger_under_another_digest(
    make: Maker, once: Any, tmp_path: Path, label: Label
) -> None:
    folder = Path(shutil.copytree(once[1], tmp_path / "copy"))
    with contextlib.closing(sqlite3.connect(folder / "bob" / "state" / "journal.db")) as database, database:
        database.execute(
            "update exhibits set subject = zeroblob(32) where rowid = "
            "(select rowid from exhibits where label = ? limit 1)",
            (label.value,),
        )
    done = make.audit(folder)
    assert done.violations == []
    texts = [each.text for each in found(done, Kind.WRONG_EXHIBIT, Severity.ANOMALY)]
    assert any("under the digest of something else" in text for text in texts)


def test_a_party_speaks_for_no_ledger_but_its_own(once: Any) -> None:
    ran = once[0]
    said = Checkpoint(ran.charter.digest, "carol", 5, bytes(32))
    signed = sign(ran.identities["bob"], said)
    with pytest.raises(WrongSender):
        evidence.open_checkpoint(ran.charter, signed)


def test_who_was_dropped_after_a_receipt_is_said(make: Maker) -> None:
    federation = make.federation(parties=4)
    federation.lose("dave")
    federation.run()
    question = next(iter(make.audit(federation).report.attempts))
    abort = Abort(
        bytes.fromhex(question.session), 1, 0, "first", Cause.LOCAL, "restarted",
        receipted=(Contribution("dave", bytes(32)),),
    )  # fmt: skip
    signed = sign(federation.identities["first"], abort)
    federation.machines["first"].exchange.view._ledger.keep(Exhibit.of_statement(Label.ABORT, signed))
    federation.machines["first"].exchange.view.refused("dave", "too-late")
    done = make.audit(federation)
    (dropped,) = found(done, Kind.DROPPED, Severity.ANOMALY)
    assert dropped.others == ("dave",)


@pytest.mark.parametrize(("names", "weight"), [(("alice", "bob"), "notice"), (("alice", "bob", "carol"), "anomaly")])
def test_a_gate_that_shuts_on_enough_contributors_is_an_anomaly(
    make: Maker, names: tuple[str, ...], weight: str
) -> None:
    ran = make.ran()
    content = Content(DataClass.AGGREGATE, names)
    ran.machines["first"].exchange.view.refused("owner", GateShut.code, None, content=content)
    done = make.audit(ran)
    assert [each.severity.value for each in done.report.findings if each.kind is Kind.REFUSED] == [weight]


def test_what_each_may_open_make_and_keep(once: Any) -> None:
    ran = once[0]
    seats, digest = Seats(ran.charter), ran.charter.digest

    def is_wrong(party: str, act: Act, data: DataClass, whose: tuple[str, ...] = ("alice",), part: Any = None) -> bool:
        peer = "bob" if act is Act.OPENED else None
        entry = LedgerEntry(act, data, digest, peer=peer, whose=whose, part=part, payload=8 if part else 0)
        return forbidden(seats, ran.charter, party, entry) is not None

    first, second = Part(0, 3), Part(1, 3)
    # A data owner makes its update, and may keep it and its shares, to open them to an auditor.
    for data, part in ((DataClass.UPDATE, None), (DataClass.SHARE, first), (DataClass.SEED, second)):
        assert not is_wrong("alice", Act.STORED, data, part=part)
        assert is_wrong("bob", Act.STORED, data, part=part)
        assert is_wrong("first", Act.STORED, data, part=part)
        assert is_wrong("owner", Act.STORED, data, part=part)
    assert not is_wrong("alice", Act.DERIVED, DataClass.UPDATE)
    # A holder opens its own share of somebody, and no other's.
    assert not is_wrong("first", Act.OPENED, DataClass.SHARE, part=first)
    assert is_wrong("first", Act.OPENED, DataClass.SHARE, part=second)
    assert is_wrong("owner", Act.OPENED, DataClass.SHARE, part=first)
    assert is_wrong("first", Act.OPENED, DataClass.UPDATE)
    # A sum is for the model owner, a mask's seed for the neighbour it is sealed for, a model for who trains.
    assert not is_wrong("owner", Act.OPENED, DataClass.AGGREGATE, ("alice", "bob"))
    assert is_wrong("first", Act.OPENED, DataClass.AGGREGATE, ("alice", "bob"))
    assert not is_wrong("bob", Act.OPENED, DataClass.MASK)
    assert is_wrong("owner", Act.OPENED, DataClass.MASK)
    assert not is_wrong("bob", Act.OPENED, DataClass.MODEL, ())
    assert is_wrong("first", Act.OPENED, DataClass.MODEL, ())
