"""Who attacks a secure worker in `benchmarks/flood.py` and in the tests: strangers by the thousand, and a party.

    python -m benchmarks.hostile strangers --control PORT --bulk PORT --key HEX [--connections N]
    python -m benchmarks.hostile announcer worker run --party FOLDER --charter FILE --json
    python -m benchmarks.hostile babbler FOLDER CHARTER

- *strangers*: one process that holds so many connections over both lanes. They never speak, speak garbage, stop in a
  greeting, drip a byte a second, announce frames of 2^62 bytes, never end a message, show tickets nobody granted, and
  shake hands with a key that is in no charter; each comes back a moment after it was cut off. *Hasty* ones come back as
  fast as they can. It prints one JSON line a second.
- *announcer*: a data owner that takes part, declines every round, and tells the secure worker each time that it will
  upload 2^40 bytes, in heads it signed, for as long as the file that `TERTIUM_FLOOD` names exists.
- *babbler*: a party's keys in the hands of a program that introduces itself and sends announcements and garbage as fast
  as it can, and comes back whenever it is cut off.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq
import zmq.asyncio
from tertium.cli.running import exchange_of, open_workplace, run_machine
from tertium.crypto import sealing
from tertium.crypto.identity import Identity
from tertium.crypto.labels import Label
from tertium.learning.registry import load_task
from tertium.protocol import charter as charters
from tertium.protocol import limits
from tertium.protocol.charter import Role
from tertium.protocol.codec import encode
from tertium.protocol.context import RoundContext
from tertium.protocol.exchange import Exchange
from tertium.protocol.lanes.zmq_control import PAYLOAD, PING
from tertium.protocol.messages import Hello, HelloStatement, Ready, Refusal
from tertium.protocol.statements import sign
from tertium.workers.data_owner import DataOwner
from tertium.workers.recipient import Asked

SWITCH = "TERTIUM_FLOOD"
GIANT = 2**62
TERABYTE = 2**40
_PATIENCE = 30.0
"""Seconds a connection is kept before it is made anew, should the other side not have ended it."""
_MECHANISMS = (b"NULL", b"PLAIN", b"CURVE")

# --- strangers

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def greeting(mechanism: bytes) -> bytes:
    """Return the 64 bytes a ZMTP 3.0 client begins with (RFC 23)."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.ljust(20, b"\0") + bytes(32)


def plain_hello(username: bytes, password: bytes) -> bytes:
    """Return PLAIN's first command (RFC 24)."""
    body = b"\x05HELLO" + bytes([len(username)]) + username + bytes([len(password)]) + password
    return b"\x04" + bytes([len(body)]) + body


