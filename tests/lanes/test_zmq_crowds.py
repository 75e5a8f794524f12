"""Strangers who only connect, many and fast: they keep nobody waiting at the door, and do not keep a party awake."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tertium.protocol.lanes import zmq_sockets

World = Any
CROWD = 400
"""Four times what libzmq lets the kernel keep."""
LISTENS = """
import os, sys, time
from tertium.protocol.lanes.zmq_lanes import Listen, ZmqLanes
anywhere = "tcp://127.0.0.1:0"
lanes = ZmqLanes("hub", os.urandom(32), {}, listen=Listen(anywhere, anywhere), frame_limit=65536)
print(lanes.bound.control.rpartition(":")[2], lanes.bound.bulk.rpartition(":")[2], flush=True)
time.sleep(60)
"""


@pytest.fixture
def halted() -> Iterator[list[int]]:
    """The ports of a process that listens on both lanes and then stands still, its ZeroMQ thread too."""
    process = subprocess.Popen([sys.executable, "-c", LISTENS], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ports = [int(port) for port in process.stdout.readline().split()]
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        yield ports
    finally:
        process.kill()
        process.communicate(timeout=20)


def let_in(port: int, seconds: float) -> int:
    """Return how many of a crowd the kernel lets in while nobody takes them."""
    with contextlib.ExitStack() as stack:
        waiting = {}
        poller = select.poll()
        for _ in range(CROWD):
            stranger = stack.enter_context(socket.socket())
            stranger.setblocking(False)
            stranger.connect_ex(("127.0.0.1", port))
            waiting[stranger.fileno()] = stranger
            poller.register(stranger, select.POLLOUT)
        end = time.monotonic() + seconds
        while waiting and time.monotonic() < end:
            for descriptor, _ in poller.poll(100):
                poller.unregister(descriptor)
                del waiting[descriptor]
        return CROWD - len(waiting)


@pytest.mark.parametrize("lane", [0, 1], ids=["control", "bulk"])
def test_a_crowd_that_comes_at_once_is_kept_until_it_is_taken(halted: list[int], lane: int) -> None:
    most = Path("/proc/sys/net/core/somaxconn")
    if most.exists() and int(most.read_text()) <= CROWD:
        pytest.skip("this kernel keeps no such crowd, whatever it is asked")
    # The kernel drops the first packet of who finds no room; a second comes after a second.
    assert let_in(halted[lane], 0.9) == CROWD


def test_strangers_who_come_and_go_do_not_wake_a_party_with_each_connection(
    zmq_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, _ann = zmq_world.pair()
    zmq_world.idle(hub, seconds=0.2)
    looks, real = [], zmq_sockets.Monitor.read
    monkeypatch.setattr(zmq_sockets.Monitor, "read", lambda self: looks.append(self) or real(self))
    port = int(zmq_world.listening["hub"].control.rpartition(":")[2])
    gone, stop = [], threading.Event()

    def come_and_go() -> None:
        while not stop.wait(0.002):
            socket.create_connection(("127.0.0.1", port), timeout=10).close()
            gone.append(port)

    strangers = threading.Thread(target=come_and_go)
    begun = time.monotonic()
    strangers.start()
    try:
        zmq_world.idle(hub, seconds=1.0)
    finally:
        stop.set()
        strangers.join(20)
    # twenty a second, and one for each end of the time
    most = 20 * (time.monotonic() - begun) + 2
    assert len(gone) > 1.5 * most  # on a busy machine few come
    assert 2 <= len(looks) <= most
