"""What a round costs beside the moving of updates: latency, memory, bytes on the wire, start-up.

    python -m benchmarks.rounds [latency] [memory] [wire] [startup]

- *latency*: rounds of a 3-parameter model with 3 data owners, five real processes; the model owner's own figure of each
  round, from signing the question to the round's record, journals and checkpoint included; with the state folders on
  the disk and, for the protocol alone, in memory.
- *memory*: the peak resident set of a `tertium secure-worker run` for cohorts of 3 and 30. The other parties run as
  threads of this process; only the secure worker's process is measured.
- *wire*: a relay before every listening socket counts the bytes of TCP payload each way: ZeroMQ's framing, handshakes
  and the encrypted control lane included.
- *startup*: from starting `tertium secure-worker run` until it says that it listens.
"""

import argparse
import statistics
import sys
import threading
import time
from pathlib import Path

from tertium.cli.trust import trust
from tertium.crypto.identity import Identity
from tertium.learning.registry import load_task
from tertium.learning.task import ServerOptimiser
from tertium.owner.machine import ModelOwner
from tertium.owner.store import OwnerStore
from tertium.protocol import limits
from tertium.protocol.charter import Charter
from tertium.protocol.exchange import Exchange
from tertium.protocol.lanes.zmq_lanes import Listen, ZmqLanes
from tertium.protocol.machine import Machine
from tertium.protocol.party import Party
from tertium.protocol.progress import Progress
from tertium.protocol.site import Site, addresses, load_site
from tertium.protocol.view import View
from tertium.workers.data_owner import DataOwner

from .place import OWNER, THIRD, Place

DEADLINE = 300.0
_MEMORY = Path("/dev/shm")
LATENCY = 0.050
"""Most seconds a round of a tiny model may take in the median."""
WIRE = 1.01
"""Most bytes of upload a byte of float32."""
MEMORY_BASE = 80 * limits.MIB
MEMORY_TOTAL = 1.25
MEMORY_UPLOADS = 2
"""Most a secure worker may use: the base, the accumulator this many times, so many uploads in flight."""
SAME = 0.10
"""How much the peaks of two cohorts may differ, as a share: connections of 30 parties, and what an allocator does."""


def latency(rounds: int = 100) -> bool:
    """Print the median round with the state folders in memory and on the disk; True if the first is short enough.

    In memory it is protocol alone: what the disk adds is its own speed at some dozen syncs.
    """
    seconds = {None: _rounds_of(rounds, None)}
    if _MEMORY.is_dir():
        seconds[_MEMORY] = _rounds_of(rounds, _MEMORY)
    for folder, each in seconds.items():
        print(
            f"latency: 3 parameters, 3 data owners, {len(each)} rounds, state on {folder or 'disk'}: "
            f"median {statistics.median(each) * 1000:.1f} ms, fastest {min(each) * 1000:.1f}, "
            f"95th percentile {statistics.quantiles(each, n=20)[-1] * 1000:.1f}; at most {LATENCY * 1000:.0f}",
            flush=True,
        )
    return statistics.median(seconds.get(_MEMORY, seconds[None])) <= LATENCY


def _rounds_of(rounds: int, folder: Path | None) -> list[float]:
    with Place(parameters=3, cohort=3, rounds=rounds, folder=folder) as place:
        for name in (OWNER, THIRD, *place.names):
            place.start(name)
        place.wait_all(DEADLINE)
        return [line["seconds"] for line in place.lines(OWNER) if line["event"] == "round-done"]


def _quiet(_: Progress) -> None:
    pass


def _party(place: Place, name: str, machine: Machine, listen: Listen | None, connect: tuple[str, ...]) -> Party:
    charter, identity = place.charter, place.identities[name]
    lanes = ZmqLanes(
        name,
        identity.curve_secret,
        {other: address for other, address in addresses(charter).items() if other != name},
        listen=listen,
        frame_limit=limits.control_frame(len(charter.parties)),
    )
    party = Party(machine, lanes, identity, charter, report=_quiet)
    for peer in connect:
        lanes.connect(peer)
    return party


def _data_owner(place: Place, name: str, site: Site) -> Party:
    identity, charter = place.identities[name], place.charter
    trainers = {task: load_task(entry.factory, entry.options).trainer() for task, entry in site.tasks.items()}
    journal = place.journal(name)
    exchange = Exchange(identity, charter, View.kept_in(journal, identity, charter))
    machine = DataOwner(identity, charter, exchange, journal, site, trainers)
    return _party(place, name, machine, None, (OWNER, THIRD))


def _model_owner(place: Place, site: Site) -> Party:
    identity: Identity = place.identities[OWNER]
    charter: Charter = place.charter
    plan = site.owner
    if plan is None or site.listen.control is None or site.listen.bulk is None:
        raise RuntimeError("the benchmark's own site file lacks a section")
    entry = site.tasks[plan.task]
    model = load_task(entry.factory, entry.options).global_model(plan.seed, ServerOptimiser())
    store = OwnerStore(place.root / OWNER / "state")
    store.prepare()
    journal = place.journal(OWNER)
    exchange = Exchange(identity, charter, View.kept_in(journal, identity, charter))
    machine = ModelOwner(identity, charter, exchange, journal, plan, model, store)
    return _party(place, OWNER, machine, Listen(site.listen.control, site.listen.bulk), (THIRD,))


