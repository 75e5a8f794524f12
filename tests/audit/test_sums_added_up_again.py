"""Sums that are added up again: right ones come out bit for bit, and a wrong one names its maker in every mode."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from liars import AltersTheTotal
from tertium.audit import evidence
from tertium.audit.errors import NotShown
from tertium.audit.report import Disclosure, Kind, Severity
from tertium.protocol.codec import decode_as, encode
from tertium.protocol.openings import Opening
from tertium.secure_worker.machine import SecureWorker

MODES = ("trusted", "masked", "additive", "shamir 2 of 3", "shamir 2 of 4", "replicated", "plain")


def files_of(folder: Path, name: str) -> list[Path]:
    return sorted((folder / name / "state" / "openings").iterdir())


def opened(make: Any, mode: str, folder: Path, **more: Any) -> Path:
    """A run whose parties all keep their openings, as an auditor is handed it."""
    return make.export(make.ran(mode, openings=folder, **more))


@pytest.mark.parametrize("mode", MODES)
def test_every_sum_is_added_up_again_bit_for_bit_in_every_mode(
    make: Any, tmp_path: Path, claimed: Any, mode: str
) -> None:
    folder = opened(make, mode, tmp_path / "kept", rounds=2)
    audited = make.audit(folder)
    assert [(each.round, each.outcome) for each in audited.report.replays] == [(1, "equal"), (2, "equal")]
    holders = audited.report.holders
    for each in audited.report.replays:
        assert each.known == ("alice", "bob", "carol")
        compared = len([name for name in holders if name != "owner"])
        assert "the fingerprint of the released sum is that of the opened one" in each.text
        assert (f"{compared} of {len(holders)} totals were compared bit for bit" in each.text) is (compared > 0)
    plain = [(Kind.PLAIN_ACCESS, "owner")] if mode == "plain" else []
    assert audited.violations == plain
    assert audited.report.of(Severity.ANOMALY) == ()
    # They are files of this user alone, one a share that was sent.
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files_of(folder, "alice"))
    stored = [each for each in audited.report.retention if each.party == "alice"]
    assert stored
    # Whoever says that it was another sum puts together all there is, and shows nobody guilty.
    claims = claimed(folder)
    released = [name for name in holders if name != "owner"]
    accused = sorted((each.kind.value, each.party or "nobody") for each in claims)
    assert accused == sorted(2 * [("wrong sum", "nobody"), *(("wrong total", name) for name in released)])
    for bundle in claims:
        with pytest.raises(NotShown, match=" is that of the shares"):
            evidence.verify(audited.charter, bundle)


def test_nothing_is_kept_and_nothing_replayed_unless_a_site_says_so(make: Any) -> None:
    folder = make.export(make.ran("trusted"))
    assert not (folder / "alice" / "state" / "openings").exists()
    assert make.audit(folder).report.replays == ()


def test_who_does_not_open_is_named_and_nothing_is_concluded(make: Any, tmp_path: Path) -> None:
    folder = opened(make, "additive", tmp_path / "kept")
    for path in files_of(folder, "bob"):
        path.unlink()
    (said,) = make.audit(folder).report.replays
    assert (said.outcome, said.known) == ("not replayed", ("alice", "carol"))
    assert said.text.startswith("bob does not open what it sent to ")


def test_an_opening_of_something_else_is_noticed_and_its_keeper_named(make: Any, tmp_path: Path) -> None:
    folder = opened(make, "trusted", tmp_path / "kept")
    (path,) = files_of(folder, "bob")
    said = decode_as(Opening, path.read_bytes())
    other = bytes([said.sections[0][0] ^ 1]) + said.sections[0][1:]
    path.write_bytes(encode(msgspec.structs.replace(said, sections=(other,))))
    report = make.audit(folder).report
    (found,) = [each for each in report.findings if each.kind is Kind.WRONG_OPENING]
    assert (found.party, found.severity) == ("bob", Severity.ANOMALY)
    assert report.verdict == "clean", report.of(Severity.VIOLATION)
    assert report.replays[0].outcome == "not replayed"


def changed(kind: str, vectors: dict[str, Any], total: Any) -> Any:
    """What a secure worker that lies hands over for its total."""
    match kind:
        case "returns one as the sum":
            return vectors["alice"].copy()
        case "leaves one out":
            return total - vectors["bob"]
        case "counts one twice":
            return total + vectors["bob"]
        case _:
            return total + 6 * vectors["carol"]


@pytest.mark.parametrize("kind", ["returns one as the sum", "leaves one out", "counts one twice", "multiplies one"])
def test_a_secure_worker_that_releases_another_sum_is_named(make: Any, tmp_path: Path, kind: str) -> None:
    class Lies(SecureWorker):
        def opened(self, peer: str, incoming: Any, sections: Any, now: float) -> None:
            vectors[peer] = np.frombuffer(bytes(sections[0]), np.uint32).copy()
            super().opened(peer, incoming, sections, now)

        def _settle_on(self, intake: Any, close: Any, now: float) -> None:
            total = intake.total
            intake.total = lambda names: changed(kind, vectors, total(names))
            super()._settle_on(intake, close, now)

    vectors: dict[str, Any] = {}
    folder = opened(make, "trusted", tmp_path / "kept", machines={"first": Lies})
    audited = make.audit(folder)
    found = audited.holds(Kind.WRONG_TOTAL, "first")
    assert found.discloses == Disclosure("updates", ("alice", "bob", "carol"), ("first",))
    assert {party for _, party in audited.violations} == {"first", None}
    assert (Kind.FAILED_SUM, None) in audited.violations
    (said,) = audited.report.replays
    assert said.outcome == "different"


@pytest.mark.parametrize("mode", ["masked", "additive", "shamir 2 of 4", "replicated"])
def test_a_holder_that_releases_another_total_is_named_in_modes_with_several(
    make: Any, tmp_path: Path, mode: str
) -> None:
    liar = "first" if mode == "masked" else "second"
    audited = make.audit(opened(make, mode, tmp_path / "kept", machines={liar: AltersTheTotal}))
    found = audited.holds(Kind.WRONG_TOTAL, liar)
    # One holder's shares are no updates; where the model owner has the others, its wrong sum is no reason to open them.
    assert found.discloses == Disclosure("shares", ("alice", "bob", "carol"), (liar,))
    assert {party for _, party in audited.violations} <= {liar, None}
    assert [each.provable for each in audited.report.findings if each.kind is Kind.WRONG_SUM] in ([], [False])


@pytest.mark.parametrize("party", ["bob", "owner"])
def test_a_file_that_is_no_opening_is_noticed_and_ends_no_audit(make: Any, tmp_path: Path, party: str) -> None:
    folder = opened(make, "trusted", tmp_path / "kept")
    (path,) = files_of(folder, party)
    path.write_bytes(b"nothing")
    report = make.audit(folder).report
    assert [each.party for each in report.findings if each.kind is Kind.WRONG_OPENING] == [party]
    assert report.verdict == "clean", report.of(Severity.VIOLATION)
    (said,) = report.replays
    assert said.outcome == ("not replayed" if party == "bob" else "equal")
