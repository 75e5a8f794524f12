"""One running party: lanes, transfers and a role machine, driven by one loop.

Rules:
- The first frame of a connection, both ways, is a `Hello`: an Ed25519 signature over both CURVE keys. Until it has
  verified, nothing else from that connection reaches the machine.
- A refused message is told to its sender by the name of the error and to our operator, and changes nothing else.
- Effects are carried out in the order in which the machine gave them.
- Before an effect that anybody else can see is carried out, everything that led to it is in the view ledger; what a
  peer says is held to the checkpoint it carries before the machine sees it.
- A journal or file that cannot be written stops the party at once, queued effects and all: to others, a crash.
- The loop never waits for a peer, only for `poll`, and that no longer than the next deadline.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from ..crypto.errors import Misbehaviour, Misuse
from ..crypto.identity import Identity
from . import limits
from .charter import Charter
from .codec import decode_message, encode
from .errors import IllegalMessage, JournalError, LaneError, PeerLost, WrongCharter, WrongSender
from .lanes.base import BulkDown, BulkUp, Down, Event, Frame, Lanes, Record, Refused, Up
from .machine import Dial, Drop, Effect, Expect, Finish, Machine, Permit, Provide, Send, Tell, Work
from .messages import Credit, Grant, Hello, HelloStatement, Message, Refusal, SessionOver
from .progress import Ended, Progress, RefusedProgress, Said
from .statements import open_signed, sign
from .transfers import Completed, Delivered, Failed, TransferEvent, Transfers, Unconfirmed
from .witness import CARRIES

Report = Callable[[Progress], None]


class Executor(Protocol):
    """Runs jobs somewhere and hands their results back on the loop's thread."""

    @property
    def busy(self) -> bool:
        """Whether a job is running on a thread of its own."""

    def submit(self, tag: str, job: Callable[[], Any]) -> None:
        """Start a job; it may run at once or in another thread."""

    def results(self) -> list[tuple[str, Any]]:
        """Return what has finished since the last call: tag and result, or the exception."""


class InlineExecutor:
    """Runs a job when it is submitted: for simulations and tests, where order must not depend on threads."""

    def __init__(self) -> None:
        self._done: list[tuple[str, Any]] = []
        self.busy = False

    def submit(self, tag: str, job: Callable[[], Any]) -> None:
        """Run the job now."""
        try:
            result = job()
        except Exception as error:  # handed to the machine, which turns it into a sentence
            result = error
        self._done.append((tag, result))

    def results(self) -> list[tuple[str, Any]]:
        """Return what has finished since the last call."""
        done, self._done = self._done, []
        return done


class ThreadExecutor:
    """Runs jobs one after the other in a daemon thread, so that training never holds up heartbeats or deadlines."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._jobs: queue.SimpleQueue[tuple[str, Callable[[], Any]]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._running = False

    def submit(self, tag: str, job: Callable[[], Any]) -> None:
        """Queue a job."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="work", daemon=True)
            self._thread.start()
        # A machine wants one job at a time: what still waits belongs to a round that was given up.
        with contextlib.suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()
        self._jobs.put((tag, job))

    @property
    def busy(self) -> bool:
        """Whether a job runs; it cannot be stopped."""
        return self._running

    def results(self) -> list[tuple[str, Any]]:
        """Return what has finished since the last call."""
        done = []
        with contextlib.suppress(queue.Empty):
            while True:
                done.append(self._done.get_nowait())
        return done

    def _run(self) -> None:
        while True:
            tag, job = self._jobs.get()
            self._running = True
            try:
                result = job()
            except Exception as error:  # handed to the machine, which turns it into a sentence
                result = error
            self._running = False
            self._done.put((tag, result))
            self._wake()


class _Damped:
    """Passes progress on, but of what peers can bring about (refusals, warnings) no more than a person reads."""

    def __init__(self, report: Report, clock: Callable[[], float]) -> None:
        self._show, self._clock = report, clock
        self._since, self._shown, self._hidden = clock(), 0, 0

    def __call__(self, progress: Progress) -> None:
        now = self._clock()
        if now - self._since >= limits.LOG_WINDOW:
            if self._hidden:
                self._show(Said(text=f"{self._hidden} more lines like the last were not shown", warning=True))
            self._since, self._shown, self._hidden = now, 0, 0
        if isinstance(progress, RefusedProgress) or (isinstance(progress, Said) and progress.warning):
            self._shown += 1
            if self._shown > limits.LOG_LINES:
                self._hidden += 1
                return
        self._show(progress)


