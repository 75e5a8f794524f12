"""`tertium audit` and `tertium evidence verify`: what they print, and how they end."""

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tertium.audit import evidence, report
from tertium.audit.examine import examine
from tertium.audit.reading import read_run
from tertium.audit.report import Report
from tertium.audit.summary import lines
from tertium.cli import main

Maker = Any
SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "audit.schema.json"


@pytest.fixture(scope="module")
def once(make_once: Maker) -> Path:
    return Path(make_once.export(make_once.ran(rounds=2)))


@pytest.fixture
def run(once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(once, tmp_path / "run"))


@pytest.fixture
def lied(run: Path, rewrite: Any) -> Path:
    rewrite(run, "bob", lambda rows: rows[:9])
    return run


def test_a_clean_run_ends_with_0_and_the_verdict_comes_first(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(run)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "clean: no violation is on record"
    assert "5 of 5 ledgers" in said[1]
    table = said[said.index("who has on record what of whom") :]
    assert table[2].split("  ")[1].strip() == "owner"
    assert table[2].count("aggregate of 3") == 3
    assert table[3].count("plaintext") == 3
    assert "  2 verified" in said
    assert "what this audit cannot show" in said


def test_a_violation_ends_with_1_and_names_the_party_first(lied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(lied)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "VIOLATION: 1 on record, by bob"
    assert said[said.index("violations") + 1].startswith("  bob: truncated ledger: bob signed for ")


def test_the_json_is_what_the_schema_says(lied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(lied), "--json"]) == 1
    said = capsys.readouterr().out
    found = msgspec.json.decode(said, type=Report)
    assert report.encode(found).decode() == said.rstrip("\n")
    assert found.verdict == "violation"
    assert [each.party for each in found.findings if each.severity is report.Severity.VIOLATION] == ["bob"]
    assert SCHEMA.read_text() == report.schema(), "run python docs/tables.py"
    assert set(json.loads(report.schema())["$defs"]["Report"]["required"]) == set(json.loads(said))


def test_evidence_is_written_and_verifies_with_nothing_but_the_charter(
    lied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, charter = tmp_path / "evidence", str(lied / "charter.toml")
    assert main(["audit", str(lied), "--evidence", str(folder), "--json"]) == 1
    (finding,) = [each for each in json.loads(capsys.readouterr().out)["findings"] if each["provable"]]
    (file,) = folder.iterdir()
    assert file.name == finding["evidence"] == "001-truncated-ledger-bob.evidence"
    assert main(["evidence", "verify", str(file), "--charter", charter]) == 0
    assert capsys.readouterr().out == f"holds: {finding['text']}\n"
    data = file.read_bytes()
    for at in (0, len(evidence.MAGIC), len(data) // 2, len(data) - 1):
        file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert main(["evidence", "verify", str(file), "--charter", charter]) == 1
        assert capsys.readouterr().out.startswith("does not hold: ")
    for cut in (b"", data[:-1], data + b"\0"):
        file.write_bytes(cut)
        assert main(["evidence", "verify", str(file), "--charter", charter]) == 1


def test_evidence_does_not_hold_under_another_charter(
    make: Maker, lied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["audit", str(lied), "--evidence", str(tmp_path / "evidence")])
    (file,) = (tmp_path / "evidence").iterdir()
    other = make.export(make.federation())
    assert main(["evidence", "verify", str(file), "--charter", str(other / "charter.toml")]) == 1
    assert "another charter" in capsys.readouterr().out


def test_a_party_that_hands_nothing_over_is_listed_and_the_audit_goes_on(
    make: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make.export(make.ran(), without=("first", "carol"))
    assert main(["audit", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "without first: its ledger was not given\n" in said
    assert said.startswith("clean: no violation is on record; 2 of 5 ledgers could not be looked at\n")
    assert "What carol, first opened, kept or erased" in said
    # What it has is on record elsewhere: those it gave a receipt hold its word that it opened their updates.
    (row,) = [line for line in said.splitlines() if line.startswith("  first (without its ledger)")]
    assert row.split("  ")[2:] == ["plaintext", "plaintext"] or row.count("plaintext") == 2


def test_journals_lie_in_a_partys_folder_or_beside_the_charter(run: Path) -> None:
    (run / "alice" / "state" / "journal.db").rename(run / "alice" / "journal.db")
    (run / "bob" / "state" / "journal.db").rename(run / "bob.db")
    assert main(["audit", str(run)]) == 0


@pytest.mark.parametrize("what", ["no folder", "no charter", "an unsigned charter", "no ledger", "a file that is none"])
def test_a_run_that_cannot_be_used_ends_with_2_and_one_sentence(
    make: Maker, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    folder = make.export(make.federation(), without=("owner", "first", "alice", "bob"))
    journal = folder / "carol" / "state" / "journal.db"
    match what:
        case "no folder":
            folder = folder / "nowhere"
        case "no charter":
            (folder / "charter.toml").unlink()
        case "an unsigned charter":
            (folder / "charter.signatures.toml").unlink()
        case "no ledger":
            journal.unlink()
        case _:
            journal.unlink()
            sqlite3.connect(journal).execute("create table entries (kind text)").connection.close()
    assert main(["audit", str(folder)]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert error.startswith("tertium: ")


def test_a_folder_that_has_evidence_is_not_mixed_with_another_audits(
    lied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "evidence"
    assert main(["audit", str(lied), "--evidence", str(folder)]) == 1
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert main(["audit", str(lied), "--evidence", str(folder)]) == 2
    assert "holds evidence of another audit: name a new folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert main(["audit", str(lied), "--evidence", str(lied / "charter.toml")]) == 2
    assert "cannot be looked into: not a directory" in capsys.readouterr().err.lower()


def test_evidence_that_cannot_be_read_ends_with_2(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evidence", "verify", str(run / "none"), "--charter", str(run / "charter.toml")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_what_a_report_names_is_the_place_in_the_folder_and_not_on_the_machine(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, statement in (("alice", "delete from ledger where sequence = 3"), ("carol", "drop table exhibits")):
        with contextlib.closing(sqlite3.connect(run / name / "state" / "journal.db")) as database, database:
            database.execute(statement)
    assert main(["audit", str(run), "--html", str(run.parent / "audit.html")]) == 1
    said = capsys.readouterr().out
    assert "alice: broken ledger: the ledger in alice/state/journal.db lacks entry 3" in said
    assert "without carol: carol/state/journal.db has no table" in said
    assert str(run) not in said + (run.parent / "audit.html").read_text(encoding="utf-8")


def test_a_group_that_can_work_out_several_updates_has_one_line_a_way(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(run)]) == 0
    said = capsys.readouterr().out.splitlines()
    at = said.index("who can work out an update")
    assert said[at + 1 : at + 3] == [
        "  first can read each update of alice, bob, carol: the mode lets it",
        "  alice with bob can work out the update of carol: all others of a released sum, and the sum",
    ]


def test_rounds_are_counted_that_were_to_train_and_no_evaluation(run: Path) -> None:
    with read_run(run) as given:
        found = examine(given).report
    (*_, last) = found.attempts
    evaluation = msgspec.structs.replace(last, round=last.round + 1, purpose="evaluate")
    told = list(lines(msgspec.structs.replace(found, attempts=(*found.attempts, evaluation))))
    assert ", 2 rounds; charter " in told[1]
