"""How fast a secure worker takes in updates, beside a bare loop that seals, sends, opens and adds and does no more.

    python -m benchmarks.ingest [--parameters N] [--senders 1 3] [--rounds N] [--repeats N]

Both run in separate processes, on the same libraries, on the same vector: `parameters` float32 values as 32-bit words.

- *real*: a model owner, a secure worker and the senders, by the machines the `tertium ... run` commands run, over the
  control and the bulk lane. Timed by the secure worker, from the first Ready it takes to the last receipt it hands out.
- *bare*: HPKE wraps a key, Cobblestone seals 1 MiB records, a DEALER sends them without copies, a ROUTER receives; each
  record is opened, and a body is added to the total when its last tag has verified. No control lane, no credit, no
  signature, no commitment; buffers are used again from one body to the next. Timed by the receiver, from the first head
  to the last addition.

In both, senders begin together: they meet at a barrier with their words encoded. The two take turns, so what else the
machine does meets both alike; the ratio is of median rates. On a shared machine the CPU time of the receiving process
is the steadier figure, so it stands beside.
"""

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zmq
from cryptography.cobblestone import Cobblestone256Decryptor
from tertium.cli.running import exchange_of, open_workplace, run_machine
from tertium.crypto.ring import Plan, add, encode, from_wire, to_wire
from tertium.crypto.sealing import RoundKey, body_bytes, new_content_key, new_salt, seal_records, staging_bytes, wrap
from tertium.learning.registry import load_task
from tertium.protocol import limits
from tertium.protocol.charter import Role
from tertium.protocol.lanes.malloc import keep_freed_memory
from tertium.protocol.machine import Effect, Send
from tertium.protocol.messages import Message, Ready, Receipted
from tertium.secure_worker.machine import SecureWorker
from tertium.workers.data_owner import DataOwner

from .place import OWNER, THIRD, Place

PARAMETERS = 25_000_000
FLOOR = 0.5
"""Real over bare must not be lower."""
DEADLINE = 120.0
_BARRIER = "TERTIUM_BENCHMARK_BARRIER"
_TOGETHER = "TERTIUM_BENCHMARK_TOGETHER"


class Times(NamedTuple):
    """Seconds: by the clock, and of the receiving process's CPU."""

    wall: float
    cpu: float


class Watch:
    """A stop watch that runs."""

    def __init__(self) -> None:
        self._begun = Times(time.perf_counter(), time.process_time())

    def read(self) -> Times:
        """Return what has passed."""
        return Times(time.perf_counter() - self._begun.wall, time.process_time() - self._begun.cpu)


# --- the barrier


class Barrier:
    """Where `count` processes meet, as often as they like; then `together` of them go at a time."""

    def __init__(self, count: int, together: int) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._server.getsockname()[1])
        self._count, self._together = count, together
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                met = [self._server.accept()[0] for _ in range(self._count)]
                for first in range(0, self._count, self._together):
                    going = met[first : first + self._together]
                    for each in going:
                        each.sendall(b"g")
                    for each in going:
                        each.recv(1)
                        each.close()

    def close(self) -> None:
        """Let nobody in any more."""
        self._server.close()


def meet(port: int) -> socket.socket:
    """Wait at the barrier; close what it returns when what is to be timed is over."""
    line = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
    line.recv(1)
    return line


# --- the real thing


class _Timed(SecureWorker):
    """The secure worker, with a stop watch from the first Ready to the receipt of the last that announce together."""

    watch: "Watch | None" = None
    due = 0

    def receive(self, peer: str, message: Message, now: float) -> None:
        if self.watch is None and isinstance(message, Ready):
            self.watch, self.due = Watch(), int(os.environ[_TOGETHER])
        super().receive(peer, message, now)

    def take_effects(self) -> list[Effect]:
        effects = super().take_effects()
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, Receipted) and self.watch is not None:
                self.due -= 1
                if not self.due:
                    print(json.dumps({"event": "ingest", "times": self.watch.read()}), flush=True)
                    self.watch = None
        return effects


