"""A real federation of processes, its packets taken off the loopback: every byte is of an envelope both ends noted."""

import contextlib
import socket
import struct
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pytest
from tertium.audit.capture import take
from tertium.audit.packets import CaptureFile
from tertium.audit.report import Kind, Report, Severity
from tertium.audit.zmtp import Mechanism
from tertium.cli import main

OWNERS = ("alice", "bob", "charlie")
PARAMETERS = 300_000
MOTIF = [0.7391, -1.2345, 0.000321, 3.14159]
_OUTGOING = 4
_FORCED_BUFFER = 33


class Sniffer:
    """Takes every TCP packet of the loopback to or from some ports, as tcpdump does, into a pcap."""

    def __init__(self, path: Path, ports: set[int]) -> None:
        self._ports = ports
        self._packets: list[bytes] = []
        self._path = path
        self._stop = threading.Event()
        self._more = False
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self._socket.bind(("lo", 0x0800))
        self._socket.setsockopt(socket.SOL_SOCKET, _FORCED_BUFFER, 1 << 28)
        self._socket.settimeout(0.05)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        # What is still in the buffer when the run is over is of the run.
        while not self._stop.is_set() or self._more:
            self._more = False
            with contextlib.suppress(TimeoutError):
                data, (_, _, kind, *_) = self._socket.recvfrom(1 << 18)
                self._more = True
                # The loopback shows each packet going out and coming in.
                if kind == _OUTGOING or data[23] != 6:
                    continue
                if self._ports & set(struct.unpack_from(">HH", data, 14 + 4 * (data[14] & 15))):
                    self._packets.append(data)

    def close(self) -> Path:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._socket.close()
        with self._path.open("wb") as file:
            file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, 1))
            for data in self._packets:
                file.write(struct.pack("<IIII", 0, 0, len(data), len(data)) + data)
        return self._path


@pytest.fixture
def captured(found, planted_of, tmp_path):
    """A run of two rounds, and its capture."""
    (tmp_path / "run").mkdir()
    place = found(
        {name: planted_of(PARAMETERS, MOTIF) for name in OWNERS},
        {"task": "planted", "rounds": 2, "metrics": [], "entry": planted_of(PARAMETERS)},
        folder=tmp_path / "run",
    )
    ends = [end for party in place.charter.parties for end in (party.control, party.bulk) if end]
    try:
        sniffer = Sniffer(tmp_path / "run.pcap", {urlsplit(end).port for end in ends})
    except PermissionError:
        pytest.skip("packets may only be taken as root")
    try:
        place.start_all()
        assert set(place.wait_all(60).values()) == {0}, place.err("owner")
        time.sleep(0.2)
    finally:
        path = sniffer.close()
    return place, path


def audited(capsys, *line):
    """Return status, report, and what of it is no notice."""
    status = main(["audit", *map(str, line), "--json"])
    report = msgspec.json.decode(capsys.readouterr().out, type=Report)
    return status, report, [each for each in report.findings if each.severity is not Severity.NOTICE]


def test_every_byte_of_a_run_is_of_an_envelope_that_both_ends_noted(captured, capsys, tmp_path):
    place, path = captured
    update = np.tile(np.array(MOTIF, "<f4"), 4).tobytes()
    (tmp_path / "pattern").write_bytes(update.hex().encode())
    line = (place.root, "--capture", path, "--pattern", update.hex(), "--pattern", place.charter.digest.hex())
    status, report, told = audited(capsys, *line, "--pattern-file", tmp_path / "pattern")
    found = report.capture
    assert (status, told) == (0, [])
    # Both rounds: the model to three, three updates, and the sum.
    assert found.matched == len(found.transfers) == found.bulk == 14
    assert all(one.state == "whole" for each in found.transfers for one in each.connections)
    assert all(None not in (each.sent, each.received, each.opened) for each in found.transfers)
    assert (found.not_captured, found.strays, found.cut, found.conflicting, found.begun_before) == (0, (), 0, 0, 0)
    assert found.control == 2 * len(OWNERS) + 1
    counted = found.bytes
    assert (counted.unexplained, counted.missing) == (0, 0)
    assert counted.greeting == 14 * 2 * 64
    assert counted.records == sum(each.wire for each in found.transfers) > 14 * 4 * PARAMETERS
    bulk = [each for each in take(path).lines if each.mechanism is Mechanism.PLAIN]
    assert sum(msgspec.structs.astuple(counted)) == sum(each.size for each in bulk)
    assert [(each.streams, each.packets) for each in found.patterns] == [(0, 0)] * 3

    # What is on the wire is found: some bytes of a sealed record.
    with CaptureFile(path) as file:
        sealed = max((packet.data for packet in file.packets()), key=len)[-24:]
    status, report, (violation,) = audited(capsys, *line, "--pattern", sealed.hex())
    assert status == 1
    assert (violation.kind, violation.party) == (Kind.PLANTED_PATTERN, None)
    assert report.verdict == "violation"
    # What is sealed once for all data owners travels to each of them.
    assert [each.packets for each in report.capture.patterns] in ([0, 0, 1], [0, 0, 3])

    # Without the ledger of one end, the other still noted it.
    (place.root / "third" / "state" / "journal.db").unlink()
    status, report, told = audited(capsys, *line)
    assert (status, told) == (0, [])
    assert report.capture.matched == 6
    assert len(report.capture.transfers) == 14
