"""The checks of `tertium doctor` that look at the machine: its clock, core files, swap.

Nothing here waits: the kernel is asked, never a service. What a kernel does not say is called unknown and is a warning.
"""

import contextlib
import ctypes
import resource
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from .doctor_finding import Finding, fail, ok, warn

_TIME_ERROR = 5
"""What `adjtimex` returns while nothing keeps the clock in step (adjtimex(2)); timedatectl asks the same."""
_SLACK = timedelta(minutes=1)
_PROC = Path("/proc")
_SYS = Path("/sys")
_PIPE_THAT_OBEYS = "systemd-coredump"
"""It is handed the limit and stores nothing under a limit of 0 (systemd-coredump(8)); other handlers need not."""


class _Timex(ctypes.Structure):
    """`struct timex` of linux/timex.h as far as its status; the rest is room for the kernel to fill."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 512),
    )


def clock(now: datetime, files: Iterable[Path]) -> Finding:
    """Say whether the clock is kept in step; a clock that stands before one of `files` was written is wrong."""
    for path in files:
        with contextlib.suppress(OSError):
            written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            if written > now + _SLACK:
                sentence = (
                    f"the clock says {now:%Y-%m-%d %H:%M} UTC, and {path} was written later, {written:%Y-%m-%d %H:%M}"
                )
                return fail("clock", sentence, "set the clock (timedatectl set-ntp true): a charter expires by it")
    synchronised = clock_in_step()
    if synchronised is None:
        sentence = f"it is {now:%Y-%m-%d %H:%M} UTC here; whether the clock is kept in step is unknown"
        return warn("clock", sentence, "compare it with another clock; a charter expires by it")
    if not synchronised:
        sentence = f"it is {now:%Y-%m-%d %H:%M} UTC here, and nothing keeps the clock in step"
        remedy = "switch time synchronisation on: timedatectl set-ntp true, or chrony"
        return warn("clock", sentence, remedy)
    return ok("clock", f"it is {now:%Y-%m-%d %H:%M} UTC here, and the clock is kept in step")


def clock_in_step() -> bool | None:
    """Return whether the kernel says that the clock is synchronised; None if it does not say."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    answer = adjtimex(ctypes.byref(_Timex()))
    return None if answer < 0 else answer != _TIME_ERROR


def memory() -> list[Finding]:
    """Say whether keys in memory could reach a disk: through core files or through swap."""
    return [_core(), _swap()]


def _core() -> Finding:
    pattern = _line(_PROC / "sys/kernel/core_pattern")
    soft, _ = resource.getrlimit(resource.RLIMIT_CORE)
    handler = pattern.removeprefix("|").split(" ")[0]
    if pattern.startswith("|") and not handler.endswith(_PIPE_THAT_OBEYS):
        # core(5): for a pipe the kernel does not look at the limit.
        sentence = f"the kernel hands the memory of a process that crashes to {handler}, whatever its limit says"
        return warn("core files", sentence, "sysctl -w kernel.core_pattern=core, or take that handler off")
    now = "are off" if soft == 0 else "are on for this shell; every run turns them off for itself"
    return ok("core files", f"core files {now}")


def _swap() -> Finding:
    if _line(_cgroup() / "memory.swap.max") == "0":
        return ok("swap", "no memory of this service is swapped (MemorySwapMax=0)")
    areas = [line.split()[0] for line in _text(_PROC / "swaps").splitlines()[1:] if line.strip()]
    plain = [area for area in areas if not _stays_secret(area)]
    if plain:
        sentence = (
            f"{', '.join(plain[:3])}: swap is on and not known to be encrypted; keys and updates may be written there"
        )
        remedy = "swapoff -a, or encrypt it, or run the service with MemorySwapMax=0"
        return warn("swap", sentence, remedy)
    return ok("swap", "swap is encrypted or in memory" if areas else "swap is off")


def _stays_secret(area: str) -> bool:
    name = Path(area).resolve().name
    return name.startswith("zram") or _line(_SYS / "block" / name / "dm" / "uuid").startswith("CRYPT-")


def _cgroup() -> Path:
    found = [line[3:] for line in _text(_PROC / "self/cgroup").splitlines() if line.startswith("0::")]
    return _SYS / "fs/cgroup" / (found[0].lstrip("/") if found else "none")


def _line(path: Path) -> str:
    return _text(path).strip()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
