"""A strict reader for IDX files, the format of the original MNIST files.

An IDX file is two zero bytes, one byte of element type, one of the number of dimensions, each dimension as 4 big-endian
bytes, and the elements (yann.lecun.com, "The MNIST database"). Only unsigned bytes are read, in 1 to 4 dimensions. The
header is checked against a bound before anything is allocated, so a small gzip file cannot make us hold a large one.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from ..protocol import limits
from .errors import DatasetError

_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 0x08
_MOST_DIMENSIONS = 4


def read_idx(path: Path, *, most_bytes: int = limits.DATASET_FILE_BYTES) -> npt.NDArray[np.uint8]:
    """Return the array of a raw or gzip-compressed IDX file of unsigned bytes, shaped as its header says.

    Raises:
        DatasetError: missing, not IDX, of another element type, truncated, too long, or above `most_bytes` of elements.
    """
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            if not compressed:
                return _parse(path.name, raw, most_bytes)
            with gzip.GzipFile(fileobj=raw, mode="rb") as unpacked:
                return _parse(path.name, unpacked, most_bytes)
    except FileNotFoundError as error:
        raise DatasetError(f"there is no file {path}") from error
    except EOFError as error:
        raise DatasetError(f"{path.name} is truncated: its compressed data end early") from error
    except (OSError, zlib.error) as error:
        raise DatasetError(f"{path.name} cannot be read: {error}") from error


def _parse(name: str, file: IO[bytes] | gzip.GzipFile, most_bytes: int) -> npt.NDArray[np.uint8]:
    """Return the array in an open file, which must end where its header says."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise DatasetError(f"{name} is not an IDX file: its first bytes are {magic.hex() or 'missing'}")
    if magic[2] != _UNSIGNED_BYTE:
        raise DatasetError(f"{name} holds elements of type 0x{magic[2]:02x}; only unsigned bytes (0x08) are read")
    if not 1 <= magic[3] <= _MOST_DIMENSIONS:
        raise DatasetError(f"{name} has {magic[3]} dimensions; 1 to {_MOST_DIMENSIONS} are read")
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise DatasetError(f"{name} is truncated inside its header")
    shape = struct.unpack(f">{magic[3]}I", header)
    size = math.prod(shape)
    if size > most_bytes:
        raise DatasetError(f"{name} claims {size} bytes of data, more than the {most_bytes} that are read")
    data = file.read(size)
    if len(data) < size:
        raise DatasetError(f"{name} is truncated: {len(data)} bytes of data where its header says {size}")
    if file.read(1):
        raise DatasetError(f"{name} has bytes after the {size} its header says")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)
