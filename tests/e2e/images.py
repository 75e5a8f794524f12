"""Memory images of running processes, what a core file would hold and more, and the encodings to search them for.

An image is every mapping that the process can write, and every anonymous one, read from `/proc/PID/mem` while the
process is stopped: no tool is needed, and it does not matter that our processes write no core files themselves. What is
mapped from a file and cannot be written holds nothing that was made while the program ran.
"""

import base64
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tertium.crypto.field import Arithmetic
from tertium.crypto.ring import Plan, encode

PAGE = os.sysconf("SC_PAGE_SIZE")
STRETCH = 8
"""Numbers of an update in a row that make one thing to search for: 32 bytes or more, or a text of 80 characters."""
PLANS = tuple(Plan.fit(cohort=3, max_weight=1, value_range=8.0, precision=wanted) for wanted in (1e-5, 1e-12))
"""Of charters with three data owners: the default one, with words of 32 bits, and one with words of 64."""


@dataclass(frozen=True)
class Image:
    """What one process has in its memory at one moment."""

    regions: list[bytes] = field(repr=False)

    def holds(self, what: bytes) -> bool:
        """Return whether these bytes are somewhere in it, whatever their place."""
        return any(what in region for region in self.regions)

    @property
    def size(self) -> int:
        return sum(map(len, self.regions))


def image(pid: int) -> Image:
    """Stop a process, read its memory, let it go on. Raises PermissionError where the kernel forbids that."""
    os.kill(pid, signal.SIGSTOP)
    try:
        while "\nState:\tT" not in Path(f"/proc/{pid}/status").read_text():
            time.sleep(0.001)
        return Image(list(_regions(pid)))
    finally:
        os.kill(pid, signal.SIGCONT)


def _regions(pid: int) -> Iterator[bytes]:
    with ExitStack() as stack:
        memory, pagemap = (stack.enter_context(open(f"/proc/{pid}/{name}", "rb", 0)) for name in ("mem", "pagemap"))
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, access, _, _, inode = line.split(maxsplit=5)[:5]
            if access[0] != "r" or (access[1] != "w" and inode != "0"):
                continue
            first, last = (int(each, 16) // PAGE for each in span.split("-"))
            pages = np.frombuffer(_read(pagemap.fileno(), 8 * first, 8 * (last - first)), "<u8")
            # Present or in swap; most of what is mapped was never touched.
            used = np.flatnonzero(np.diff((pages >> np.uint64(62)) > 0, prepend=False, append=False)) + first
            for start, end in used.reshape(-1, 2).tolist():
                with suppress(OSError):  # pages of the kernel's own cannot be read that way
                    yield _read(memory.fileno(), start * PAGE, (end - start) * PAGE)


def _read(descriptor: int, at: int, length: int) -> bytes:
    found = bytearray()
    while piece := os.pread(descriptor, length - len(found), at + len(found)):
        found += piece
    return bytes(found)


def encodings(update: list[float]) -> dict[str, bytes]:
    """Return a stretch of an update as a process might hold it, by the name of the encoding."""
    values = np.array(update[:STRETCH], "<f4")
    found = {kind: values.astype(kind).tobytes() for kind in ("<f4", ">f4", "<f8", ">f8")}
    for plan in PLANS:
        words = np.empty(values.size, plan.dtype)
        encode(plan, plan.values, values, 1, words)
        found[f"words of {plan.word_bits}"] = words.tobytes()
        found[f"words of {plan.word_bits}, big-endian"] = words.byteswap().tobytes()
        elements = np.empty(values.size, np.uint64)
        Arithmetic(plan.field).from_words(words, elements)
        found[f"elements for words of {plan.word_bits}"] = elements.astype(plan.dtype).tobytes()
        if plan.word_bits == 32:
            found["elements for words of 32 in 64"] = elements.tobytes()
    found["words of 32 in 64"] = np.frombuffer(found["words of 32"], "<u4").astype("<u8").tobytes()
    texts = {"shortest": [str(value) for value in values], "wide": [repr(float(value)) for value in values]}
    for name, numbers in texts.items():
        for separator in (", ", ",", " ", "\n"):
            found[f"{name} decimals by {separator!r}"] = separator.join(numbers).encode()
    for name in ("<f4", "words of 32"):
        raw = found[name]
        found[f"{name} in hex"] = raw.hex().encode()
        found[f"{name} in HEX"] = raw.hex().upper().encode()
        for phase in range(3):
            # Where in a group of three bytes it begins is not known; what of it is whole groups is always the same.
            whole = raw[phase : phase + (len(raw) - phase) // 3 * 3]
            found[f"{name} in base64, phase {phase}"] = base64.b64encode(whole)
    return found
