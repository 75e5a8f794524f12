"""The checks of `tertium doctor` that touch the network: addresses to listen on, peers to reach.

Rules of the file:
- Our addresses are bound the way a run binds them, for a moment, behind a throwaway key, so that nobody gets in.
- A peer is asked in three steps: TCP; the ZMTP greeting, which names the lane's mechanism; and on the control lane the
  whole CURVE handshake, which only the holder of the charter's key can finish, and only with whom it lets in. No frame
  follows, so a party that runs takes this for nobody: its connections begin with their first frame.
- Every wait ends `WAIT` seconds after it began, names that do not resolve too: that is why each peer has a thread.
"""

import errno
import socket
import struct
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

import zmq

from ..crypto.files import reason
from ..crypto.identity import Identity
from ..protocol.charter import Charter, Role
from ..protocol.charter import Party as Line
from ..protocol.errors import LaneError
from ..protocol.lanes.zmq_sockets import bind
from ..protocol.site import Listen
from .doctor_finding import Finding, fail, ok, warn

WAIT = 3.0
"""Seconds a peer has for each of the three steps together."""
AT_ONCE = 32
_SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
_GREETING = 64
_ABSENT = (errno.ECONNREFUSED, errno.ECONNRESET)
_FIREWALL = "let it through in both firewalls, and check the endpoint in the charter"


@dataclass(frozen=True)
class Target:
    """One endpoint of a peer, and what must answer there."""

    peer: str
    lane: str
    endpoint: str
    mechanism: bytes
    curve: bytes


def listening(us: Line, own: Listen) -> list[Finding]:
    """Bind each address this party would listen on, for a moment; none for a role that only connects."""
    findings = []
    for lane, given, charted in (("control", own.control, us.control), ("bulk", own.bulk, us.bulk)):
        address = given or charted
        if us.role.listens and address is not None:
            findings.append(_bindable(lane, address, from_site=given is not None))
    return findings


def reachable(charter: Charter, us: Line, identity: Identity | None) -> list[Finding]:
    """Try every endpoint this party connects to; `identity` may be None, and then no handshake is made."""
    targets = [target for peer in _peers(charter, us.role) for target in _targets(peer)]
    findings: list[Finding] = []
    for start in range(0, len(targets), AT_ONCE):
        findings += _together(targets[start : start + AT_ONCE], identity)
    return findings


def _peers(charter: Charter, role: Role) -> list[Line]:
    """Return whom a run of this role connects to."""
    holders = list(charter.secure_workers)
    return {
        Role.MODEL_OWNER: holders,
        Role.DATA_OWNER: [charter.model_owner, *holders],
        Role.EVALUATOR: [charter.model_owner],
        Role.SECURE_WORKER: [],
    }[role]


def _targets(peer: Line) -> Iterable[Target]:
    for lane, endpoint, mechanism in (("control", peer.control, b"CURVE"), ("bulk", peer.bulk, b"PLAIN")):
        if endpoint is not None:
            yield Target(peer.name, lane, endpoint, mechanism, peer.curve)


def _together(targets: list[Target], identity: Identity | None) -> list[Finding]:
    found: dict[int, Finding] = {}

    def look(index: int) -> None:
        found[index] = _reach(targets[index], identity)

    threads = [threading.Thread(target=look, args=(index,), daemon=True) for index in range(len(targets))]
    for thread in threads:
        thread.start()
    # A resolver has no deadline of its own; the thread that waits for it is left behind.
    until = time.monotonic() + WAIT + 0.5
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return [found.get(index) or _silent(target) for index, target in enumerate(targets)]