class _Met(DataOwner):
    """The data owner, which announces its upload when all have theirs ready, or when it is its turn."""

    _met = b""
    _line: socket.socket | None = None

    def _announce(self, upload: Any) -> None:
        if self.asked is not None and self._met != self.asked.open_round:
            self._met = self.asked.open_round
            self._line = meet(int(os.environ[_BARRIER]))
        super()._announce(upload)

    def _on_receipted(self, peer: str, message: Receipted, now: float) -> None:
        super()._on_receipted(peer, message, now)
        if self._line is not None:
            self._line.close()
            self._line = None


def run_party(words: list[str]) -> int:
    """Run a party as its public command does, with the stop watch or the barrier."""
    verb, folder, charter = words[0], Path(words[3]), Path(words[5])
    if verb == "secure-worker":
        workplace = open_workplace(Role.SECURE_WORKER, folder, charter, as_json=True)
        exchange = exchange_of(workplace)
        third = _Timed(workplace.identity, workplace.charter, exchange, workplace.journal, memory=limits.VECTOR_MEMORY)
        return run_machine(workplace, third, "", watch_stdin=False)
    workplace = open_workplace(Role.DATA_OWNER, folder, charter, as_json=True)
    trainers = {name: load_task(entry.factory, entry.options).trainer() for name, entry in workplace.site.tasks.items()}
    exchange = exchange_of(workplace)
    sender = _Met(workplace.identity, workplace.charter, exchange, workplace.journal, workplace.site, trainers)
    return run_machine(workplace, sender, "", watch_stdin=False)


def real(parameters: int, senders: int, rounds: int) -> list[Times]:
    """Return what each ingest took. One sender is one at a time of a cohort of two, the smallest there is."""
    cohort = max(2, senders)
    barrier = Barrier(cohort, senders)
    os.environ[_BARRIER], os.environ[_TOGETHER] = str(barrier.port), str(senders)
    with contextlib.closing(barrier), Place(parameters=parameters, cohort=cohort, rounds=rounds) as place:
        place.start(OWNER)
        for name in (THIRD, *place.names):
            place.start(name, "-m", "benchmarks.ingest", "party")
        place.wait_all(DEADLINE)
        times = [Times(*line["times"]) for line in place.lines(THIRD) if line["event"] == "ingest"]
    if len(times) != rounds * cohort // senders:
        raise RuntimeError(f"timed {len(times)} ingests in {rounds} rounds")
    return times


# --- the bare loop

_INFO, _CONTEXT = b"bare loop", bytes(32)


def _plan() -> Plan:
    return Plan.fit(cohort=3, max_weight=1, value_range=1.0, precision=1e-3)


def bare_sender(port: int, barrier: int, parameters: int, bodies: int) -> None:
    """Seal and send the same words `bodies` times."""
    keep_freed_memory()
    plan = _plan()
    words = np.empty(parameters, plan.dtype)
    encode(plan, plan.values, np.full(parameters, 0.5, np.float32), 1, words)
    context = zmq.Context()
    line = context.socket(zmq.DEALER)
    line.sndhwm = limits.BULK_QUEUE
    line.connect(f"tcp://127.0.0.1:{port}")
    line.send(b"")
    public = line.recv()
    for _ in range(bodies):
        going = meet(barrier)
        content_key = new_content_key()
        line.send(wrap(public, content_key, _INFO))
        records = seal_records(content_key, _CONTEXT, new_salt(), [to_wire(words)], limits.RECORD_PLAINTEXT)
        for record in records:
            line.send(record, copy=False)
        line.recv()
        going.close()
    line.close()
    context.term()


class _Body:
    """One sender's body at the bare receiver."""

    def __init__(self, payload: int) -> None:
        self.buffer = np.zeros(staging_bytes(payload, limits.RECORD_WIRE), np.uint8)
        self.view = self.buffer.data
        self.decryptor: Cobblestone256Decryptor | None = None
        self.at = self.missing = 0


