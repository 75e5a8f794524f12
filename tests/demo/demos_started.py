"""Demos as processes: started, watched by what they print, and looked for afterwards."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).parent
TERTIUM = (sys.executable, "-m", "tertium")
PATHS = tuple(path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path)
"""Where this process was told to look: its demos run the same tree."""
NUMBERS = (sys.executable, str(HERE / "numbers_demo.py"))


class Demo:
    """A demo that was started, and its run folder."""

    def __init__(self, words: tuple[str, ...], folder: Path, *, pipe: bool) -> None:
        self.run = folder / "run"
        self._out, self._err = folder / "stdout", folder / "stderr"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*words, "--out", str(self.run)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else out,
                stderr=err,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *PATHS])},
            )

    @property
    def out(self) -> str:
        return self._out.read_text(errors="replace")

    @property
    def err(self) -> str:
        return self._err.read_text(errors="replace")

    def log(self, party: str) -> str:
        return (self.run / party / "log").read_text(errors="replace")

    def until(self, text: str, *, within: float = 40) -> None:
        """Wait until the demo has printed something."""
        end = time.monotonic() + within
        while text not in self.out:
            assert time.monotonic() < end, (text, self.out[-2000:], self.err)
            assert self.process.poll() is None, (self.out[-2000:], self.err)
            time.sleep(0.02)

    def wait(self, within: float = 60) -> int:
        return self.process.wait(timeout=within)

    def left(self) -> list[str]:
        """Return the processes of the demo that still run: they all work in its run folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if (entry / "cwd").readlink() == self.run and (entry / "cmdline").read_bytes():
                        found.append(entry.name)
                except OSError:
                    continue
        return found

    def pid(self, party: str) -> int:
        for pid in self.left():
            if f"--party\0{party}\0".encode() in Path("/proc", pid, "cmdline").read_bytes():
                return int(pid)
        raise AssertionError(f"no process of {party}")

    def gone(self, within: float = 0) -> bool:
        end = time.monotonic() + within
        while self.left():
            if time.monotonic() >= end:
                return False
            time.sleep(0.05)
        return True

    def end(self) -> None:
        """Leave nothing behind, whatever the test found."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        for pid in self.left():
            os.kill(int(pid), signal.SIGKILL)


@contextlib.contextmanager
def started(root: Path) -> Iterator[Callable[..., Demo]]:
    """Yield what starts a demo in a folder of its own below `root`; whatever still runs in the end is ended."""
    demos = []

    def start(program: tuple[str, ...], *words: str, pipe: bool = False) -> Demo:
        folder = root / f"demo-{len(demos)}"
        folder.mkdir()
        demos.append(Demo((*program, *words), folder, pipe=pipe))
        return demos[-1]

    try:
        yield start
    finally:
        for each in demos:
            each.end()