class Strangers:
    """A crowd of connections, each of which does one thing wrong for ever."""

    def __init__(self, ports: dict[str, int], key: bytes) -> None:
        self._ports, self._key = ports, key
        self._random = random.Random(1)
        self._context = zmq.asyncio.Context(io_threads=1)
        self._context.set(zmq.MAX_SOCKETS, 10_000)
        self.done: Counter[str] = Counter()
        """How often each thing was tried."""
        self.open = 0

    def crowd(self, count: int) -> list[Callable[[], Awaitable[None]]]:
        """Return what each of `count` connections does over and over, in equal shares but for the costly ones."""
        lanes = ("control", "bulk")
        raw = (self.silent, self.garbage, self.stalled, self.drip, self.giant, self.endless, self.half_hello)
        costly = [self.stranger_key] * 40 + [self.guess] * 40
        made: list[Callable[[], Awaitable[None]]] = list(costly[:count])
        for number in range(count - len(made)):
            what, lane = raw[number % len(raw)], lanes[number // len(raw) % 2]
            made.append(lambda what=what, lane=lane: self._raw(what, lane))  # type: ignore[misc]
        return made

    async def run(self, count: int, hasty: int, pause: float) -> None:
        """Attack until cancelled."""

        async def forever(act: Callable[[], Awaitable[None]]) -> None:
            await asyncio.sleep(self._random.random())
            while True:
                with contextlib.suppress(OSError, zmq.ZMQError, asyncio.IncompleteReadError, TimeoutError):
                    await act()
                await asyncio.sleep(pause)

        for number in range(hasty):
            lane = ("control", "bulk")[number % 2]
            threading.Thread(target=self.hasty, args=(lane,), daemon=True).start()
        tasks = [asyncio.create_task(forever(act)) for act in self.crowd(count)]
        while True:
            await asyncio.sleep(1)
            cpu = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
            print(json.dumps({"open": self.open, "cpu": round(cpu, 2), **self.done}), flush=True)
            if any(task.done() for task in tasks):
                raise RuntimeError("an attacker gave up")

    async def _raw(self, what: Callable[[Streams], Awaitable[None]], lane: str) -> None:
        streams = await asyncio.open_connection("127.0.0.1", self._ports[lane])
        self.open += 1
        self.done[what.__name__] += 1
        try:
            async with asyncio.timeout(_PATIENCE):
                await what(streams)
                while await streams[0].read(4096):
                    pass
        finally:
            self.open -= 1
            streams[1].transport.abort()

    async def silent(self, streams: Streams) -> None:
        """Say nothing."""

    async def garbage(self, streams: Streams) -> None:
        """Say what is no ZMTP."""
        streams[1].write(self._random.choice((b"GET / HTTP/1.1\r\n\r\n", b"\xff", b"\x16\x03\x01")) + os.urandom(4096))

    async def stalled(self, streams: Streams) -> None:
        """Stop in the middle of a greeting."""
        streams[1].write(greeting(self._random.choice(_MECHANISMS))[: self._random.randrange(1, 64)])

    async def drip(self, streams: Streams) -> None:
        """Send a byte a second."""
        for byte in greeting(b"CURVE"):
            streams[1].write(bytes([byte]))
            await asyncio.sleep(1)

    async def giant(self, streams: Streams) -> None:
        """Announce a frame, or a command, of 2^62 bytes and begin to send it."""
        flags = self._random.choice((b"\x02", b"\x06"))
        streams[1].write(greeting(self._random.choice(_MECHANISMS)) + flags + struct.pack(">Q", GIANT))
        for _ in range(64):
            if streams[1].is_closing():
                return
            streams[1].write(bytes(4096))
            await streams[1].drain()

    async def endless(self, streams: Streams) -> None:
        """Send frames of one message that has no end, without having shaken hands."""
        streams[1].write(greeting(self._random.choice(_MECHANISMS)))
        for _ in range(1000):
            if streams[1].is_closing():
                return
            streams[1].write(b"\x01\xff" + bytes(255))
            await streams[1].drain()

    async def half_hello(self, streams: Streams) -> None:
        """Greet with the mechanism of the lane, announce a handshake of 255 bytes, and send one."""
        streams[1].write(greeting(self._random.choice(_MECHANISMS)) + b"\x04\xff\x05")

    async def guess(self) -> None:
        """Show a ticket that was never granted."""

        async def show(streams: Streams) -> None:
            subject, secret = os.urandom(32).hex().encode(), os.urandom(16).hex().encode()
            streams[1].write(greeting(b"PLAIN") + plain_hello(subject, secret))
            seen = b""
            while more := await streams[0].read(4096):
                seen += more
                if b"ERROR" in seen:
                    streams[1].close()

        show.__name__ = "guess"
        await self._raw(show, "bulk")

    async def stranger_key(self) -> None:
        """Shake hands with a key that is in no charter."""
        line = self._context.socket(zmq.DEALER)
        self.open += 1
        self.done["stranger_key"] += 1
        try:
            line.linger = 0
            line.curve_publickey, line.curve_secretkey = zmq.curve_keypair()
            line.curve_serverkey = self._key
            line.connect(f"tcp://127.0.0.1:{self._ports['control']}")
            await line.send(b"\x01hello")
            await asyncio.sleep(0.5)
        finally:
            self.open -= 1
            line.close()

    def hasty(self, lane: str) -> None:
        """Connect, greet, leave, and come back at once; blocking, for a thread of its own."""
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._ports[lane]), 1) as line:
                self.done["hasty"] += 1
                line.sendall(greeting(b"CURVE"))
                line.recv(64)