def peak(parameters: int, cohort: int, rounds: int = 2) -> int:
    """Return the peak resident set, in bytes, of a secure worker that did `rounds` rounds."""
    with Place(parameters=parameters, cohort=cohort, rounds=rounds) as place:
        process = place.start(THIRD)
        watched = _Watch(process.pid)
        parties = [_model_owner(place, load_site(place.root / OWNER / "site.toml"))]
        parties += [_data_owner(place, name, load_site(place.root / name / "site.toml")) for name in place.names]
        threads = [threading.Thread(target=party.run, daemon=True) for party in parties]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        failed = [party.error for party in parties if party.error is not None or not party.done]
        place.wait_all(30)
        if failed:
            raise RuntimeError(f"a party failed: {failed[0]}")
        return watched.peak


class _Watch(threading.Thread):
    """Reads a process's peak resident set until it ends."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self.peak = 0
        self.start()

    def run(self) -> None:
        while True:
            try:
                with open(f"/proc/{self._pid}/status", encoding="ascii") as status:
                    found = [line.split()[1] for line in status if line.startswith("VmHWM:")]
            except OSError:
                return
            if not found:
                return
            self.peak = max(self.peak, int(found[0]) * 1024)
            time.sleep(0.02)


def memory(parameters: int = 2_500_000) -> bool:
    """Print the peaks for cohorts of 3 and 30; True if they are alike and within bounds."""
    vector = parameters * 4
    bound = MEMORY_BASE + MEMORY_TOTAL * vector + MEMORY_UPLOADS * vector
    peaks = [peak(parameters, cohort) for cohort in (3, 30)]
    for cohort, size in zip((3, 30), peaks, strict=True):
        print(
            f"memory: {parameters:,} parameters, cohort of {cohort}: peak {size / limits.MIB:.1f} MiB, "
            f"at most {bound / limits.MIB:.1f}",
            flush=True,
        )
    return max(peaks) <= bound and abs(peaks[1] - peaks[0]) <= SAME * peaks[0]


MODES = (("trusted", 1), ("masked", 1), *(("additive", workers) for workers in (2, 3, 5)))


def wire(parameters: int = 2_500_000, cohort: int = 3) -> bool:
    """Print bytes on the wire a byte of float32, in every mode; True if an upload is lean enough in all."""
    print(f"wire: {parameters:,} parameters, {cohort} data owners, one round; bytes on the wire a byte of float32:")
    lean = [_wire_of(mode, workers, parameters, cohort) for mode, workers in MODES]
    return all(lean)


def _wire_of(mode: str, workers: int, parameters: int, cohort: int) -> bool:
    with Place(parameters=parameters, cohort=cohort, rounds=1, relayed=True, mode=trust(mode, workers)) as place:
        for name in (OWNER, *place.workers, *place.names):
            place.start(name)
        place.wait_all(DEADLINE)
        count = {key: (relay.inward, relay.outward) for key, relay in place.relays.items()}
        seated, secure = mode == "masked", place.workers
    vector = parameters * 4
    # What comes in at secure workers: shares, and a little control, the model owner's too. Where it holds the seeds,
    # all that comes in there is counted as upload as well, acceptances and cosignatures included.
    at = [*secure, *([OWNER] if seated else [])]
    up = sum(count[name, lane][0] for name in at for lane in ("bulk", "control")) / (cohort * vector)
    down = (count[OWNER, "bulk"][1] + count[OWNER, "control"][1]) / (cohort * vector)
    out = sum(count[name, lane][1] for name in secure for lane in ("bulk", "control")) / vector
    print(
        f"  {mode:<9}{workers} secure worker(s): updates {up:.4f} (at most {WIRE}), {4 * up:.3f} bytes a weight; "
        f"model {down:.4f}; aggregates {out:.4f}",
        flush=True,
    )
    return up <= WIRE


def startup(times: int = 7) -> bool:
    """Print how long a secure worker takes until it listens."""
    seconds = []
    with Place(parameters=3, cohort=3, rounds=1) as place:
        for _ in range(times):
            begun = time.perf_counter()
            process = place.start(THIRD)
            while not any(line["event"] == "started" for line in place.lines(THIRD)):
                if process.poll() is not None or time.perf_counter() - begun > 30:
                    raise RuntimeError("the secure worker did not start")
                time.sleep(0.002)
            seconds.append(time.perf_counter() - begun)
            process.terminate()
            process.wait(10)
    print(f"startup: secure worker listens after {statistics.median(seconds):.2f} s (fastest {min(seconds):.2f})")
    return True


PARTS = {"latency": latency, "memory": memory, "wire": wire, "startup": startup}


def main(given: list[str] | None = None) -> int:
    """Measure what is named, all if nothing is; return 1 if something is over its bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="part", help=", ".join(PARTS))
    arguments = parser.parse_args(given)
    over = [name for name in arguments.parts or PARTS if not PARTS[name]()]
    for name in over:
        print(f"{name} is over its bound")
    return int(bool(over))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
