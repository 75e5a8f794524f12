"""One process a party, with the public commands; their progress; and an end for every one of them.

Rules of the file:
- A party is started as a person would start it, `python -m tertium ... run`, in the run folder. Its standard input is a
  pipe that this process holds, and `--until-stdin-closes` ends the party when it closes: nothing survives the launcher.
- Parties have a session of their own, so Ctrl-C reaches the launcher alone and the parties are ended in order: standard
  input closes, then SIGTERM, then SIGKILL.
- What a party prints is bounded, and a line that is no progress is shown as text. Nobody's output can stop the others.
- When one party dies the rest are given the time in which the protocol notices by itself, before they are stopped.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from ...protocol import limits
from ...protocol.charter import Role
from ...protocol.progress import AnyProgress, Ended, Progress
from ..errors import MISBEHAVIOUR
from .errors import PartyFailed, StoppedByOperator
from .recipes import DEADLINES, Member

LINE = 64 * limits.KIB
"""Longest line read from a party; a longer one is several. Of one that is no progress only the beginning is kept."""
QUEUE = 2000
"""Lines of all parties that wait to be shown; beyond it a party that prints waits too."""
NOTICE = limits.SILENCE + limits.ABSENCE + 5.0
"""Seconds in which the others notice by themselves that a party is gone."""
PATIENCE = DEADLINES.join + DEADLINES.upload + DEADLINES.close + DEADLINES.release + DEADLINES.statement + NOTICE
"""Seconds without a line from anybody after which something is wrong that no deadline caught."""
_ORDERLY, _TERMINATED, _POLL = 4.0, 1.0, 0.1
_VERBS = {
    Role.MODEL_OWNER: ("owner",),
    Role.DATA_OWNER: ("worker",),
    Role.SECURE_WORKER: ("secure-worker",),
    Role.EVALUATOR: ("evaluator",),
}
LOG = "log"


@dataclass(frozen=True)
class Line:
    """Something a party printed: progress, or text that is none."""

    party: str
    progress: Progress | None
    text: str


@dataclass(frozen=True)
class _Exited:
    party: str
    status: int


Watch = Callable[[Line], None]


def command(member: Member, charter: str, *, resume: bool) -> list[str]:
    """Return the words of the public command that runs a party, after `tertium`, in the run folder."""
    words = [*_VERBS[member.role], "run", "--party", member.name, "--charter", charter]
    if member.role is Role.SECURE_WORKER:
        words.append("--once")
    if member.role is Role.MODEL_OWNER and resume:
        words += ["--resume", "--new-session"]
    return words


class _Child:
    """A party's process, and the threads that read what it prints."""

    def __init__(
        self,
        member: Member,
        words: Sequence[str],
        folder: Path,
        lines: "queue.Queue[Line | _Exited]",
        modules: Path | None,
    ) -> None:
        self.member = member
        self.status: int | None = None
        self.error: str | None = None
        self.stopped_by_us = False
        self._lines = lines
        self._decoder = msgspec.json.Decoder(AnyProgress)
        self._said = ""
        log = os.open(folder / member.name / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._log = os.fdopen(log, "a", encoding="utf-8")
        self._log.write(f"$ tertium {' '.join(words)}\n")
        self._begun = time.monotonic()
        self._writing = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tertium", *words, "--json", "--until-stdin-closes"],
            cwd=folder,
            env=_environment(modules),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.pid = self._process.pid
        threading.Thread(target=self._follow, name=member.name, daemon=True).start()

    def _follow(self) -> None:
        """Pass on every line, then the exit status: so the status comes after the last word."""
        problems = threading.Thread(target=self._read_problems, name=self.member.name, daemon=True)
        problems.start()
        for piece in _pieces(self._process.stdout):
            text, progress = piece[: limits.TEXT_LENGTH], None
            with contextlib.suppress(msgspec.MsgspecError):
                progress = self._decoder.decode(piece)
                text = progress.line()
            if isinstance(progress, Ended) and progress.error:
                self.error = progress.error
            self._write(text)
            self._lines.put(Line(self.member.name, progress, text))
        status = self._process.wait()
        problems.join(timeout=1.0)
        self._write(f"[exit status {status}]")
        self._lines.put(_Exited(self.member.name, status))

    def _read_problems(self) -> None:
        for piece in _pieces(self._process.stderr):
            if piece.strip():
                self._said = piece.strip()
            self._write(f"! {piece[: limits.TEXT_LENGTH]}")

    def _write(self, text: str) -> None:
        # A full disk ends the log, not the demo.
        with contextlib.suppress(OSError, ValueError), self._writing:
            self._log.write(f"{time.monotonic() - self._begun:9.3f} {text}\n")
            self._log.flush()

    @property
    def why(self) -> str:
        """How the process ended, as the end of a sentence about it."""
        status = self.status or 0
        if status < 0:
            return f"was killed by signal {-status} ({_signal_name(-status)})"
        said = self.error or self._said.removeprefix("tertium: ")
        return f"failed: {said}" if said else f"ended with exit status {status} and no word"

    def close_input(self) -> None:
        """Ask the party to end in order."""
        if self.status is None:
            self.stopped_by_us = True
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()

    def send(self, number: int) -> None:
        """Send the process a signal, if it is still there."""
        if self.status is None:
            self.stopped_by_us = True
            with contextlib.suppress(OSError):
                self._process.send_signal(number)

    def forget(self) -> None:
        """Give back what is held of a process that has ended."""
        self.close_input()
        with contextlib.suppress(OSError, ValueError):
            self._log.close()


class Launcher:
    """Runs every party of a demo, one act after the other."""

    def __init__(self, members: Sequence[Member], folder: Path, charter: str, *, modules: Path | None = None) -> None:
        """`modules` is a folder from which the parties may import the module of their task."""
        self._members = members
        self._modules = modules
        self._folder = folder
        self._charter = charter
        self._lines: queue.Queue[Line | _Exited] = queue.Queue(QUEUE)
        self._children: dict[str, _Child] = {}
        self._exits: list[_Child] = []
        self._signal: int | None = None
        self._silent = False
        self.pids: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Whom it runs."""
        return tuple(member.name for member in self._members)

    def act(self, watch: Watch, *, resume: bool) -> None:
        """Run every party to its end, and show `watch` what they print.

        Raises:
            PartyFailed: a party ended before its work was done; names it.
            StoppedByOperator: a signal asked for an end. No process is left in either case.
        """
        try:
            self.start(resume=resume)
            self._follow(watch)
        finally:
            self.stop(watch)
        self._judge()

    def start(self, *, resume: bool = False) -> None:
        """Start every party; whoever calls this calls `stop` whatever happens."""
        self._children, self._exits = {}, []
        for member in self._members:
            words = command(member, self._charter, resume=resume)
            child = _Child(member, words, self._folder, self._lines, self._modules)
            self._children[member.name] = child
            self.pids[member.name] = child.pid

    def check(self) -> None:
        """Raise `StoppedByOperator` if a signal has asked for an end."""
        if self._signal is not None:
            raise StoppedByOperator(self._signal)

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Turn the first SIGINT or SIGTERM into an orderly end; a second one kills what is left at once."""

        def handle(number: int, _frame: object) -> None:
            if self._signal is not None:
                for child in self._children.values():
                    child.send(signal.SIGKILL)
            self._signal = number

        wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, handle) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def failure(self) -> str | None:
        """A sentence about the party that failed first, if one has."""
        return self._sentence() or None

    def _running(self) -> list[_Child]:
        return [child for child in self._children.values() if child.status is None]

    def take(self, watch: Watch, wait: float) -> bool:
        """Handle one thing that happened; False if nothing did."""
        try:
            happened = self._lines.get(timeout=max(wait, 0.001))
        except queue.Empty:
            return False
        if isinstance(happened, Line):
            watch(happened)
            return True
        child = self._children[happened.party]
        child.status = happened.status
        self._exits.append(child)
        return True

    def _follow(self, watch: Watch) -> None:
        """Wait for the parties to end by themselves."""
        heard = time.monotonic()
        due: float | None = None
        told = False
        while self._running():
            self.check()
            now = time.monotonic()
            if self.take(watch, _POLL):
                heard = now
            elif now - heard >= PATIENCE:
                self._silent = True
                return
            if due is None and self._exits:
                due = now + NOTICE
            if not told and self._culprit() is not None:
                told = True
                watch(Line("", None, f"{self._sentence()}; waiting for the others to notice"))
            if due is not None and now >= due:
                return

    def stop(self, watch: Watch) -> None:
        """End what still runs: politely, then not. Never raises, since it runs on the way out of everything else."""

        def quietly(line: Line) -> None:
            with contextlib.suppress(Exception):
                watch(line)

        for step, seconds in ((None, _ORDERLY), (signal.SIGTERM, _TERMINATED), (signal.SIGKILL, _ORDERLY)):
            if not self._running():
                break
            for child in self._running():
                if step is None:
                    child.close_input()
                else:
                    child.send(step)
            until = time.monotonic() + seconds
            while self._running() and time.monotonic() < until:
                self.take(quietly, _POLL)
        for child in self._children.values():
            child.forget()

    def _culprit(self) -> _Child | None:
        """Return the party to name: one that died before one that gave up, since giving up follows from it."""
        failed = [child for child in self._exits if child.status and not child.stopped_by_us]
        failed.sort(key=lambda child: 0 if (child.status or 0) < 0 else 1 if child.status != MISBEHAVIOUR else 2)
        return failed[0] if failed else None

    def _sentence(self) -> str:
        child = self._culprit()
        return f"{child.member.name} ({child.member.role.words}) {child.why}" if child is not None else ""

    def _judge(self) -> None:
        """Raise if any party did not end well."""
        if self._silent:
            raise PartyFailed(f"no party said anything for {PATIENCE:.0f} s, so all were stopped")
        child = self._culprit()
        stopped = [child for child in self._children.values() if child.stopped_by_us]
        # Those that gave up name whom they missed; one that hangs is the one they missed.
        if stopped and (child is None or child.status == MISBEHAVIOUR):
            names = " and ".join(f"{each.member.name} ({each.member.role.words})" for each in stopped)
            raise PartyFailed(
                f"{names} did not end with the others and had to be stopped", party=stopped[0].member.name
            )
        if child is not None:
            raise PartyFailed(self._sentence(), party=child.member.name)


def _pieces(stream: IO[bytes] | None) -> Iterator[str]:
    """Yield lines of bounded length, as text."""
    if stream is None:
        return
    with contextlib.suppress(OSError, ValueError):
        while piece := stream.readline(LINE):
            yield piece.decode("utf-8", errors="replace").rstrip("\r\n")


def _environment(modules: Path | None) -> dict[str, str]:
    paths = [*([str(modules)] if modules is not None else []), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