def run_strangers(words: list[str]) -> int:
    """Attack until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--bulk", type=int, required=True)
    parser.add_argument("--key", type=bytes.fromhex, required=True)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--hasty", type=int, default=2)
    parser.add_argument("--pause", type=float, default=0.05)
    given = parser.parse_args(words)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.nice(19)
    strangers = Strangers({"control": given.control, "bulk": given.bulk}, given.key)
    asyncio.run(strangers.run(given.connections, given.hasty, given.pause))
    return 0


# --- parties


def _heads(exchange: Exchange, context: RoundContext, holder: str, key: bytes) -> list[Ready]:
    """Return honestly signed announcements of bodies of terabytes."""
    header = exchange.new_header(Label.CONTRIBUTION, context, holder, key, [b"x"])
    sizes = ((TERABYTE,), (TERABYTE // 16,) * 4)
    headers = [msgspec.structs.replace(header, sections=size) for size in sizes]
    return [Ready(head=exchange.seal_head(each, key, sealing.new_content_key())) for each in headers]


class Flooder(DataOwner):
    """A data owner that declines, and tells the secure worker about terabytes."""

    burst = limits.CONTROL_QUEUE // 4

    def model_arrived(self, asked: Asked, now: float) -> None:
        """Decline at once, so that nobody waits for this party; then announce."""
        self.decline(asked, "would rather flood")
        if Path(os.environ[SWITCH]).exists():
            for holder, key in asked.holder_keys.items():
                for head in _heads(self.exchange, asked.context, holder, key) * (self.burst // 2):
                    self.send(holder, head)
        self.give_up(None)

    def on_refusal(self, peer: str, message: Refusal, now: float) -> None:
        """Never mind."""


def run_announcer(words: list[str]) -> int:
    """Run the data owner as its public command does."""
    folder, charter = Path(words[3]), Path(words[5])
    workplace = open_workplace(Role.DATA_OWNER, folder, charter, as_json=True)
    trainers = {name: load_task(entry.factory, entry.options).trainer() for name, entry in workplace.site.tasks.items()}
    flooder = Flooder(
        workplace.identity, workplace.charter, exchange_of(workplace), workplace.journal, workplace.site, trainers
    )
    return run_machine(workplace, flooder, "", watch_stdin=False)


def run_babbler(words: list[str]) -> int:
    """Connect with a party's own keys and flood the secure worker's control lane until killed."""
    identity, charter = Identity.load(Path(words[0]) / "secret.toml"), charters.load(Path(words[1]))
    holder = charter.secure_workers[0]
    hello = HelloStatement(
        charter=charter.digest,
        sender=identity.name,
        recipient=holder.name,
        sender_curve=identity.public.curve,
        recipient_curve=holder.curve,
    )
    key = sealing.RoundKey()
    context = RoundContext(charter.digest, bytes(32), 1, 0, bytes(32))
    heads = _heads(Exchange(identity, charter), context, holder.name, key.public)
    frames = [PAYLOAD + encode(head) for head in heads] * 8 + [PAYLOAD + os.urandom(2000)]
    os.nice(19)
    zmq_context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    done, said = Counter[str](), time.monotonic()
    while True:
        line = zmq_context.socket(zmq.DEALER)
        line.linger = 0
        line.reconnect_ivl = -1
        line.sndtimeo = 500
        line.curve_secretkey, line.curve_publickey = identity.curve_secret, identity.public.curve
        line.curve_serverkey = holder.curve
        line.connect(str(holder.control))
        done["connections"] += 1
        with contextlib.suppress(zmq.Again):
            line.send(PING)
            line.send(PAYLOAD + encode(Hello(hello=sign(identity, hello))))
            for number in range(5000):
                line.send(frames[number % len(frames)])
                done["frames"] += 1
        line.close()
        if time.monotonic() - said > 1:
            said = time.monotonic()
            print(json.dumps(done), flush=True)


def main(words: list[str]) -> int:
    """Do what the first word says."""
    runs: dict[str, Any] = {"strangers": run_strangers, "announcer": run_announcer, "babbler": run_babbler}
    return int(runs[words[0]](words[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
