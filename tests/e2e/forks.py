"""Parties' processes that are forked from one which has imported the commands already: a start costs a tenth.

A program and its arguments run as in `python -c PROGRAM ARGUMENTS`, in a process, a session, an environment and with
files of its own; only what is imported, and from where, is shared. What a start from nothing shows (what a command
imports, and what it does not; what memory holds) is shown where processes are started `fresh`.

This file is the program of that first process too: it has one thread, opens nothing, and reads one request a line.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
IMPORTED = (
    "tertium.cli.owner",
    "tertium.cli.worker",
    "tertium.cli.secure_worker",
    "tertium.cli.lazy",
    "tertium.learning.numpy_task",
    "victim",
)
"""Nothing that a secure worker must not load: no torch."""


class Forked:
    """A process, as `subprocess.Popen` shows one."""

    def __init__(self, pid: int, forks: "Forks") -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._forks = forks
        self._ended = threading.Event()

    def ended(self, status: int) -> None:
        self.returncode = status
        self._ended.set()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout) or self.returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forks:
    """The process that others are forked from; it ends them when it is closed, or when this process ends."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *IMPORTED],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])},
        )
        self._lock = threading.Lock()
        self._begun: list[Forked] = []
        self._there = threading.Semaphore(0)
        self._living: dict[int, Forked] = {}
        threading.Thread(target=self._read, name="forks", daemon=True).start()

    def start(self, program: str, words: Sequence[str], *, out: Path, err: Path, env: Mapping[str, str]) -> Forked:
        """Run `program` with these arguments; its output goes to new files."""
        asked = {"program": program, "words": list(words), "out": str(out), "err": str(err), "env": dict(env)}
        for path in (out, err):
            path.write_bytes(b"")  # as there as after a start of one's own, for whoever waits for what is in it
        stdin = self._process.stdin
        assert stdin is not None
        with self._lock:
            stdin.write(json.dumps({**asked, "cwd": os.getcwd()}).encode() + b"\n")
            stdin.flush()
            if not self._there.acquire(timeout=60):
                raise TimeoutError("nothing was forked within 60 s")
            return self._begun.pop()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(20)
        finally:
            self._process.kill()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            what, pid, *status = line.split()
            if what == b"begun":
                self._living[int(pid)] = forked = Forked(int(pid), self)
                self._begun.append(forked)
                self._there.release()
            else:
                self._living.pop(int(pid)).ended(int(status[0]))


def run(
    forks: Forks | None, program: str, words: Sequence[str], out: Path, err: Path, env: Mapping[str, str]
) -> Forked | subprocess.Popen[bytes]:
    """Run a program with its output in new files: forked, or started from nothing where there is nothing to fork."""
    if forks is not None:
        return forks.start(program, words, out=out, err=err, env=env)
    with out.open("wb") as stdout, err.open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, "-c", program, *words], stdout=stdout, stderr=stderr, start_new_session=True, env=env
        )


def serve() -> int:
    """Fork a process for each request, and say when it ends, until standard input does."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    # What is not looked at for garbage is not written to, and so not copied.
    gc.freeze()
    asked, living = bytearray(), dict[int, int]()
    while True:
        for ready in select.select([0, *living], [], [])[0]:
            if ready:
                pid = living.pop(ready)
                os.close(ready)
                _say(f"ended {pid} {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")
                continue
            data = os.read(0, 1 << 20)
            asked += data
            *lines, rest = bytes(asked).split(b"\n")
            asked[:] = rest
            for line in lines:
                pid = _fork(json.loads(line))
                living[os.pidfd_open(pid)] = pid
                _say(f"begun {pid}")
            if not data:
                for pid in living.values():
                    os.kill(pid, signal.SIGKILL)
                return 0


def _say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def _fork(asked: dict[str, Any]) -> int:
    """Return the process that does what is asked."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    for name, at, flags in (
        (os.devnull, 0, os.O_RDONLY),
        (asked["out"], 1, os.O_WRONLY),
        (asked["err"], 2, os.O_WRONLY),
    ):
        opened = os.open(name, flags)
        os.dup2(opened, at)
        os.close(opened)
    os.closerange(3, 256)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.path[:0] = [path for path in asked["env"].get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.argv[:] = ["-c", *asked["words"]]
    try:
        exec(compile(asked["program"], "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(serve())