def bare_receiver(senders: int, parameters: int, bodies: int) -> None:
    """Open and add; print the port to connect to, then the seconds a round."""
    keep_freed_memory()
    plan, key = _plan(), RoundKey()
    payload = parameters * plan.dtype.itemsize
    total = np.zeros(parameters, plan.dtype)
    total[:] = 0
    context = zmq.Context()
    line = context.socket(zmq.ROUTER)
    line.rcvhwm = limits.BULK_QUEUE
    port = line.bind_to_random_port("tcp://127.0.0.1")
    print(port, flush=True)
    found: dict[bytes, _Body] = {}
    for _ in range(senders):
        route, _empty = line.recv_multipart()
        found[route] = _Body(payload)
    for route in found:
        line.send_multipart([route, key.public])
    for _ in range(bodies):
        watch, left = None, senders
        while left:
            route = line.recv()
            frame = line.recv(copy=False)
            watch = watch or Watch()
            body = found[route]
            if body.decryptor is None:
                body.decryptor = Cobblestone256Decryptor(key.unwrap(frame.bytes, _INFO), _CONTEXT)
                body.at, body.missing = 0, body_bytes(payload)
                continue
            body.missing -= len(frame)
            body.at += body.decryptor.update_into(frame.buffer, body.view[body.at :])
            if not body.missing:
                rest = body.decryptor.finalize()
                body.view[body.at : body.at + len(rest)] = rest
                body.decryptor = None
                add(total, from_wire(plan, body.view[32 : 32 + payload], parameters))
                left -= 1
        if watch is not None:
            print(*watch.read(), flush=True)
        for route in found:
            line.send_multipart([route, b""])
    line.close(linger=1000)
    context.term()


def bare(parameters: int, senders: int, bodies: int) -> list[Times]:
    """Return what each round of the bare loop took."""
    barrier = Barrier(senders, senders)
    program = [sys.executable, "-m", "benchmarks.ingest"]
    receiver = subprocess.Popen(
        [*program, "receive", str(senders), str(parameters), str(bodies)], stdout=subprocess.PIPE, text=True
    )
    processes = [receiver]
    try:
        port = (receiver.stdout.readline() if receiver.stdout else "").strip()
        arguments = [port, str(barrier.port), str(parameters), str(bodies)]
        processes += [subprocess.Popen([*program, "send", *arguments], text=True) for _ in range(senders)]
        printed, _ = receiver.communicate(timeout=DEADLINE)
        for process in processes:
            process.wait(10)
    finally:
        barrier.close()
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait(10)
    return [Times(*map(float, line.split())) for line in printed.splitlines()]


# --- both


def compare(parameters: int, senders: int, rounds: int, repeats: int) -> float:
    """Print three lines and return the ratio of the real ingest's rate to the bare loop's."""
    ours, theirs = list[Times](), list[Times]()
    for _ in range(repeats):
        theirs += bare(parameters, senders, rounds)
        ours += real(parameters, senders, rounds)
    size = parameters * 4 * senders / 1e9
    rates, costs = [], []
    for name, times in (("real", ours), ("bare loop", theirs)):
        walls = [each.wall for each in times]
        rates.append(size / statistics.median(walls))
        costs.append(statistics.median(each.cpu for each in times) / size)
        spread = f"({size / max(walls):.2f} to {size / min(walls):.2f})"
        print(f"{senders:>7}  {name:<10}{rates[-1]:>6.2f} GB/s {spread:<16}{costs[-1]:>6.2f} CPU s/GB", flush=True)
    ratio = rates[0] / rates[1]
    print(f"{senders:>7}  ratio     {ratio:>6.2f}{'':<22}{costs[1] / costs[0]:>6.2f}", flush=True)
    return ratio


def main(given: list[str] | None = None) -> int:
    """Compare for each number of senders; return 1 if a ratio is below `FLOOR`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=PARAMETERS)
    parser.add_argument("--senders", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--rounds", type=int, default=4, help="rounds a run")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, in turn")
    arguments = parser.parse_args(given)
    print(
        f"{arguments.parameters:,} parameters a sender, float32 as 32-bit words; medians (slowest to fastest)",
        flush=True,
    )
    ratios = [compare(arguments.parameters, n, arguments.rounds, arguments.repeats) for n in arguments.senders]
    if min(ratios) < FLOOR:
        print(f"below {FLOOR}")
    return int(min(ratios) < FLOOR)


def _dispatch(words: list[str]) -> int:
    match words:
        case ["party", *rest]:
            return run_party(rest)
        case ["send", *numbers]:
            bare_sender(*map(int, numbers))
            return 0
        case ["receive", *numbers]:
            bare_receiver(*map(int, numbers))
            return 0
        case _:
            return main(words)


if __name__ == "__main__":
    sys.exit(_dispatch(sys.argv[1:]))