class Party:
    """Drives one machine over one pair of lanes until it finishes."""

    def __init__(
        self,
        machine: Machine,
        lanes: Lanes,
        identity: Identity,
        charter: Charter,
        *,
        report: Report,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.machine = machine
        self._view = machine.exchange.view
        self.error: str | None = None
        self.mendable = False
        """Whether what ended this party is for its own operator to mend."""
        self.done = False
        self._lanes = lanes
        self._identity = identity
        self._charter = charter
        self._report = _Damped(report, clock)
        self._executor = executor or ThreadExecutor(lanes.wake)
        self._clock = clock
        self._transfers = Transfers()
        self._introduced: set[str] = set()
        self._interrupted: str | None = None
        self._started = False

    @property
    def working(self) -> bool:
        """Whether a job may still be running on a thread of its own."""
        return self._executor.busy

    def interrupt(self, reason: str) -> None:
        """Ask the party to stop; safe from a signal handler and from any thread."""
        self._interrupted = reason
        self._lanes.wake()

    def run(self) -> str | None:
        """Run to the end; return None after success, else one sentence. Closes the lanes."""
        try:
            while not self.done:
                self.step(limits.PING_EVERY)
        finally:
            self._lanes.close()
        return self.error

    def step(self, timeout: float) -> None:
        """Take one turn: what came in, what is due, what goes out. Waits at most `timeout` seconds.

        A journal or a file that cannot be written ends the party there and then: what it has not written down, it does
        not do.
        """
        try:
            self._step(timeout)
        except Misuse as error:
            self.machine.take_effects()
            self.machine.finished = self.mendable = True
            self._carry_out(Finish(str(error)))

    def _step(self, timeout: float) -> None:
        if not self._started:
            self._started = True
            self.machine.start(self._clock())
            self._settle()
        now = self._clock()
        for event in self._lanes.poll(self._patience(now, timeout)):
            now = self._clock()
            self._take(event, now)
            self._settle()
        self._transfers.taken()
        now = self._clock()
        for tag, result in self._executor.results():
            if not self.machine.finished:
                self.machine.worked(tag, result, now)
            self._settle()
        if self._interrupted is not None and not self.machine.finished:
            self.machine.interrupt(self._interrupted, now)
        for happened in self._transfers.stalled(now):
            self._transferred(happened, now)
        if not self.machine.finished:
            self.machine.tick(now)
        self._settle()

    def next_deadline(self) -> float | None:
        """Return when, by the clock, this party does something even if nothing comes in; None for never."""
        due = (self.machine.next_deadline(), self._transfers.next_deadline())
        return min((at for at in due if at is not None), default=None)

    # --- in

    def _patience(self, now: float, timeout: float) -> float:
        if timeout <= 0 or self._interrupted is not None:
            return 0.0
        due = self.next_deadline()
        return timeout if due is None else max(0.0, min(timeout, due - now))

    def _take(self, event: Event, now: float) -> None:
        match event:
            case Up(peer):
                self._introduced.discard(peer)
                self._send(peer, self._hello(peer))
            case Down(peer, reason):
                if peer in self._introduced:
                    self._introduced.discard(peer)
                    if not self.machine.finished:
                        self.machine.peer_down(peer, reason, now)
            case Frame(peer, data):
                self._frame(peer, data, now)
            case BulkUp(subject, peer):
                for credit in self._transfers.up(peer, subject, now):
                    self._send(peer, credit)
            case Record(subject, peer, data):
                granted, happened = self._transfers.record(peer, subject, data, now)
                for credit in granted:
                    self._send(peer, credit)
                for event_ in happened:
                    self._transferred(event_, now)
            case BulkDown(subject, peer, reason):
                for event_ in self._transfers.down(peer, subject, reason):
                    self._transferred(event_, now)
            case Refused(error):
                self._report(RefusedProgress(code=error.code, text=str(error)))
            case _:
                pass

    def _frame(self, peer: str, data: bytes, now: float) -> None:
        message: Message | None = None
        try:
            message = decode_message(data, party=peer)
            if peer not in self._introduced:
                self._introduce(peer, message, now)
            elif isinstance(message, Credit):
                self._transfers.credit(peer, message)
            elif not self.machine.finished:
                self._view.hold(peer, message.checkpoint, message)
                self.machine.receive(peer, msgspec.structs.replace(message, checkpoint=None), now)
        except Misbehaviour as error:
            self._view.refused(peer, error.code, message.about if message is not None else None, message=message)
            text = str(error) if error.party is not None else f"{peer}: {error.reason}"
            self._report(RefusedProgress(code=error.code, text=text))
            # Never an answer to a refusal: two parties that refuse each other's refusals would not stop.
            if not isinstance(message, Refusal):
                about = message.about if message is not None else None
                self._send(peer, Refusal(code=error.code, about=about or bytes(limits.DIGEST)))

    def _hello(self, peer: str) -> Hello:
        us, them = self._charter.party(self._identity.name), self._charter.party(peer)
        statement = HelloStatement(
            charter=self._charter.digest,
            sender=us.name,
            recipient=them.name,
            sender_curve=us.identity.curve,
            recipient_curve=them.identity.curve,
        )
        return Hello(hello=sign(self._identity, statement))

    def _introduce(self, peer: str, message: Message, now: float) -> None:
        if isinstance(message, Refusal):
            self._report(Said(text=f"{peer} refused our connection ({message.code})", warning=True))
            self.machine.peer_down(peer, f"it refused our connection ({message.code})", now)
            return
        if not isinstance(message, Hello):
            raise IllegalMessage(f"{type(message).__name__} before Hello", party=peer)
        said = open_signed(self._charter, message.hello, HelloStatement)
        us, them = self._charter.party(self._identity.name), self._charter.party(peer)
        if message.hello.signer != peer or said.sender != peer or said.recipient != us.name:
            raise WrongSender(f"a Hello of {said.sender} for {said.recipient}", party=peer)
        if (said.sender_curve, said.recipient_curve) != (them.identity.curve, us.identity.curve):
            raise WrongSender("a Hello over other connection keys", party=peer)
        if said.charter != self._charter.digest:
            raise WrongCharter("runs with another charter than we do; compare with `tertium charter diff`", party=peer)
        self._introduced.add(peer)
        if not self.machine.finished:
            self.machine.peer_up(peer, now)

    def _transferred(self, event: TransferEvent, now: float) -> None:
        if self.machine.finished:
            return
        match event:
            case Completed(peer, incoming, sections):
                self.machine.opened(peer, incoming, sections, now)
            case Failed(peer, subject, error):
                self._lanes.close_bulk(subject)
                self._view.refused(peer, error.code, subject)
                self._report(RefusedProgress(code=error.code, text=str(error)))
                self.machine.transfer_failed(peer, subject, error, now)
            case Delivered(peer, subject):
                self.machine.delivered(peer, subject, now)
            case Unconfirmed(peer, subject, reason):
                # Not refused and mostly not even a loss: the other side ends a connection once it has everything.
                self.machine.transfer_failed(peer, subject, PeerLost(reason, party=peer), now)
        self._settle()

    # --- out

    def _settle(self) -> None:
        """Carry out effects until there are none, and move records."""
        while True:
            effects = self.machine.take_effects()
            if any(isinstance(effect, Provide | Work | Finish) for effect in effects):
                self._view.settle()
            for effect in effects:
                self._carry_out(effect)
            now = self._clock()
            _, events = self._transfers.pump(self._lanes, now)
            for event in events:
                if isinstance(event, Delivered) and not self.machine.finished:
                    self.machine.delivered(event.peer, event.subject, now)
            if not effects and not events:
                return

    def _carry_out(self, effect: Effect) -> None:
        now = self._clock()
        match effect:
            case Send(peer, message):
                self._send(peer, message)
            case Provide(peer, outgoing):
                self._transfers.provide(peer, outgoing, now)
            case Expect(peer, incoming):
                self._transfers.expect(peer, incoming, now)
            case Permit(peer, subject):
                self._permit(peer, subject)
            case Dial(peer, ticket):
                self._lanes.open_bulk(peer, ticket)
            case Drop(subject):
                self._transfers.drop(subject)
                self._lanes.close_bulk(subject)
            case Work(tag, job):
                self._executor.submit(tag, job)
            case Tell(progress):
                self._report(progress)
            case Finish(error):
                # A disk that takes nothing more takes no last checkpoint either; what ends the party is said below.
                with contextlib.suppress(JournalError):
                    self._view.end()
                self.error, self.done = error, True
                self._report(Ended(error=error))

    def _permit(self, peer: str, subject: bytes) -> None:
        try:
            ticket = self._lanes.grant(peer, subject)
        except LaneError as error:
            # A peer that asks for more transfers than it may have open does not get them; that must not end us.
            self._report(RefusedProgress(code=error.code, text=f"{peer}: {error}"))
            return
        self._send(peer, Grant(ticket=ticket))

    def _send(self, peer: str, message: Message) -> None:
        self._view.settle()
        if type(message) in CARRIES:
            # With the last word of a session everybody gets to hold its sender to all of it.
            last = isinstance(message, SessionOver)
            message = msgspec.structs.replace(message, checkpoint=self._view.checkpoint(whole=last))
        try:
            self._lanes.send(peer, encode(message))
        except LaneError as error:
            self._report(Said(text=f"{type(message).__name__} for {peer} was not sent: {error}", warning=True))
