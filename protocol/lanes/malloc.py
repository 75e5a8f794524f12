"""Keep freed record buffers in the process: with glibc's defaults each 1 MiB record is mapped, touched and unmapped.

Fresh pages cost more than moving the bytes does, so this decides the throughput of the bulk lane. Where the C library
has no `mallopt`, nothing happens and only speed is lost.
"""

import ctypes
import functools

from .. import limits

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_HEAP_HALF = 32 * limits.MIB
"""The largest mmap threshold glibc accepts on 64-bit machines."""
_KEEP = 256 * limits.MIB


@functools.cache
def keep_freed_memory() -> bool:
    """Tell malloc not to map and unmap large buffers one by one; True if it agreed. Only the first call acts."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    return bool(mallopt(_M_MMAP_THRESHOLD, _HEAP_HALF)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEEP))
