"""What writing it down costs: a small entry, and a release of 100 MB, in a journal on the disk of a folder.

    python -m benchmarks.journal [--folder DIR] [--megabytes N]

Beside each stands the bare thing on the same disk in the same run: an `fsync` after a few hundred bytes, and one file
of that size, written and synced. Nothing is left in the folder.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tertium.protocol import limits
from tertium.protocol.charter import Role
from tertium.protocol.journal import FILE, Journal, Write
from tertium.secure_worker.memory import ReceiptKept

WRITES = 300
RELEASES = 5


def timed(act: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds an act took, by the clock and of this process's CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - wall, time.process_time() - cpu


def middle(acts: Sequence[tuple[float, float]], unit: float) -> str:
    """Return median, worst and CPU time of many, in one unit."""
    walls = sorted(wall for wall, _ in acts)
    cpu = statistics.median(cpu for _, cpu in acts)
    return f"{statistics.median(walls) / unit:8.2f} {walls[-1] / unit:8.2f} {cpu / unit:8.2f}"


def append(descriptor: int) -> None:
    """Write a few hundred bytes and sync them."""
    os.write(descriptor, bytes(400))
    os.fsync(descriptor)


def whole(path: Path, records: Sequence[bytes]) -> None:
    """Write a file of these records and sync it."""
    with path.open("wb") as file:
        file.writelines(records)
        file.flush()
        os.fsync(file.fileno())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description="What writing it down costs.")
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on the disk to measure")
    parser.add_argument("--megabytes", type=int, default=100)
    options = parser.parse_args(arguments)
    records = [os.urandom(limits.MIB) for _ in range(options.megabytes * 1_000_000 // limits.MIB)]
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="journal-") as name:
        folder = Path(name)
        journal = Journal(folder / FILE, party="third", role=Role.SECURE_WORKER, signing=bytes(32))
        entry = ReceiptKept("alice", bytes(32))
        descriptor = os.open(folder / "bare", os.O_CREAT | os.O_WRONLY, 0o600)
        small, bare = [], []
        for _ in range(WRITES):
            small.append(timed(lambda: journal.write(Write.CONTRIBUTION_ADDED, entry)))
            bare.append(timed(lambda: append(descriptor)))
        os.close(descriptor)
        large, file = [], []
        for number in range(RELEASES):
            body = (bytes([number]), records)
            large.append(timed(lambda body=body: journal.write(Write.RELEASE_DECIDED, keep=body)))  # type: ignore[misc]
            file.append(timed(lambda: whole(folder / "whole", records)))
        most = sum(path.stat().st_size for path in (folder / FILE, folder / f"{FILE}-wal"))
        journal.close()
        size = sum(map(len, records))
    print("                                   median    worst      CPU")
    print(f"a small write, ms              {middle(small, 1e-3)}")
    print(f"  400 bytes and an fsync, ms   {middle(bare, 1e-3)}")
    print(f"a release of {size / 1e6:3.0f} MB, s         {middle(large, 1.0)}")
    print(f"  one file of that size, s     {middle(file, 1.0)}")
    print(f"disk in use after a release: {most / size:.2f} times its size")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
