"""Runs that were handed to an auditor: simulated federations, their journals as files, and ways to alter those."""

import contextlib
import os
import sqlite3
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tertium.audit import evidence, findings, replay
from tertium.audit.errors import NotShown
from tertium.audit.examine import Audit, examine
from tertium.audit.reading import read_run
from tertium.audit.report import Finding, Kind, Report, Severity
from tertium.crypto.identity import Identity
from tertium.crypto.merkle import Tree, leaf_hash
from tertium.learning.numpy_task import NumpyTask
from tertium.owner.store import OwnerStore
from tertium.protocol.charter import Charter, Deadlines, Mode, Rules, SchemeName
from tertium.protocol.codec import encode
from tertium.protocol.ledger import Checkpoint, CheckpointKept
from tertium.protocol.site import LocalLimits, OwnerPlan
from tertium.protocol.statements import sign
from tertium.simulation.exported import export
from tertium.simulation.federation import Federation

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode puts no folder of tests there
from handmade import Case, envelopes_of

NAMES = ("alice", "bob", "carol", "dave", "erin")
WORKERS = ("first", "second", "third", "fourth")
SOON = Deadlines(join=10, upload=30, close=10, release=10, statement=5, absence=20)
MODES = {
    "trusted": (Mode.TRUSTED, SchemeName(name="trusted"), 1),
    "masked": (Mode.MASKED, SchemeName(name="masked"), 1),
    "additive": (Mode.ADDITIVE, SchemeName(name="additive"), 3),
    "shamir 2 of 3": (Mode.SHAMIR, SchemeName(name="shamir", threshold=2), 3),
    "shamir 2 of 4": (Mode.SHAMIR, SchemeName(name="shamir", threshold=2), 4),
    "replicated": (Mode.SHARED, SchemeName(name="replicated"), 3),
    "plain": (Mode.PLAIN, SchemeName(name="plain"), 1),
}


@dataclass
class Audited:
    """An audit of a folder, and what tests ask of it."""

    folder: Path
    audit: Audit
    charter: Charter
    known: dict[Kind, list[Finding]] = field(default_factory=dict)

    @property
    def report(self) -> Report:
        return self.audit.report

    @property
    def violations(self) -> list[tuple[Kind, str | None]]:
        return [(each.kind, each.party) for each in self.report.of(Severity.VIOLATION)]

    def holds(self, kind: Kind, party: str | None) -> Finding:
        """See that this is found, of this party, and that its evidence holds offline, whole, and not altered."""
        found = [
            place
            for place, each in enumerate(self.report.findings)
            if (each.kind, each.party, each.severity) == (kind, party, Severity.VIOLATION)
        ]
        assert found, [(each.kind, each.party, each.severity, each.text) for each in self.report.findings]
        finding, bundle = self.report.findings[found[0]], self._bundle(found[0])
        assert finding.provable
        assert (finding.discloses is not None) is bool(bundle.openings)
        data = evidence.to_bytes(bundle)
        proven = evidence.verify(self.charter, evidence.from_bytes(data))
        assert (proven.party, proven.text, proven.discloses) == (party, finding.text, finding.discloses)
        return finding

    def bundle(self, kind: Kind) -> Any:
        places = (*self.audit.bundles, *self.audit.disclosing)
        return self._bundle(next(place for place in places if self.report.findings[place].kind is kind))

    def _bundle(self, place: int) -> Any:
        return self.audit.bundles[place] if place in self.audit.bundles else self.audit.disclosing[place]()