def _reach(target: Target, identity: Identity | None) -> Finding:
    until = time.monotonic() + WAIT
    name, where = _name(target), f"{target.peer} at {target.endpoint}"
    host, _, port = target.endpoint.removeprefix("tcp://").rpartition(":")
    try:
        # The lanes speak IPv4 only.
        address = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)[0][4]
    except (OSError, UnicodeError):
        return fail(
            name, f"the name {host} has no address here", "mend name resolution (/etc/hosts, DNS), or the charter"
        )
    try:
        with socket.socket() as connection:
            connection.settimeout(_left(until))
            connection.connect(address)
            mechanism = _mechanism(connection, until)
    except TimeoutError:
        return _silent(target)
    except OSError as error:
        if error.errno in _ABSENT:
            sentence = f"{where}: the host answers and nothing listens there (yet)"
            return warn(name, sentence, f"start {target.peer}, or wait for it; if it runs, {_FIREWALL}")
        return fail(name, f"{where}: {reason(error)}", _FIREWALL)
    if mechanism is None:
        remedy = "something else listens on that port, or a proxy stands in between: check the endpoint"
        return fail(name, f"{where}: what answers does not speak ZeroMQ", remedy)
    if mechanism != target.mechanism:
        remedy = "control and bulk are mixed up, or a program of somebody else listens there: check the endpoint"
        return fail(name, f"{where}: what answers is not a {target.lane} lane", remedy)
    if target.lane != "control" or identity is None:
        return ok(name, f"{where} answers")
    return _greeted(target, identity, until)


def _mechanism(connection: socket.socket, until: float) -> bytes | None:
    """Begin a ZMTP 3 greeting (RFC 23) and return the mechanism the other end names; None if it sends no greeting."""
    # Signature and version only: libzmq then sends all of its own, and hangs up on one that names another mechanism.
    connection.sendall(_SIGNATURE + b"\x03\x01")
    got = b""
    while len(got) < _GREETING:
        connection.settimeout(_left(until))
        part = connection.recv(_GREETING - len(got))
        if not part:
            return None
        got += part
        if got[:1] != b"\xff":
            return None
    return got[12:32].rstrip(b"\0") if got[9] == 0x7F and got[10] >= 3 else None


def _greeted(target: Target, identity: Identity, until: float) -> Finding:
    """Finish the CURVE handshake of the control lane and say whether it held."""
    name, where = _name(target), f"{target.peer} at {target.endpoint}"
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.linger = 0
        client.ipv6 = False
        client.reconnect_ivl = -1
        client.curve_secretkey, client.curve_publickey = identity.curve_secret, identity.public.curve
        client.curve_serverkey = target.curve
        with client.get_monitor_socket(zmq.EVENT_ALL) as monitor:
            client.connect(target.endpoint)
            event = _handshake(monitor, until)
            client.disable_monitor()
    match event:
        case zmq.EVENT_HANDSHAKE_SUCCEEDED:
            return ok(name, f"{where} answers, holds the charter's key and lets us in")
        case zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            remedy = "compare charters: tertium charter diff; theirs names another key for us, or none"
            return fail(name, f"{where} does not let our key in", remedy)
        case None:
            return _silent(target)
    remedy = (
        "check that it runs with the charter's keys (its own tertium doctor says), and that the endpoint is its own"
    )
    return fail(name, f"{where}: what answers does not hold the key the charter names for {target.peer}", remedy)


def _handshake(monitor: "zmq.Socket[bytes]", until: float) -> int | None:
    """Return the event that ended the handshake; None if nothing did before the deadline."""
    while monitor.poll(max(0, int((until - time.monotonic()) * 1000))):
        kind, _value = struct.unpack("=Hi", monitor.recv_multipart()[0])
        if kind & (
            zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            | zmq.EVENT_DISCONNECTED
        ):
            return int(kind)
    return None


def _bindable(lane: str, address: str, *, from_site: bool) -> Finding:
    name = f"listen {lane}"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as server:
        server.linger = 0
        server.ipv6 = False
        server.curve_server = True
        # A key nobody knows: whoever connects in this moment finishes no handshake.
        server.curve_secretkey = zmq.curve_keypair()[1]
        try:
            bind(server, address)
        except LaneError as error:
            sentence = str(error)
        else:
            return ok(name, f"{address} is free to listen on")
    if "in use" in sentence:
        return fail(name, sentence, "another program holds it (ss -ltnp shows which): perhaps this party runs already")
    if "denied" in sentence:
        return fail(name, sentence, "choose a port of 1024 or higher, or grant CAP_NET_BIND_SERVICE")
    remedy = f'this machine does not have that address: say in site.toml [listen] {lane} = "tcp://*:PORT"'
    return fail(name, sentence, remedy if not from_site else "give an address of this machine, or * for all")


def _silent(target: Target) -> Finding:
    return fail(_name(target), f"{target.peer} at {target.endpoint} did not answer within {WAIT:g} s", _FIREWALL)


def _name(target: Target) -> str:
    return f"reach {target.peer} {target.lane}"


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