class Maker:
    """Makes federations of numpy tasks, runs them, and audits what they leave."""

    names = NAMES
    modes = MODES

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made = 0

    def federation(
        self, mode: str = "trusted", parties: int = 3, rounds: int = 1, *, machines: Mapping[str, Any] | None = None,
        rules: Mapping[str, Any] | None = None, **more: Any,
    ) -> Federation:  # fmt: skip
        kind, scheme, workers = MODES[mode]
        plain = {"unsafe_plain": "a test"} if kind is Mode.PLAIN else {}
        said = {"mode": kind, "scheme": scheme, "minimum_cohort": 3, "deadlines": SOON, **plain, **(rules or {})}
        names = NAMES[:parties]
        self.made += 1
        limits_of = {name: LocalLimits(modes=(kind,)) for name in names} if kind is Mode.PLAIN else {}
        return Federation(
            {name: NumpyTask(party=at, examples=20) for at, name in enumerate(names)},
            NumpyTask(test_examples=10),
            OwnerPlan(task="regression", rounds=rounds, seed=7),
            OwnerStore(self.folder / f"owner-{self.made}", "npz"),
            rules=Rules(**said),
            workers=WORKERS[:workers],
            machines=machines,
            limits_of=limits_of,
            **more,
        )

    def ran(self, mode: str = "trusted", parties: int = 3, rounds: int = 1, **more: Any) -> Federation:
        federation = self.federation(mode, parties, rounds, **more)
        federation.run()
        return federation

    def export(self, federation: Federation, **more: Any) -> Path:
        self.made += 1
        return export(federation, self.folder / f"run-{self.made}", **more)

    def audit(self, run: Federation | Path, **more: Any) -> Audited:
        folder = run if isinstance(run, Path) else self.export(run, **more)
        with read_run(folder) as given:
            return Audited(folder, examine(given), given.charter)


def claimed(folder: Path) -> list[evidence.Bundle]:
    """Put together what an auditor would hand over who says of every total and of every sum that it is another."""
    made: list[evidence.Bundle] = []

    def record(charter: Charter, bundle: evidence.Bundle) -> evidence.Proven:
        made.append(bundle)
        raise NotShown("it is only put together")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "same", lambda one, other: False)
        patch.setattr(replay, "fingerprint", lambda total, challenge: -1)
        real = replay._wrong_sum
        patch.setattr(replay, "_wrong_sum", lambda *args, named: real(*args, named=False))
        patch.setattr(findings, "verify", record)
        with read_run(folder) as given:
            examine(given)
    return [bundle for bundle in made if bundle.openings]


def rewrite(
    folder: Path,
    name: str,
    change: Callable[[list[bytes]], list[bytes]],
    *,
    signed_by: tuple[Identity, Charter] | None = None,
) -> None:
    """Alter a ledger as its party could: other rows, every hash made anew, and with keys a new checkpoint."""
    with contextlib.closing(sqlite3.connect(folder / name / "state" / "journal.db")) as database, database:
        rows = change([row[0] for row in database.execute("select entry from ledger order by sequence")])
        tree = Tree()
        database.execute("delete from ledger")
        for sequence, entry in enumerate(rows):
            hashes = b"".join(tree.append(leaf_hash(entry)))
            database.execute("insert into ledger values (?, ?, ?)", (sequence, entry, hashes))
        database.execute("delete from entries where kind = ?", (CheckpointKept.kind,))
        if signed_by is not None:
            identity, charter = signed_by
            kept = CheckpointKept(sign(identity, Checkpoint(charter.digest, name, tree.size, tree.root())))
            row = (CheckpointKept.kind, kept.key, encode(kept))
            database.execute("insert into entries values (?, ?, ?)", row)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return Maker(tmp_path)


@pytest.fixture(scope="module")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Makes what several tests look at."""
    return Maker(tmp_path_factory.mktemp("once"))


@pytest.fixture(scope="session", name="rewrite")
def rewrite_fixture() -> Callable[..., None]:
    return rewrite


@pytest.fixture(scope="session", name="claimed")
def claimed_fixture() -> Callable[[Path], list[evidence.Bundle]]:
    return claimed


@pytest.fixture(scope="module")
def exported_once(make_once: Maker) -> tuple[Path, list[Any]]:
    """A run, and its envelopes."""
    folder = Path(make_once.export(make_once.ran()))
    return folder, envelopes_of(folder)


@pytest.fixture
def run(exported_once: tuple[Path, list[Any]], tmp_path: Path) -> Case:
    """A run to which a test writes a capture."""
    folder, envelopes = exported_once
    return Case(folder, tmp_path, envelopes)
